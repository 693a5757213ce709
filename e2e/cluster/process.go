package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// patience is how long a component may take to end after SIGTERM before it is
// killed. The API server needs about a second for its open watches.
const patience = 5 * time.Second

// A process is a component that was started.
type process struct {
	name string
	log  string // path of its log
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended and was reaped
	err  error         // how it ended; valid when done is closed
}

// start runs a command with its output in its log, which begins anew.
//
// It must be called from a goroutine that is locked to its thread for as long
// as the process shall live: PR_SET_PDEATHSIG fires when the thread that
// forked ends, not when the whole program does.
func start(c command, dir layout, ended func(*process)) (*process, error) {
	log, err := os.Create(dir.log(c.name))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own descriptor by then
	cmd := exec.Command(c.path, c.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = childEnv(dir)
	if c.stdin != nil {
		cmd.Stdin = c.stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: c.namespaces,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C reaches devcluster only, which then stops the components in order
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	p := &process{name: c.name, log: log.Name(), cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process; stop waits for it
		p.err = cmd.Wait()
		close(p.done)
		ended(p)
	}()
	return p, nil
}

// childEnv hides the caller's environment and home: ETCD_* variables and
// ~/.kwok would configure components behind the back of our flags.
func childEnv(dir layout) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + string(dir)}
}

// stop ends processes that may end at the same time and waits for all of them.
// One that does not react to SIGTERM is killed; ended ones are left alone.
func stop(procs ...*process) {
	for _, p := range procs {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already
	}
	deadline := time.After(patience)
	for _, p := range procs {
		select {
		case <-p.done:
		case <-deadline:
			kill(procs)
			return
		}
	}
}

func kill(procs []*process) {
	for _, p := range procs {
		_ = p.cmd.Process.Kill() // as above
		<-p.done
	}
}

// logTail returns the last lines of a log, indented. A log that cannot be read
// says so itself: it is shown beside a failure that matters more.
func logTail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "    " + err.Error()
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "    (empty)"
	}
	all := strings.Split(text, "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "    " + strings.Join(all, "\n    ")
}

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Bounds of the tests, far above what is needed (a start takes 4 s, a pod less
// than 1 s), since the machine may be busy.
const (
	startTimeout = 2 * time.Minute
	waitTimeout  = 30 * time.Second
	endTimeout   = 20 * time.Second
)

// binary is the devcluster under test, with kwok beside it.
var binary string

func TestMain(m *testing.M) {
	var err error
	if binary, err = findBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// findBinary takes DEVCLUSTER_BIN, or else builds into the bin folder of the
// repository, which does nothing when that is up to date.
func findBinary() (string, error) {
	if path := os.Getenv("DEVCLUSTER_BIN"); path != "" {
		return filepath.Abs(path)
	}
	out, err := filepath.Abs("../../bin")
	if err != nil {
		return "", err
	}
	build := exec.Command("./build.sh", out)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	return filepath.Join(out, "devcluster"), build.Run()
}

// A cluster is a running devcluster up.
type cluster struct {
	dir    string
	cmd    *exec.Cmd // devcluster itself, or what started it
	pid    int       // of devcluster
	config *rest.Config
	client *kubernetes.Clientset
	stderr bytes.Buffer // valid after cmd.Wait
}

// up starts a cluster and returns when it says that it is ready.
func up(t *testing.T, dir string, args ...string) *cluster {
	t.Helper()
	c := launch(t, dir, exec.Command(binary, append([]string{"up", "--dir", dir}, args...)...))
	c.pid = c.cmd.Process.Pid
	return c
}

func launch(t *testing.T, dir string, cmd *exec.Cmd) *cluster {
	t.Helper()
	c := &cluster{dir: dir, cmd: cmd}
	cmd.Stderr = &c.stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // most tests have ended it already
	giveUp := time.AfterFunc(startTimeout, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	giveUp.Stop()
	if err != nil || !strings.HasPrefix(line, "ready in ") {
		_ = cmd.Wait() // its output is what matters
		t.Fatalf("up said %q (%v) and on stderr:\n%s", line, err, &c.stderr)
	}
	t.Log(strings.TrimSpace(line))
	c.config, err = clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	must(t, err)
	c.client, err = kubernetes.NewForConfig(c.config)
	must(t, err)
	return c
}

// children returns the components by name.
func (c *cluster) children(t *testing.T) map[string]int {
	t.Helper()
	children := map[string]int{}
	for _, pid := range childrenOf(t, c.pid) {
		args := strings.Split(cmdline(pid), "\x00")
		name := filepath.Base(args[0])
		if name == "devcluster" {
			name = args[1]
		}
		children[name] = pid
	}
	return children
}

// terminate sends SIGTERM and expects a good end that leaves nothing.
func (c *cluster) terminate(t *testing.T) {
	t.Helper()
	must(t, syscall.Kill(c.pid, syscall.SIGTERM))
	if err := c.wait(t); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, &c.stderr)
	}
	c.expectNothingLeft(t)
}

// wait returns how the started command ended.
func (c *cluster) wait(t *testing.T) error {
	t.Helper()
	giveUp := time.AfterFunc(endTimeout, func() { _ = c.cmd.Process.Kill() })
	err := c.cmd.Wait()
	if !giveUp.Stop() {
		t.Fatalf("did not end within %s", endTimeout)
	}
	return err
}

// expectNoProcess looks for processes that name the folder of the cluster in
// their arguments, as all components do.
func (c *cluster) expectNoProcess(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && strings.Contains(cmdline(pid), c.dir) {
			t.Errorf("process %d is left: %q", pid, cmdline(pid))
		}
	}
}

// expectNothingLeft looks for processes, and for listeners on the ports.
func (c *cluster) expectNothingLeft(t *testing.T) {
	t.Helper()
	c.expectNoProcess(t)
	for name, port := range c.ports(t) {
		if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = conn.Close() // it should not be there at all
			t.Errorf("port %d (%s) still listens", port, name)
		}
	}
}

func (c *cluster) ports(t *testing.T) map[string]int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "ports.json"))
	must(t, err)
	var ports map[string]int
	must(t, json.Unmarshal(data, &ports))
	if len(ports) != 3 {
		t.Fatalf("ports.json holds %v, not three ports", ports)
	}
	return ports
}

// A grip is a hold on a process that stays valid after its end.
type grip struct{ pid, fd int }

func hold(t *testing.T, pids ...int) []grip {
	t.Helper()
	var grips []grip
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		must(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		grips = append(grips, grip{pid, fd})
	}
	return grips
}

// awaitEnd waits for processes that are not our children to end.
func awaitEnd(t *testing.T, grips []grip) {
	t.Helper()
	deadline := time.Now().Add(endTimeout)
	for _, g := range grips {
		poll := []unix.PollFd{{Fd: int32(g.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		for err == unix.EINTR {
			n, err = unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		}
		if err != nil || n != 1 {
			t.Fatalf("process %d has not ended: %v: %q", g.pid, err, cmdline(g.pid))
		}
	}
}

// childrenOf asks every thread, since the kernel lists children by the thread
// that forked them.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	var pids []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // this thread has just ended
		}
		must(t, err)
		for _, field := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(field)
			must(t, err)
			pids = append(pids, child)
		}
	}
	return pids
}

// cmdline is empty for a process that has ended.
func cmdline(pid int) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(data)
}

// bounded is a context for one wait.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	t.Cleanup(cancel)
	return ctx
}

// await reads a watch until ok holds. A watch without a resource version
// begins with the objects that are there already.
func await[T runtime.Object](t *testing.T, w watch.Interface, err error, ok func(T) bool) {
	t.Helper()
	must(t, err)
	defer w.Stop()
	var last runtime.Object
	for e := range w.ResultChan() {
		if object, is := e.Object.(T); is && ok(object) {
			return
		}
		last = e.Object
	}
	t.Fatalf("the awaited state was not reached; last seen: %+v", last)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

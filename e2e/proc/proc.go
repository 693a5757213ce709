// Package proc runs the project's two programs, the embedded control plane and the agent, as child processes that are
// ready when Start returns and gone when their parent is, however the parent ends.
package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a program may take to end after SIGTERM before it is killed. The control plane stops etcd, which
// syncs its disk.
const stopGrace = 20 * time.Second

// Program says what to run.
type Program struct {
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// Log receives stderr, and stdout after it was looked at. Nil drops both.
	Log io.Writer
	// Ready returns once the program can be used, or with ctx's error. It is given the program's stdout line by line; the
	// channel is closed when the program ends.
	Ready func(ctx context.Context, stdout <-chan string) error
}

// Process is a program that runs, or that ended.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read only after done is closed
}

// Start runs p and waits until it is ready. When it is not, because it ended or because ctx did, it is stopped.
func Start(ctx context.Context, p Program) (*Process, error) {
	log := &syncWriter{w: p.Log}
	cmd := exec.Command(p.Path, p.Args...) // It outlives ctx, which bounds the start only.
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stderr = log
	// A write end of our own instead of StdoutPipe: Wait must not return before every line was handed on.
	read, write := io.Pipe()
	cmd.Stdout = write
	// A grandchild that keeps stdout open must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.Path, err)
	}
	proc := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		proc.err = cmd.Wait()
		write.Close()
		close(proc.done)
	}()

	lines := make(chan string)
	ready := make(chan struct{})
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(read); scan.Scan(); {
			fmt.Fprintln(log, scan.Text())
			select {
			case lines <- scan.Text():
			case <-ready:
			}
		}
	}()
	err := p.Ready(ctx, lines)
	close(ready)
	if err != nil {
		stopErr := proc.Stop()
		return nil, fmt.Errorf("waiting for %s: %w", filepath.Base(p.Path), errors.Join(err, stopErr))
	}
	return proc, nil
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// CPU is the time that the program has spent on a processor, of its own and in the kernel. It is read from /proc.
func (p *Process) CPU() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc(5)).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat holds %d fields", p.cmd.Process.Pid, len(fields)+2)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, err
}

// PeakMemory is the most memory that the program has had resident, in bytes. It is read from /proc.
func (p *Process) PeakMemory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/%d/status does not tell the peak", p.cmd.Process.Pid)
}

// Kill ends the program as a power cut would, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // Fails only when the program has ended already.
	<-p.done
}

// Freeze stops the program in the middle of whatever it does, and Thaw lets it go on, as when a machine is suspended.
func (p *Process) Freeze() { _ = p.cmd.Process.Signal(syscall.SIGSTOP) } // Fails only when the program has ended already.

// Thaw ends a Freeze.
func (p *Process) Thaw() { _ = p.cmd.Process.Signal(syscall.SIGCONT) } // Fails only when the program has ended already.

// Stop asks the program to end, waits, and kills it when it does not. It returns an error unless the program ended by
// itself with status 0.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // Fails only when the program has ended already.
	select {
	case <-p.done:
	case <-time.After(stopGrace):
		p.Kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", filepath.Base(p.cmd.Path), stopGrace)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(p.cmd.Path), p.err)
	}
	return nil
}

// syncWriter lets stdout and stderr of one program share a writer.
type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(b []byte) (int, error) {
	if s.w == nil {
		return len(b), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}

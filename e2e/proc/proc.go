// Package proc runs the project's two programs, the embedded control plane and the agent, as child processes that are
// ready when Start returns and gone when their parent is, however the parent ends.
package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

// Kill ends the program as a power cut would, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // Fails only when the program has ended already.
	<-p.done
}

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

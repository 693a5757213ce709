package testenv

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/internal/agent"
)

// Agent is an agent that sees one namespace only, so that tests with an agent each share a cluster. It may be started
// again after it ended and then finds its files again.
type Agent struct {
	config proc.AgentConfig
	env    []string
	log    *log

	// In process: what ends it, and what it returned.
	cancel context.CancelFunc
	ended  chan struct{}
	code   int
	// As a child: the process.
	process *proc.Process
}

// NewAgent returns an agent for one namespace that does not run yet. It ends with the test at the latest, and its log is
// part of the output of a test that fails.
func NewAgent(t testing.TB, kubeconfig, namespace string, flags ...string) *Agent {
	t.Helper()
	a := &Agent{
		config: proc.AgentConfig{
			Kubeconfig: kubeconfig,
			Storage:    filepath.Join(t.TempDir(), "storage"),
			Flags:      append([]string{"--watch-all-namespaces=false"}, flags...),
		},
		env: []string{"RUNTIME_NAMESPACE=" + namespace},
		log: &log{},
	}
	if err := os.Mkdir(a.config.Storage, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the log of the agent of %s:\n%s", namespace, a.log)
		}
	})
	return a
}

// With adds flags to those of every later start.
func (a *Agent) With(flags ...string) { a.config.Flags = append(a.config.Flags, flags...) }

// Start runs the agent in this process and returns when it is ready. The addresses that it is given are free when they are chosen
// and may be somebody else's when it listens: then it is given others.
func (a *Agent) Start(ctx context.Context) error {
	for try := 1; ; try++ {
		before := len(a.Log())
		err := a.start(ctx)
		if err == nil || try == 3 || !strings.Contains(a.Log()[before:], "address already in use") {
			return err
		}
		<-a.ended
		a.cancel = nil
	}
}

func (a *Agent) start(ctx context.Context) error {
	if err := a.prepare(); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	a.cancel, a.ended = cancel, make(chan struct{})
	args := a.config.Args()
	go func() {
		defer close(a.ended)
		a.code = agent.Run(run, args, append(os.Environ(), a.env...), a.log, a.log)
	}()
	ctx, done := context.WithTimeout(ctx, startTimeout)
	defer done()
	return a.config.AwaitReady(ctx, a.ended)
}

// Kubeconfig is what a later start finds its cluster and its identity with.
func (a *Agent) Kubeconfig(path string) { a.config.Kubeconfig = path }

// StartAs is Start with the rights of a user, by impersonation.
func (a *Agent) StartAs(ctx context.Context, user string) error {
	full := a.config.Kubeconfig
	config, err := clientcmd.LoadFromFile(full)
	if err != nil {
		return err
	}
	for _, credentials := range config.AuthInfos {
		credentials.Impersonate = user
	}
	a.config.Kubeconfig = filepath.Join(filepath.Dir(a.config.Storage), "kubeconfig")
	defer func() { a.config.Kubeconfig = full }()
	if err := clientcmd.WriteToFile(*config, a.config.Kubeconfig); err != nil {
		return err
	}
	return a.Start(ctx)
}

// StartChild runs bin/cleat as a child process and returns when it is ready.
func (a *Agent) StartChild(ctx context.Context, kubeconfig string) error {
	root, err := proc.Root()
	if err != nil {
		return err
	}
	if err := a.prepare(); err != nil {
		return err
	}
	a.config.Kubeconfig = kubeconfig
	ctx, done := context.WithTimeout(ctx, startTimeout)
	defer done()
	a.process, err = proc.Start(ctx, proc.Agent(filepath.Join(root, "bin", "cleat"), &a.config, a.env, a.log))
	return err
}

func (a *Agent) prepare() error {
	if a.cancel != nil || a.process != nil {
		return fmt.Errorf("this agent runs already")
	}
	return a.config.FreeAddresses()
}

// Kill ends a child at once, as kill -9 does. It is for tests that use StartChild.
func (a *Agent) Kill() {
	a.process.Kill()
	a.process = nil
}

// Freeze stops a child in the middle of whatever it does, and Thaw lets it go on. They are for tests that use StartChild.
func (a *Agent) Freeze() { a.process.Freeze() }

// Thaw ends a Freeze.
func (a *Agent) Thaw() { a.process.Thaw() }

// Ended waits until a child has ended by itself.
func (a *Agent) Ended(ctx context.Context) error {
	select {
	case <-a.process.Done():
		a.process = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent to end: %w", ctx.Err())
	}
}

// Stop ends the agent as SIGTERM does. It returns an error unless the agent ends with status 0. Stopping one that does
// not run does nothing.
func (a *Agent) Stop() error {
	switch {
	case a.process != nil:
		process := a.process
		a.process = nil
		return process.Stop()
	case a.cancel != nil:
		a.cancel()
		a.cancel = nil
		select {
		case <-a.ended:
		case <-time.After(startTimeout):
			return fmt.Errorf("the agent did not end within %s", startTimeout)
		}
		if a.code != 0 {
			return fmt.Errorf("the agent ended with status %d", a.code)
		}
	}
	return nil
}

// LoseStorage removes what an agent that does not run has stored, as when its volume is lost.
func (a *Agent) LoseStorage() error {
	if a.cancel != nil || a.process != nil {
		return fmt.Errorf("this agent runs")
	}
	if err := os.RemoveAll(a.config.Storage); err != nil {
		return err
	}
	return os.Mkdir(a.config.Storage, 0o755)
}

// Metrics is the URL of the agent's metrics.
func (a *Agent) Metrics() string { return "http://" + a.config.MetricsAddr + "/metrics" }

// Health is the URL of the agent's probe.
func (a *Agent) Health() string { return "http://" + a.config.HealthAddr + "/healthz" }

// Hooks is the URL of where the agent takes hooks, without a path.
func (a *Agent) Hooks() string { return "http://" + a.config.ReceiverAddr }

// StorageAddr is where the agent serves artifacts.
func (a *Agent) StorageAddr() string { return a.config.StorageAddr }

// Log is what the agent has written so far.
func (a *Agent) Log() string { return a.log.String() }

// log is a buffer that an agent writes to while a test reads it.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

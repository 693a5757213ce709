package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
)

// startTimeout bounds the start of one program, stepTimeout what the cluster needs for one commit.
const (
	startTimeout = 2 * time.Minute
	stepTimeout  = 2 * time.Minute
)

// stage is what the demo plays on. Everything it leaves is in dir, made anew each time.
type stage struct {
	out  *screen
	root string
	dir  string // .demo

	// In the order in which they start; stopped in reverse.
	running []func() error

	cluster *live.Cluster
	git     *gitserver.Server
	repo    *gitserver.Repo
	agent   proc.AgentConfig
}

func newStage(out *screen) (*stage, error) {
	root, err := proc.Root()
	if err != nil {
		return nil, err
	}
	s := &stage{out: out, root: root, dir: filepath.Join(root, ".demo")}
	if err := os.RemoveAll(s.dir); err != nil {
		return nil, err
	}
	return s, os.MkdirAll(filepath.Join(s.dir, "storage"), 0o755)
}

func (s *stage) close() error {
	var errs []error
	for i := len(s.running) - 1; i >= 0; i-- {
		errs = append(errs, s.running[i]())
	}
	return errors.Join(errs...)
}

func (s *stage) bin(name string) string  { return filepath.Join(s.root, "bin", name) }
func (s *stage) file(name string) string { return filepath.Join(s.dir, name) }
func (s *stage) kubeconfig() string      { return s.file("cluster/kubeconfig") }

// build makes what is missing or out of date. The control plane takes minutes the first time, so the line counts.
func (s *stage) build(ctx context.Context) error {
	for _, target := range []struct{ name, what string }{
		{"build", "Building the agent (about 4 minutes the first time)"},
		{"cluster", "Building the Kubernetes control plane (about 8 minutes the first time)"},
	} {
		done := s.out.progress(target.what)
		var output bytes.Buffer
		cmd := exec.CommandContext(ctx, "make", "--no-print-directory", target.name)
		cmd.Dir, cmd.Stdout, cmd.Stderr = s.root, &output, &output
		err := cmd.Run()
		done(err)
		if err != nil {
			return fmt.Errorf("make %s: %w\n%s", target.name, err, output.Bytes())
		}
	}
	return nil
}

func (s *stage) startCluster(ctx context.Context) error {
	return s.start(ctx, "Starting Kubernetes: etcd, API server, controllers, scheduler, two fake nodes", "cluster.log",
		func(log *os.File) proc.Program { return proc.ControlPlane(s.bin("devcluster"), s.file("cluster"), log) })
}

func (s *stage) serveGit(context.Context) error {
	done := s.out.progress("Serving a Git repository over HTTP")
	err := s.openGit()
	done(err)
	return err
}

func (s *stage) openGit() error {
	folder := s.file("git")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var err error
	if s.git, err = gitserver.Start(folder, "", ""); err != nil {
		return err
	}
	s.running = append(s.running, s.git.Close)
	s.repo, err = s.git.Create("shop")
	return err
}

func (s *stage) startAgent(ctx context.Context) error {
	var err error
	if s.cluster, err = live.Connect(s.kubeconfig()); err != nil {
		return err
	}
	done := s.out.progress("Installing the CRDs from manifests/crds")
	err = s.cluster.InstallCRDs(ctx, filepath.Join(s.root, "manifests", "crds"))
	done(err)
	if err != nil {
		return err
	}
	s.agent = proc.AgentConfig{Kubeconfig: s.kubeconfig(), Storage: s.file("storage")}
	if err := s.agent.FreeAddresses(); err != nil {
		return err
	}
	return s.start(ctx, "Starting Cleat", "cleat.log",
		func(log *os.File) proc.Program { return proc.Agent(s.bin("cleat"), &s.agent, nil, log) })
}

// start runs a program until the demo ends, with its output in a file.
func (s *stage) start(ctx context.Context, what, logName string, program func(log *os.File) proc.Program) error {
	log, err := os.Create(s.file(logName))
	if err != nil {
		return err
	}
	done := s.out.progress(what)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	process, err := proc.Start(ctx, program(log))
	done(err)
	if err != nil {
		return fmt.Errorf("%w (its output is in %s)", err, log.Name())
	}
	s.running = append(s.running, func() error { return errors.Join(process.Stop(), log.Close()) })
	return nil
}

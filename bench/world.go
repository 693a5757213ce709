package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
)

const (
	// startTimeout bounds the start of one program, and scenarioTimeout one wait of a scenario.
	startTimeout    = 2 * time.Minute
	scenarioTimeout = 10 * time.Minute
	// namespace is where the objects of a scenario are.
	namespace = "bench"
)

// world is what a scenario runs in: a control plane, a Git server and the agent as a process of its own.
type world struct {
	root, dir string
	flags     []string
	objects   int            // of the scenario drift
	log       string         // file of the agent's log
	audit     string         // the API server's audit log
	metrics   string         // the URL of the agent's metrics
	running   []func() error // stopped in reverse
	count     int            // of HelmReleases
	crds      int            // that nobody uses

	cluster *live.Cluster
	git     *gitserver.Server
	agent   *proc.Process
	config  *proc.AgentConfig // of the agent
}

func newWorld(flags []string, objects int, log string) (*world, error) {
	root, err := proc.Root()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cleat-bench-")
	if err != nil {
		return nil, err
	}
	if log == "" {
		log = filepath.Join(dir, "cleat.log")
	}
	w := &world{root: root, dir: dir, flags: flags, objects: objects, log: log, audit: filepath.Join(dir, "cluster", "audit.log")}
	w.running = append(w.running, func() error { return os.RemoveAll(dir) })
	return w, nil
}

func (w *world) close() error {
	var errs []error
	for i := len(w.running) - 1; i >= 0; i-- {
		errs = append(errs, w.running[i]())
	}
	return errors.Join(errs...)
}

// start starts everything.
func (w *world) start(ctx context.Context) error {
	if err := w.startCluster(ctx); err != nil {
		return err
	}
	if err := w.addCRDs(ctx); err != nil {
		return err
	}
	return w.startAgent(ctx)
}

func (w *world) startCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := w.run(ctx, filepath.Join(w.dir, "cluster.log"), func(log io.Writer) proc.Program {
		return proc.ControlPlane(filepath.Join(w.root, "bin", "devcluster"), filepath.Join(w.dir, "cluster"), log, "--audit")
	}); err != nil {
		return fmt.Errorf("%w (make build cluster makes what this needs)", err)
	}
	var err error
	if w.cluster, err = live.Connect(w.kubeconfig()); err != nil {
		return err
	}
	if err := w.cluster.InstallCRDs(ctx, filepath.Join(w.root, "manifests", "crds")); err != nil {
		return err
	}
	_, err = w.cluster.Apply(ctx, []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}\n"), "")
	return err
}

func (w *world) kubeconfig() string { return filepath.Join(w.dir, "cluster", "kubeconfig") }

// startAgent starts the agent and what it fetches from.
func (w *world) startAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	folder := filepath.Join(w.dir, "git")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	var err error
	if w.git, err = gitserver.Start(folder, "", ""); err != nil {
		return err
	}
	w.running = append(w.running, w.git.Close)
	config := &proc.AgentConfig{Kubeconfig: w.kubeconfig(), Storage: filepath.Join(w.dir, "storage"), Flags: w.flags}
	if err := errors.Join(os.Mkdir(config.Storage, 0o755), config.FreeAddresses()); err != nil {
		return err
	}
	w.metrics = "http://" + config.MetricsAddr + "/metrics"
	w.config = config
	w.agent, err = w.run(ctx, w.log, func(log io.Writer) proc.Program {
		return proc.Agent(filepath.Join(w.root, "bin", "cleat"), config, nil, log)
	})
	return err
}

func (w *world) run(ctx context.Context, logName string, program func(io.Writer) proc.Program) (*proc.Process, error) {
	log, err := os.Create(logName)
	if err != nil {
		return nil, err
	}
	process, err := proc.Start(ctx, program(log))
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, text), log.Close())
	}
	w.running = append(w.running, func() error { return errors.Join(process.Stop(), log.Close()) })
	return process, nil
}

// repository makes a repository named shop, with one commit of files.
func (w *world) repository(files string) (repo *gitserver.Repo, commit string, err error) {
	if repo, err = w.git.Create("shop"); err != nil {
		return nil, "", err
	}
	commit, err = push(repo, files)
	return repo, commit, err
}

func push(repo *gitserver.Repo, files string) (commit string, err error) {
	if commit, err = repo.CommitTxtar([]byte(files), "bench"); err != nil {
		return "", err
	}
	return commit, repo.Push(false)
}

// apply applies the GitRepository shop and further manifests.
func (w *world) apply(ctx context.Context, manifests *strings.Builder) error {
	source := fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: shop}\n"+
		"spec: {interval: 1h, url: %q, ref: {branch: main}}\n", w.git.URL("shop"))
	_, err := w.cluster.Apply(ctx, []byte(source+manifests.String()), namespace)
	return err
}

// lap is a stretch of time, and what the agent used in it.
type lap struct {
	w     *world
	began time.Time
	cpu   time.Duration
}

func (w *world) lap() (lap, error) {
	cpu, err := w.agent.CPU()
	return lap{w: w, began: time.Now(), cpu: cpu}, err
}

// report prints what was done, how long it took, and what the agent has used.
func (l lap) report(what string) error {
	took := time.Since(l.began)
	cpu, err := l.w.agent.CPU()
	if err != nil {
		return err
	}
	peak, err := l.w.agent.PeakMemory()
	if err != nil {
		return err
	}
	fmt.Printf("%-60s %7.2f s   agent: %6.2f s CPU, %d MiB at the peak\n", what, took.Seconds(), (cpu - l.cpu).Seconds(), peak>>20)
	return nil
}

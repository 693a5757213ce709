// Bench measures the agent on the embedded control plane, one scenario a run: go run ./bench NAME. It is a program and not
// a test, because a figure is no verdict: what it prints is for people, on one machine, on one day.
//
// What needs no control plane is measured beside its code, by go test -bench: the fetch of one new commit from a repository of
// 10,000 files and 500 commits, beside a shallow clone by Git itself, is BenchmarkNewCommit of internal/source/git. The README
// lists them all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// scenarios are what can be measured.
var scenarios = map[string]func(context.Context, *world) error{
	"helm":      helmRepository, // -n HelmReleases of one chart in a registry, by HelmRepository: install, and an upgrade of all
	"helm-ref":  ociRepository,  // the same by one OCIRepository
	"monorepo":  monorepo,       // 200 Kustomizations of one repository: install, and a commit that changes one file
	"unhealthy": unhealthy,      // 128 Kustomizations, of which 11 never become healthy
	"drift":     driftOf,        // 10,000 objects, of which 200 are changed by hand
	"webhook":   webhook,        // pushes announced by hooks, a burst of them, and a flood of strangers
	"ha":        failovers,      // two agents, of which the one that leads is killed, or told to stop, in the middle of its work
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	concurrent := flag.Int("concurrent", 0, "the agent's --concurrent; 0 is its default")
	log := flag.String("log", "", "the file for the agent's log, at level debug; none when empty")
	count := flag.Int("n", 100, "how many HelmReleases the scenarios of Helm have")
	crds := flag.Int("crds", 0, "how many CRDs there are that nobody uses")
	objects := flag.Int("objects", 10_000, "how many objects the scenario drift looks after")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go run ./bench [flags] %v\n", slices.Sorted(maps.Keys(scenarios)))
		flag.PrintDefaults()
	}
	flag.Parse()
	scenario, ok := scenarios[flag.Arg(0)]
	if !ok || flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(ctx, scenario, options{*concurrent, *count, *crds, *objects, *log}); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	concurrent, count, crds, objects int
	log                              string
}

func run(ctx context.Context, scenario func(context.Context, *world) error, o options) (err error) {
	var flags []string
	if o.concurrent > 0 {
		flags = append(flags, fmt.Sprintf("--concurrent=%d", o.concurrent))
	}
	if o.log != "" {
		flags = append(flags, "--log-level=debug")
	}
	w, err := newWorld(flags, o.objects, o.log)
	if err != nil {
		return err
	}
	w.count, w.crds = o.count, o.crds
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return err
	}
	return scenario(ctx, w)
}

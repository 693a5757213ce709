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
	"monorepo":  monorepo,  // 200 Kustomizations of one repository: install, and a commit that changes one file
	"unhealthy": unhealthy, // 128 Kustomizations, of which 11 never become healthy
	"webhook":   webhook,   // pushes announced by hooks, a burst of them, and a flood of strangers
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	concurrent := flag.Int("concurrent", 0, "the agent's --concurrent; 0 is its default")
	log := flag.String("log", "", "the file for the agent's log, at level debug; none when empty")
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
	if err := run(ctx, scenario, *concurrent, *log); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, scenario func(context.Context, *world) error, concurrent int, log string) (err error) {
	var flags []string
	if concurrent > 0 {
		flags = append(flags, fmt.Sprintf("--concurrent=%d", concurrent))
	}
	if log != "" {
		flags = append(flags, "--log-level=debug")
	}
	w, err := newWorld(flags, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return err
	}
	return scenario(ctx, w)
}

// Demo shows on a real control plane how a Git commit becomes running workloads: `make demo`. It is a program and not a
// script because it tells what it sees from watches, as it happens. With DEMO_EXIT=1 it ends by itself, with status 0
// only if every step was seen on the cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, newScreen(os.Stdout), os.Getenv("DEMO_EXIT") == "")
	switch {
	case err == nil, errors.Is(err, context.Canceled):
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run plays the demo. When stay is true it then waits for the end of ctx, with everything running.
func run(ctx context.Context, out *screen, stay bool) (err error) {
	s, err := newStage(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, step := range []func(context.Context) error{
		s.build,        // bin/devcluster, bin/kwok and bin/cleat, unless they are up to date
		s.startCluster, // etcd, API server, controllers, scheduler, fake nodes
		s.serveGit,     // over smart HTTP
		s.startAgent,   // bin/cleat, and the CRDs that it serves
		s.firstCommit,  // everything is new
		s.secondCommit, // something changes, something goes
		s.showObjects,  // as the cluster has them
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if !stay {
		return nil
	}
	s.showWayAround()
	<-ctx.Done()
	return nil
}

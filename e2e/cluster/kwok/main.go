package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
	"sigs.k8s.io/kwok/pkg/config"
	"sigs.k8s.io/kwok/pkg/kwok/cmd"
	"sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/signals"
)

func main() {
	ctx := signals.SetupSignalContext()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "kwok: %v\n", err)
		os.Exit(1)
	}
}

// run is kwok's own main with our stages given to it.
func run(ctx context.Context) error {
	if err := serveStages(); err != nil {
		return err
	}
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true // those of the command below
	flags.Usage = func() {}
	ctx, _ = log.InitFlags(ctx, flags)
	ctx, err := config.InitFlags(ctx, flags)
	if err != nil {
		return err
	}
	command := cmd.NewCommand(ctx)
	command.PersistentFlags().AddFlagSet(flags)
	return command.ExecuteContext(ctx)
}

// serveStages makes the stages what the process reads as its standard input.
// Kwok takes them from files or from there only, and a file would have to be
// put somewhere and removed again.
func serveStages() error {
	stages, err := allStages()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	os.Stdin = r
	os.Args = append(os.Args, "--config=-") // read by config.InitFlags and by the command
	go func() {                             // ends when kwok has read everything, or with the process
		_, _ = io.WriteString(w, stages) // kwok itself complains about what it could not read
		_ = w.Close()
	}()
	return nil
}

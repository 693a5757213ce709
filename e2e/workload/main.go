package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options say how the workload behaves.
type options struct {
	listen     string
	say        string
	readyAfter time.Duration
	failAfter  time.Duration
	get        string
	patience   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func parse(args []string, env func(string) string) (options, error) {
	var o options
	flags := flag.NewFlagSet("workload", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", ":8080", "address to serve at")
	flags.StringVar(&o.say, "say", "hello", "what / answers, before the name of the pod")
	flags.DurationVar(&o.readyAfter, "ready-after", 0, "how long /ready answers 503 first; always, if negative")
	flags.DurationVar(&o.failAfter, "fail-after", 0, "end with status 1 after this time, if not 0")
	flags.StringVar(&o.get, "get", "", "do not serve, but ask this URL until it answers 200, and end; with status 1 when it has not")
	flags.DurationVar(&o.patience, "patience", 10*time.Second, "how long --get asks")
	var wrong error
	flags.VisitAll(func(f *flag.Flag) {
		name := strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value := env(name); value != "" {
			if err := f.Value.Set(value); err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("reading %s: %w", name, err))
			}
		}
	})
	return o, errors.Join(wrong, flags.Parse(args))
}

func run(ctx context.Context, args []string, env func(string) string, out io.Writer) error {
	o, err := parse(args, env)
	if err != nil {
		return err
	}
	if o.get != "" {
		return ask(ctx, o.get, o.patience, out)
	}
	return serve(ctx, o, out)
}

// Command agent is the binary `cleat`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // An image holds no time zones, and charts ask for them: what is rendered must not depend on the machine.

	"github.com/cleat-dev/cleat/internal/agent"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	agent.TakeOverLogs(os.Stderr)
	code := agent.Run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

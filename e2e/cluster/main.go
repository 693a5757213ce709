package main

import (
	"fmt"
	"io"
	"os"
)

const usage = `Usage:
  devcluster up --dir DIR [flags]   start a control plane and stay in the foreground
  devcluster kubectl ARGS…          kubectl of the same version
  devcluster check-node             what this machine lacks for up --real-node, and 1; or nothing, and 0
  devcluster load --dir DIR FILE…   give the images of archives to the real node of a running cluster
  devcluster up --help              the flags of up
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0, 1 for a failure, 2 for a wrong command line,
// or what the component of that name returns.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	if start, ok := components[args[0]]; ok {
		// The commands of Kubernetes and etcd read os.Args themselves.
		os.Args = args
		return start()
	}
	switch args[0] {
	case "up":
		return up(args[1:], stdout, stderr)
	case "check-node":
		return checkNodeCommand(stdout)
	case "load":
		return load(args[1:], stderr)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	default:
		fmt.Fprintf(stderr, "devcluster: unknown command %q\n\n%s", args[0], usage)
		return 2
	}
}

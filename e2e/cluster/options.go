package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// options are the flags of up.
type options struct {
	dir          layout        // where everything is kept; absolute
	nodes        int           // how many fake nodes
	realNode     bool          // one node on which pods really run, instead of the fake ones
	audit        bool          // write DIR/audit.log
	readyTimeout time.Duration // how long the start may take
}

func parseOptions(args []string, output io.Writer) (options, error) {
	var o options
	var dir string
	flags := flag.NewFlagSet("devcluster up", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.StringVar(&dir, "dir", "",
		"folder of this cluster: data, certificates, logs and the kubeconfig (required); the same folder again continues the same cluster")
	flags.IntVar(&o.nodes, "nodes", 2, "number of fake nodes")
	flags.BoolVar(&o.realNode, "real-node", false, "run pods, with a kubelet, kube-proxy and containerd, on one node instead of fake ones; needs root (see check-node)")
	flags.BoolVar(&o.audit, "audit", false, "append every API request to DIR/audit.log, one JSON event a line")
	flags.DurationVar(&o.readyTimeout, "ready-timeout", 2*time.Minute, "how long the start may take before it is given up")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if err := o.check(dir, flags.Args()); err != nil {
		fmt.Fprintf(output, "devcluster up: %v\n", err)
		return options{}, err
	}
	if o.realNode {
		o.nodes = 0
	}
	abs, err := filepath.Abs(dir)
	o.dir = layout(abs)
	return o, err
}

func (o options) check(dir string, rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case dir == "":
		return errors.New("--dir is required")
	case o.nodes < 0:
		return fmt.Errorf("--nodes %d is negative", o.nodes)
	case o.readyTimeout <= 0:
		return fmt.Errorf("--ready-timeout %s is not positive", o.readyTimeout)
	}
	return nil
}

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
)

// load gives the images of archives to the containerd of a real node, as
// nothing can be pulled there.
func load(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("devcluster load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("dir", "", "folder of the running cluster (required)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2 // the flag set has said why
	}
	if *dir == "" || flags.NArg() == 0 {
		fmt.Fprintln(stderr, "devcluster load: --dir and an archive are required")
		return 2
	}
	abs, err := filepath.Abs(*dir)
	for _, archive := range flags.Args() {
		if err == nil {
			err = loadImage(layout(abs).containerdSocket(), archive)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "devcluster: %v\n", err)
		return 1
	}
	return 0
}

// Images makes what pods of a real node run in tests: the archives DIR/pause.tar and DIR/workload.tar, by the code that makes the
// agent's own image.
//
//	images DIR
//
// It runs in the top directory of the repository.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/cleat-dev/cleat/internal/image"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: images DIR")
		os.Exit(2)
	}
	for _, name := range []string{"pause", "workload"} {
		if err := write(os.Args[1], name); err != nil {
			fmt.Fprintf(os.Stderr, "images: making the image of %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

// write compiles e2e/NAME and archives its image as cleat.dev/e2e/NAME:1.
func write(dir, name string) error {
	work, err := os.MkdirTemp("", "images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	config := image.Config{
		Binary:   filepath.Join(work, name),
		Program:  "/usr/local/bin/" + name,
		Platform: "linux/" + runtime.GOARCH,
	}
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", config.Binary, "./e2e/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("compiling: %w", err)
	}
	made, err := image.Build(config)
	if err != nil {
		return err
	}
	archive := filepath.Join(dir, name+".tar")
	file, err := os.Create(archive + ".next")
	if err != nil {
		return err
	}
	if err := errors.Join(image.Save(file, "cleat.dev/e2e/"+name+":1", made), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), archive)
}

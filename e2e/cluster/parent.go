package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// followParent calls gone when the process that started us has ended, however
// it did: a test binary that is killed cannot stop its cluster.
//
// Under nohup, which is how one says "outlive me", nothing is followed; neither
// is init, with which everything ends anyway.
func followParent(gone func()) error {
	parent := os.Getppid()
	if parent <= 1 || signal.Ignored(unix.SIGHUP) {
		return nil
	}
	fd, err := unix.PidfdOpen(parent, 0)
	if errors.Is(err, unix.ESRCH) || err == nil && os.Getppid() != parent {
		gone() // it ended just now; the number may already be another's
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching the parent process: %w", err)
	}
	go func() { // lives as long as devcluster does
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
				gone()
				return
			}
		}
	}()
	return nil
}

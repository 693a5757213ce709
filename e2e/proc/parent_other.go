//go:build !linux

package proc

import "os/exec"

// dieWithParent does nothing where the kernel offers nothing; a parent that is killed leaves its child.
func dieWithParent(*exec.Cmd) {}

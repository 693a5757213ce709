package proc

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the kernel end the child when this process dies without a chance to, by a panic or by kill -9.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The real node is a kubelet, kube-proxy and containerd in namespaces of their
// own for processes, mounts and the network, below one process, the init of
// devcluster node. When that ends, however it does, the kernel ends every
// container, unmounts all that was mounted, and removes the node's interfaces
// and its nftables rules. The machine itself is left as it was, but for empty
// cgroups, which the end or the next start removes.

// realNodeName is the node's name in the cluster.
const realNodeName = "real-node"

// nodeLock is an abstract socket that is listened on as long as there is a
// real node. There is one on a machine, since their addresses are the same.
const nodeLock = "@cleat-devcluster-node"

//go:embed node/containerd.toml
var containerdConfig []byte

//go:embed node/kubelet.yaml
var kubeletConfig []byte

//go:embed node/cni.conflist
var cniConfig []byte

// nodeFiles are what is read by what runs on the node, by their place in
// DIR/node/lib, which is /var/lib there.
var nodeFiles = map[string][]byte{
	"devcluster/containerd.toml":  containerdConfig,
	"devcluster/kubelet.yaml":     kubeletConfig,
	"devcluster/cni/pod.conflist": cniConfig,
	// There is no DNS, and the machine's own servers are out of reach.
	"devcluster/resolv.conf": []byte("# no name server\n"),
}

// realNode is the node of one run of up.
type realNode struct {
	dir  layout
	lock net.Listener
	init *process
	gate *os.File // closed, after a byte, when what runs on the node may start
}

// checkNode returns what this machine lacks for a real node.
func checkNode(binaries binaries) error {
	if os.Geteuid() != 0 {
		return errors.New("a real node needs root")
	}
	var missing []string
	for _, file := range []string{binaries.node, binaries.pause, "/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/lib/cni/loopback"} {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, file)
		}
	}
	for _, name := range []string{"containerd", "ctr", "runc", "nft"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("a real node needs %s: `make cluster-node` builds what is ours; "+
			"the rest is in Debian's containerd, runc, containernetworking-plugins and nftables", strings.Join(missing, ", "))
	}
	return nil
}

// checkNodeCommand is `devcluster check-node`: the exit code 0 when up can have
// a real node, or 1 and what is missing in one line.
func checkNodeCommand(stdout io.Writer) int {
	found, err := findBinaries()
	if err == nil {
		err = checkNode(found)
	}
	if err != nil {
		fmt.Fprintln(stdout, err)
		return 1
	}
	return 0
}

// prepareNode claims the machine and writes what the node reads.
func prepareNode(dir layout) (*realNode, error) {
	if resolved, err := filepath.EvalSymlinks(string(dir)); err != nil {
		return nil, err
	} else if err := checkNodeDir(resolved); err != nil {
		return nil, err
	}
	lock, err := net.Listen("unix", nodeLock)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, errors.New("another devcluster has a real node on this machine: stop that one first")
	}
	if err != nil {
		return nil, err
	}
	n := &realNode{dir: dir, lock: lock}
	if err := errors.Join(removeLink(), removeCgroups(), makeCgroups()); err != nil { // first what a run that was killed has left
		return nil, err
	}
	return n, n.writeFiles()
}

// checkNodeDir refuses a folder that the node's own mounts would hide from it,
// and one whose path leaves no room for a socket's.
func checkNodeDir(dir string) error {
	for _, hidden := range []string{"/var/lib", "/var/log", "/run", "/proc"} {
		if dir == hidden || strings.HasPrefix(dir, hidden+"/") {
			return fmt.Errorf("a real node cannot have its --dir below %s", hidden)
		}
	}
	const room = 107 // sun_path, less the byte that ends it
	if socket := layout(dir).containerdSocket(); len(socket) > room {
		return fmt.Errorf("a real node needs a --dir of at most %d letters", len(dir)-(len(socket)-room))
	}
	return nil
}

func (n *realNode) writeFiles() error {
	for name, data := range nodeFiles {
		path := n.dir.nodeLib(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return os.MkdirAll(n.dir.path("node", "log"), 0o755)
}

// startNode starts the init of the node, which waits, and links its network
// with this one, so that the API server can listen where pods reach it.
func (u *upRun) startNode(context.Context) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close() // the child has its own descriptor by then
	u.node.gate = write
	c := u.commands.nodeInit()
	c.stdin = read
	c.namespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET
	if err := u.start(c); err != nil {
		return err
	}
	u.node.init = u.started[len(u.started)-1]
	return addLink(u.node.init.cmd.Process.Pid)
}

// openNode lets the node's programs start: the API server is there.
func (u *upRun) openNode(context.Context) error {
	_, err := u.node.gate.Write([]byte{1})
	return errors.Join(err, u.node.gate.Close())
}

// clear removes what the kernel does not when the node's init has ended, and
// gives the machine free.
func (n *realNode) clear() error {
	return errors.Join(removeLink(), removeCgroups(), n.lock.Close())
}

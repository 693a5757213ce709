package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runNodeInit is the first process of the node's namespaces. It makes them
// what the node's programs expect, runs these, and ends when told to or when
// one of them has ended. With it end all processes of the node.
func runNodeInit() int {
	runtime.LockOSThread() // start says why
	if len(os.Args) != 4 || os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "node is started by devcluster up --real-node")
		return 2
	}
	n := &nodeInit{dir: layout(os.Args[1]), binary: os.Args[2], pause: os.Args[3], ended: make(chan *process, 3)}
	if err := n.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// nodeInit is one run of the node.
type nodeInit struct {
	dir     layout
	binary  string // of kubelet and kube-proxy
	pause   string // archive of the image that holds a pod's namespaces
	started []*process
	ended   chan *process
}

func (n *nodeInit) run() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	for _, step := range []func() error{n.mount, n.connect, n.startRuntime, n.startKubelet} {
		if err := step(); err != nil {
			return err
		}
	}
	for {
		select {
		case <-signals:
			stop(n.started[1:]...) // The runtime stays, for the kubelet to end well, and goes with us.
			return nil
		case p := <-n.ended:
			return &endedError{name: p.name, log: p.log, err: p.err}
		case <-children:
			n.reap()
		}
	}
}

// A bind shows what is at one path at another, too.
type bind struct{ from, to string }

// mount hides the machine's own state from the node's programs, and theirs
// from the machine.
func (n *nodeInit) mount() error {
	shields, err := n.shieldSysctls()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the machine's mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	binds := append(shields, bind{n.dir.path("node", "lib"), "/var/lib"}, bind{n.dir.path("node", "log"), "/var/log"})
	for _, b := range binds {
		if err := unix.Mount(b.from, b.to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", b.to, err)
		}
	}
	// The machine's servers are out of reach, and whoever asked them would wait. Where the file is a link into /run there is nothing
	// to mount over any more, and nobody who is asked.
	if _, err := os.Stat("/etc/resolv.conf"); err == nil {
		if err := unix.Mount("/var/lib/devcluster/resolv.conf", "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting /etc/resolv.conf: %w", err)
		}
	}
	// Containers get copies of what is mounted later, which volumes need.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// tunables are what a kubelet sets for its whole machine: whether the kernel
// panics, and how much it lends.
var tunables = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// shieldSysctls copies the tunables into plain files, for the kubelet to write
// to in their place.
func (n *nodeInit) shieldSysctls() ([]bind, error) {
	var binds []bind
	for _, name := range tunables {
		b := bind{n.dir.path("node", "sysctl", name), filepath.Join("/proc/sys", name)}
		value, err := os.ReadFile(b.to)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(b.from), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(b.from, value, 0o644); err != nil {
			return nil, err
		}
		binds = append(binds, b)
	}
	return binds, nil
}

// connect configures the node's end of the network.
func (n *nodeInit) connect() error {
	if err := bringUp("lo", "127.0.0.1/8"); err != nil {
		return err
	}
	if err := bringUp(nodeLink, nodeIP+linkMask); err != nil {
		return err
	}
	if err := route(nodeLink, "0.0.0.0/0", hostIP); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) // of this namespace
}

const nodeSocket = "/var/lib/devcluster/containerd.sock"

// startRuntime returns when containerd can run pods.
func (n *nodeInit) startRuntime() error {
	if err := n.start(command{name: "containerd", path: "containerd", args: []string{"--config=/var/lib/devcluster/containerd.toml"}}); err != nil {
		return err
	}
	if err := n.awaitSocket(nodeSocket); err != nil {
		return err
	}
	return loadImage(nodeSocket, n.pause)
}

// awaitSocket tries again and again, since nothing tells when containerd
// listens. What bounds it is the start of the whole cluster.
func (n *nodeInit) awaitSocket(path string) error {
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case p := <-n.ended:
			return &endedError{name: p.name, log: p.log, err: p.err}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// loadImage gives containerd the images of an archive.
func loadImage(socket, archive string) error {
	out, err := exec.Command("ctr", "--address="+socket, "--namespace=k8s.io", "images", "import", archive).CombinedOutput()
	if err != nil {
		return fmt.Errorf("loading the images of %s: %w\n%s", archive, err, out)
	}
	return nil
}

func (n *nodeInit) startKubelet() error {
	kubelet := command{name: "kubelet", path: n.binary, args: []string{
		"kubelet",
		"--config=/var/lib/devcluster/kubelet.yaml",
		"--kubeconfig=" + n.dir.clientConfig("kubelet"),
		"--client-ca-file=" + n.dir.pki("ca.crt"),
		"--hostname-override=" + realNodeName,
		"--node-ip=" + nodeIP,
	}}
	proxy := command{name: "kube-proxy", path: n.binary, args: []string{
		"kube-proxy",
		"--kubeconfig=" + n.dir.clientConfig("kube-proxy"),
		"--hostname-override=" + realNodeName,
		"--proxy-mode=nftables",
		"--cluster-cidr=" + podCIDR,
		"--oom-score-adj=0",
		// The size of the table of connections is the machine's.
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-established=0s",
		"--conntrack-tcp-timeout-close-wait=0s",
	}}
	return errors.Join(n.start(kubelet), n.start(proxy))
}

func (n *nodeInit) start(c command) error {
	p, err := start(c, n.dir, func(p *process) { n.ended <- p })
	if err != nil {
		return err
	}
	n.started = append(n.started, p)
	return nil
}

// reap takes the ended processes that nobody waits for: containerd's shims,
// which are the init's since what started them has ended.
func (n *nodeInit) reap() {
	files, _ := filepath.Glob("/proc/1/task/*/children") // the pattern is well-formed
	for _, file := range files {
		data, _ := os.ReadFile(file) // a thread that has just ended has no children
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && !n.owns(pid) {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // one that still runs stays
			}
		}
	}
}

func (n *nodeInit) owns(pid int) bool {
	for _, p := range n.started {
		if p.cmd.Process.Pid == pid {
			return true
		}
	}
	return false
}

package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

// A command is what it takes to start one component.
type command struct {
	name string   // of the component and of its log
	path string   // of the binary
	args []string // without the binary's name

	// For the init of a real node.
	stdin      *os.File // nil for none
	namespaces uintptr  // that it gets for itself: CLONE_NEW…
}

// commands builds the command lines of one cluster.
type commands struct {
	binaries
	dir      layout
	ports    ports
	audit    bool
	realNode bool
}

// binaries are the files that build.sh puts into one folder.
type binaries struct {
	self  string // this one, which contains all components but kwok and those of a real node
	kwok  string
	node  string // the kubelet and kube-proxy; only on demand
	pause string // an archive of the image of a real node's sandboxes; only on demand
}

// findBinaries looks for kwok beside this executable.
func findBinaries() (binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return binaries{}, err
	}
	dir := filepath.Dir(self)
	b := binaries{self: self, kwok: filepath.Join(dir, "kwok"), node: filepath.Join(dir, "node"), pause: filepath.Join(dir, "pause.tar")}
	if _, err := os.Stat(b.kwok); errors.Is(err, fs.ErrNotExist) {
		return binaries{}, fmt.Errorf("no %s: build both binaries into one folder with e2e/cluster/build.sh OUTDIR", b.kwok)
	} else if err != nil {
		return binaries{}, err
	}
	return b, nil
}

// part is a component that is inside this binary.
func (c commands) part(name string, args ...string) command {
	return command{name: name, path: c.self, args: append([]string{name}, args...)}
}

// etcd does not call fsync: data survives the end of a process, which is all
// that a cluster for tests promises, and writes are many times faster.
func (c commands) etcd() command {
	client, peer := "http://"+hostPort(c.ports.EtcdClient), "http://"+hostPort(c.ports.EtcdPeer)
	return c.part("etcd",
		"--name=devcluster",
		"--data-dir="+c.dir.path("etcd"),
		"--unsafe-no-fsync",
		"--listen-client-urls="+client,
		"--advertise-client-urls="+client,
		"--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer,
		"--initial-cluster=devcluster="+peer,
		"--log-level=warn",
	)
}

func (c commands) apiServer() command {
	args := []string{
		"--etcd-servers=http://" + hostPort(c.ports.EtcdClient),
		"--bind-address=" + c.host(),
		"--advertise-address=" + c.host(),
		fmt.Sprintf("--secure-port=%d", c.ports.APIServer),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--tls-cert-file=" + c.dir.pki("kube-apiserver.crt"),
		"--tls-private-key-file=" + c.dir.pki("kube-apiserver.key"),
		"--client-ca-file=" + c.dir.pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.dir.pki("service-account.key"),
		"--service-account-signing-key-file=" + c.dir.pki("service-account.key"),
		"--allow-privileged=true",
		"--profiling=false",
	}
	if c.realNode {
		args = append(args,
			// For logs, exec and port-forward. The node's name is nothing that this machine could look up.
			"--kubelet-client-certificate="+c.dir.pki("admin.crt"),
			"--kubelet-client-key="+c.dir.pki("admin.key"),
			"--kubelet-preferred-address-types=InternalIP",
		)
	} else {
		// Loopback addresses are not allowed in Endpoints, and no pod runs that would use them.
		args = append(args, "--endpoint-reconciler-type=none")
	}
	if c.audit {
		args = append(args,
			"--audit-policy-file="+c.auditPolicyFile(),
			"--audit-log-path="+c.dir.path("audit.log"),
			"--audit-log-mode=blocking", // written before the handler returns, so a short answer never overtakes its entry
			"--audit-log-maxsize=10240", // MiB; never rotated in practice, since tests read one file
		)
	}
	return c.part("kube-apiserver", args...)
}

// host is where the API server listens: where pods reach it if there are any.
func (c commands) host() string {
	if c.realNode {
		return hostIP
	}
	return "127.0.0.1"
}

func (c commands) server() string {
	return "https://" + net.JoinHostPort(c.host(), strconv.Itoa(c.ports.APIServer))
}

func (c commands) auditPolicyFile() string { return c.dir.path("audit-policy.yaml") }

func (c commands) controllerManager() command {
	return c.part("kube-controller-manager",
		"--kubeconfig="+c.dir.clientConfig("kube-controller-manager"),
		"--leader-elect=false",
		"--secure-port=0",
		"--use-service-account-credentials=true",
		"--root-ca-file="+c.dir.pki("ca.crt"),
		"--service-account-private-key-file="+c.dir.pki("service-account.key"),
		"--cluster-signing-cert-file="+c.dir.pki("ca.crt"),
		"--cluster-signing-key-file="+c.dir.pki("ca.key"),
		"--service-cluster-ip-range="+serviceCIDR,
		// The defaults throttle one client to 20 requests a second, which a test would measure instead of Cleat.
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
	)
}

func (c commands) scheduler() command {
	return c.part("kube-scheduler",
		"--kubeconfig="+c.dir.clientConfig("kube-scheduler"),
		"--leader-elect=false",
		"--secure-port=0",
		"--kube-api-qps=1000",
		"--kube-api-burst=2000",
	)
}

func (c commands) nodeInit() command { return c.part("node", string(c.dir), c.node, c.pause) }

func (c commands) kwokNodes() command {
	return command{name: "kwok", path: c.kwok, args: []string{
		"--kubeconfig=" + c.dir.clientConfig("kwok"),
		"--manage-all-nodes=true",
		// Without leases a node counts as lost after about 40 s, and all of its pods turn unready.
		"--node-lease-duration-seconds=40",
	}}
}

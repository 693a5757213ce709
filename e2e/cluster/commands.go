package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed audit-policy.yaml
var auditPolicy []byte

// A command is what it takes to start one component.
type command struct {
	name string   // of the component and of its log
	path string   // of the binary
	args []string // without the binary's name
}

// commands builds the command lines of one cluster.
type commands struct {
	self  string // this binary, which contains all components but kwok
	kwok  string
	dir   layout
	ports ports
	audit bool
}

// findBinaries looks for kwok beside this executable, where build.sh puts it.
func findBinaries() (self, kwok string, err error) {
	self, err = os.Executable()
	if err != nil {
		return "", "", err
	}
	kwok = filepath.Join(filepath.Dir(self), "kwok")
	if _, err := os.Stat(kwok); errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("no %s: build both binaries into one folder with e2e/cluster/build.sh OUTDIR", kwok)
	} else if err != nil {
		return "", "", err
	}
	return self, kwok, nil
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
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.ports.APIServer),
		// Loopback addresses are not allowed in Endpoints, and no pod runs that would use them.
		"--endpoint-reconciler-type=none",
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

func (c commands) kwokNodes() command {
	return command{name: "kwok", path: c.kwok, args: []string{
		"--kubeconfig=" + c.dir.clientConfig("kwok"),
		"--manage-all-nodes=true",
		// Without leases a node counts as lost after about 40 s, and all of its pods turn unready.
		"--node-lease-duration-seconds=40",
	}}
}

// Devcluster runs a Kubernetes control plane without containers: etcd, the
// API server, the controller manager, the scheduler and kwok, which plays the
// kubelets of fake nodes. It exists so that end-to-end tests, benchmarks and
// demonstrations of Cleat meet a real API server on any Linux machine that has
// Go, with nothing to install.
//
// All components but kwok are compiled into this one program, which runs
// itself again under each component's name. Each is a process of its own
// because two of their commands in one process close the same signal channel
// and panic, and because a test wants to stop one without the others. Kwok is
// a second binary with a module of its own (folder kwok), since it is built
// against an older Kubernetes than the one that is served here.
//
// Asked for a real node, devcluster runs a kubelet, kube-proxy and containerd
// instead of kwok, in namespaces of their own (realnode.go). That needs root.
//
// This folder is a module of its own, so that k8s.io/kubernetes never enters
// the module graph of the agent.
//
// It runs on Linux only: it relies on PR_SET_PDEATHSIG and on process file
// descriptors so that no way of ending it, kill -9 included, leaves a process
// behind.
package main

// Node is what makes a machine a node of devcluster on which pods really run:
// the kubelet and kube-proxy of the same Kubernetes. Devcluster starts both
// when it is asked for a real node; containerd comes from the machine.
//
// It is a binary beside devcluster and not a part of it, since most tests need
// no real node and should not wait for its compilation.
package main

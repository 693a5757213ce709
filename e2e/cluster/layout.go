package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// A layout is the folder of one cluster and knows where each thing is in it.
type layout string

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{string(l)}, elem...)...)
}

func (l layout) kubeconfig() string          { return l.path("kubeconfig") }
func (l layout) pki(name string) string      { return l.path("pki", name) }
func (l layout) log(component string) string { return l.path("logs", component+".log") }

// What runs on a real node sees the folder node/lib as /var/lib.
func (l layout) nodeLib(name string) string   { return l.path("node", "lib", name) }
func (l layout) containerdSocket() string     { return l.nodeLib("devcluster/containerd.sock") }
func (l layout) clientConfig(u string) string { return l.path("pki", u+".kubeconfig") }

// create makes the folders. Keys are in them, hence the mode.
func (l layout) create() error {
	for _, dir := range []string{l.path("pki"), l.path("logs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// lock claims the folder until the file is closed or the process ends, however
// it ends: two control planes on one etcd folder would destroy it.
func (l layout) lock() (*os.File, error) {
	f, err := os.OpenFile(l.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // the refusal matters, not this
		return nil, fmt.Errorf("%s is in use by another devcluster: stop that one or choose another --dir", l)
	}
	return f, nil
}

// writeFile replaces a file as a whole, so that a crash never leaves half a
// key or half a kubeconfig for the next start to trip over.
func writeFile(path string, data []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// All pods of a real node are below the cgroup /devcluster. The namespaces of
// the node do not make it go, so it is made and removed here.
const (
	cgroupMount = "/sys/fs/cgroup"
	nodeCgroup  = "devcluster"
)

// cgroupRoots returns where trees of cgroups begin: one in version 2, and one
// for each controller in version 1.
func cgroupRoots() (roots []string, version2 bool, err error) {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return []string{cgroupMount}, true, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, false, err
	}
	for _, e := range entries {
		if e.IsDir() { // other names of the same trees are links
			roots = append(roots, filepath.Join(cgroupMount, e.Name()))
		}
	}
	return roots, false, nil
}

// makeCgroups makes the cgroup in every tree, since a kubelet wants to find it.
func makeCgroups() error {
	roots, version2, err := cgroupRoots()
	if err != nil {
		return err
	}
	if version2 {
		if err := passControllers(); err != nil {
			return err
		}
	}
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(root, nodeCgroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// passControllers lets the cgroups below the root have all controllers.
func passControllers() error {
	data, err := os.ReadFile(filepath.Join(cgroupMount, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range strings.Fields(string(data)) {
		err := os.WriteFile(filepath.Join(cgroupMount, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil {
			return fmt.Errorf("passing on the controller %s: %w", controller, err)
		}
	}
	return nil
}

// removeCgroups removes the cgroups that the node's pods have left. They are
// empty: no process of the node outlives its init.
func removeCgroups() error {
	roots, _, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := removeCgroup(filepath.Join(root, nodeCgroup)); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup removes the innermost first. The files in a cgroup go with it
// and cannot be removed.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return removeEmpty(dir)
}

// removeEmpty tries for a while: the kernel counts processes that it has just
// ended a moment longer, and tells nobody when it stops to.
func removeEmpty(dir string) error {
	deadline := time.Now().Add(patience)
	for {
		err := syscall.Rmdir(dir)
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

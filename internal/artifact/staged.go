package artifact

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// Staged returns the files that were added so far, in the order of a walk.
func (w *Writer) Staged() []string { return slices.SortedFunc(maps.Keys(w.files), walkOrder) }

// Open opens a file that was added.
func (w *Writer) Open(name string) (*os.File, error) { return w.tree.Open(name) }

// Settle leaves what Flux finds when it unpacks the same tarball and packs it again: every directory on the way to a file is
// an entry, whether or not the tarball had one for it, and what ignored takes is gone. ignored is given the names of a path
// one by one.
func (w *Writer) Settle(ignored func(names []string, isDir bool) bool) error {
	for name := range w.made {
		w.dirs[name] = true
	}
	maps.DeleteFunc(w.dirs, func(name string, _ bool) bool { return ignored(strings.Split(name, "/"), true) })
	for name := range w.files {
		if !ignored(strings.Split(name, "/"), false) {
			continue
		}
		info, err := w.tree.Stat(name)
		if err == nil {
			err = w.tree.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("leaving out %s: %w", name, err)
		}
		w.bytes -= info.Size()
		delete(w.files, name)
	}
	return nil
}

package artifact

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// AddFrom adds a file that an acquired snapshot holds at a path of its own. Nothing is copied: both trees name the same
// read-only file. What has to be written of a new revision is thus what is new in it. It reports false, and adds nothing,
// when the snapshot has no such file.
func (w *Writer) AddFrom(name string, from *Snapshot, file string) (bool, error) {
	f, ok := from.File(file)
	if !ok {
		return false, nil
	}
	if err := w.admit(name); err != nil {
		return false, err
	}
	if _, twice := w.files[name]; twice || w.made[name] {
		return false, fmt.Errorf("%w: %q comes twice", ErrPath, name)
	}
	info, err := from.root.Lstat(file)
	if err != nil || !info.Mode().IsRegular() {
		return false, nil // the tree is a cache and may be gone; the caller has the content
	}
	if w.bytes += info.Size(); w.bytes > w.limits.Bytes {
		return false, fmt.Errorf("%w: files add up to more than %d bytes", ErrLimit, w.limits.Bytes)
	}
	if parent := path.Dir(name); parent != "." {
		if err := w.makeDir(parent); err != nil {
			return false, err
		}
	}
	if err := os.Link(filepath.Join(from.dir, filepath.FromSlash(file)), filepath.Join(w.dir, treeName, filepath.FromSlash(name))); err != nil {
		w.bytes -= info.Size()
		return false, nil // too many links, or a file system without them: the caller writes the content
	}
	w.files[name] = f
	return true, nil
}

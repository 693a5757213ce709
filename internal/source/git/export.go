package git

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// maxEntries and maxDepth bound the walk over a tree, whose objects may name each other so that a kilobyte unfolds to
	// more files than there are atoms.
	maxEntries = 1 << 18
	maxDepth   = 256
)

// entry is one name in a commit's tree.
type entry struct {
	path []string
	mode filemode.FileMode
	hash plumbing.Hash
}

func (e entry) isDir() bool {
	return e.mode == filemode.Dir || e.mode == filemode.Submodule // a submodule is an empty directory in a checkout
}

// export adds the tree of a commit to a snapshot as Flux would after a checkout: without symbolic links, without the
// content of submodules, and without what is ignored. No name of the tree is ever used on disk here; the Writer checks and
// makes them.
func export(ctx context.Context, s storer.EncodedObjectStorer, tree plumbing.Hash, ignore *string, w *artifact.Writer) error {
	walk := &walk{storage: s}
	if err := walk.tree(ctx, tree, nil); err != nil {
		return err
	}
	ignored, err := walk.matcher(ignore)
	if err != nil {
		return err
	}
	for _, e := range walk.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.mode == filemode.Symlink || ignored.Ignores(e.path, e.isDir()) {
			continue
		}
		if err := walk.add(e, w); err != nil {
			return err
		}
	}
	return nil
}

// walk reads the trees of one commit; the files are not read until they are known to be wanted.
type walk struct {
	storage storer.EncodedObjectStorer
	entries []entry
}

func (w *walk) tree(ctx context.Context, hash plumbing.Hash, at []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(at) > maxDepth {
		return fmt.Errorf("%w: directories are nested more than %d deep", source.ErrLimit, maxDepth)
	}
	tree, err := object.GetTree(w.storage, hash)
	if err != nil {
		return fmt.Errorf("reading the directory %q: %w", path.Join(at...), err)
	}
	for _, e := range tree.Entries {
		if len(w.entries) >= maxEntries {
			return fmt.Errorf("%w: the repository has more than %d files and directories", source.ErrLimit, maxEntries)
		}
		child := entry{path: append(slices.Clone(at), e.Name), mode: e.Mode, hash: e.Hash}
		w.entries = append(w.entries, child)
		if e.Mode == filemode.Dir {
			if err := w.tree(ctx, e.Hash, child.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// matcher reads the ignore files of the tree.
func (w *walk) matcher(spec *string) (*source.Matcher, error) {
	var ignore source.Ignore
	for _, e := range w.ignoreFiles() {
		text, err := w.text(e)
		if err != nil {
			return nil, err
		}
		if err := ignore.Add(strings.Join(e.path[:len(e.path)-1], "/"), text); err != nil {
			return nil, err
		}
	}
	return ignore.Matcher(spec), nil
}

func (w *walk) ignoreFiles() []entry {
	var files []entry
	for _, e := range w.entries {
		if e.path[len(e.path)-1] == source.IgnoreFile && e.mode.IsFile() && e.mode != filemode.Symlink {
			files = append(files, e)
		}
	}
	return files
}

func (w *walk) text(e entry) (string, error) {
	r, err := w.open(e)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, source.MaxIgnoreBytes+1)) // one more, so that Add sees that it is too large
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	return string(text), nil
}

func (w *walk) add(e entry, to *artifact.Writer) error {
	// Joined without cleaning: what is odd about a name must reach the Writer's check.
	name := strings.Join(e.path, "/")
	if e.isDir() {
		return to.AddDir(name)
	}
	r, err := w.open(e)
	if err != nil {
		return err
	}
	defer r.Close()
	return to.AddFile(name, e.mode == filemode.Executable, r)
}

func (w *walk) open(e entry) (io.ReadCloser, error) {
	blob, err := w.storage.EncodedObject(plumbing.BlobObject, e.hash)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	return blob.Reader()
}

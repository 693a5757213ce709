package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// errIgnore: the ignore patterns cannot be used.
var errIgnore = errors.New("invalid ignore patterns")

const (
	// maxEntries and maxDepth bound the walk over a tree, whose objects may name each other so that a kilobyte unfolds to
	// more files than there are atoms.
	maxEntries = 1 << 18
	maxDepth   = 256
	// maxIgnoreBytes is the size up to which a .sourceignore is read.
	maxIgnoreBytes = 1 << 20
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

// written is what was last exported from a mirror: files that are the same in the next commit are not written again.
type written struct {
	digest string
	blobs  map[string]plumbing.Hash // by path
}

// export adds the tree of a commit to a snapshot as Flux would after a checkout: without symbolic links, without the
// content of submodules, and without what is ignored. No name of the tree is ever used on disk here; the Writer checks and
// makes them. The result names the blobs of the files that were added; before and last, if there is one, are the snapshot
// and the blobs of an earlier export.
func export(ctx context.Context, s storer.EncodedObjectStorer, tree plumbing.Hash, ignore *string, w *artifact.Writer,
	before *artifact.Snapshot, last map[string]plumbing.Hash,
) (map[string]plumbing.Hash, error) {
	walk := &walk{storage: s, before: before, last: last, added: map[string]plumbing.Hash{}}
	if err := walk.tree(ctx, tree, nil); err != nil {
		return nil, err
	}
	ignored, err := walk.matcher(ignore)
	if err != nil {
		return nil, err
	}
	for _, e := range walk.entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e.mode == filemode.Symlink || ignored.Match(e.path, e.isDir()) {
			continue
		}
		if err := walk.add(e, w); err != nil {
			return nil, err
		}
	}
	return walk.added, nil
}

// walk reads the trees of one commit; the files are not read until they are known to be wanted.
type walk struct {
	storage storer.EncodedObjectStorer
	entries []entry

	before *artifact.Snapshot // nil if there is none
	last   map[string]plumbing.Hash
	added  map[string]plumbing.Hash
}

func (w *walk) tree(ctx context.Context, hash plumbing.Hash, at []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(at) > maxDepth {
		return fmt.Errorf("%w: directories are nested more than %d deep", ErrLimit, maxDepth)
	}
	tree, err := object.GetTree(w.storage, hash)
	if err != nil {
		return fmt.Errorf("reading the directory %q: %w", path.Join(at...), err)
	}
	for _, e := range tree.Entries {
		if len(w.entries) >= maxEntries {
			return fmt.Errorf("%w: the repository has more than %d files and directories", ErrLimit, maxEntries)
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

// matcher puts the patterns in Flux's order, the last that matches wins: VCS files, then what .sourceignore files say, each
// within its directory, then spec.ignore. Only where there is none of either do the defaults for images, archives and CI
// count.
func (w *walk) matcher(ignore *string) (gitignore.Matcher, error) {
	var patterns []gitignore.Pattern
	for _, e := range w.ignoreFiles() {
		text, err := w.text(e)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(text), e.path[:len(e.path)-1])...)
	}
	if ignore != nil {
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(*ignore), nil)...)
	}
	if len(patterns) == 0 {
		return sourceignore.NewDefaultMatcher(nil, nil), nil
	}
	return sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), patterns...)), nil
}

// ignoreFiles returns the .sourceignore files, a directory's own before those further down.
func (w *walk) ignoreFiles() []entry {
	var files []entry
	for _, e := range w.entries {
		if e.path[len(e.path)-1] == sourceignore.IgnoreFile && e.mode.IsFile() && e.mode != filemode.Symlink {
			files = append(files, e)
		}
	}
	slices.SortStableFunc(files, func(a, b entry) int {
		return slices.Compare(a.path[:len(a.path)-1], b.path[:len(b.path)-1])
	})
	return files
}

func (w *walk) text(e entry) (string, error) {
	r, err := w.open(e)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxIgnoreBytes+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	if len(text) > maxIgnoreBytes {
		return "", fmt.Errorf("%w: %s is larger than %d bytes", errIgnore, path.Join(e.path...), maxIgnoreBytes)
	}
	return string(text), nil
}

func (w *walk) add(e entry, to *artifact.Writer) error {
	// Joined without cleaning: what is odd about a name must reach the Writer's check.
	name := strings.Join(e.path, "/")
	if e.isDir() {
		return to.AddDir(name)
	}
	w.added[name] = e.hash
	if w.unchanged(name, e) {
		err := to.AddSame(name, w.before)
		if err == nil || errors.Is(err, artifact.ErrLimit) || errors.Is(err, artifact.ErrPath) {
			return err
		}
		// It could not be shared, for instance because the file system allows no more links to it: it is written again.
	}
	r, err := w.open(e)
	if err != nil {
		return err
	}
	defer r.Close()
	return to.AddFile(name, e.mode == filemode.Executable, r)
}

// unchanged reports whether the snapshot before has the same file.
func (w *walk) unchanged(name string, e entry) bool {
	if w.before == nil || w.last[name] != e.hash {
		return false
	}
	f, ok := w.before.File(name)
	return ok && f.Executable == (e.mode == filemode.Executable)
}

func (w *walk) open(e entry) (io.ReadCloser, error) {
	blob, err := w.storage.EncodedObject(plumbing.BlobObject, e.hash)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	return blob.Reader()
}

package git

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

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

var (
	// ErrLFS: a file that would be part of the artifact is only a pointer to its content.
	ErrLFS = errors.New("the file is kept in Git LFS")
	// ErrSparse: a directory of spec.sparseCheckout cannot be had.
	ErrSparse = errors.New("invalid spec.sparseCheckout")
)

// lfsPointer is how every pointer file begins, and maxPointer how long one is at most, by the specification of Git LFS.
const (
	lfsPointer = "version https://git-lfs.github.com/spec/v1\n"
	maxPointer = 1024
)

// entry is one name in an artifact's tree, before anything is left out.
type entry struct {
	path []string
	mode filemode.FileMode
	hash plumbing.Hash // of the object in the layer's mirror
	file string        // of the included snapshot, where the layer is one
}

func (e entry) isDir() bool {
	return e.mode == filemode.Dir || e.mode == filemode.Submodule // a submodule is an empty directory in a checkout
}

// layer is where some of the entries come from: a commit in a mirror, or the snapshot of an included repository.
type layer struct {
	mirror   *mirror
	included *artifact.Snapshot
	entries  []entry
}

// export is the making of one snapshot: the entries of all layers are collected, and then those that are wanted written, as
// Flux would after a checkout: without symbolic links and without what is ignored. No name of a tree is ever used on disk
// here; the Writer checks and makes them.
type export struct {
	layers []layer
	ignore source.Ignore
	count  int             // entries
	nested int             // submodules
	names  map[string]bool // files that are there, once something is included

	// previous is the last snapshot of the main repository, and was the objects that its files were written from: what is
	// the same now is not written again.
	previous *artifact.Snapshot
	was      map[string]entry
}

// tree adds the layer of a commit's tree, at a directory of the artifact. Whoever calls it has the mirror's turn.
func (x *export) tree(ctx context.Context, mi *mirror, tree plumbing.Hash, at []string, sparse []string) error {
	w := &walk{storage: mi.storage, room: maxEntries - x.count, sparse: sparse, found: make([]bool, len(sparse))}
	if err := w.tree(ctx, tree, at); err != nil {
		return err
	}
	for i, dir := range sparse {
		if !w.found[i] {
			return fmt.Errorf("%w: there is no directory %q in the repository", ErrSparse, dir)
		}
	}
	x.count += len(w.entries)
	for _, e := range w.entries {
		if e.path[len(e.path)-1] != source.IgnoreFile || !e.mode.IsFile() || e.mode == filemode.Symlink {
			continue
		}
		text, err := w.text(e, source.MaxIgnoreBytes)
		if err != nil {
			return err
		}
		if err := x.ignore.Add(path.Join(e.path[:len(e.path)-1]...), text); err != nil {
			return err
		}
	}
	x.layers = append(x.layers, layer{mirror: mi, entries: w.entries})
	return nil
}

// remember takes the tree that the previous snapshot was written from.
func (x *export) remember(ctx context.Context, mi *mirror, tree plumbing.Hash, previous *artifact.Snapshot) {
	w := &walk{storage: mi.storage, room: maxEntries}
	if w.tree(ctx, tree, nil) != nil {
		return // then everything is written, which is only slower
	}
	x.previous, x.was = previous, make(map[string]entry, len(w.entries))
	for _, e := range w.entries {
		x.was[strings.Join(e.path, "/")] = e
	}
}

// write writes what is wanted of the layers, each with its mirror's turn.
func (x *export) write(ctx context.Context, spec *string, w *artifact.Writer) error {
	ignored := x.ignore.Matcher(spec)
	for i, l := range x.layers {
		if err := x.writeLayer(ctx, l, i == 0, ignored, w); err != nil {
			return err
		}
	}
	return nil
}

func (x *export) writeLayer(ctx context.Context, l layer, first bool, ignored *source.Matcher, w *artifact.Writer) error {
	if l.mirror == nil {
		return x.addAll(ctx, l, first, ignored, w)
	}
	if err := l.mirror.take(ctx); err != nil {
		return err
	}
	defer l.mirror.give()
	if err := l.mirror.open(time.Now()); err != nil {
		return err
	}
	return l.mirror.read(ctx, func() error { return x.addAll(ctx, l, first, ignored, w) })
}

func (x *export) addAll(ctx context.Context, l layer, first bool, ignored *source.Matcher, w *artifact.Writer) error {
	for _, e := range l.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.mode == filemode.Symlink || ignored.Ignores(e.path, e.isDir()) {
			continue
		}
		if err := x.add(l, e, first, w); err != nil {
			return err
		}
	}
	return nil
}

func (x *export) add(l layer, e entry, first bool, to *artifact.Writer) error {
	// Joined without cleaning: what is odd about a name must reach the Writer's check.
	name := strings.Join(e.path, "/")
	switch {
	case e.isDir():
		return to.AddDir(name)
	case l.included != nil:
		return addIncluded(l.included, e, name, to)
	}
	if was, ok := x.was[name]; ok && first && was.hash == e.hash && was.mode == e.mode {
		if added, err := to.AddFrom(name, x.previous, name); added || err != nil {
			return err
		}
	}
	blob, err := l.mirror.storage.EncodedObject(plumbing.BlobObject, e.hash)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	r, err := blob.Reader()
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	defer r.Close()
	content := io.Reader(r)
	if blob.Size() <= maxPointer {
		buffered := bufio.NewReaderSize(r, maxPointer)
		start, _ := buffered.Peek(len(lfsPointer)) // an error comes again when it is read
		// A file that is used is one that is neither ignored nor outside spec.sparseCheckout. Its pointer must never be
		// taken for its content: applied, it would be a broken object or an empty configuration (faults.md F33).
		if bytes.Equal(start, []byte(lfsPointer)) {
			return fmt.Errorf("%w: %s holds a pointer and not its content, which is not fetched; keep the file in Git itself, or leave it out by spec.ignore", ErrLFS, name)
		}
		content = buffered
	}
	return to.AddFile(name, e.mode == filemode.Executable, content)
}

func addIncluded(from *artifact.Snapshot, e entry, name string, to *artifact.Writer) error {
	if added, err := to.AddFrom(name, from, e.file); added || err != nil {
		return err
	}
	f, err := from.FS().Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	return to.AddFile(name, e.mode == filemode.Executable, f)
}

// walk reads the trees of one commit; the files are not read until they are known to be wanted.
type walk struct {
	storage storer.EncodedObjectStorer
	room    int
	sparse  []string // directories that are wanted alone
	found   []bool   // which of them there are
	entries []entry
}

func (w *walk) tree(ctx context.Context, hash plumbing.Hash, at []string) error {
	return w.below(ctx, hash, at, len(at))
}

// below walks a directory; the first names of at, as many as root says, are those of the submodule's own place.
func (w *walk) below(ctx context.Context, hash plumbing.Hash, at []string, root int) error {
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
		if len(w.entries) >= w.room {
			return fmt.Errorf("%w: the repository has more than %d files and directories", source.ErrLimit, maxEntries)
		}
		child := entry{path: append(slices.Clone(at), e.Name), mode: e.Mode, hash: e.Hash}
		if !w.wanted(strings.Join(child.path[root:], "/"), child.isDir()) {
			continue
		}
		w.entries = append(w.entries, child)
		if e.Mode == filemode.Dir {
			if err := w.below(ctx, e.Hash, child.path, root); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted says whether a path lies in a directory that spec.sparseCheckout names, or leads to one.
func (w *walk) wanted(name string, isDir bool) bool {
	if len(w.sparse) == 0 || name == modulesFile {
		return true // the latter says where submodules in those directories come from
	}
	wanted := false
	for i, dir := range w.sparse {
		switch {
		case name == dir && isDir:
			w.found[i], wanted = true, true
		case strings.HasPrefix(name, dir+"/"), isDir && strings.HasPrefix(dir, name+"/"):
			wanted = true
		}
	}
	return wanted
}

// text reads a file of which one byte more than most is too much; the caller looks at the length.
func (w *walk) text(e entry, most int64) (string, error) {
	blob, err := w.storage.EncodedObject(plumbing.BlobObject, e.hash)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	r, err := blob.Reader()
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path.Join(e.path...), err)
	}
	return string(text), nil
}

// sparseDirs checks the directories of spec.sparseCheckout, which may not lead out of the repository (faults.md A05). The
// repository itself, "." or "./", is all of it: no directories.
func sparseDirs(spec []string) ([]string, error) {
	var dirs []string
	for _, given := range spec {
		dir := strings.TrimSuffix(strings.TrimPrefix(given, "./"), "/")
		if dir == "" || dir == "." {
			return nil, nil
		}
		if err := artifact.CheckPath(dir); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrSparse, given, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

package artifact

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrLimit is in the chain of every error about content that is larger than the store was told to accept.
var ErrLimit = errors.New("over the limit")

// Limits bound what one snapshot may hold, so that no source can fill the disk or the memory of the agent.
type Limits struct {
	Files int   // files and directories
	Bytes int64 // sum of the sizes of all files
	Depth int   // names in one path
}

// DefaultLimits fit every repository that Flux can serve under its own memory limit, and stop a bomb within seconds.
var DefaultLimits = Limits{Files: 200_000, Bytes: 2 << 30, Depth: 100}

// Limits returns what one artifact may have.
func (s *Store) Limits() Limits { return s.limits }

// File is what the manifest of a snapshot says about one file.
type File struct {
	// Hash is the SHA-256 of the content in hexadecimal.
	Hash string `json:"hash"`
	// Executable is the one mode bit that is kept.
	Executable bool `json:"executable,omitempty"`
}

// Writer stages the files of one snapshot. Files and directories come in any order, Commit makes the snapshot, Close ends
// the writer in every case. A Writer is used by one goroutine; after an error only Close may be called.
type Writer struct {
	store  *Store
	limits Limits
	dir    string   // the staging directory, which Commit renames
	tree   *os.Root // dir/tree
	bytes  int64
	files  map[string]File
	dirs   map[string]bool // those that are entries of the tarball
	made   map[string]bool // those that exist in the tree: dirs and every parent of a file
	pinned *entry          // what Commit made or found
	full   bool            // the disk was
}

// NewWriter returns a Writer with the store's limits.
func (s *Store) NewWriter() (*Writer, error) {
	dir, err := os.MkdirTemp(s.tmp(), "snapshot-")
	if err != nil {
		return nil, fmt.Errorf("staging a snapshot: %w", err)
	}
	w := &Writer{store: s, limits: s.limits, dir: dir, files: map[string]File{}, dirs: map[string]bool{}, made: map[string]bool{}}
	// 0755 so that Commit can move the directory; only the files are read-only. Read-only directories would keep
	// everybody but root from removing a storage directory by ordinary means.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, treeName), 0o755)); err != nil {
		w.Close()
		return nil, fmt.Errorf("staging a snapshot: %w", err)
	}
	if w.tree, err = os.OpenRoot(filepath.Join(dir, treeName)); err != nil {
		w.Close()
		return nil, fmt.Errorf("staging a snapshot: %w", err)
	}
	return w, nil
}

// AddDir adds a directory entry. Parents of files need none; it exists because Flux's tarballs also list directories whose
// files were all left out.
func (w *Writer) AddDir(name string) error {
	if err := w.admit(name); err != nil {
		return err
	}
	if w.dirs[name] {
		return nil
	}
	if err := w.makeDir(name); err != nil {
		return err
	}
	w.dirs[name] = true
	return nil
}

// AddFrom adds a file that another snapshot has, under a path of its own there, without writing its content again. The
// snapshot must be pinned. Snapshots are never written to, so it does not matter that they share a file on disk. It reports
// false, and adds nothing, when the snapshot has no such file or it cannot be shared, for instance because the file system
// allows no more links to it.
func (w *Writer) AddFrom(name string, from *Snapshot, file string) (bool, error) {
	f, ok := from.files[file]
	if !ok {
		return false, nil
	}
	if err := w.admitFile(name); err != nil {
		return false, err
	}
	source := filepath.Join(from.dir, filepath.FromSlash(file))
	info, err := os.Lstat(source)
	if err != nil || !info.Mode().IsRegular() {
		return false, nil //nolint:nilerr // the tree is a cache and may be gone; the caller has the content
	}
	if os.Link(source, filepath.Join(w.dir, treeName, filepath.FromSlash(name))) != nil {
		return false, nil //nolint:nilerr // the file system allows no more links, say; the caller writes the content
	}
	return true, w.added(name, f, info.Size())
}

// AddFile adds a regular file with all that content yields. A path may be added once.
func (w *Writer) AddFile(name string, executable bool, content io.Reader) error {
	if err := w.admitFile(name); err != nil {
		return err
	}
	mode := os.FileMode(0o444)
	if executable {
		mode = 0o555
	}
	f, err := w.tree.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(content, w.limits.Bytes-w.bytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		w.full = w.full || IsFull(err)
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return w.added(name, File{Hash: hex.EncodeToString(sum.Sum(nil)), Executable: executable}, n)
}

// admitFile says whether a file may be added under the name, and makes the directory that it lies in.
func (w *Writer) admitFile(name string) error {
	if err := w.admit(name); err != nil {
		return err
	}
	if _, twice := w.files[name]; twice || w.made[name] {
		return fmt.Errorf("%w: %q comes twice", ErrPath, name)
	}
	if parent := path.Dir(name); parent != "." {
		return w.makeDir(parent)
	}
	return nil
}

func (w *Writer) added(name string, f File, size int64) error {
	if w.bytes += size; w.bytes > w.limits.Bytes {
		return fmt.Errorf("%w: files add up to more than %d bytes", ErrLimit, w.limits.Bytes)
	}
	w.files[name] = f
	return nil
}

func (w *Writer) admit(name string) error {
	if err := CheckPath(name); err != nil {
		return err
	}
	if strings.Count(name, "/") >= w.limits.Depth {
		return fmt.Errorf("%w: %q lies deeper than %d directories", ErrLimit, name, w.limits.Depth)
	}
	if len(w.files)+len(w.dirs) >= w.limits.Files {
		return fmt.Errorf("%w: more than %d files and directories", ErrLimit, w.limits.Files)
	}
	return nil
}

func (w *Writer) makeDir(name string) error {
	if w.made[name] {
		return nil
	}
	for p := name; p != "."; p = path.Dir(p) {
		if _, isFile := w.files[p]; isFile {
			return fmt.Errorf("%w: %q is a file and a directory", ErrPath, p)
		}
	}
	if err := w.tree.MkdirAll(name, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	for p := name; p != "."; p = path.Dir(p) {
		w.made[p] = true
	}
	return nil
}

// Commit makes the snapshot of what was added: the tarball as Flux makes it, then, unless the store has that digest
// already, the directory. The snapshot is safe from collection until Close.
func (w *Writer) Commit() (*Snapshot, error) {
	file := filepath.Join(w.dir, tarballName)
	digest, size, err := w.writeTarball(file)
	if err != nil {
		w.full = w.full || IsFull(err)
		return nil, fmt.Errorf("writing a tarball: %w", err)
	}
	return w.install(digest, size)
}

// install gives the staged tree and tarball their place under the digest, unless it is taken.
func (w *Writer) install(digest string, size int64) (*Snapshot, error) {
	manifest, err := json.Marshal(manifest{Size: size, Bytes: w.bytes, Files: w.files})
	if err != nil {
		return nil, err
	}
	if err := writeSynced(filepath.Join(w.dir, manifestName), manifest); err != nil {
		return nil, fmt.Errorf("writing a manifest: %w", err)
	}
	e, err := w.store.adopt(w.dir, &Snapshot{Digest: digest, Size: size, files: w.files, bytes: w.bytes})
	if err != nil {
		return nil, fmt.Errorf("storing a snapshot: %w", err)
	}
	w.pinned = e
	return e.snapshot, nil
}

// Close removes what was staged and not committed, and lets go of the snapshot. It may be called twice. Where the disk was
// full, it makes room for the next attempt.
func (w *Writer) Close() {
	if w.tree != nil {
		w.tree.Close()
		w.tree = nil
	}
	if w.pinned != nil {
		w.store.release(w.pinned)
		w.pinned = nil
	}
	// What cannot be removed now is swept when the store is opened next.
	_ = os.RemoveAll(w.dir)
	if w.full {
		w.full = false
		w.store.makeRoom()
	}
}

// writeTarball writes the staged files in the very bytes Flux would write: USTAR headers with neither owner nor time, modes
// 0600, 0700 and 0750, the order of filepath.Walk, and compress/gzip at its default level. The digests are therefore
// Flux's own, and a switch between the two changes no artifact.
func (w *Writer) writeTarball(name string) (digest string, size int64, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := &meter{w: f, sum: sha256.New()}
	zw := gzip.NewWriter(out)
	tw := tar.NewWriter(zw)

	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: ".", Mode: 0o750}); err != nil {
		return "", 0, err
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(w.files)), maps.Keys(w.dirs))
	slices.SortFunc(names, walkOrder)
	for _, name := range names {
		if err := w.writeEntry(tw, name); err != nil {
			return "", 0, err
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return "", 0, err
	}
	return out.digest(), out.n, f.Sync()
}

func (w *Writer) writeEntry(tw *tar.Writer, name string) error {
	if w.dirs[name] {
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o750})
	}
	f, err := w.tree.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: info.Size()}
	if w.files[name].Executable {
		header.Mode = 0o700
	}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// meter counts and hashes what passes through.
type meter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.sum.Write(p[:n])
	m.n += int64(n)
	return n, err
}

func (m *meter) digest() string { return "sha256:" + hex.EncodeToString(m.sum.Sum(nil)) }

func writeSynced(name string, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

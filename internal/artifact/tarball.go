package artifact

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// AddTar adds the regular files and directories of a gzip-compressed tarball from outside. Links, devices, pipes and sparse
// files are dropped, and so is all of a header but the name and the executable bit; a name that CheckPath refuses is an
// error. Size and number are bounded before anything is written (faults.md A01 to A04).
func (w *Writer) AddTar(r io.Reader) error {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("reading gzip: %w", err)
	}
	defer zr.Close()
	return w.AddPlainTar(zr)
}

// AddPlainTar does the same with a tarball that is not compressed.
func (w *Writer) AddPlainTar(r io.Reader) error {
	// Every entry costs a header even when it is dropped, so the reader as a whole is bounded too.
	const perEntry = 2048
	most := w.limits.Bytes + int64(w.limits.Files)*perEntry
	capped := &io.LimitedReader{R: r, N: most + 1}
	tr := tar.NewReader(capped)
	for entries := 0; ; entries++ {
		header, err := tr.Next()
		switch {
		case capped.N <= 0:
			return fmt.Errorf("%w: the tarball expands to more than %d bytes", ErrLimit, most)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading tar: %w", err)
		case entries > w.limits.Files:
			return fmt.Errorf("%w: the tarball has more than %d entries", ErrLimit, w.limits.Files)
		}
		if err := w.addTarEntry(header, tr); err != nil {
			return err
		}
	}
}

func (w *Writer) addTarEntry(header *tar.Header, content io.Reader) error {
	name := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
	if (name == "." || name == "") && header.Typeflag == tar.TypeDir {
		return nil // the root is there already
	}
	// Checked before the type, so that not even a dropped entry has a name that points outside.
	if err := CheckPath(name); err != nil {
		return err
	}
	switch {
	case header.Typeflag == tar.TypeDir:
		return w.AddDir(name)
	case header.Typeflag == tar.TypeReg && !isSparse(header):
		return w.AddFile(name, header.Mode&0o100 != 0, content)
	default:
		return nil // dropped: it is neither a file nor a directory, and Flux's tarballs hold nothing else
	}
}

func isSparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// errDamaged: a published file is gone, or no longer has the bytes that it was published with.
var errDamaged = errors.New("the artifact is damaged")

// rebuild makes the snapshot of a tarball that is in the store: one that was published as it came, or that Flux left on
// the volume.
func (s *Store) rebuild(digest, name string) (*Writer, error) {
	w, err := s.NewWriter()
	if err != nil {
		return nil, err
	}
	if err := w.rebuildFrom(digest, name); err != nil {
		w.full = IsFull(err)
		w.Close()
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	return w, nil
}

func (w *Writer) rebuildFrom(digest, name string) error {
	source, err := w.store.root.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	defer source.Close()
	copied, err := os.OpenFile(filepath.Join(w.dir, tarballName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer copied.Close()
	// The bytes are copied first and unpacked from the copy, so what was hashed is what is read.
	out := &meter{w: copied, sum: sha256.New()}
	if _, err := io.Copy(out, source); err != nil {
		return err
	}
	if got := out.digest(); got != digest {
		return fmt.Errorf("%w: its digest is %s", errDamaged, got)
	}
	if err := copied.Sync(); err != nil {
		return err
	}
	if _, err := copied.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := w.AddTar(copied); err != nil {
		return err
	}
	_, err = w.install(digest, out.n)
	return err
}

package artifact

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Listed is one artifact in a storage directory.
type Listed struct {
	Kind      string    `json:"kind"` // as in the path: in lower case
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	File      string    `json:"file"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Published time.Time `json:"published"`
	// Current says that it is the newest of its object; others are kept for a while for those who still download them.
	Current bool `json:"current"`
}

// List lists the artifacts in a storage directory that a running agent may be using. It writes nothing.
func List(dir string) ([]Listed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var found []Listed
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != ".":
			return nil // the agent was faster
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || strings.Count(name, "/") >= 3):
			return fs.SkipDir
		case !d.Type().IsRegular() || strings.Count(name, "/") != 3 || !isArtifact(name):
			return nil // a directory on the way, a link, or no artifact
		}
		a, err := listed(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // likewise
		}
		found = append(found, a)
		return err
	})
	slices.SortFunc(found, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			b.Published.Compare(a.Published), cmp.Compare(a.File, b.File))
	})
	return found, err
}

func listed(root *os.Root, name string) (Listed, error) {
	info, err := root.Stat(name)
	if err != nil {
		return Listed{}, err
	}
	p, err := digestOf(root, name)
	if err != nil {
		return Listed{}, err
	}
	current, _ := root.Readlink(latest(name)) // without a link none is the newest
	parts := strings.Split(name, "/")
	return Listed{
		Kind: parts[0], Namespace: parts[1], Name: parts[2], File: parts[3],
		Digest: p.digest, Size: p.size, Published: info.ModTime().UTC(), Current: path.Base(current) == parts[3],
	}, nil
}

// TreeEntry is one file or directory of an artifact.
type TreeEntry struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
	Size int64  `json:"size"`
}

// Tree lists what is in an artifact of a storage directory: the entries of a tarball or chart as they are there, or the one
// file that it is. It writes nothing.
func Tree(dir string, a Listed) ([]TreeEntry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(path.Join(a.Kind, a.Namespace, a.Name, a.File))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return []TreeEntry{{Path: a.File, Mode: fs.FileMode(0o600).String(), Size: a.Size}}, nil
	}
	if err != nil {
		return nil, err
	}
	return readTree(zr)
}

// readTree reads the headers of a tarball, within the limits that it would be unpacked with.
func readTree(r io.Reader) ([]TreeEntry, error) {
	var entries []TreeEntry
	tr := tar.NewReader(io.LimitReader(r, DefaultLimits.Bytes))
	for {
		header, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return entries, nil
		case err != nil:
			return entries, fmt.Errorf("reading tar: %w", err)
		case len(entries) >= DefaultLimits.Files:
			return entries, fmt.Errorf("%w: more than %d entries", ErrLimit, DefaultLimits.Files)
		}
		entries = append(entries, TreeEntry{Path: header.Name, Mode: header.FileInfo().Mode().String(), Size: header.Size})
	}
}

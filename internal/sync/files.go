package sync

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// files are what a build may read: the files of one snapshot.
type files interface {
	// Dir is where they lie, and FS the same as a file system that nothing leads out of.
	Dir() string
	FS() fs.FS
	// File says what the content of a file is, and List what a directory holds, without touching the disk. Paths are
	// slash-separated and relative.
	File(path string) (artifact.File, bool)
	List(dir string) ([]string, bool)
}

// errReadOnly: a build writes into the memory that lies over its files, never to them.
var errReadOnly = errors.New("the files of a snapshot are read-only")

// snapshotFS shows files to the kustomize library, at the place where they lie on disk and nothing beside it, and notes all
// that the library looks at. A snapshot holds no links, so that a path within it cannot lead out.
type snapshotFS struct {
	files files
	reads *reads
}

// within returns a path of the library as one of the snapshot; ok is false for a place outside.
func (s snapshotFS) within(name string) (inside string, ok bool) {
	if !filepath.IsAbs(name) {
		return "", false // relative to the directory in which the agent runs
	}
	inside, err := filepath.Rel(s.files.Dir(), name)
	if err != nil || inside == ".." || strings.HasPrefix(inside, "../") {
		return "", false
	}
	return filepath.ToSlash(inside), true
}

func (s snapshotFS) look(name string) found {
	inside, ok := s.within(name)
	if !ok {
		return found{kind: nothing}
	}
	is := lookAt(s.files, inside)
	s.reads.saw(inside, is.kind)
	return is
}

func (s snapshotFS) Exists(name string) bool { return s.look(name).kind != nothing }

func (s snapshotFS) IsDir(name string) bool { return s.look(name).kind == directory }

func (s snapshotFS) ReadFile(name string) ([]byte, error) {
	switch is := s.look(name); is.kind {
	case directory:
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case nothing:
		return nil, s.missing("open", name)
	case file:
		inside, _ := s.within(name)
		s.reads.read(inside, is.file.Hash)
		return fs.ReadFile(s.files.FS(), inside)
	default:
		return nil, fmt.Errorf("%s is a %q", name, is.kind)
	}
}

func (s snapshotFS) ReadDir(name string) ([]string, error) {
	if s.look(name).kind != directory {
		return nil, s.missing("open", name)
	}
	inside, _ := s.within(name)
	names, _ := s.files.List(inside)
	s.reads.listed(inside, names)
	return names, nil
}

// missing is the error about a path that is not there, or lies outside of what a build may read.
func (s snapshotFS) missing(op, name string) error {
	if _, ok := s.within(name); !ok {
		return fmt.Errorf("%s is outside of the source, from which alone a build may read", name)
	}
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// CleanedAbs splits a path into a directory and a file.
func (s snapshotFS) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	name = filepath.Clean(name)
	switch is := s.look(name); is.kind {
	case directory:
		return filesys.ConfirmedDir(name), "", nil
	case file:
		return filesys.ConfirmedDir(filepath.Dir(name)), filepath.Base(name), nil
	case nothing:
	}
	return "", "", s.missing("lstat", name)
}

// Walk calls walk for name and all below it, in the order of their names.
func (s snapshotFS) Walk(name string, walk filepath.WalkFunc) error {
	inside, ok := s.within(name)
	if !ok || s.look(name).kind == nothing {
		return walk(name, nil, s.missing("lstat", name))
	}
	return fs.WalkDir(s.files.FS(), inside, func(at string, entry fs.DirEntry, err error) error {
		place := filepath.Join(s.files.Dir(), filepath.FromSlash(at))
		if err != nil {
			return walk(place, nil, err)
		}
		info, err := entry.Info()
		if err == nil && entry.IsDir() {
			names, _ := s.files.List(at)
			s.reads.listed(at, names)
		}
		return walk(place, info, err)
	})
}

// Glob returns what matches the pattern, without hidden files unless that asks for them, as the library's own does.
func (s snapshotFS) Glob(pattern string) ([]string, error) {
	inside, ok := s.within(pattern)
	if !ok {
		return nil, nil
	}
	for dir := path.Dir(inside); ; dir = path.Dir(dir) {
		names, _ := s.files.List(dir)
		s.reads.listed(dir, names)
		if dir == "." {
			break
		}
	}
	matches, err := fs.Glob(s.files.FS(), inside)
	if err != nil {
		return nil, err
	}
	places := make([]string, len(matches))
	for i, match := range matches {
		places[i] = filepath.Join(s.files.Dir(), filepath.FromSlash(match))
	}
	if filesys.IsHiddenFilePath(pattern) {
		return places, nil
	}
	return filesys.RemoveHiddenFiles(places), nil
}

func (s snapshotFS) Open(string) (filesys.File, error) {
	return nil, errors.New("a build reads files whole")
}
func (s snapshotFS) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (s snapshotFS) Mkdir(string) error                  { return errReadOnly }
func (s snapshotFS) MkdirAll(string) error               { return errReadOnly }
func (s snapshotFS) RemoveAll(string) error              { return errReadOnly }
func (s snapshotFS) WriteFile(string, []byte) error      { return errReadOnly }

// kind is what there is at a path of a snapshot.
type kind string

const (
	nothing   kind = "nothing"
	file      kind = "file"
	directory kind = "directory"
)

// found is what a look at a path has found.
type found struct {
	kind kind
	file artifact.File // of a file
}

func lookAt(files files, inside string) found {
	if f, ok := files.File(inside); ok {
		return found{kind: file, file: f}
	}
	if _, ok := files.List(inside); ok {
		return found{kind: directory}
	}
	// The manifest names files only. An OCI artifact may hold a directory with none in it.
	if info, err := fs.Stat(files.FS(), inside); err == nil && info.IsDir() {
		return found{kind: directory}
	}
	return found{kind: nothing}
}

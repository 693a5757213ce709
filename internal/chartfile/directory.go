package chartfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/ignore"
)

// Source reads a chart from the files of a snapshot as `helm package` would: without what its .helmignore names. names are all
// files of the snapshot; dir is "." for its root.
func (l Limits) Source(fsys fs.FS, names []string, dir string) (*chart.Chart, error) {
	rules, err := ignoreRules(fsys, path.Join(dir, ignore.HelmIgnore))
	if err != nil {
		return nil, err
	}
	return l.directory(fsys, names, dir, func(name string) bool { return ignored(rules, name) })
}

// Unpacked reads a chart that was packaged and is unpacked again, at dir or anywhere below it. What is ignored was left out when
// it was packaged: Helm looks at no .helmignore in an archive.
func (l Limits) Unpacked(fsys fs.FS, dir string) (*chart.Chart, error) {
	var names []string
	err := fs.WalkDir(fsys, dir, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("%w: %q is a link, a chart holds files only", ErrInvalid, name)
		case len(names) == MaxFiles:
			return tooMany()
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l.directory(fsys, names, dir, func(string) bool { return false })
}

func (l Limits) directory(fsys fs.FS, names []string, dir string, ignored func(string) bool) (*chart.Chart, error) {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	r := &reading{limits: l, keep: func(string) bool { return true }}
	var files []*loader.BufferedFile
	names = slices.Clone(names)
	slices.Sort(names)
	for _, full := range names {
		name, below := strings.CutPrefix(full, prefix)
		if !below || ignored(name) {
			continue
		}
		if r.files++; r.files > MaxFiles {
			return nil, tooMany()
		}
		data, err := ReadFile(fsys, full, l.File)
		if err != nil {
			return nil, err
		}
		if err := r.count(int64(len(data)), nil); err != nil {
			return nil, err
		}
		if files, err = r.nest(files, name, data, 0); err != nil {
			return nil, err
		}
	}
	return assemble(files)
}

// ReadFile reads a file of a snapshot, whose size it bounds.
func ReadFile(fsys fs.FS, name string, most int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: %q is larger than %d bytes", ErrLimit, name, most)
	}
	return data, err
}

func ignoreRules(fsys fs.FS, name string) (*ignore.Rules, error) {
	rules := ignore.Empty()
	text, err := ReadFile(fsys, name, 1<<20)
	switch {
	case err == nil:
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rules.AddDefaults()
	return rules, nil
}

// ignored asks for each directory on the way as well, because what lies in an ignored one is.
func ignored(rules *ignore.Rules, name string) bool {
	for i := range name {
		if name[i] == '/' && rules.Ignore(name[:i], info{path.Base(name[:i]), true}) {
			return true
		}
	}
	return rules.Ignore(name, info{path.Base(name), false})
}

// info is as much of a file as ignore rules look at.
type info struct {
	name string
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) IsDir() bool        { return i.dir }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return 0 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }

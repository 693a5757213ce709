package git

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// ErrInclude means: what is included cannot be put where it should go.
var ErrInclude = errors.New("invalid spec.include")

// include adds the files of a directory of another snapshot.
func (x *export) include(i Include) error {
	l := layer{included: i.Snapshot}
	for _, file := range slices.Sorted(maps.Keys(i.Snapshot.Files())) {
		rest, below := strings.CutPrefix(file, i.From+"/")
		if i.From == "" {
			rest, below = file, true
		}
		if file == i.From { // a file is included under the name that toPath gives
			rest, below = "", true
		}
		if !below {
			continue
		}
		if x.count++; x.count > maxEntries {
			return fmt.Errorf("%w: more than %d files and directories with what is included", source.ErrLimit, maxEntries)
		}
		mode := filemode.Regular
		if f, _ := i.Snapshot.File(file); f.Executable {
			mode = filemode.Executable
		}
		name := path.Join(i.To, rest)
		if err := x.claim(name); err != nil {
			return err
		}
		if path.Base(name) == source.IgnoreFile {
			if err := x.addIgnore(i.Snapshot, file, path.Dir(name)); err != nil {
				return err
			}
		}
		l.entries = append(l.entries, entry{path: strings.Split(name, "/"), mode: mode, file: file})
	}
	if len(l.entries) == 0 {
		return fmt.Errorf("%w: there is nothing at %q in what is included", ErrInclude, i.From)
	}
	x.layers = append(x.layers, l)
	return nil
}

// claim refuses a name that the repository has itself: which of the two is meant, nobody can tell.
func (x *export) claim(name string) error {
	if x.names == nil {
		x.names = map[string]bool{}
		for _, l := range x.layers {
			for _, e := range l.entries {
				if !e.isDir() {
					x.names[strings.Join(e.path, "/")] = true
				}
			}
		}
	}
	if x.names[name] {
		return fmt.Errorf("%w: %q is there already", ErrInclude, name)
	}
	x.names[name] = true
	return nil
}

// includePath checks a path of spec.include, which may not lead out of either repository (faults.md A05); "" is the root.
func includePath(given string) (string, error) {
	clean := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(given, "./"), "/"), "/")
	if clean == "" || clean == "." {
		return "", nil
	}
	if err := artifact.CheckPath(clean); err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrInclude, given, err)
	}
	return clean, nil
}

// addIgnore takes the patterns of an included ignore file, which count where it comes to lie.
func (x *export) addIgnore(from *artifact.Snapshot, file, dir string) error {
	f, err := from.FS().Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, source.MaxIgnoreBytes+1)) // one more, so that Add sees that it is too large
	if err != nil {
		return err
	}
	if dir == "." {
		dir = ""
	}
	return x.ignore.Add(dir, string(text))
}

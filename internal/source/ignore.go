package source

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
)

// ErrIgnore means: the ignore patterns cannot be used.
var ErrIgnore = errors.New("invalid ignore patterns")

const (
	// IgnoreFile is the name of files with ignore patterns.
	IgnoreFile = sourceignore.IgnoreFile
	// MaxIgnoreBytes is the size up to which one is read.
	MaxIgnoreBytes = 1 << 20
)

// Ignore collects the ignore patterns of one source. The zero value has none.
type Ignore struct {
	files []ignoreFile
}

type ignoreFile struct {
	dir  []string
	text string
}

// Add adds the text of an ignore file; dir is the slash-separated directory that it lies in, "" for the root.
func (i *Ignore) Add(dir, text string) error {
	if len(text) > MaxIgnoreBytes {
		return fmt.Errorf("%w: %s is larger than %d bytes", ErrIgnore, path.Join(dir, IgnoreFile), MaxIgnoreBytes)
	}
	var names []string
	if dir != "" {
		names = strings.Split(dir, "/")
	}
	i.files = append(i.files, ignoreFile{names, text})
	return nil
}

// Matcher puts the patterns in Flux's order, the last that matches wins: VCS files, then what the files say, each within
// its directory, a directory's own before those further down, then spec.ignore. Only where there is none of either do the
// defaults for images, archives and CI count. A nil spec means that the object has no spec.ignore.
func (i *Ignore) Matcher(spec *string) *Matcher {
	slices.SortStableFunc(i.files, func(a, b ignoreFile) int { return slices.Compare(a.dir, b.dir) })
	var patterns []gitignore.Pattern
	for _, f := range i.files {
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(f.text), f.dir)...)
	}
	if spec != nil {
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(*spec), nil)...)
	}
	if len(patterns) == 0 {
		return &Matcher{sourceignore.NewDefaultMatcher(nil, nil)}
	}
	return &Matcher{sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), patterns...))}
}

// Matcher says what is left out of an artifact.
type Matcher struct{ patterns gitignore.Matcher }

// Ignores takes the names of a slash-separated path one by one.
func (m *Matcher) Ignores(names []string, isDir bool) bool { return m.patterns.Match(names, isDir) }

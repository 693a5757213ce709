package sync

import (
	"slices"
	"strings"

	"github.com/cleat-dev/cleat/internal/object"
)

// reads are what a build has looked at: the content that it read, the directories that it listed, and where it looked
// whether there is anything. A snapshot in which all these are the same gives the same build, whatever else has changed in
// it. One goroutine fills it.
type reads struct {
	content map[string]string        // file → hash of its content
	lists   map[string]object.Digest // directory → names in it
	kinds   map[string]kind          // path → what was there
}

func newReads() *reads {
	return &reads{content: map[string]string{}, lists: map[string]object.Digest{}, kinds: map[string]kind{}}
}

func (r *reads) saw(path string, is kind) { r.kinds[path] = is }

func (r *reads) read(path, hash string) { r.content[path] = hash }

func (r *reads) listed(dir string, names []string) { r.lists[dir] = digestOfNames(names) }

// sameIn says whether a build would find in files all that it has found.
func (r *reads) sameIn(files files) bool {
	for path, hash := range r.content {
		if f, ok := files.File(path); !ok || f.Hash != hash {
			return false
		}
	}
	for dir, was := range r.lists {
		names, _ := files.List(dir)
		if digestOfNames(names) != was {
			return false
		}
	}
	for path, was := range r.kinds {
		if lookAt(files, path).kind != was {
			return false
		}
	}
	return true
}

// add takes over what another build has looked at.
func (r *reads) add(other *reads) {
	for path, hash := range other.content {
		r.content[path] = hash
	}
	for dir, names := range other.lists {
		r.lists[dir] = names
	}
	for path, is := range other.kinds {
		r.kinds[path] = is
	}
}

// digestOfNames identifies a list of names, in any order.
func digestOfNames(names []string) object.Digest {
	names = slices.Clone(names)
	slices.Sort(names)
	return object.DigestOfText(strings.Join(names, "/")) // which no name holds
}

package helm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// errNoChart: a repository has no chart of that name and version.
var errNoChart = errors.New("no such chart")

// Lookup is what is kept of an index: enough to find an archive. It is never changed, and may be read concurrently.
//
// A version costs its text once, about 24 bytes beside it, and no object of its own: an index of 50 MiB has 100,000 of
// them, and a map of Go structs takes twenty times as much.
type Lookup struct {
	names    []listed // sorted
	versions []listing
	size     int64
}

// listed is a chart name; its versions end where those of the next name begin.
type listed struct {
	name  string
	first uint32
}

// listing is one version of a chart.
type listing struct {
	created int64  // Unix time in nanoseconds
	text    string // version, digest and URLs, each followed by a separator
}

const separator = "\x00"

// Release is one version of a chart as an index lists it.
type Release struct {
	Version string
	// Digest is the SHA-256 of the archive in hexadecimal; it is empty when the index does not tell.
	Digest string
	// URLs are absolute, or relative to the repository.
	URLs []string
}

// Size is about how many bytes of memory the lookup takes.
func (l *Lookup) Size() int64 { return l.size }

// Find returns the newest version of a chart that the constraint allows. The empty constraint means the newest stable one.
// Of versions that differ in build metadata only, that which was created last counts as the newest, as it does in Flux.
func (l *Lookup) Find(name, constraint string) (Release, error) {
	all := l.of(name)
	if len(all) == 0 {
		return Release{}, fmt.Errorf("%w: the index lists no chart %q", errNoChart, name)
	}
	best, err := newest(len(all), constraint, func(i int) string { return all[i].version() }, func(i, than int) bool {
		return all[i].created > all[than].created
	})
	if err != nil {
		return Release{}, fmt.Errorf("chart %q: %w", name, err)
	}
	return all[best].release(), nil
}

func (l *Lookup) of(name string) []listing {
	i, found := slices.BinarySearchFunc(l.names, name, func(n listed, name string) int { return strings.Compare(n.name, name) })
	if !found {
		return nil
	}
	end := len(l.versions)
	if i+1 < len(l.names) {
		end = int(l.names[i+1].first)
	}
	return l.versions[l.names[i].first:end]
}

func (v listing) version() string {
	version, _, _ := strings.Cut(v.text, separator)
	return version
}

func (v listing) release() Release {
	parts := strings.Split(strings.TrimSuffix(v.text, separator), separator)
	return Release{Version: parts[0], Digest: parts[1], URLs: parts[2:]}
}

// newest returns which of n versions is the newest that the constraint allows; one that is written exactly as the
// constraint wins at once. later decides between versions that are equal but for their build metadata.
func newest(n int, constraint string, version func(int) string, later func(i, than int) bool) (int, error) {
	if constraint == "" {
		constraint = "*"
	}
	allowed, err := semver.NewConstraint(constraint)
	if err != nil {
		return 0, fmt.Errorf("%w: the version %q is neither a version nor a range, see https://semver.org", errNoChart, constraint)
	}
	best, found := 0, (*semver.Version)(nil)
	for i := range n {
		text := version(i)
		if text == constraint {
			return i, nil
		}
		v, err := semver.NewVersion(text)
		if err != nil || !allowed.Check(v) {
			continue
		}
		if found == nil || v.GreaterThan(found) || (v.Equal(found) && later(i, best)) {
			best, found = i, v
		}
	}
	if found == nil {
		return 0, fmt.Errorf("%w: none of its %d versions matches %q", errNoChart, n, constraint)
	}
	return best, nil
}

// arena keeps many short strings in few blocks.
type arena struct {
	block strings.Builder
	size  int64
}

const arenaBlock = 256 << 10

func (a *arena) keep(parts ...string) string {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if a.block.Cap()-a.block.Len() < n {
		// The strings that were given out keep the old block.
		a.block = strings.Builder{}
		a.block.Grow(max(arenaBlock, n))
	}
	start := a.block.Len()
	for _, p := range parts {
		a.block.WriteString(p)
	}
	a.size += int64(n)
	return a.block.String()[start:]
}

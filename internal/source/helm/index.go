package helm

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/cleat-dev/cleat/internal/source"
)

// errIndex: what the repository served is not an index.
var errIndex = errors.New("invalid index")

const (
	// maxVersions is more than an index of 50 MiB has, if its entries say more than that there is a version.
	maxVersions = 500_000
	// maxItem is how many bytes of an index one version of a chart, or all that is not a chart, may take.
	maxItem = 1 << 20
	// maxWhole is the size up to which an index that is not written as Helm writes it is read at one go. YAML of that size
	// takes about twenty times as much memory.
	maxWhole = 2 << 20
)

// header is an index without its charts.
type header struct {
	*repo.IndexFile
	entries present
}

// present tells an index that has no list of charts from one whose list is empty.
type present bool

// sink is given an index piece by piece, in the order of the file.
type sink struct {
	// name begins a chart; null says that it has no list of versions.
	name func(name string, null bool) error
	// version is one entry of the chart that was begun last.
	version func(*repo.ChartVersion) error
}

// canonical reads an index from in, writes it to out in the bytes in which Flux stores it (valid entries only, sorted, as
// indented JSON), and returns its lookup. dir is where it may keep files; they are the caller's to remove.
func canonical(ctx context.Context, in *os.File, out io.Writer, dir string) (*Lookup, error) {
	spool, err := os.OpenFile(filepath.Join(dir, "spool"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer spool.Close()
	w := &collector{ctx: ctx, spool: bufio.NewWriterSize(spool, 64<<10), names: map[string]int{}}
	head, err := readIndex(in, sink{name: w.name, version: w.version}, w.reset(spool))
	if err != nil {
		return nil, err
	}
	if err := w.spool.Flush(); err != nil {
		return nil, err
	}
	if head.APIVersion == "" {
		return nil, fmt.Errorf("%w: it has no apiVersion", errIndex)
	}
	w.sort()
	if err := w.write(out, head, spool); err != nil {
		return nil, err
	}
	return w.lookup(), nil
}

// collector gathers what canonical writes. The text of each entry waits in the spool until all are known and sorted.
type collector struct {
	ctx   context.Context
	spool *bufio.Writer
	at    int64

	arena  arena
	charts []chartEntries
	names  map[string]int // index in charts
	count  int
}

type chartEntries struct {
	name     string
	null     bool
	versions []spooled
}

// spooled is one version and where its JSON lies in the spool.
type spooled struct {
	listing
	at  int64
	len int32
}

// reset returns a function that forgets what was gathered, for a file that has to be read again.
func (c *collector) reset(spool *os.File) func() error {
	return func() error {
		*c = collector{ctx: c.ctx, spool: bufio.NewWriterSize(spool, 64<<10), names: map[string]int{}}
		_, err := spool.Seek(0, io.SeekStart)
		return errors.Join(err, spool.Truncate(0))
	}
}

func (c *collector) name(name string, null bool) error {
	if _, twice := c.names[name]; twice {
		return errShape // which of the two counts, Helm's own parser decides
	}
	if len(c.charts) >= maxVersions {
		return fmt.Errorf("%w: the index lists more than %d charts", source.ErrLimit, maxVersions)
	}
	name = c.arena.keep(name)
	c.names[name] = len(c.charts)
	c.charts = append(c.charts, chartEntries{name: name, null: null})
	return c.ctx.Err()
}

// version takes one entry, or drops it as Helm does when it is not valid.
func (c *collector) version(v *repo.ChartVersion) error {
	if c.count++; c.count > maxVersions {
		return fmt.Errorf("%w: the index lists more than %d versions", source.ErrLimit, maxVersions)
	}
	if c.count%1000 == 0 && c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	if !usable(v) {
		return nil
	}
	text, err := json.MarshalIndent(v, "      ", "  ")
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	if _, err := c.spool.Write(text); err != nil {
		return err
	}
	parts := make([]string, 0, 2*(2+len(v.URLs)))
	for _, p := range append([]string{v.Version, strings.TrimPrefix(v.Digest, "sha256:")}, v.URLs...) {
		if strings.Contains(p, separator) {
			return fmt.Errorf("%w: an entry holds a NUL character", errIndex)
		}
		parts = append(parts, p, separator)
	}
	last := &c.charts[len(c.charts)-1]
	last.versions = append(last.versions, spooled{
		listing: listing{created: v.Created.UnixNano(), text: c.arena.keep(parts...)}, at: c.at, len: int32(len(text)),
	})
	c.at += int64(len(text))
	return nil
}

// usable says whether Helm would use the entry, and fills in what Helm fills in.
func usable(v *repo.ChartVersion) bool {
	if v == nil {
		return false
	}
	if v.Metadata == nil {
		v.Metadata = &chart.Metadata{}
	}
	if v.APIVersion == "" {
		v.APIVersion = chart.APIVersionV1
	}
	err := v.Validate()
	// An index may repeat a dependency, because some repositories leave out the alias by which the two differ.
	return err == nil || strings.HasPrefix(err.Error(), "validation: more than one dependency with name or alias")
}

func (c *collector) sort() {
	slices.SortFunc(c.charts, func(a, b chartEntries) int { return cmp.Compare(a.name, b.name) })
	for _, e := range c.charts {
		sort.Sort(sort.Reverse(newByVersion(e.versions)))
	}
}

// byVersion sorts by sort.Sort because Helm does: for versions that compare as equal, only the same algorithm gives the
// same order, and with it the same digest.
type byVersion struct {
	entries []spooled
	parsed  []*semver.Version
}

func newByVersion(entries []spooled) byVersion {
	b := byVersion{entries, make([]*semver.Version, len(entries))}
	for i, e := range entries {
		b.parsed[i], _ = semver.NewVersion(e.version()) // a valid entry has a valid version
	}
	return b
}

func (b byVersion) Len() int { return len(b.entries) }

func (b byVersion) Less(i, j int) bool { return b.parsed[i].LessThan(b.parsed[j]) }

func (b byVersion) Swap(i, j int) {
	b.entries[i], b.entries[j] = b.entries[j], b.entries[i]
	b.parsed[i], b.parsed[j] = b.parsed[j], b.parsed[i]
}

// write puts the index together from its header and the entries in the spool.
func (c *collector) write(out io.Writer, head header, spool io.ReaderAt) error {
	head.Entries = nil
	text, err := json.MarshalIndent(head.IndexFile, "", "  ")
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	// Nothing else can be at this indentation, and a JSON string holds no line break.
	before, after, _ := bytes.Cut(text, []byte("\n  \"entries\": null"))
	w := bufio.NewWriterSize(out, 64<<10)
	w.Write(before)
	w.WriteString("\n  \"entries\": ")
	if err := c.writeEntries(w, bool(head.entries), spool); err != nil {
		return err
	}
	w.Write(after)
	return w.Flush() // a bufio.Writer remembers the first error
}

func (c *collector) writeEntries(w *bufio.Writer, present bool, spool io.ReaderAt) error {
	switch {
	case !present:
		w.WriteString("null")
		return nil
	case len(c.charts) == 0:
		w.WriteString("{}")
		return nil
	}
	w.WriteString("{")
	for i, e := range c.charts {
		name, err := json.Marshal(e.name)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n    %s: ", comma(i), name)
		switch {
		case e.null:
			w.WriteString("null")
			continue
		case len(e.versions) == 0:
			w.WriteString("[]")
			continue
		}
		w.WriteString("[")
		for j, v := range e.versions {
			fmt.Fprintf(w, "%s\n      ", comma(j))
			if _, err := io.Copy(w, io.NewSectionReader(spool, v.at, int64(v.len))); err != nil {
				return err
			}
		}
		w.WriteString("\n    ]")
	}
	w.WriteString("\n  }")
	return nil
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

func (c *collector) lookup() *Lookup {
	l := &Lookup{names: make([]listed, 0, len(c.charts))}
	n := 0
	for _, e := range c.charts {
		n += len(e.versions)
	}
	l.versions = make([]listing, 0, n)
	for _, e := range c.charts {
		l.names = append(l.names, listed{e.name, uint32(len(l.versions))})
		for _, v := range e.versions {
			l.versions = append(l.versions, v.listing)
		}
	}
	l.size = c.arena.size + 24*int64(len(l.names)+len(l.versions))
	return l
}

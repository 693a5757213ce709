package charts

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"weak"

	"github.com/cleat-dev/cleat/internal/chartfile"
)

var (
	// ErrInvalid: the chart itself is bad, or larger than a chart may be. To read it again would not help.
	ErrInvalid = errors.New("the chart cannot be used")
	// ErrRevision: the revision of an artifact does not go with the chart in it.
	ErrRevision = errors.New("the artifact does not go with its chart")
)

// Limits of a store.
type Limits struct {
	// Chart bounds each chart; the zero value means chartfile.DefaultLimits.
	Chart chartfile.Limits
	// Kept is how many bytes of charts are held that nobody may be using; zero means 64 MiB.
	Kept int64
}

const defaultKept = 64 << 20

// Store holds charts by the digest of their artifact. A chart that is in use is in memory once; the ones that were used last
// are kept for whoever wants them next.
type Store struct {
	limits Limits

	mu      sync.Mutex
	loading map[string]*load
	charts  map[string]weak.Pointer[Chart] // those in use, and those kept
	kept    *list.List                     // of *Chart, the one used last in front
	places  map[string]*list.Element
	bytes   int64 // of the charts kept
}

// load is a chart that is being read. The result is set when done is closed.
type load struct {
	done  chan struct{}
	chart *Chart
	err   error
}

// New returns an empty store.
func New(limits Limits) *Store {
	if limits.Chart == (chartfile.Limits{}) {
		limits.Chart = chartfile.DefaultLimits
	}
	if limits.Kept == 0 {
		limits.Kept = defaultKept
	}
	return &Store{
		limits: limits, loading: map[string]*load{}, charts: map[string]weak.Pointer[Chart]{},
		kept: list.New(), places: map[string]*list.Element{},
	}
}

// Load returns the chart of a digest. Unless it is in memory, it is read from the files that open returns, which are the packaged
// chart, or the chart unpacked; the function that open returns is called when they have been read. Of those who want a digest at
// the same time one reads it, and the others wait for that. It is ErrInvalid when the chart is bad, and whatever open or reading
// returned when it could not be read; neither is remembered.
func (s *Store) Load(ctx context.Context, digest string, open func() (fs.FS, func(), error)) (*Chart, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c, under, mine := s.begin(digest)
		switch {
		case c != nil:
			return c, nil
		case mine:
			return s.read(digest, under, open)
		}
		select {
		case <-under.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if under.err == nil || errors.Is(under.err, ErrInvalid) {
			return under.chart, under.err
		}
		// Another's failure to open it is about another's access: this one tries for itself.
	}
}

// begin returns the chart if it is in memory, or else how it is being read; mine means that the caller has to do that.
func (s *Store) begin(digest string) (c *Chart, under *load, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.charts[digest].Value(); c != nil {
		s.keep(c)
		return c, nil, false
	}
	if under := s.loading[digest]; under != nil {
		return nil, under, false
	}
	under = &load{done: make(chan struct{})}
	s.loading[digest] = under
	return nil, under, true
}

func (s *Store) read(digest string, under *load, open func() (fs.FS, func(), error)) (*Chart, error) {
	finished := false
	defer func() {
		if !finished { // it has panicked: who waits must not do so for ever
			under.err = fmt.Errorf("reading the chart %s did not end", digest)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.loading, digest)
		if under.err == nil {
			s.charts[digest] = weak.Make(under.chart)
			s.keep(under.chart)
			s.sweep()
		}
		close(under.done)
	}()
	under.chart, under.err = s.open(digest, open)
	finished = true
	return under.chart, under.err
}

func (s *Store) open(digest string, open func() (fs.FS, func(), error)) (*Chart, error) {
	files, done, err := open()
	if err != nil {
		return nil, err
	}
	defer done()
	tree, err := find(files, s.limits.Chart)
	if errors.Is(err, chartfile.ErrInvalid) || errors.Is(err, chartfile.ErrLimit) {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the chart: %w", err)
	}
	discardRaw(tree)
	return Of(digest, tree), nil
}

// keep makes the chart the one used last. The caller holds s.mu.
func (s *Store) keep(c *Chart) {
	if at := s.places[c.digest]; at != nil {
		s.kept.MoveToFront(at)
		return
	}
	s.places[c.digest] = s.kept.PushFront(c)
	s.bytes += c.bytes
	for s.bytes > s.limits.Kept {
		last := s.kept.Back()
		dropped := s.kept.Remove(last).(*Chart)
		delete(s.places, dropped.digest)
		s.bytes -= dropped.bytes
	}
}

// sweep forgets the digests of charts that are no longer in memory. The caller holds s.mu.
func (s *Store) sweep() {
	for digest, c := range s.charts {
		if c.Value() == nil {
			delete(s.charts, digest)
		}
	}
}

package helm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// maxKept is how many bytes of lookups are kept beside the one that was used last. An index of 50 MiB takes about 12 MiB.
const maxKept = 128 << 20

// Indexes holds the lookups of indexes, one per content, whoever asks. Its methods may be called concurrently.
type Indexes struct {
	store *artifact.Store
	turn  chan struct{} // held while an index is parsed: two at once would take twice the memory

	mu     sync.Mutex
	kept   map[string]*kept  // by digest of the stored index, or of what was fetched
	stored map[string]string // digest of the stored index by that of what was fetched
	parsed int
}

// maxStored bounds what is remembered of that; forgetting one costs parsing it once more.
const maxStored = 4096

type kept struct {
	lookup *Lookup
	used   time.Time
}

// NewIndexes returns an empty set; indexes are read from the store.
func NewIndexes(store *artifact.Store) *Indexes {
	return &Indexes{store: store, turn: make(chan struct{}, 1), kept: map[string]*kept{}, stored: map[string]string{}}
}

// Parsed is how many indexes have been parsed since the start.
func (x *Indexes) Parsed() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.parsed
}

// Lookup returns the lookup of the index that the object has stored, and of no other one's. It is artifact.ErrNotFound when
// the store does not have it.
func (x *Indexes) Lookup(ctx context.Context, o artifact.Object, digest string) (*Lookup, error) {
	if !x.store.Has(o, digest) {
		return nil, fmt.Errorf("the index of %s/%s: %w", o.Namespace, o.Name, artifact.ErrNotFound)
	}
	return x.get(ctx, digest, func() (*Lookup, error) {
		in, err := x.store.OpenFile(o, digest)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		dir, err := x.store.TempDir("index-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		return canonical(ctx, in, io.Discard, dir)
	})
}

// build parses a downloaded index, writes it to a new file as it is stored, and returns its lookup.
func (x *Indexes) build(ctx context.Context, name, stored, dir string) (*Lookup, error) {
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-x.turn }()
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.OpenFile(stored, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l, err := canonical(ctx, in, out, dir)
	return l, errors.Join(err, out.Close())
}

// get returns what is kept under the digest, or what parse makes of it. Those who want the same wait for one another.
func (x *Indexes) get(ctx context.Context, digest string, parse func() (*Lookup, error)) (*Lookup, error) {
	if l := x.find(digest); l != nil {
		return l, nil
	}
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-x.turn }()
	if l := x.find(digest); l != nil {
		return l, nil // somebody else has parsed it meanwhile
	}
	l, err := parse()
	if err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	x.keep(digest, l)
	return l, nil
}

func (x *Indexes) find(digest string) *Lookup {
	x.mu.Lock()
	defer x.mu.Unlock()
	k, ok := x.kept[digest]
	if !ok {
		return nil
	}
	k.used = time.Now()
	return k.lookup
}

// storedAs returns the digest under which an index was stored that was fetched by somebody else before, or "". Whoever asks has
// fetched the same bytes.
func (x *Indexes) storedAs(revision string) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stored[revision]
}

// noteStored remembers it; the digest is "" when it is no longer there.
func (x *Indexes) noteStored(revision, digest string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.stored) >= maxStored {
		clear(x.stored)
	}
	x.stored[revision] = digest
}

// keep keeps a lookup, and forgets those that were not used for longest if they are too many.
func (x *Indexes) keep(digest string, l *Lookup) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.parsed++ // nobody keeps what he has not parsed
	x.kept[digest] = &kept{l, time.Now()}
	for {
		var total int64
		oldest := ""
		for d, k := range x.kept {
			total += k.lookup.Size()
			if d != digest && (oldest == "" || k.used.Before(x.kept[oldest].used)) {
				oldest = d
			}
		}
		if total <= maxKept || oldest == "" {
			return
		}
		delete(x.kept, oldest)
	}
}

package bucket

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// Limits bound what a bucket can make the agent receive and hold.
type Limits struct {
	Listed  int   // objects that are listed, whether they are wanted or not
	Objects int   // objects that are wanted
	Bytes   int64 // sum of the sizes of those
}

// DefaultLimits are as large as what one artifact may hold.
var DefaultLimits = Limits{Listed: 1_000_000, Objects: artifact.DefaultLimits.Files, Bytes: artifact.DefaultLimits.Bytes}

// index is what a bucket holds of what is wanted.
type index struct {
	objects map[string]Object // by key
	ignore  *Object           // the bucket's .sourceignore
	text    string            // what is in it
}

// revision is Flux's: the hash of lines of key and ETag, in the order of the keys.
func (i *index) revision() string {
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(i.objects)) {
		fmt.Fprintf(sum, "%s %s\n", key, i.objects[key].ETag)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// sorted returns the objects in the order of the keys.
func (i *index) sorted() []Object {
	return slices.SortedFunc(maps.Values(i.objects), func(a, b Object) int { return cmp.Compare(a.Key, b.Key) })
}

// listing is one look at a bucket.
type listing struct {
	storage storage
	prefix  string
	ignore  *string // spec.ignore
	limits  Limits
	known   *memory // what is remembered of the look before, or nil
}

// read lists the bucket. What its .sourceignore and spec.ignore leave out is not in the index; there are no exclusions by
// default, as Flux has none for buckets.
func (l listing) read(ctx context.Context) (*index, error) {
	i := &index{objects: map[string]Object{}}
	if err := l.readIgnore(ctx, i); err != nil {
		return nil, err
	}
	patterns := sourceignore.ReadPatterns(strings.NewReader(i.text), nil)
	if l.ignore != nil {
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(*l.ignore), nil)...)
	}
	ignored := sourceignore.NewMatcher(patterns)
	var listed int
	var bytes int64
	err := l.storage.list(ctx, l.prefix, func(o Object) error {
		listed++
		switch {
		case listed > l.limits.Listed:
			return fmt.Errorf("%w: the bucket lists more than %d objects, use spec.prefix", source.ErrLimit, l.limits.Listed)
		case strings.HasSuffix(o.Key, "/") || o.Key == source.IgnoreFile:
			return nil // a folder as consoles make them, or what was read before
		case ignored.Match(strings.Split(o.Key, "/"), false):
			return nil
		}
		if err := artifact.CheckPath(o.Key); err != nil {
			return fmt.Errorf("an object of the bucket: %w; delete it or leave it out by spec.ignore", err)
		}
		i.objects[o.Key] = o
		bytes += max(o.Size, 0)
		if len(i.objects) > l.limits.Objects || bytes > l.limits.Bytes {
			return fmt.Errorf("%w: the bucket holds more than %d objects or %d bytes, use spec.prefix or spec.ignore",
				source.ErrLimit, l.limits.Objects, l.limits.Bytes)
		}
		return nil
	})
	return i, err
}

// readIgnore reads the .sourceignore at the top of the bucket, wherever the prefix is. It is downloaded when it has another
// ETag than last time.
func (l listing) readIgnore(ctx context.Context, i *index) error {
	found := errors.New("found")
	err := l.storage.list(ctx, source.IgnoreFile, func(o Object) error {
		if o.Key != source.IgnoreFile {
			return found // keys come in order, so what follows is longer too
		}
		i.ignore = &o
		return found
	})
	if err != nil && !errors.Is(err, found) {
		return err
	}
	if i.ignore == nil {
		return nil
	}
	if l.known != nil && l.known.IgnoreETag == i.ignore.ETag {
		i.text = l.known.Ignore
		return nil
	}
	content, err := l.storage.open(ctx, *i.ignore)
	if err != nil {
		return fmt.Errorf("reading %s: %w", source.IgnoreFile, err)
	}
	defer content.Close()
	text, err := io.ReadAll(io.LimitReader(content, source.MaxIgnoreBytes+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", source.IgnoreFile, source.Steady(err))
	}
	if len(text) > source.MaxIgnoreBytes {
		return fmt.Errorf("%w: %s is larger than %d bytes", source.ErrIgnore, source.IgnoreFile, source.MaxIgnoreBytes)
	}
	i.text = string(text)
	return nil
}

package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// parallel is how many objects are asked for at a time.
	parallel = 8
	// smallBytes is the size up to which an object is read before it is its turn to be written.
	smallBytes = 256 << 10
)

// reuse is the snapshot before, and what its files were called at the provider.
type reuse struct {
	snapshot *artifact.Snapshot // nil if there is none
	etags    map[string]string
}

// has reports whether the snapshot holds the content that the object has now.
func (r reuse) has(o Object) bool {
	if r.snapshot == nil || o.ETag == "" || r.etags[o.Key] != o.ETag {
		return false
	}
	_, ok := r.snapshot.File(o.Key)
	return ok
}

// write adds all objects of the index to a snapshot. What the snapshot before has is taken from there.
func (i *index) write(ctx context.Context, from storage, before reuse, w *artifact.Writer) error {
	if i.ignore != nil {
		if err := w.AddFile(source.IgnoreFile, false, strings.NewReader(i.text)); err != nil {
			return err
		}
	}
	var missing []Object
	for _, o := range i.sorted() {
		if !before.has(o) {
			missing = append(missing, o)
			continue
		}
		if err := copyFile(before, o.Key, w); err != nil {
			return err
		}
	}
	return download(ctx, from, missing, func(o Object, content io.Reader) error { return w.AddFile(o.Key, false, content) })
}

// copyFile takes a file over, if the disk allows by another name for it.
func copyFile(before reuse, key string, w *artifact.Writer) error {
	if linked, err := w.AddFrom(key, before.snapshot, key); linked || err != nil {
		return err
	}
	f, err := before.snapshot.FS().Open(key)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.AddFile(key, false, f)
}

// fetched is an object on its way.
type fetched struct {
	object  Object
	content io.ReadCloser
	err     error
}

// download gives take the content of each object in turn, on this goroutine, while others ask for the next ones: with small
// objects it is the waiting that takes long.
func download(ctx context.Context, from storage, objects []Object, take func(Object, io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	turns := make(chan chan fetched, parallel)
	var running sync.WaitGroup
	running.Go(func() {
		defer close(turns)
		for _, o := range objects {
			turn := make(chan fetched, 1)
			select {
			case turns <- turn:
				running.Go(func() {
					content, err := source.Recovered(ctx, func() (io.ReadCloser, error) { return get(ctx, from, o) })
					turn <- fetched{o, content, err}
				})
			case <-ctx.Done():
				return
			}
		}
	})
	defer running.Wait()
	defer func() { // whatever is still on its way was not wanted
		cancel()
		for turn := range turns {
			if got := <-turn; got.content != nil {
				got.content.Close()
			}
		}
	}()
	for turn := range turns {
		if err := deliver(<-turn, take); err != nil {
			return err
		}
	}
	return ctx.Err() // it may have ended the list early
}

func deliver(got fetched, take func(Object, io.Reader) error) error {
	if got.err != nil {
		return &lost{got.object.Key, got.err}
	}
	defer got.content.Close()
	content := &checked{r: got.content, left: got.object.Size}
	if err := take(got.object, content); err != nil {
		if content.err != nil {
			return &lost{got.object.Key, content.err}
		}
		return err
	}
	return nil
}

// lost is the error of an object that did not come whole: the provider is to blame and not our disk.
type lost struct {
	key string
	err error
}

func (l *lost) Error() string { return fmt.Sprintf("downloading %q: %v", l.key, l.err) }
func (l *lost) Unwrap() error { return l.err }

// get opens an object, and reads it if it is small.
func get(ctx context.Context, from storage, o Object) (io.ReadCloser, error) {
	content, err := from.open(ctx, o)
	if err != nil || o.Size > smallBytes {
		return content, err
	}
	defer content.Close()
	data, err := io.ReadAll(io.LimitReader(content, smallBytes+1))
	if err != nil {
		return nil, source.Steady(err)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

var errSize = errors.New("the server sends another number of bytes than it listed")

// checked is content that has to be as long as it was listed, and remembers what went wrong on the way.
type checked struct {
	r    io.Reader
	left int64
	err  error
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.left -= int64(n)
	switch {
	case c.left < 0, errors.Is(err, io.EOF) && c.left > 0:
		c.err = &source.Failure{Text: errSize.Error(), Err: errSize}
	case err != nil && !errors.Is(err, io.EOF):
		c.err = source.Steady(err)
	default:
		return n, err
	}
	return n, c.err
}

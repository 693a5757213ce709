package git

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/source"
)

// errSlow: the time was over while a pack was still coming in.
var errSlow = errors.New("the fetch is slow")

// maxDoublings bounds how often the time for a fetch is doubled: to eight times spec.timeout.
const maxDoublings = 3

// progress is when a fetch last received something of a pack.
type progress struct{ last atomic.Int64 }

type progressKey struct{}

// watched makes what is received with the context count for the progress.
func watched(ctx context.Context) (context.Context, *progress) {
	p := &progress{}
	return context.WithValue(ctx, progressKey{}, p), p
}

// slow turns the error of a fetch that was cut off into one that says whether more time would have helped. A server that was
// silent for the last quarter of the time is stuck, and gets no more of it (faults.md F24).
func (p *progress) slow(ctx context.Context, began time.Time, err error) error {
	deadline, ok := ctx.Deadline()
	if last := p.last.Load(); !ok || !errors.Is(err, context.DeadlineExceeded) || last == 0 || deadline.Sub(time.Unix(0, last)) > deadline.Sub(began)/4 {
		return err
	}
	return &source.Failure{Text: "the server was still sending when the time was over; the next attempt gets more, up to eight times spec.timeout",
		Err: errors.Join(errSlow, err)}
}

// ticking notes each time that something comes in.
type ticking struct {
	r io.Reader
	p *progress
}

func (t ticking) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	if n > 0 {
		t.p.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// ticks is r, noted by whoever watches the context.
func ticks(ctx context.Context, r io.Reader) io.Reader {
	if p, ok := ctx.Value(progressKey{}).(*progress); ok {
		return ticking{r, p}
	}
	return r
}

// patience returns how long a fetch of the object may take now: spec.timeout, doubled for each attempt since the last success
// that was cut off while it was receiving. Every attempt begins anew, as Git's protocol knows no half of a pack, so that with
// the same time for each a large repository on a slow line would never come through (faults.md F37).
func (g *repositories) patience(key types.NamespacedName, timeout time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return timeout << g.slow[key]
}

// learn notes what came of a fetch.
func (g *repositories) learn(key types.NamespacedName, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		delete(g.slow, key)
	case errors.Is(err, errSlow):
		g.slow[key] = min(g.slow[key]+1, maxDoublings)
	default:
		// It failed for another reason, which says nothing about the line.
	}
}

package agent

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// errNoTenure is what a write comes to when another agent may be the leader.
var errNoTenure = errors.New("a leader lease was not renewed in time: another agent may be the leader")

// tenure is for how long nobody else can hold the leases of this process. To end what is done under a lease takes a moment, and a
// process that was stopped and goes on knows of nothing: the elector of client-go tries for all of the renew deadline to renew what
// somebody else holds. So each write is judged by the clock as well.
type tenure struct {
	lasts time.Duration // after a renewal; shorter than a lease, for writes that are on their way

	mu      sync.Mutex
	renewed map[string]time.Time // by lease, when it was last asked for with success; zero when it is lost
}

func newTenure(lasts time.Duration) *tenure {
	return &tenure{lasts: lasts, renewed: map[string]time.Time{}}
}

// renew keeps that a lease was got or renewed by a request that was made then.
func (t *tenure) renew(lease string, then time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, held := t.renewed[lease]; !held || !last.IsZero() {
		t.renewed[lease] = then
	}
}

// end keeps that a lease is no longer held, and says whether it was. It is for ever.
func (t *tenure) end(lease string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.renewed[lease]
	if _, held := t.renewed[lease]; held {
		t.renewed[lease] = time.Time{}
	}
	return !last.IsZero()
}

// over says whether a lease that was held is not. Before there is one nothing is done that would have to be kept back.
func (t *tenure) over(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, then := range t.renewed {
		// The monotonic clock stands still while a machine sleeps, and the other may be set back: the later one counts.
		if max(now.Sub(then), now.Round(0).Sub(then.Round(0))) >= t.lasts {
			return true
		}
	}
	return false
}

// guard returns how to reach a cluster under the leases.
func (t *tenure) guard(config *rest.Config) *rest.Config {
	if t == nil {
		return config // no leases are asked for
	}
	config = rest.CopyConfig(config)
	config.Wrap(t.wrap)
	return config
}

func (t *tenure) wrap(next http.RoundTripper) http.RoundTripper { return guarded{next, t} }

// guarded is a transport that lets nothing be changed when the tenure is over.
type guarded struct {
	next   http.RoundTripper
	tenure *tenure
}

// RoundTrip implements http.RoundTripper.
func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if changes(req.Method) && g.tenure.over(time.Now()) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, errNoTenure
	}
	return g.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find what is under it.
func (g guarded) WrappedRoundTripper() http.RoundTripper { return g.next }

func changes(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	default:
		return true
	}
}

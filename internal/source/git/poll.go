package git

import (
	"context"
	"slices"
	"sync"
	"time"
)

// polls are the lists of refs that were asked for lately. A hundred objects that name branches and tags of one repository
// ask once and not a hundred times (faults.md F35): whoever comes while a list is waited for shares the next one.
type polls struct {
	mu    sync.Mutex
	known map[Remote]*poll
}

// poll is the list of refs of one remote. It exists while somebody wants to know it, and a little longer.
type poll struct {
	turn chan struct{} // holds one token: who has it may use began, listed and said

	began  time.Time // when the request for the last list began
	listed []Ref     // those that it was filtered for
	said   *advertisement

	mu      sync.Mutex
	waiting map[Ref]int // how many want to know what it names
	left    time.Time   // when the last of them left
}

// pollLife is how long a list is kept that nobody waits for. An older one is no answer to anybody.
const pollLife = time.Minute

// join returns the poll of the remote and takes the ref into what it asks for, until the returned function is called.
func (p *polls) join(remote Remote, ref Ref) (*poll, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, other := range p.known {
		if other.idle() {
			delete(p.known, key)
		}
	}
	// The proxy is compared by what it is and not by where that is kept, and a token by whose it is: some clouds give another
	// one every time.
	key := remote.lasting()
	if key.Proxy != nil {
		key.URL += " " + key.Proxy.Address + " " + key.Proxy.Username + " " + key.Proxy.Password
		key.Proxy = nil
	}
	o, ok := p.known[key]
	if !ok {
		o = &poll{turn: make(chan struct{}, 1), waiting: map[Ref]int{}}
		o.turn <- struct{}{}
		p.known[key] = o
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting[ref]++
	return o, func() { o.leave(ref) }
}

func (p *poll) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) == 0 && time.Since(p.left) > pollLife
}

func (p *poll) leave(ref Ref) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[ref]--; p.waiting[ref] == 0 {
		delete(p.waiting, ref)
	}
	p.left = time.Now()
}

func (p *poll) refs() []Ref {
	p.mu.Lock()
	defer p.mu.Unlock()
	var refs []Ref
	for ref := range p.waiting {
		refs = append(refs, ref)
	}
	return refs
}

// take waits until nobody else is asking.
func (p *poll) take(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *poll) give() { p.turn <- struct{}{} }

// answer returns the last list if it was asked for after since and holds what the ref may name. The caller has the turn.
func (p *poll) answer(ref Ref, since time.Time) *advertisement {
	if p.said == nil || !p.began.After(since) || !slices.Contains(p.listed, ref) {
		return nil
	}
	return p.said
}

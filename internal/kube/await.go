package kube

import (
	"context"
	"errors"
	"time"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// Wait is what an Await is about.
type Wait struct {
	// Labelled carry the labels of an owner, so that the watches on their kinds tell of them.
	Labelled []object.Ref
	// Pinned are watched by their names, whoever they belong to.
	Pinned []object.Ref
	// Since are the versions at which objects were left. What was seen of them before is no news.
	Since map[object.Key]string
	// Judge says how healthy they are; nil is kstatus.
	Judge *health.Judge
	// Blocks, unless nil, is called once, before the first pause: not all was as it should be at the first look.
	Blocks func()
}

// Await returns when ok says so about every object, or with ok's error. It makes no request itself and does not ask again:
// what is not watched already is, for as long as this takes, and ok is called at every change. It is called under a lock, and
// must return soon.
func (o *Observer) Await(ctx context.Context, wait Wait, ok func(object.Ref, Observation, State) (bool, error)) error {
	held := make(map[target]struct{})
	defer o.letGo(held)
	for {
		moved, done, err := o.check(wait, held, ok)
		if err != nil || done {
			return err
		}
		if wait.Blocks != nil {
			wait.Blocks()
			wait.Blocks = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.ctx.Done():
			return errors.New("the observer is closed")
		case <-moved:
		}
	}
}

// check asks ok about every object, and returns what is closed when it is worth asking again.
func (o *Observer) check(wait Wait, held map[target]struct{}, ok func(object.Ref, Observation, State) (bool, error)) (moved chan struct{}, done bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hold(wait, held)
	done = true
	for _, refs := range [][]object.Ref{wait.Labelled, wait.Pinned} {
		for _, r := range refs {
			obs, state := o.get(r, wait.Judge)
			if since := wait.Since[r.Key()]; state.Found && older(obs.ResourceVersion, since) || !state.Found && older(state.seen, since) {
				obs, state = Observation{}, State{Err: state.Err}
			}
			is, err := ok(r, obs, state)
			if err != nil {
				return nil, false, err
			}
			done = done && is
		}
	}
	return o.moved, done, nil
}

// hold makes sure that all of a Wait is watched until letGo. It is asked at every turn: that a kind may not be listed in all
// namespaces is learned only on the way.
func (o *Observer) hold(wait Wait, held map[target]struct{}) {
	acquire := func(t target) {
		if _, ok := held[t]; ok {
			return
		}
		held[t] = struct{}{}
		if t.judge == "" {
			o.acquire(t, nil)
			return
		}
		o.acquire(t, wait.Judge)
	}
	for _, r := range wait.Labelled {
		acquire(kindTarget(r).judged(wait.Judge))
		if o.divided[r.GroupVersionKind()] && r.Namespace != "" {
			acquire(partTarget(r).judged(wait.Judge))
		}
	}
	for _, r := range wait.Pinned {
		acquire(pinTarget(r).judged(wait.Judge))
	}
}

// defaultLinger is how long a watch on a kind goes on after a wait for it. Waits come in bursts, of many releases of a chart: if the
// watch ended with each, the next would list all there is of that kind anew.
const defaultLinger = 30 * time.Second

func (o *Observer) letGo(held map[target]struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for t := range held {
		if t.name != "" || o.linger == 0 {
			o.release(t)
			continue
		}
		time.AfterFunc(o.linger, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.release(t) // after Close, too: it then only takes a user off
		})
	}
}

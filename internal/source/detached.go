package source

import (
	"context"
	"sync"
	"time"
)

// Running counts what goes on behind those who began it. Unlike with a sync.WaitGroup, more may begin while it is waited for: a
// reconciliation may be under way when its fetcher is stopped. The zero Running is ready for use.
type Running struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to zero; nil when nobody waits
}

// Go runs f in a goroutine.
func (r *Running) Go(f func()) {
	r.mu.Lock()
	r.n++
	r.mu.Unlock()
	go func() {
		defer r.ended()
		f()
	}()
}

func (r *Running) ended() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n--
	if r.n == 0 && r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// Wait returns once nothing is running.
func (r *Running) Wait() {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return
	}
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.mu.Unlock()
	<-idle
}

// grace is how long a call that was cut off may take to say so itself before its caller goes on without it.
const grace = time.Second

// Detached runs work in a goroutine of its own, which running counts, and waits for it until ctx ends and a moment longer.
// Work gets to know that by the same context, and closed connections; should a library ignore both, the caller is free all
// the same (faults.md F24), what work holds stays held until it returns, and drop is given what it then comes to. A panic of
// work is its error, see Recovered.
func Detached[T any](ctx context.Context, running *Running, work func() (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done, gone := make(chan result), make(chan struct{})
	running.Go(func() {
		v, err := Recovered(ctx, work)
		select {
		case done <- result{v, err}:
		case <-gone:
			if err == nil {
				drop(v)
			}
		}
	})
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case r = <-done:
		case <-late.C:
			close(gone)
			return r.value, ctx.Err()
		}
	}
	if r.err != nil && ctx.Err() != nil {
		return r.value, ctx.Err() // what cut it off, and not how that felt to a library
	}
	return r.value, r.err
}

package oci

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// errorLife is how long a failure is given to others who ask the same, so that a hundred objects do not find out one
	// by one that a registry is down.
	errorLife = 2 * time.Second
	// answerLife is how long an answer is kept at all.
	answerLife = time.Hour
)

// shared gives one answer to all who ask the same question at about the same time: one of them does the work.
type shared[K comparable, T any] struct {
	// most is how many answers are kept. Above it those that are old go, and if there are none all.
	most int
	// keep is told of each answer that is kept from now on; it may be nil.
	keep func(T)

	mu    sync.Mutex
	calls map[K]*call[T]
}

// call is one answer, or the work for it; value and err are set when done is closed.
type call[T any] struct {
	begun time.Time
	done  chan struct{}
	value T
	err   error
}

// do returns an answer for which the work began at notBefore or later. now is the time of the question.
func (s *shared[K, T]) do(ctx context.Context, key K, notBefore, now time.Time, work func() (T, error)) (T, error) {
	for {
		c, mine := s.join(key, notBefore, now)
		if mine {
			c.finish(ctx, work)
			if c.err == nil && s.keep != nil {
				s.keep(c.value)
			}
			return c.value, c.err
		}
		select {
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		case <-c.done:
		}
		if !cutOff(c.err) {
			return c.value, c.err
		}
		if err := ctx.Err(); err != nil {
			return c.value, err
		}
	}
}

// join returns a call that is young enough, or a new one that is the caller's to make.
func (s *shared[K, T]) join(key K, notBefore, now time.Time) (c *call[T], mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.calls[key]; ok && c.usable(notBefore, now) {
		return c, false
	}
	if s.calls == nil {
		s.calls = map[K]*call[T]{}
	}
	if len(s.calls) >= s.most {
		s.sweep(func(c *call[T]) bool { return now.Sub(c.begun) > answerLife })
	}
	if len(s.calls) >= s.most {
		s.sweep((*call[T]).finished)
	}
	c = &call[T]{begun: now, done: make(chan struct{})}
	s.calls[key] = c
	return c, true
}

// finish does the work. Whatever becomes of that, nobody waits for it any longer: a panic is the answer too.
func (c *call[T]) finish(ctx context.Context, work func() (T, error)) {
	defer close(c.done)
	c.value, c.err = source.Recovered(ctx, work)
}

// usable is called with the lock held.
func (c *call[T]) usable(notBefore, now time.Time) bool {
	if !c.finished() {
		return !c.begun.Before(notBefore)
	}
	switch {
	case cutOff(c.err):
		return false
	case c.err != nil && now.Sub(c.begun) > errorLife:
		return false
	}
	return !c.begun.Before(notBefore)
}

// cutOff reports whether whoever did the work could not go on: that is no answer to anybody else.
func cutOff(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, source.ErrSpent)
}

func (c *call[T]) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// sweep is called with the lock held. Those who wait for an answer hold the call itself.
func (s *shared[K, T]) sweep(unwanted func(*call[T]) bool) {
	for key, c := range s.calls {
		if unwanted(c) {
			delete(s.calls, key)
		}
	}
}

// drop forgets all answers.
func (s *shared[K, T]) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep((*call[T]).finished)
}

// forget drops the answer, so that the next question is asked anew.
func (s *shared[K, T]) forget(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, key)
}

package drift

import (
	"context"
	"time"

	"github.com/cleat-dev/cleat/internal/object"
)

// Words are what events about an owner say whose words others know already.
type Words struct {
	// Head begins an event with that reason; it may be empty.
	Head func(reason string) string
	// Line is what there is to say of an object that is Open, or Corrected.
	Line func(r Record, state State) string
}

func (w *Words) head(reason string) string {
	if w == nil {
		return ""
	}
	return w.Head(reason)
}

// Records returns what is known of the objects of an owner, what is open first.
func (e *Engine) Records(owner Owner) []Record {
	s := e.known(owner)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.records()
}

// Contester names who undoes a correction.
func (r Record) Contester() string { return contester(r) }

// Over says whether what a record tells of is over.
func (r Record) Over() bool { return r.ended() }

// Holds says whether an object is looked after: when it is seen not to be as it was left, it is looked at without its owner.
func (e *Engine) Holds(owner Owner, key object.Key) bool {
	s := e.known(owner)
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.declared.find(key)
	return ok && len(s.declared.blocks) > 0
}

// LookOver has every object of an owner looked at that is not as it was left.
func (e *Engine) LookOver(owner Owner) {
	if e.known(owner) != nil {
		e.queue.Add(item{owner: owner, what: scan})
	}
}

// NoteTold is Note for a run that sends the events itself. seen is when it has found the object.
func (e *Engine) NoteTold(owner Owner, ref object.Ref, v Verdict, seen time.Time, corrected bool) {
	s := e.subject(owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Owner = owner
	entry, fresh := s.book.seen(ref, v, seen)
	if fresh {
		e.metrics.detected(owner)
	}
	if entry.told == nil {
		entry.told = map[State]bool{}
	}
	entry.told[Open], entry.told[Corrected] = true, true
	now := time.Now()
	if corrected {
		s.book.corrected(entry, now)
		delete(s.observed, ref.Key())
		e.metrics.corrected(owner, now.Sub(seen))
	} else {
		entry.fight = entry.fight.tried(now)
	}
	e.schedule(s)
}

// TellNow tells at once what there is to be told of an owner.
func (e *Engine) TellNow(ctx context.Context, owner Owner) {
	s := e.known(owner)
	if s == nil {
		return
	}
	s.mu.Lock()
	waiting := len(s.events) > 0
	s.mu.Unlock()
	if waiting {
		e.tell(ctx, s)
	}
}

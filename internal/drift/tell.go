package drift

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cleat-dev/cleat/internal/api"
)

const (
	// tellAfter gathers what belongs together; tellAgain is the least time between two tellings about one owner.
	tellAfter = 300 * time.Millisecond
	tellAgain = 10 * time.Second
	// maxLines bounds an event and a condition.
	maxLines = 20
)

// Keeper keeps records beyond the process.
type Keeper interface {
	// Load returns what was kept of an owner; nothing when there is nothing.
	Load(ctx context.Context, owner Owner) ([]Record, error)
	// Save replaces what is kept.
	Save(ctx context.Context, owner Owner, records []Record) error
}

// Condition is what an owner's condition Drifted says.
type Condition struct {
	// Status is true while something is not as it was left. Reason is empty when there is nothing to say.
	Status  bool
	Reason  string
	Message string
}

// Condition returns what there is to say of an owner now.
func (e *Engine) Condition(owner Owner) Condition {
	s := e.known(owner)
	if s == nil {
		return Condition{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// now is the same for the same: it holds no times, and its lines are sorted.
func (s *subject) now() Condition {
	var contested, open, corrected, resolved []string
	for _, r := range s.book.records() {
		line := r.Object() + ": " + r.Summary()
		switch r.State {
		case Contested:
			contested = append(contested, fmt.Sprintf("%s keeps changing %s: %s", contester(r), r.Object(), r.Summary()))
		case Open:
			if r.Error != "" {
				line += "; it cannot be put right: " + r.Error
			}
			open = append(open, line)
		case Corrected:
			corrected = append(corrected, line)
		case Resolved:
			resolved = append(resolved, line)
		}
	}
	switch {
	case len(contested) > 0:
		return Condition{Status: true, Reason: api.ContestedReason, Message: list("", append(sorted(contested), sorted(open)...))}
	case len(open) > 0:
		return Condition{Status: true, Reason: api.DriftDetectedReason, Message: list("", sorted(open))}
	case len(corrected) > 0:
		return Condition{Reason: api.DriftCorrectedReason, Message: list("put right: ", sorted(corrected))}
	case len(resolved) > 0:
		return Condition{Reason: api.NoDriftDetectedReason, Message: "all objects are as they were left"}
	}
	return Condition{}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

// contester names who undoes a correction.
func contester(r Record) string {
	authors := r.Authors()
	if len(authors) == 0 {
		return "somebody whom managedFields do not name"
	}
	names := make([]string, 0, len(authors))
	for _, a := range authors {
		names = append(names, a.String())
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// list joins the first lines and counts the rest.
func list(prefix string, lines []string) string {
	rest := ""
	if len(lines) > maxLines {
		rest = fmt.Sprintf("\nand %d more", len(lines)-maxLines)
		lines = lines[:maxLines]
	}
	return prefix + strings.Join(lines, "\n") + rest
}

// say notes an event about an object, once an incident and state. The caller holds the lock.
func (s *subject) say(e *entry, state State, failed bool) {
	if e.told == nil {
		e.told = map[State]bool{}
	}
	key := state
	if failed {
		key = "Failed"
	}
	if e.told[key] {
		return
	}
	e.told[key] = true
	line := e.Object() + ": " + e.Summary()
	switch {
	case s.Words != nil && !failed && (state == Open || state == Corrected):
		line = s.Words.Line(e.Record, state)
	case failed:
		line += ": " + e.Error
	case state == Contested:
		line = contester(e.Record) + " keeps changing " + line + "; it is put right every " + longestPause.String() + " from now on"
	}
	s.events = append(s.events, told{state: state, failed: failed, object: e.Object(), line: line})
}

// schedule has what is new told soon, and not more often than every tellAgain. The caller holds the lock.
func (e *Engine) schedule(s *subject) {
	if s.scheduled {
		return
	}
	s.scheduled = true
	wait := max(tellAfter, time.Until(s.lastTold.Add(tellAgain)))
	e.queue.AddAfter(item{owner: s.Owner, what: tellOut}, wait)
}

// tell sends the events, keeps the record, and wakes the owner if its condition has something new to say.
func (e *Engine) tell(ctx context.Context, s *subject) {
	s.mu.Lock()
	events, records, owner, subject := s.events, s.book.records(), s.Owner, s.Subject
	condition := s.now()
	news := condition != s.told
	if subject.Tell != nil { // otherwise its first run has not ended yet
		s.events, s.told = nil, condition
	}
	s.scheduled, s.lastTold = false, time.Now()
	s.mu.Unlock()
	e.metrics.drifted(owner, len(records)-countEnded(records))
	if subject.Tell == nil {
		return
	}
	for _, event := range eventsOf(events, subject.Words) {
		subject.Tell(event.warning, event.reason, event.message)
	}
	if e.options.Keeper != nil {
		ctx, cancel := context.WithTimeout(ctx, correctionTimeout)
		defer cancel()
		if err := e.options.Keeper.Save(ctx, owner, records); err != nil && ctx.Err() == nil {
			e.options.Log.Warn("keeping the record of drift", append(owner.attrs(), "error", err)...)
		}
	}
	if news {
		subject.Wake()
	}
}

func countEnded(records []Record) int {
	n := 0
	for _, r := range records {
		if r.ended() {
			n++
		}
	}
	return n
}

// event is one Kubernetes event.
type event struct {
	warning         bool
	reason, message string
}

// eventsOf makes one event of all that is to be told of one kind.
func eventsOf(all []told, words *Words) []event {
	var out []event
	for _, kind := range []struct {
		event
		of func(told) bool
	}{
		{event{true, api.DriftDetectedReason, ""}, func(t told) bool { return t.state == Open && !t.failed }},
		{event{true, api.DriftCorrectionFailedReason, ""}, func(t told) bool { return t.failed }},
		{event{false, api.DriftCorrectedReason, ""}, func(t told) bool { return t.state == Corrected }},
		{event{true, api.ContestedReason, ""}, func(t told) bool { return t.state == Contested }},
	} {
		var lines []string
		for _, t := range all {
			if kind.of(t) {
				lines = append(lines, t.line)
			}
		}
		if len(lines) > 0 {
			kind.message = list(words.head(kind.reason), sorted(lines))
			out = append(out, kind.event)
		}
	}
	return out
}

// Restore takes in what an earlier process has kept of an owner, if nothing is known of it yet.
func (e *Engine) Restore(ctx context.Context, owner Owner) error {
	if e.options.Keeper == nil {
		return nil
	}
	s := e.subject(owner)
	s.mu.Lock()
	restored := s.restored
	s.mu.Unlock()
	if restored {
		return nil
	}
	records, err := e.options.Keeper.Load(ctx, owner)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.restore(records)
	s.restored = true
	return nil
}

package drift

import (
	"context"
	"errors"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// lookAgain is when an object is looked at again that is not as it was left and to be left alone: what keeps it so may go
// without anybody being told.
const lookAgain = time.Minute

// tryAgain is when an object is looked at again that could not be.
const tryAgain = 10 * time.Second

// look looks at one object that has moved, and does what is to be done about it.
func (e *Engine) look(ctx context.Context, s *subject, next item) {
	ref, wait, ok := e.worth(s, next)
	if !ok {
		return
	}
	if wait > 0 {
		e.queue.AddAfter(next, wait)
		return
	}
	ctx, end, ok := s.begin(ctx, next.key)
	if !ok {
		return // The owner itself is at it; resume brings the object back.
	}
	defer end()
	again := e.treat(ctx, s, ref)
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		e.queue.Add(next) // to be kept for when the owner is done, or dropped because all ends
	case again > 0:
		e.queue.AddAfter(next, again)
	}
}

// worth says whether an object is to be looked at now, or after a while.
func (e *Engine) worth(s *subject, next item) (ref object.Ref, wait time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	i, declared := s.declared.find(next.key)
	if !declared {
		delete(s.observed, next.key)
		return ref, 0, false // It is not wanted any more; Keep has closed its record.
	}
	ref = s.declared.refs[i]
	entry := s.book.entries[next.key]
	open := entry != nil && !entry.ended()
	switch standing := s.Applier.Standing(next.owner.NamespacedName, ref); standing {
	case kube.StandsAsLeft:
		delete(s.observed, next.key)
		if !e.resolved(s, next.key) && open { // a fight: see whether it lasts
			return ref, max(entry.fight.ends().Sub(now), time.Second), true
		}
		return ref, 0, false
	case kube.StandsUnseen:
		return ref, 0, false // When it can be seen again, all of the owner is looked over.
	case kube.StandsTerminating:
		return ref, 0, false // When it has gone it moves once more.
	case kube.StandsUntold:
		if !open {
			return ref, 0, false // Nobody has left it in any way that it could differ from.
		}
	case kube.StandsOtherwise, kube.StandsGone:
	}
	if entry != nil {
		wait = entry.fight.again(now).due().Sub(now)
	}
	return ref, wait, true
}

// treat looks at an object on the cluster and does what the verdict says. It returns when to look again; zero when that is
// not needed.
func (e *Engine) treat(ctx context.Context, s *subject, ref object.Ref) (again time.Duration) {
	s.mu.Lock()
	subject, kept, hidden := s.Subject, s.declared, s.declared.hidden()
	s.mu.Unlock()
	policy, err := subject.Policy(ctx)
	if errors.Is(err, ErrNoOwner) {
		return 0 // Forget is on its way.
	}
	if err != nil {
		return e.failed(s, ref, nil, err)
	}
	i, ok := kept.find(ref.Key())
	if !ok {
		return 0
	}
	desired, err := kept.load(i)
	switch {
	case err != nil:
		return e.failed(s, ref, nil, err)
	case desired == nil:
		handOver(subject, policy)
		return 0
	}
	policy.Hide = e.hide.With(hidden)
	policy = policy.For(desired, subject.Ignored)
	policy.Force = policy.Force || subject.Options.Force
	if v, left := heldBack(policy); left {
		return e.leave(s, ref, v)
	}
	if err := subject.Act(ctx); err != nil {
		return e.failed(s, ref, subject.unseen(ref, err), err)
	}
	l, err := subject.Applier.Look(ctx, subject.Owner.NamespacedName, desired, subject.Options)
	if err != nil && l == nil {
		return e.failed(s, ref, subject.unseen(ref, err), object.MaskError(err, hidden))
	}
	v := judgeLook(l, err, policy)
	return e.act(ctx, s, ref, l, v, policy, object.MaskError(err, hidden))
}

// unseen is what there is to say of an object that may not be looked at, which somebody has to do something about; nil when it
// could not be just now.
func (s Subject) unseen(ref object.Ref, err error) *Verdict {
	switch {
	case !errors.Is(err, kube.ErrIdentity) && !apierrors.IsForbidden(err):
		return nil
	case s.Applier.Standing(s.Owner.NamespacedName, ref) == kube.StandsGone:
		return &Verdict{Op: Create, Reason: Missing}
	default:
		return &Verdict{Op: Apply, Reason: Changed}
	}
}

// handOver leaves an object to the owner's own run, because it was not kept how it is to be. The run will find that it is not as
// it was left, render everything, and note what it puts right.
func handOver(subject Subject, policy Policy) {
	if policy.Held == "" {
		subject.Wake()
	}
}

// judgeLook is Judge for what a Look has shown. Where the API server could not tell what it would make of the object, that it is
// not as it was left is all there is to say.
func judgeLook(l *kube.Look, refused error, policy Policy) Verdict {
	if l.Merged != nil && refused == nil {
		return Judge(l.Merged, l.Live, policy)
	}
	if v, left := leftAlone(l.Live, policy); left {
		return v
	}
	return policy.act(Verdict{Op: Apply, Reason: Changed})
}

// act does what a verdict says.
func (e *Engine) act(ctx context.Context, s *subject, ref object.Ref, l *kube.Look, v Verdict, policy Policy, refused error) time.Duration {
	switch v.Op {
	case Leave:
		if v.Reason == AsDeclared {
			l.Accept()
		}
		if v.Reason == AsDeclared || v.Reason == Traces {
			return e.clear(s, ref)
		}
		return e.leave(s, ref, v)
	case Report:
		return e.report(s, ref, v)
	case Create, Apply:
		if refused != nil && !policy.Force {
			return e.failed(s, ref, &v, refused)
		}
		return e.correct(ctx, s, ref, l, v, policy)
	default:
		return e.leave(s, ref, v)
	}
}

// correct applies one object again.
func (e *Engine) correct(ctx context.Context, s *subject, ref object.Ref, l *kube.Look, v Verdict, policy Policy) time.Duration {
	e.note(s, ref, v)
	s.try(ref, true)
	err := s.writer()(ctx, l, func(live *unstructured.Unstructured) error {
		if now, left := leftAlone(live, policy); left && now.Reason == Foreign {
			return &otherOwner{owner: policy.Labels.Of(live)}
		}
		return nil
	})
	var other *otherOwner
	var refused *kube.RefusedError
	if errors.As(err, &other) || errors.As(err, &refused) {
		s.try(ref, false)
	}
	switch {
	case errors.As(err, &other):
		return e.leave(s, ref, Verdict{Op: Leave, Reason: Foreign})
	case err != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return 0 // The owner's own run goes on from here.
	case err != nil:
		return e.failed(s, ref, &v, object.MaskError(err, policy.Hide.Also...))
	}
	e.done(s, ref, v)
	return 0
}

// writer is what makes an object as it is declared.
func (s *subject) writer() func(context.Context, *kube.Look, func(*unstructured.Unstructured) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Write != nil {
		return s.Write
	}
	return func(ctx context.Context, l *kube.Look, guard func(*unstructured.Unstructured) error) error {
		_, err := l.Apply(ctx, guard)
		return err
	}
}

// try notes that an object is applied and nobody knows yet what comes of it, or that nothing has.
func (s *subject) try(ref object.Ref, tried bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry := s.book.entries[ref.Key()]; entry != nil {
		entry.tried = tried
	}
}

// note notes that an object is not as it was left.
func (e *Engine) note(s *subject, ref object.Ref, v Verdict) {
	if !v.Drifted() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry, fresh := s.book.seen(ref, v, time.Now())
	if fresh {
		e.metrics.detected(s.Owner)
	}
	s.say(entry, Open, false)
	e.schedule(s)
}

// done notes that an object was put right.
func (e *Engine) done(s *subject, ref object.Ref, v Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	since, ok := s.observed[ref.Key()]
	delete(s.observed, ref.Key())
	entry := s.book.entries[ref.Key()]
	if !v.Drifted() || entry == nil {
		return
	}
	s.book.corrected(entry, now)
	if !ok {
		since = entry.Seen
	}
	e.metrics.corrected(s.Owner, now.Sub(since))
	e.options.Log.Info("drift corrected", append(s.Owner.attrs(), "object", ref.String(), "took", now.Sub(since).String())...)
	s.say(entry, entry.State, false)
	e.schedule(s)
	if entry.State == Contested { // whether it lasts is to be seen
		e.queue.AddAfter(item{owner: s.Owner, key: ref.Key(), what: lookAt}, time.Until(entry.fight.ends()))
	}
}

// report notes that an object is not as it was left, and stays so.
func (e *Engine) report(s *subject, ref object.Ref, v Verdict) time.Duration {
	e.note(s, ref, v)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.observed, ref.Key())
	entry := s.book.entries[ref.Key()]
	if entry == nil {
		return 0
	}
	entry.fight = entry.fight.tried(time.Now()) // What is rewritten again and again is looked at less and less often.
	// Whoever has changed a field owns it, and changes it back without anybody being told.
	return time.Until(entry.fight.due())
}

// failed notes that an object could not be looked at, or with a verdict could not be put right, and when to try again.
func (e *Engine) failed(s *subject, ref object.Ref, v *Verdict, err error) time.Duration {
	if errors.Is(err, context.Canceled) {
		return 0 // The owner's own run goes on from here, or all ends.
	}
	if v != nil {
		e.note(s, ref, *v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.options.Log.Warn("cannot correct drift", append(s.Owner.attrs(), "object", ref.String(), "error", err)...)
	entry := s.book.entries[ref.Key()]
	if entry == nil || entry.ended() {
		return tryAgain // It is not known whether there is anything to put right.
	}
	s.book.failed(entry, err.Error(), time.Now())
	s.say(entry, Open, true)
	e.schedule(s)
	return time.Until(entry.fight.due())
}

// leave notes that nothing is to be done about an object that is not as it was left, and why.
func (e *Engine) leave(s *subject, ref object.Ref, v Verdict) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.observed, ref.Key())
	e.options.Log.Debug("not as it was left, and left alone", append(s.Owner.attrs(), "object", ref.String(), "reason", string(v.Reason), "detail", v.Detail)...)
	again, given := time.Duration(0), false
	switch v.Reason {
	case Foreign:
		again, given = lookAgain, true
	case Marked:
		given = true
		if !strings.HasSuffix(v.Detail, inGit) {
			again = lookAgain // Nobody is told when the mark goes: it is not among what we own.
		}
	case OnlyCreated, TurnedOff, NotDeclared:
		given = true // until Git or the owner says something else
	default:
		// What ends that is an event: a run of the owner, or the object moves once more.
	}
	if given {
		e.resolved(s, ref.Key())
	}
	return again
}

// resolved notes that an object is as it was left, or does not have to be any more. The caller holds the lock.
func (e *Engine) resolved(s *subject, key object.Key) bool {
	changed, ours := s.book.resolved(key, time.Now())
	if ours {
		entry := s.book.entries[key]
		e.metrics.corrected(s.Owner, time.Since(entry.Seen))
		s.say(entry, entry.State, false)
	}
	if changed {
		e.schedule(s)
	}
	return changed
}

// clear notes that an object is as it should be.
func (e *Engine) clear(s *subject, ref object.Ref) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.observed, ref.Key())
	e.resolved(s, ref.Key())
	return 0
}

// Note is told what the owner's own run has found: an object that was not as it was left, and whether that run has put it right.
func (e *Engine) Note(owner Owner, ref object.Ref, v Verdict, corrected bool) {
	s := e.subject(owner)
	s.mu.Lock()
	s.Owner = owner
	s.mu.Unlock()
	e.note(s, ref, v)
	if corrected {
		e.done(s, ref, v)
	}
}

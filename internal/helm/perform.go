package helm

import (
	"context"
	"errors"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// stateFailedReason: it cannot be told what state the release is in. It is Flux's word.
const stateFailedReason = "StateError"

// release brings the release to what is asked for: it looks, decides and acts, one action at a time, until there is nothing to do
// or nothing that can be done now. An action that waits is left to itself, and the run ends.
func (r *Reconciler) release(ctx context.Context, a *attempt) error {
	defer r.guard(a)()
	if err := r.takeUp(ctx, a); err != nil {
		return err
	}
	for {
		v, err := r.observe(ctx, a)
		if err != nil {
			return api.Faultf(stateFailedReason, api.RetryBackoff, "looking at the release: %w", err)
		}
		if err := r.recordLate(ctx, a, v); err != nil {
			return err
		}
		v.forgive(a)
		a.state, a.last = Decide(v.Observed, v.spec, time.Now())
		a.noteDrift(v)
		r.Log.Debug("decided", "name", a.key.Name, "namespace", a.key.Namespace, "state", string(a.state), "action", a.last.String())
		if a.last.Kind == None {
			r.attend(a, v)
			return a.rest(v)
		}
		if err := r.act(ctx, a, v); err != nil {
			return err
		}
	}
}

// rest ends the attempt with what there is to say when nothing is done.
func (a *attempt) rest(v *view) error {
	a.policy = v.spec.of(v.LastAction)
	f := a.last.Fault
	if f == nil {
		return nil
	}
	reason, message := f.Reason, f.Message
	if reason == "" {
		reason, message = a.whatFailed(v)
		a.next = nextTry(a.regularly(f), v.Cause)
		message += a.next
	}
	fault := api.Faultf(reason, f.Retry, "%s", message)
	if wait := time.Until(f.At); !f.At.IsZero() && f.Retry != api.RetryNever {
		// The time of the next try is known, and neither the interval nor the back-off says it.
		fault.Retry = api.RetryInterval
		fault.After = max(wait, time.Second)
	}
	return fault
}

// regularly says how often what has failed is tried again, whatever happens.
func (a *attempt) regularly(f *Refusal) string {
	switch {
	case f.Retry == api.RetryInterval && a.policy.Retry:
		return "every " + a.policy.RetryInterval.String()
	case f.Retry == api.RetryBackoff:
		return "after a longer while each time"
	}
	return ""
}

// whatFailed returns Flux's words for the action that has failed last: in this attempt, or by the conditions that it has left.
func (a *attempt) whatFailed(v *view) (reason, message string) {
	for i := len(a.reported) - 1; i >= 0; i-- {
		if a.reported[i].Err != nil {
			return a.reported[i].Reason, a.reported[i].Message
		}
	}
	for _, kind := range []string{v2.RemediatedCondition, v2.TestSuccessCondition, v2.ReleasedCondition} {
		if c := reconcile.Condition(a.hr, kind); c != nil && c.Status == metav1.ConditionFalse {
			return c.Reason, c.Message
		}
	}
	reason, message = v2.UpgradeFailedReason, a.last.Why
	if v.LastAction == v2.ReleaseActionInstall {
		reason = v2.InstallFailedReason
	}
	return reason, message
}

// forgive drops failures that were counted for something else than is asked for now.
func (v *view) forgive(a *attempt) {
	if why := mustReset(&a.hr.Status, a.hr.Generation, v.spec.ChartVersion, a.configDigest, a.reset); why != "" && !a.intended {
		v.InstallFailures, v.UpgradeFailures = 0, 0
		v.Cause, v.CauseGone = "", false
		a.forgiven = true
	}
}

// act performs the decided action.
func (r *Reconciler) act(ctx context.Context, a *attempt, v *view) error {
	if a.last.Kind == Reset {
		return r.reset(ctx, a, v)
	}
	if err := r.operations.free(a.key, a.placeOf(v)); err != nil {
		return unbegun(err) // before anything is put on record: what is in the storage is not of our making
	}
	if err := r.intend(ctx, a, v); err != nil {
		return err
	}
	return r.operate(ctx, a, v)
}

func (a *attempt) placeOf(v *view) place { return place{a.cluster, v.target.Storage, v.target.Name} }

// unbegun is the fault of an operation that cannot begin now.
func unbegun(err error) error {
	reason := stateFailedReason
	if errors.Is(err, errOccupied) {
		reason = pendingReleaseReason
	}
	return api.Faultf(reason, api.RetryBackoff, "%w", err)
}

// operate performs an action as an operation, and goes along with it.
func (r *Reconciler) operate(ctx context.Context, a *attempt, v *view) error {
	if len(a.last.Losing) > 0 {
		r.Recorder.Record(a.hr, claimsGoEvent(a.last))
	}
	j := r.jobOf(a, v, a.last)
	o := &operation{inputs: a.inputs, asked: a.asked, began: a.began, action: a.last}
	o.place = a.placeOf(v)
	o.inputs.ended = endedIn(a)
	if a.source.artifact != nil {
		o.artifact = *a.source.artifact
	}
	err := r.operations.begin(a.key, o, func(ctx context.Context, o *operation) step {
		j.ctx, j.park = ctx, func() func() { return r.operations.park(o) }
		return j.run()
	})
	if err != nil {
		return unbegun(err)
	}
	if err := r.along(ctx, o); err != nil {
		return err
	}
	return r.take(ctx, a, o)
}

// jobOf puts together what an action needs.
func (r *Reconciler) jobOf(a *attempt, v *view, action Action) *job {
	return &job{
		inputs: a.inputs, hr: a.hr.DeepCopy(), action: action, target: v.target, history: v.History, options: r.Options,
		renderer: r.operations.renderer, judge: a.judge,
		cluster: a.cluster, user: v.user, revisions: v.revisions, newest: v.newest, drifted: v.drifted, log: r.Log,
		park: func() func() { return func() {} }, touched: map[int]bool{}, gone: map[int]bool{},
	}
}

// takeUp takes what an earlier run has begun. What is not for what is asked now was cut off, and only goes into the history.
func (r *Reconciler) takeUp(ctx context.Context, a *attempt) error {
	o := r.operations.open(a.key)
	if o == nil {
		return nil
	}
	if o != a.operation && !o.adopt(a) {
		r.operations.cancel(a.key, errSuperseded)
	}
	a.last = o.action
	if err := r.along(ctx, o); err != nil {
		return err
	}
	return r.take(ctx, a, o)
}

// take takes notice of an operation that has ended. It is forgotten when what came of it is on record, and not before.
func (r *Reconciler) take(ctx context.Context, a *attempt, o *operation) error {
	result, _ := o.ended()
	if o.asked.uid != a.hr.UID { // of an object of this name that is gone, which the storage tells all about
		r.operations.take(a.key, o)
		return nil
	}
	current := !o.isCut()
	if current {
		a.reported = append(a.reported, result)
	}
	if err := r.record(ctx, a, o, result, current); err != nil {
		return unrecorded(err)
	}
	r.operations.take(a.key, o)
	return nil
}

// unrecorded says what it means that a status cannot be written: nothing may follow.
func unrecorded(err error) error {
	if err == nil || errors.Is(err, reconcile.ErrDone) {
		return err
	}
	return api.Faultf(stateFailedReason, api.RetryBackoff, "recording what is done: %w", err)
}

// uninstallAll uninstalls the release of a HelmRelease that is being deleted. What is not there is no failure (faults.md F14, F16).
func (r *Reconciler) uninstallAll(ctx context.Context, a *attempt) error {
	if o := r.operations.open(a.key); o != nil && o.action.Kind == Uninstall {
		a.operation = o // which is just what is to be done
	}
	if err := r.takeUp(ctx, a); err != nil {
		return err
	}
	for {
		v, err := r.observe(ctx, a)
		if err != nil {
			return api.Faultf(stateFailedReason, api.RetryBackoff, "looking at the release: %w", err)
		}
		if last := len(a.reported) - 1; last >= 0 && a.reported[last].Err != nil {
			return api.Faultf(a.reported[last].Reason, api.RetryBackoff, "%s", a.reported[last].Message)
		}
		if v.Release == nil || v.Release.Status == Removed {
			return nil
		}
		if len(v.History) == 0 { // nothing of it was ever made for this object: it is somebody else's
			return nil
		}
		a.last = unlessHeld(v.Observed, v.spec, time.Now(), Action{Kind: Uninstall, Why: "the HelmRelease is being deleted", Losing: v.Release.Claims})
		if a.last.Kind == None {
			return a.rest(v)
		}
		if err := r.operate(ctx, a, v); err != nil {
			return err
		}
	}
}

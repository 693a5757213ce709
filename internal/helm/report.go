package helm

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// releasing is what the condition Reconciling says while an action is under way, and when the next one has to wait.
func (a *attempt) releasing() string {
	switch {
	case a.last.Kind == "" || a.last.Kind == None && a.last.Fault == nil:
		return "Fulfilling prerequisites"
	case a.last.Kind == None && a.policy.Retry:
		return "Trying again every " + a.policy.RetryInterval.String()
	case a.last.Kind == None:
		return "Trying again, after a longer while each time"
	}
	return fmt.Sprintf("Running '%s' action with timeout of %s", a.last.Kind, a.timeoutOf(a.last.Kind).Duration)
}

// timeoutOf returns how long an action may take.
func (a *attempt) timeoutOf(kind ActionKind) metav1.Duration {
	whole := a.hr.GetTimeout()
	d := whole
	switch kind {
	case Install:
		d = a.hr.GetInstall().GetTimeout(whole)
	case Upgrade:
		d = a.hr.GetUpgrade().GetTimeout(whole)
	case Test:
		d = a.hr.GetTest().GetTimeout(whole)
	case Rollback:
		d = a.hr.GetRollback().GetTimeout(whole)
	case Uninstall:
		d = a.hr.GetUninstall().GetTimeout(whole)
	case Unlock, Correct, Reset, None:
	}
	return d
}

// report fills the part of the status that only a HelmRelease has. What an action has brought is on record since it ended.
func (r *Reconciler) report(a *attempt, end reconcile.Outcome) reconcile.Success {
	a.tally(a.hr)
	r.reportDrift(a)
	if end.Waiting == nil {
		a.handled()
	}
	if !end.Succeeded() {
		return reconcile.Success{}
	}
	a.hr.Status.ObservedPostRenderersDigest = postRenderersDigest(a.hr)
	a.hr.Status.ObservedCommonMetadataDigest = commonMetadataDigest(a.hr)
	a.concluded(&a.hr.Status)
	settle(a.hr)
	is := verdict(a.hr)
	if is == nil || is.Status != metav1.ConditionTrue {
		return reconcile.Success{Reason: meta.ReconciliationSucceededReason, Message: "release in-sync with desired state"}
	}
	return reconcile.Success{Reason: is.Reason, Message: is.Message}
}

// handled notes that what was asked for by hand has been dealt with, whether or not there was anything to do.
func (a *attempt) handled() {
	if a.run.RequestedAt == "" || a.run.RequestedAt == a.hr.Status.LastHandledReconcileAt {
		return
	}
	if at := a.hr.Annotations[v2.ForceRequestAnnotation]; at != "" {
		a.hr.Status.LastHandledForceAt = at
	}
	if at := a.hr.Annotations[v2.ResetRequestAnnotation]; at != "" {
		a.hr.Status.LastHandledResetAt = at
	}
}

// settle makes the conditions of a release that is as it is asked for say so, whatever they were made of: one that was taken over
// has none, and one that has healed by itself those of its failure.
func settle(hr *v2.HelmRelease) {
	reconcile.RemoveCondition(hr, v2.RemediatedCondition)
	if !hr.GetTest().Enable {
		reconcile.RemoveCondition(hr, v2.TestSuccessCondition)
	}
	latest := hr.Status.History.Latest()
	if released := reconcile.Condition(hr, v2.ReleasedCondition); latest == nil || released != nil && released.Status == metav1.ConditionTrue {
		return
	}
	reason, doing := v2.UpgradeSucceededReason, "upgrade"
	if latest.Action == v2.ReleaseActionInstall || latest.Action == "" && latest.Version == 1 {
		reason, doing = v2.InstallSucceededReason, "install"
	}
	reconcile.SetCondition(hr, v2.ReleasedCondition, metav1.ConditionTrue, reason,
		fmt.Sprintf("Helm %s succeeded for release %s with chart %s", doing, latest.FullReleaseName(), latest.VersionedChartName()))
}

// refine says in Ready what was done about the release, and in Stalled why nothing more is: the shared table knows one fault. A
// failure of which nothing follows, as of a test that is not to be remedied, is none to the table, and is told in Ready as well.
func (r *Reconciler) refine(a *attempt, end reconcile.Outcome) {
	is := verdict(a.hr)
	if is == nil || is.Status != metav1.ConditionFalse {
		return
	}
	message := is.Message + a.next
	switch {
	case end.Succeeded(): // it is as it is asked for, with a failed test that nothing is done about
	case end.Fault == nil, end.Step != releaseStep, !aboutRelease(end.Fault.Reason):
		return // it is being worked on, or something else keeps it from being looked at
	case end.Fault.Retry != api.RetryNever && end.Fault.Reason == retriesExceededReason:
		message = fmt.Sprintf("%s; %s", is.Message, end.Fault)
	}
	reconcile.SetCondition(a.hr, meta.ReadyCondition, metav1.ConditionFalse, is.Reason, message)
}

// releaseStep is the name of the step that acts.
const releaseStep = "release"

// aboutRelease says whether a fault follows from what the conditions about the release tell.
func aboutRelease(reason string) bool {
	switch reason {
	case retriesExceededReason, missingRollbackTargetReason,
		v2.InstallFailedReason, v2.UpgradeFailedReason, v2.TestFailedReason, v2.RollbackFailedReason, v2.UninstallFailedReason:
		return true
	}
	return false
}

// after tells of the actions that ended in the attempt.
func (r *Reconciler) after(a *attempt, _ reconcile.Outcome) {
	if a.drift != nil && len(a.drift.found) > 0 {
		r.Recorder.Record(a.hr, driftEvent(driftMessage(a.drift.release, a.drift.found)))
	}
	r.announce(a)
}

// announce sends the events of the actions that have had none.
func (r *Reconciler) announce(a *attempt) {
	for ; a.announced < len(a.reported); a.announced++ {
		s := a.reported[a.announced]
		if s.Kind != Reset && s.Reason != "" { // a reset is nothing that has happened to the release
			r.Recorder.Record(a.hr, a.stepEvent(s))
		}
	}
}

// told says that a fault needs no event of its own: those of the actions tell of it, or nobody needs to be woken for it.
func (a *attempt) told(end reconcile.Outcome) bool {
	return len(a.reported) > 0 || end.Fault.Reason == retriesExceededReason || end.Fault.Reason == sourceNotReadyReason
}

// metadata are the annotations of events about the attempt.
func (a *attempt) metadata() map[string]string {
	if !a.attempted {
		return nil
	}
	about := a.chart.Metadata()
	return eventMetadata(about.Version, a.configDigest, about.AppVersion, a.ociDigest)
}

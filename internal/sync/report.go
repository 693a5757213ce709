package sync

import (
	"fmt"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// progress returns what the condition Reconciling says during a step.
func progress(doing string) func(*attempt) string {
	return func(a *attempt) string {
		revision := ""
		if a.artifact != nil {
			revision = a.artifact.Revision
		}
		return fmt.Sprintf("%s for revision %s with a timeout of %s", doing, revision, a.ks.GetTimeout())
	}
}

// report fills the part of the status that only a Kustomization has.
func (r *Reconciler) report(a *attempt, end reconcile.Outcome) reconcile.Success {
	status := &a.ks.Status
	if a.attempted {
		status.LastAttemptedRevision = a.artifact.Revision
	}
	if a.recorded {
		a.setInventory(a.ks)
	}
	reportHealth(a, end)
	r.reportDrift(a)
	if end.Waiting == nil && a.digest != "" {
		status.History.Upsert(a.digest, time.Now(), time.Since(a.began), reasonOf(end), a.historyMetadata())
	}
	if !end.Succeeded() {
		return reconcile.Success{}
	}
	status.LastAppliedRevision = a.artifact.Revision
	status.LastAppliedOriginRevision = originOf(a.artifact)
	return reconcile.Success{
		Reason:  meta.ReconciliationSucceededReason,
		Message: appliedMessage(a.artifact.Revision),
	}
}

// reportHealth sets the condition Healthy, which only a Kustomization with health checks has. A fault before the health
// checks says nothing about health, and leaves it as it was.
func reportHealth(a *attempt, end reconcile.Outcome) {
	switch {
	case !a.checked && end.Succeeded():
		reconcile.RemoveCondition(a.ks, meta.HealthyCondition)
	case !a.checked:
	case end.Waiting != nil:
		reconcile.SetCondition(a.ks, meta.HealthyCondition, metav1.ConditionUnknown, meta.ProgressingReason, end.Progress)
	case end.Fault != nil:
		reconcile.SetCondition(a.ks, meta.HealthyCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
	default:
		reconcile.SetCondition(a.ks, meta.HealthyCondition, metav1.ConditionTrue, meta.SucceededReason, "Health check passed")
	}
}

// reasonOf is the outcome as a history entry names it.
func reasonOf(end reconcile.Outcome) string {
	if end.Fault != nil {
		return end.Fault.Reason
	}
	return meta.ReconciliationSucceededReason
}

func (a *attempt) historyMetadata() map[string]string {
	metadata := map[string]string{"revision": a.artifact.Revision}
	if origin := originOf(a.artifact); origin != "" {
		metadata["originRevision"] = origin
	}
	return metadata
}

// after tells of a success that is news: something changed, or it was not so before.
func (r *Reconciler) after(a *attempt, end reconcile.Outcome) {
	if !end.Succeeded() {
		return
	}
	was := a.run.Before
	wasReady := was != nil && was.Status == metav1.ConditionTrue
	newRevision := was == nil || was.Message != appliedMessage(a.artifact.Revision)
	if a.checked && (!a.wasHealthy || newRevision && a.changed) {
		r.Recorder.Record(a.ks, healthyEvent(time.Since(a.wait.since), a.metadata()))
	}
	if !wasReady || newRevision || a.changed {
		r.Recorder.Record(a.ks, finishedEvent(time.Since(a.began), a.ks.GetRequeueAfter(), a.metadata()))
	}
}

func appliedMessage(revision string) string { return "Applied revision: " + revision }

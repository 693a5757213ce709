package helm

import (
	"context"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// intend puts on record what is about to be done, before it is: who comes after a crash knows that somebody was at it, and of
// what. A history that is behind the storage is brought up with it.
func (r *Reconciler) intend(ctx context.Context, a *attempt, v *view) error {
	err := a.run.Save(ctx, func(hr *v2.HelmRelease) {
		status := &hr.Status
		a.attempt(status)
		status.History = v.History
		if a.last.Kind == Install {
			status.History = nil // what there was before is no part of it
		}
		if v.target == v.spec.Target || v.spec.moved(&v.target) == "" {
			status.StorageNamespace = v.target.Storage
		}
		if a.last.Kind.releases() {
			status.LastAttemptedReleaseAction = v2.ReleaseAction(a.last.Kind)
			a.takeForce(status)
		}
	})
	a.intended = true
	return unrecorded(err)
}

// recordLate puts on record what an earlier process has done and did not come to record.
func (r *Reconciler) recordLate(ctx context.Context, a *attempt, v *view) error {
	if !v.fresh {
		return nil
	}
	return unrecorded(a.run.Save(ctx, func(hr *v2.HelmRelease) { hr.Status.History = v.History }))
}

// attempt records what is attempted, and drops the failures of what is not asked for any more.
func (a *attempt) attempt(status *v2.HelmReleaseStatus) {
	if a.forgiven {
		status.ClearFailures()
		a.forgiven = false
	}
	if a.reset {
		status.LastHandledResetAt = a.hr.Annotations[v2.ResetRequestAnnotation]
		a.reset = false
	}
	if a.chart == nil {
		return // a deletion attempts nothing
	}
	status.LastAttemptedGeneration = a.hr.Generation
	status.LastAttemptedRevision = a.chart.Metadata().Version
	status.LastAttemptedRevisionDigest = a.ociDigest
	status.LastAttemptedConfigDigest = a.configDigest
	status.LastAttemptedValuesChecksum, status.LastReleaseRevision = "", 0 // which Flux has given up
}

// takeForce uses a request for an upgrade up: it is for one.
func (a *attempt) takeForce(status *v2.HelmReleaseStatus) {
	if a.force {
		status.LastHandledForceAt = a.hr.Annotations[v2.ForceRequestAnnotation]
		a.force = false
	}
}

// record puts on record what came of an action. Of one that was cut off there is nothing to count and nothing to tell, but the
// storage is as it is.
func (r *Reconciler) record(ctx context.Context, a *attempt, o *operation, result step, current bool) error {
	if current && o.action.Kind.releases() {
		r.causes.remember(a.key, result.cause, a.cluster)
	}
	return a.run.Save(ctx, func(hr *v2.HelmRelease) {
		status := &hr.Status
		status.History = remember(status.History, result.written, releaseAction(o.action))
		if !current {
			return
		}
		if o.action.Kind.releases() {
			status.LastAttemptedReleaseActionDuration = &metav1.Duration{Duration: result.Took.Round(time.Millisecond)}
			if result.Err == nil {
				status.ObservedPostRenderersDigest, status.ObservedCommonMetadataDigest = postRenderersDigest(hr), commonMetadataDigest(hr)
			}
		}
		takeStock(status, result)
		count(hr, o.action.Kind, result)
		a.tally(hr)
	})
}

// count counts a failure. Only what has left something in the storage uses up a try, and only if the release is to blame.
func count(hr *v2.HelmRelease, kind ActionKind, result step) {
	if result.Err == nil || result.Blameless {
		return
	}
	status := &hr.Status
	status.Failures++
	if result.Release == nil {
		return
	}
	switch kind {
	case Install:
		status.InstallFailures++
	case Upgrade:
		status.UpgradeFailures++
	case Test:
		active := hr.GetActiveRemediation()
		if active != nil && !active.MustIgnoreTestFailures(hr.GetTest().IgnoreFailures) {
			active.IncrementFailureCount(hr)
		}
	case None, Rollback, Uninstall, Unlock, Correct, Reset:
		// They release nothing, and are tried until they succeed.
	}
}

// concluded is what the status says of a release that is as it is asked for: what has failed on the way is of no account any more.
func (a *attempt) concluded(status *v2.HelmReleaseStatus) {
	a.attempt(status)
	status.ClearFailures()
	status.History = settled(status.History, a.policy)
}

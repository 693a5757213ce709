package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// apply brings the objects that are not as desired to be so.
func (r *Reconciler) apply(ctx context.Context, a *attempt) error {
	if a.asLeft {
		return nil // the build step has found that all are
	}
	if err := r.act(ctx, a); err != nil {
		return api.AsFault(err, meta.ReconciliationFailedReason, kube.RetryOf(err))
	}
	ignore, err := ignoreRules(a.ks)
	if err != nil {
		return api.Faultf(api.InvalidSpecReason, api.RetryNever, "spec.ignore: %w", err) // validate has looked before
	}
	if err := checkModes(a.build.Objects); err != nil {
		return err
	}
	bestEffort := a.ks.Annotations[api.ApplyAnnotation] == api.ApplyBestEffort
	opts := kube.ApplyOptions{
		Force: a.ks.Spec.Force, BestEffort: bestEffort, WaitTimeout: settleTimeout(ctx), Ignore: ignore,
		CustomStageKinds: r.Options.CustomStageKinds, MigrateAPIVersion: r.Options.MigrateAPIVersion,
	}
	defer r.Drift.Pause(ownerOf(a.key))() // one at a time is at the objects
	found, err := r.lookForDrift(ctx, a, &opts)
	if err != nil {
		return err
	}
	changes, err := a.applier.Apply(ctx, a.key, a.build.Objects, opts)
	r.keepForDrift(a, found, opts, changes, err == nil)
	if done := changes.Effective(); len(done) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, appliedEvent(done, a.metadata()))
	}
	for _, change := range changes {
		if change.Action == kube.Skipped {
			a.skipped = append(a.skipped, change.Ref)
		}
	}
	if err == nil {
		r.builds.keep(a.key, a.build)
		r.Clusters.Own().Observer.Refer(a.key, a.build.references())
		return nil
	}
	var refused *kube.RefusedError
	if errors.As(err, &refused) {
		r.forgetRefused(ctx, a, refused)
		if bestEffort {
			err = fmt.Errorf("%d of %d objects could not be applied, and nothing was pruned:\n%w", len(refused.Failures), len(a.desired), err)
		}
	}
	return masked(api.AsFault(err, reasonOfApply(err), retryOf(err)), a.build)
}

// masked returns a fault about what was built without the values that were decrypted for it: objects that are no Secrets may
// hold them too.
func masked(f *api.Fault, built *Build) *api.Fault {
	out := *f
	out.Err = object.MaskError(f.Err, built.Sensitive)
	return &out
}

// forgetRefused takes out of the inventory what the API server has refused and what was not tracked before this attempt:
// nothing of it is on the cluster, and it may be something that cannot be, which nobody could ever prune.
func (r *Reconciler) forgetRefused(ctx context.Context, a *attempt, refused *kube.RefusedError) {
	var refs []object.Ref
	for _, failure := range refused.Failures {
		if failure.Untouched {
			refs = append(refs, failure.Ref)
		}
	}
	never := object.Subtract(refs, a.tracked)
	if len(never) == 0 {
		return
	}
	if err := r.forget(ctx, a, object.Subtract(a.inventory.refs, never)); err != nil {
		r.Log.Error("taking what was refused out of the inventory", "name", a.key.Name, "namespace", a.key.Namespace, "error", err)
	}
}

// checkApply refuses a value of the annotation that is not known: to take it for the default could be what was not meant.
func checkApply(ks *kustomizev1.Kustomization) error {
	switch value, set := ks.Annotations[api.ApplyAnnotation]; {
	case !set, value == api.ApplyAll, value == api.ApplyBestEffort:
		return nil
	default:
		return api.Faultf(api.InvalidSpecReason, api.RetryNever, "the annotation %s is %q, it can be %s or %s; nothing was changed on the cluster",
			api.ApplyAnnotation, value, api.ApplyAll, api.ApplyBestEffort)
	}
}

// maxSettle is how long a definition may take to be ready for the objects that need it.
const maxSettle = time.Minute

// settleTimeout leaves at least half of the run's time to what comes after the definitions.
func settleTimeout(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxSettle, time.Until(deadline)/2)
	}
	return maxSettle
}

// reasonOfApply is why an apply has failed.
func reasonOfApply(err error) string {
	if errors.Is(err, kube.ErrWebhookUnavailable) {
		return api.WebhookUnavailableReason
	}
	return meta.ReconciliationFailedReason
}

// retryOf says what makes an apply worth trying again. What the API server refused waits for another commit or for
// somebody to make room for it; anything else is trouble that passes, and so is a webhook that does not answer.
func retryOf(err error) api.Retry {
	var refused *kube.RefusedError
	if errors.As(err, &refused) && !errors.Is(err, kube.ErrWebhookUnavailable) {
		return api.RetryInterval
	}
	return api.RetryBackoff
}

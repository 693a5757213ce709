package sync

import (
	"context"
	"errors"
	"time"

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
	changes, err := r.Applier.Apply(ctx, a.key, a.build.Objects, kube.ApplyOptions{
		Force: a.ks.Spec.Force, WaitTimeout: settleTimeout(ctx),
	})
	if done := changes.Effective(); len(done) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, appliedEvent(done, a.metadata()))
	}
	for _, change := range changes {
		if change.Action == kube.Skipped {
			a.skipped = append(a.skipped, change.Ref)
		}
	}
	if err != nil {
		a.forgetRefused(err)
		return masked(api.AsFault(err, meta.ReconciliationFailedReason, retryOf(err)), a.build)
	}
	r.builds.keep(a.key, a.build)
	r.Cluster.Observer.Refer(a.key, a.build.references())
	return nil
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
func (a *attempt) forgetRefused(err error) {
	var refused *kube.RefusedError
	if !errors.As(err, &refused) {
		return
	}
	var refs []object.Ref
	for _, failure := range refused.Failures {
		refs = append(refs, failure.Ref)
	}
	a.inventory = object.Subtract(a.inventory, object.Subtract(refs, a.tracked))
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

// retryOf says what makes an apply worth trying again. What the API server refused waits for another commit or for
// somebody to make room for it; anything else is trouble that passes.
func retryOf(err error) api.Retry {
	var refused *kube.RefusedError
	if errors.As(err, &refused) {
		return api.RetryInterval
	}
	return api.RetryBackoff
}

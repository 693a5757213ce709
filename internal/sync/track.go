package sync

import (
	"context"
	"errors"

	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// makePlan compares the build with the inventory.
func (r *Reconciler) makePlan(ctx context.Context, a *attempt) error {
	was, err := r.loadInventory(ctx, a)
	if err != nil {
		return untrackable(err, meta.ReconciliationFailedReason)
	}
	var policies []Policy
	if !a.ks.Spec.Prune {
		policies = append(policies, keepStale)
	}
	a.inventory, a.tracked, a.plan = was, was.refs, makePlan(was.refs, a.desired, policies...)
	if err := guardEmpty(a.plan, a.desired, a.ks.Annotations[api.AllowEmptyAnnotation] == "true"); err != nil {
		return err
	}
	return guardLimit(a.plan, a.tracked, a.desired, r.Options.PruneLimit, a.ks.Annotations[api.AllowPruneAnnotation] == "true")
}

// track puts on record what the next steps may bring about: a crash after it leaves nothing on the cluster that is in no
// inventory. When the set of objects is the same as before it costs nothing.
func (r *Reconciler) track(ctx context.Context, a *attempt) error {
	a.cluster.Observer.Judge(a.key, a.judge())
	a.cluster.Observer.Watch(a.key, a.plan.Track)
	if len(a.plan.Track) > 0 {
		if err := a.run.HoldDeletion(ctx); err != nil {
			return untracked(err)
		}
	}
	return untracked(r.record(ctx, a, a.plan.Track))
}

// untracked says what it means that an intent is not on record: nothing may be applied.
func untracked(err error) error {
	if err == nil || errors.Is(err, reconcile.ErrDone) {
		return err
	}
	return api.Faultf(meta.ReconciliationFailedReason, api.RetryBackoff, "recording what is to be applied: %w", err)
}

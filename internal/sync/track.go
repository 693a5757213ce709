package sync

import (
	"context"
	"errors"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// makePlan compares the build with the inventory.
func (r *Reconciler) makePlan(_ context.Context, a *attempt) error {
	tracked, err := object.FromInventory(a.ks.Status.Inventory)
	if err != nil {
		return api.Faultf(meta.ReconciliationFailedReason, api.RetryInterval, "reading status.inventory: %w", err)
	}
	var policies []Policy
	if !a.ks.Spec.Prune {
		policies = append(policies, keepStale)
	}
	a.tracked, a.plan = tracked, makePlan(tracked, a.desired, policies...)
	return guardEmpty(a.plan, a.desired, a.ks.Annotations[api.AllowEmptyAnnotation] == "true")
}

// track puts on record what the next steps may bring about: a crash after it leaves nothing on the cluster that is in no
// inventory. When the set of objects is the same as before it costs nothing.
func (r *Reconciler) track(ctx context.Context, a *attempt) error {
	a.recorded, a.inventory = true, a.plan.Track
	a.cluster.Observer.Judge(a.key, a.judge())
	a.cluster.Observer.Watch(a.key, a.plan.Track)
	if len(a.plan.Track) > 0 {
		if err := a.run.HoldDeletion(ctx); err != nil {
			return untracked(err)
		}
	}
	return untracked(a.run.Save(ctx, func(ks *kustomizev1.Kustomization) { ks.Status.Inventory = object.ToInventory(a.inventory) }))
}

// untracked says what it means that an intent is not on record: nothing may be applied.
func untracked(err error) error {
	if err == nil || errors.Is(err, reconcile.ErrDone) {
		return err
	}
	return api.Faultf(meta.ReconciliationFailedReason, api.RetryBackoff, "recording what is to be applied: %w", err)
}

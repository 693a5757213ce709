package sync

import (
	"context"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// finalize deletes what a Kustomization that is being deleted has applied, as its deletionPolicy says. It needs neither the
// source nor the path, only the inventory: both may have gone in the same commit (faults.md F02).
func (r *Reconciler) finalize(ctx context.Context, a *attempt) error {
	if why := keepReason(a.ks); why != "" {
		r.Recorder.Record(a.ks, orphanedEvent(a.ks, why))
		return nil
	}
	tracked, err := object.FromInventory(a.ks.Status.Inventory)
	if err != nil {
		return api.Faultf(meta.PruneFailedReason, api.RetryBackoff, "reading status.inventory: %w", err)
	}
	r.Cluster.Observer.Watch(a.key, tracked)
	if _, err := r.pruneRefs(ctx, a, tracked); err != nil {
		return api.AsFault(err, meta.PruneFailedReason, api.RetryBackoff)
	}
	if a.ks.GetDeletionPolicy() != kustomizev1.DeletionPolicyWaitForTermination {
		return nil
	}
	return r.awaitTermination(ctx, a, tracked)
}

// awaitTermination waits until everything deleted is gone, at most for the object's timeout; then it lets go and says so.
func (r *Reconciler) awaitTermination(ctx context.Context, a *attempt, tracked []object.Ref) error {
	r.waits.put(a.key, &wait{each: true}) // before looking: what vanishes from here on wakes us
	lingering, err := r.Applier.Lingering(ctx, tracked)
	if err != nil {
		return api.Faultf(meta.PruneFailedReason, api.RetryBackoff, "looking for what is left: %w", err)
	}
	if len(lingering) == 0 {
		return nil
	}
	left := time.Until(a.ks.DeletionTimestamp.Add(a.ks.GetTimeout()))
	if left <= 0 {
		r.Recorder.Record(a.ks, lingeringEvent(lingering, a.ks.GetTimeout()))
		return nil
	}
	return &reconcile.Waiting{Until: left}
}

// keepReason says why the objects of a Kustomization outlive it; it is empty when they do not.
func keepReason(ks *kustomizev1.Kustomization) string {
	if ks.Spec.Suspend {
		return "it was suspended when it was deleted"
	}
	switch policy := ks.GetDeletionPolicy(); policy {
	case kustomizev1.DeletionPolicyOrphan:
		return "its deletionPolicy is Orphan"
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		return ""
	case kustomizev1.DeletionPolicyMirrorPrune:
		if ks.Spec.Prune {
			return ""
		}
		return "its spec.prune is false"
	default:
		return "its deletionPolicy " + policy + " is not known"
	}
}

// gone drops what is kept in memory for a Kustomization that no longer exists.
func (r *Reconciler) gone(key types.NamespacedName) {
	r.waits.drop(key)
	r.Cluster.Forget(key)
}

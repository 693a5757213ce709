package sync

import (
	"context"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// finalize deletes what a Kustomization that is being deleted has applied, as its deletionPolicy says. It needs neither the
// source nor the path, only the inventory: both may have gone in the same commit (faults.md F02).
func (r *Reconciler) finalize(ctx context.Context, a *attempt) error {
	was, err := r.loadInventory(ctx, a)
	if err != nil {
		return untrackable(err, meta.PruneFailedReason)
	}
	tracked := was.refs
	if why := keepReason(a.ks); why != "" {
		if len(tracked) > 0 {
			r.Recorder.Record(a.ks, orphanedEvent(tracked, why, a.metadata()))
		}
		return nil
	}
	if r.waits.left(a.key) == nil {
		r.Cluster.Observer.Watch(a.key, tracked)
		result, err := r.pruneRefs(ctx, a, tracked)
		if err != nil {
			return api.AsFault(err, meta.PruneFailedReason, api.RetryBackoff)
		}
		pending := result.With(kube.Pending)
		if a.ks.GetDeletionPolicy() != kustomizev1.DeletionPolicyWaitForTermination && len(pending) == 0 {
			return nil
		}
		leaving := result.With(kube.Deleted, kube.Deleting, kube.Terminating)
		r.waits.put(a.key, &wait{over: true, deletion: true, leaving: leaving, pending: pending}) // before looking: what vanishes from here on wakes us
	}
	return r.awaitTermination(ctx, a, r.waits.left(a.key))
}

// awaitTermination waits until everything deleted is gone, and its definitions too, at most for the object's timeout; then it lets go and says so.
func (r *Reconciler) awaitTermination(ctx context.Context, a *attempt, leaving []object.Ref) error {
	lingering, err := r.Applier.Lingering(ctx, leaving)
	if err != nil {
		return api.Faultf(meta.PruneFailedReason, api.RetryBackoff, "looking for what is left: %w", err)
	}
	pending := r.waits.pending(a.key)
	switch {
	case len(lingering) == 0 && len(pending) > 0:
		r.waits.drop(a.key)
		return r.finalize(ctx, a) // once more, for the definitions
	case len(lingering) == 0:
		return nil
	}
	rest := time.Until(a.ks.DeletionTimestamp.Add(a.ks.GetTimeout()))
	if rest <= 0 {
		r.Recorder.Record(a.ks, lingeringEvent(append(lingering, pending...), a.ks.GetTimeout(), a.metadata()))
		return nil
	}
	return &reconcile.Waiting{After: rest}
}

// keepReason says why the objects of a Kustomization outlive it; it is empty when they do not.
func keepReason(ks *kustomizev1.Kustomization) string {
	switch {
	case ks.Spec.SourceRef.Name == "": // required: this is an object whose spec could not be decoded
		return "its spec holds a value that cannot be used, so that it does not say what is to become of them"
	case ks.Spec.Suspend:
		return "it was suspended when it was deleted"
	case ks.Spec.KubeConfig != nil:
		return "unable to prune objects: this version of the agent cannot reach the cluster of spec.kubeConfig"
	case ks.Spec.ServiceAccountName != "":
		// The agent's own rights may be more than the tenant has (faults.md A21).
		return "unable to prune objects: this version of the agent cannot act as spec.serviceAccountName"
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
	r.builds.drop(key)
	r.changes.forget(key)
	r.understood.forget(key)
	r.dependants.Leave(key)
	r.missing.Leave(key)
	r.memory.keep(key, nil)
	r.Cluster.Forget(key)
}

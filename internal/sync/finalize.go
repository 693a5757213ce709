package sync

import (
	"context"
	"errors"
	"strings"
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
	r.Drift.Forget(ownerOf(a.key)) // what is deleted must not be put right
	was, err := r.loadInventory(ctx, a)
	if err != nil {
		return untrackable(err, meta.PruneFailedReason)
	}
	tracked := was.refs
	if why := keepReason(a.ks); why != "" {
		r.orphan(a, tracked, why)
		return nil
	}
	err = r.remove(ctx, a, tracked)
	var waiting *reconcile.Waiting
	if err == nil || errors.As(err, &waiting) {
		return err
	}
	why, err := r.deletions.LetGo(ctx, a.ks, err, kube.Withdrawn(err) && a.applier == nil, meta.PruneFailedReason)
	if err != nil {
		return err
	}
	r.orphan(a, object.Subtract(tracked, a.gone), "unable to prune objects: "+why)
	return nil
}

// orphan tells of the objects that outlive their Kustomization. In a namespace that is terminating no event can be created,
// so that the log is told too.
func (r *Reconciler) orphan(a *attempt, refs []object.Ref, why string) {
	if len(refs) == 0 {
		return
	}
	r.Recorder.Record(a.ks, orphanedEvent(refs, why, a.metadata()))
	r.Log.Warn("objects stay on the cluster", "name", a.key.Name, "namespace", a.key.Namespace, "error", why, "objects", strings.Split(lines(refs, ""), "\n"))
}

// remove deletes what is tracked and waits for its end if the spec says so.
func (r *Reconciler) remove(ctx context.Context, a *attempt, tracked []object.Ref) error {
	if len(tracked) == 0 {
		return nil
	}
	if err := r.reach(ctx, a); err != nil {
		return err
	}
	if err := r.act(ctx, a); err != nil {
		return err
	}
	if r.waits.left(a.key) == nil {
		a.cluster.Observer.Watch(a.key, tracked)
		result, err := r.pruneRefs(ctx, a, tracked)
		a.gone = object.Subtract(tracked, result.With(kube.Failed))
		if err != nil {
			return err
		}
		pending := result.With(kube.Pending)
		if a.ks.GetDeletionPolicy() != kustomizev1.DeletionPolicyWaitForTermination && len(pending) == 0 {
			return nil
		}
		leaving := result.With(kube.Deleted, kube.Deleting, kube.Terminating)
		r.waits.put(a.key, &wait{over: true, deletion: true, leaving: leaving, pending: pending}) // before looking: what vanishes from here on wakes us
	}
	leaving := r.waits.left(a.key)
	a.gone = object.Subtract(tracked, leaving)
	return r.awaitTermination(ctx, a, tracked, leaving)
}

// awaitTermination waits until everything deleted is gone, and its definitions too, at most for the object's timeout; then it
// lets go and says so. It does not wait in a namespace that is terminating, which would wait for it.
func (r *Reconciler) awaitTermination(ctx context.Context, a *attempt, tracked, leaving []object.Ref) error {
	lingering, err := a.applier.Lingering(ctx, leaving)
	if err != nil {
		return api.Faultf(meta.PruneFailedReason, api.RetryBackoff, "looking for what is left: %w", err)
	}
	pending := r.waits.pending(a.key)
	switch {
	case len(lingering) == 0 && len(pending) > 0:
		r.waits.drop(a.key)
		return r.remove(ctx, a, tracked) // once more, for the definitions
	case len(lingering) == 0:
		return nil
	}
	if terminating, err := r.deletions.Terminating(ctx, a.key.Namespace); err == nil && terminating {
		return nil
	}
	a.held = lingering.String()
	rest := time.Until(a.ks.DeletionTimestamp.Add(a.ks.GetTimeout()))
	if rest <= 0 {
		r.Recorder.Record(a.ks, lingeringEvent(append(lingering.Refs(), pending...), a.ks.GetTimeout(), a.metadata()))
		return nil
	}
	return &reconcile.Waiting{After: rest}
}

// deleting is what the condition Reconciling says during a deletion: whose finalizers it waits for, if it comes to that.
func (a *attempt) deleting() string {
	if a.held != "" {
		return "Waiting for what was deleted: " + a.held
	}
	return "Deleting what was applied"
}

// keepReason says why the objects of a Kustomization outlive it; it is empty when they do not.
func keepReason(ks *kustomizev1.Kustomization) string {
	switch {
	case ks.Spec.SourceRef.Name == "": // required: this is an object whose spec could not be decoded
		return "its spec holds a value that cannot be used, so that it does not say what is to become of them"
	case ks.Spec.Suspend:
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
	r.builds.drop(key)
	r.changes.Forget(key)
	r.understood.Forget(key)
	r.dependants.Waiting.Leave(key)
	r.missing.Leave(key)
	r.memory.keep(key, nil)
	r.Drift.Forget(ownerOf(key))
	r.Clusters.Forget(key)
}

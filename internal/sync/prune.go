package sync

import (
	"context"

	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// prune deletes what is gone from Git. What could not be deleted stays tracked and is tried again.
func (r *Reconciler) prune(ctx context.Context, a *attempt) error {
	if len(a.plan.Prune) > 0 {
		if err := r.act(ctx, a); err != nil {
			return api.AsFault(err, meta.PruneFailedReason, kube.RetryOf(err))
		}
	}
	result, err := r.pruneRefs(ctx, a, a.plan.Prune)
	a.leaving, a.pending = result.With(kube.Deleting, kube.Terminating), result.With(kube.Pending)
	unrecorded := r.forget(ctx, a, object.Union(a.desired, result.Remaining()))
	switch {
	case err != nil:
		return api.AsFault(err, meta.PruneFailedReason, retryOf(err))
	case unrecorded != nil:
		return untracked(unrecorded)
	}
	return nil
}

// pruneRefs deletes refs and tells what was deleted, and what was not.
func (r *Reconciler) pruneRefs(ctx context.Context, a *attempt, refs []object.Ref) (kube.PruneResult, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	result, err := a.applier.Prune(ctx, a.key, refs, kube.PruneOptions{Force: a.ks.Spec.Force})
	if deleted := result.With(kube.Deleted, kube.Deleting); len(deleted) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, deletedEvent(deleted, a.metadata()))
	}
	if kept := result.Kept(); len(kept) > 0 {
		r.Recorder.Record(a.ks, keptEvent(kept, a.metadata()))
	}
	return result, err
}

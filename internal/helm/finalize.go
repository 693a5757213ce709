package helm

import (
	"context"
	"errors"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// finalize uninstalls the release of a HelmRelease that is being deleted, and deletes its HelmChart after that. It needs neither
// the chart nor the values: what is to go is in the storage.
func (r *Reconciler) finalize(ctx context.Context, a *attempt) error {
	r.watched.forget(a.key) // what is deleted must not be put right
	if why := keepReason(a.hr); why != "" {
		r.orphan(a, why)
		return nil
	}
	err := r.remove(ctx, a)
	r.announce(a)
	var waiting *reconcile.Waiting
	if errors.As(err, &waiting) {
		return err
	}
	if err != nil {
		why, err := r.deletions.LetGo(ctx, a.hr, err, kube.Withdrawn(err) && a.cluster == nil, v2.UninstallFailedReason)
		if err != nil {
			return err
		}
		r.orphan(a, "unable to uninstall: "+why)
	}
	if key, named := recordedChart(a.hr); named {
		return r.dropChart(ctx, a, key)
	}
	return nil
}

// remove uninstalls what the HelmRelease has released. Without a storage on record it has released nothing, and whatever release
// there is of that name is somebody else's.
func (r *Reconciler) remove(ctx context.Context, a *attempt) error {
	if a.hr.Status.StorageNamespace == "" && len(a.hr.Status.History) == 0 {
		return nil
	}
	if err := r.reach(ctx, a); err != nil {
		return err
	}
	return r.uninstallAll(ctx, a)
}

// orphan tells of a release that outlives its HelmRelease. In a namespace that is terminating no event can be created, so that
// the log is told too.
func (r *Reconciler) orphan(a *attempt, why string) {
	if a.hr.Status.StorageNamespace == "" && len(a.hr.Status.History) == 0 {
		return // there is none
	}
	release := a.hr.GetReleaseNamespace() + "/" + a.hr.GetReleaseName()
	if latest := a.hr.Status.History.Latest(); latest != nil {
		release = latest.FullReleaseName()
	}
	r.Recorder.Record(a.hr, orphanedEvent(release, why))
	r.Log.Warn("release stays on the cluster", "name", a.key.Name, "namespace", a.key.Namespace, "release", release, "error", why)
}

// keepReason says why the release of a HelmRelease outlives it; it is empty when it does not.
func keepReason(hr *v2.HelmRelease) string {
	switch {
	case !hr.HasChartTemplate() && !hr.HasChartRef(): // one is required: this is an object whose spec could not be decoded
		return "its spec holds a value that cannot be used, so that it does not say what is to become of it"
	case hr.Spec.Suspend:
		return "it was suspended when it was deleted"
	}
	return ""
}

// deleting is what the condition Reconciling says during a deletion.
func (a *attempt) deleting() string { return "Uninstalling the release" }

// gone drops what is kept in memory for a HelmRelease that no longer exists.
func (r *Reconciler) gone(key types.NamespacedName) {
	r.operations.forget(key)
	r.watched.forget(key)
	r.causes.forget(key)
	r.templates.forget(key)
	r.understood.Forget(key)
	r.dependants.Waiting.Leave(key)
	r.missing.Leave(key)
	r.changes.Forget(key)
	r.Clusters.Forget(key)
}

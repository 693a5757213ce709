package sync

import (
	"context"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// checkDependencies says whether all that ks depends on is ready. It joins the waitlist of each dependency before it looks,
// so that a dependency which turns ready in between still wakes it.
func (r *Reconciler) checkDependencies(ctx context.Context, ks *kustomizev1.Kustomization, revision string) error {
	self := client.ObjectKeyFromObject(ks)
	for _, dependency := range ks.Spec.DependsOn {
		on := types.NamespacedName{Namespace: dependency.Namespace, Name: dependency.Name}
		if on.Namespace == "" {
			on.Namespace = ks.Namespace
		}
		r.dependants.Join(on, self)
		if err := r.checkDependency(ctx, ks, on, revision); err != nil {
			return err
		}
		r.dependants.Leave(on, self)
	}
	return nil
}

func (r *Reconciler) checkDependency(ctx context.Context, ks *kustomizev1.Kustomization, on types.NamespacedName, revision string) error {
	undecoded := api.Undecoded(api.KustomizationKind)
	if err := r.Reader.Get(ctx, on, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' not found", on)
		}
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryBackoff, "reading dependency '%s': %w", on, err)
	}
	other := &kustomizev1.Kustomization{}
	if err := api.Decode(undecoded, other); err != nil || !ready(other) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready", on)
	}
	if sourceOf(other) == sourceOf(ks) && ks.Spec.SourceRef.Kind == other.Spec.SourceRef.Kind && other.Status.LastAppliedRevision != revision {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' revision is not up to date", on)
	}
	return nil
}

// ready says that a Kustomization has come to what its current spec asks for.
func ready(ks *kustomizev1.Kustomization) bool {
	condition := reconcile.Condition(ks, meta.ReadyCondition)
	return condition != nil && condition.Status == metav1.ConditionTrue &&
		ks.Status.ObservedGeneration == ks.Generation && condition.ObservedGeneration == ks.Generation
}

// sourceOf returns the key of the source that ks reads.
func sourceOf(ks *kustomizev1.Kustomization) types.NamespacedName {
	key := types.NamespacedName{Namespace: ks.Spec.SourceRef.Namespace, Name: ks.Spec.SourceRef.Name}
	if key.Namespace == "" {
		key.Namespace = ks.Namespace
	}
	return key
}

package sync

import (
	"context"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// checkDependencies says whether all that ks depends on is ready. It joins the waitlist of the dependencies before it looks,
// so that one which turns ready in between still wakes it.
func (r *Reconciler) checkDependencies(ctx context.Context, ks *kustomizev1.Kustomization, revision string) error {
	self := client.ObjectKeyFromObject(ks)
	on := make([]types.NamespacedName, len(ks.Spec.DependsOn))
	for i, dependency := range ks.Spec.DependsOn {
		on[i] = types.NamespacedName{Namespace: dependency.Namespace, Name: dependency.Name}
		if on[i].Namespace == "" {
			on[i].Namespace = ks.Namespace
		}
	}
	r.dependants.Join(self, on...)
	for _, dependency := range on {
		if err := r.checkDependency(ctx, ks, dependency, revision); err != nil {
			return err
		}
	}
	r.dependants.Leave(self)
	return nil
}

func (r *Reconciler) checkDependency(ctx context.Context, ks *kustomizev1.Kustomization, on types.NamespacedName, revision string) error {
	undecoded := api.Undecoded(api.KustomizationKind)
	if err := r.read(ctx, on, undecoded); err != nil {
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

// read reads one of our own objects from the cache. A cache that holds one shard only does not know whether an object of
// another shard exists, so that it is asked for.
func (r *Reconciler) read(ctx context.Context, key types.NamespacedName, into *unstructured.Unstructured) error {
	err := r.Reader.Get(ctx, key, into)
	if apierrors.IsNotFound(err) && r.Options.Sharded {
		return r.Live.Get(ctx, key, into)
	}
	return err
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

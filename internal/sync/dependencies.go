package sync

import (
	"context"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
)

// dependencies says whether all that the Kustomization depends on is ready.
func (r *Reconciler) dependencies(ctx context.Context, a *attempt) error {
	on := slices.Concat(a.exprs.dependsOn, a.annotated)
	return r.dependants.Check(ctx, a.ks, on, func(u *unstructured.Unstructured) string { return behind(a, u) })
}

// behind says what a Kustomization lacks that reads the same source and has not applied the revision of this attempt.
func behind(a *attempt, undecoded *unstructured.Unstructured) string {
	const lacking = "revision is not up to date"
	other := &kustomizev1.Kustomization{}
	if err := api.Decode(undecoded, other); err != nil {
		return lacking // it has applied nothing for as long as it cannot be read
	}
	same := sourceOf(other) == sourceOf(a.ks) && a.ks.Spec.SourceRef.Kind == other.Spec.SourceRef.Kind
	if same && other.Status.LastAppliedRevision != a.artifact.Revision {
		return lacking
	}
	return ""
}

// read reads one of our own objects.
func (r *Reconciler) read(ctx context.Context, key types.NamespacedName, into *unstructured.Unstructured) error {
	return r.dependants.Objects.Get(ctx, key, into)
}

// sourceOf returns the key of the source that ks reads.
func sourceOf(ks *kustomizev1.Kustomization) types.NamespacedName {
	key := types.NamespacedName{Namespace: ks.Spec.SourceRef.Namespace, Name: ks.Spec.SourceRef.Name}
	if key.Namespace == "" {
		key.Namespace = ks.Namespace
	}
	return key
}

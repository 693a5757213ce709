package sync

import (
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/api"
)

// sourceKinds are the kinds that a Kustomization may read. All keep their artifact in status.artifact.
var sourceKinds = []schema.GroupVersionKind{
	api.GitRepositoryKind, api.OCIRepositoryKind, api.BucketKind, api.ExternalArtifactKind,
}

// sourceKind returns the kind of that name.
func sourceKind(name string) (schema.GroupVersionKind, bool) {
	for _, gvk := range sourceKinds {
		if gvk.Kind == name {
			return gvk, true
		}
	}
	return schema.GroupVersionKind{}, false
}

// checkSourceKind refuses a source that a Kustomization cannot read.
func checkSourceKind(ks *kustomizev1.Kustomization) error {
	if _, ok := sourceKind(ks.Spec.SourceRef.Kind); ok {
		return nil
	}
	return api.Faultf(api.UnsupportedReason, api.RetryNever,
		"this version of the agent does not support spec.sourceRef.kind: %s; nothing was changed on the cluster", ks.Spec.SourceRef.Kind)
}

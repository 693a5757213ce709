package sync

import (
	"slices"
	"strings"

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

func isSource(kind string) bool {
	_, ok := sourceKind(kind)
	return ok
}

// checkSupported refuses a spec that asks for something this version cannot do. To apply it without that field could be
// worse than not to apply it: with other rights, to another cluster, or with secrets still encrypted.
func checkSupported(ks *kustomizev1.Kustomization) error {
	var fields []string
	for field, set := range map[string]bool{
		"spec.sourceRef.kind: " + ks.Spec.SourceRef.Kind: !isSource(ks.Spec.SourceRef.Kind),
	} {
		if set {
			fields = append(fields, field)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	slices.Sort(fields)
	return api.Faultf(api.UnsupportedReason, api.RetryNever,
		"this version of the agent does not support %s; nothing was changed on the cluster", strings.Join(fields, ", "))
}

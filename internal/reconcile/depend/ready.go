package depend

import (
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/api"
)

// Ready says whether an object of one of Kinds has come to what its current spec asks for. It is read without decoding, so
// that a bad field elsewhere does not decide. Who writes no generation, as the makers of ExternalArtifacts, is believed.
func Ready(u *unstructured.Unstructured) bool {
	if kind, _, _ := unstructured.NestedString(u.Object, "spec", "type"); u.GetKind() == api.HelmRepositoryKind.Kind && kind == sourcev1.HelmRepositoryTypeOCI {
		return true // Such an object only holds a URL, and nobody reports on it.
	}
	if observed, found, err := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); err != nil || found && observed != u.GetGeneration() {
		return false
	}
	status, _ := u.Object["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] != meta.ReadyCondition {
			continue
		}
		observed, found, err := unstructured.NestedInt64(condition, "observedGeneration")
		return condition["status"] == "True" && err == nil && (!found || observed == u.GetGeneration())
	}
	return false
}

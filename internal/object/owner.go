package object

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
)

// SetOwner labels an object as applied by the Kustomization of that name.
func SetOwner(u *unstructured.Unstructured, owner types.NamespacedName) {
	labels := u.GetLabels()
	if labels == nil {
		labels = make(map[string]string, 2)
	}
	labels[api.OwnerName] = owner.Name
	labels[api.OwnerNamespace] = owner.Namespace
	u.SetLabels(labels)
}

// OwnerOf returns the Kustomization that the owner labels of an object name; the zero value when they name none.
// Labels are a claim that anyone with write access can copy: they are reason enough to leave an object alone, and never
// reason enough to take one over.
func OwnerOf(u *unstructured.Unstructured) types.NamespacedName {
	labels := metadata(u, "labels")
	name, _ := labels[api.OwnerName].(string)
	namespace, _ := labels[api.OwnerNamespace].(string)
	if name == "" || namespace == "" {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// Marked says whether the object carries key with the given value as a label or annotation. Case does not count.
func Marked(u *unstructured.Unstructured, key, value string) bool {
	for _, field := range []string{"labels", "annotations"} {
		if v, ok := metadata(u, field)[key].(string); ok && strings.EqualFold(v, value) {
			return true
		}
	}
	return false
}

// metadata returns a map within an object's metadata as it is, not copied: what the accessors of Unstructured copy at
// every call is read here at every watch event.
func metadata(u *unstructured.Unstructured, field string) map[string]any {
	m, _ := u.Object["metadata"].(map[string]any)
	sub, _ := m[field].(map[string]any)
	return sub
}

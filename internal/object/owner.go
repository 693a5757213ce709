package object

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
)

// OwnerLabels are the two labels by which an object names its owner of one kind.
type OwnerLabels struct {
	Name, Namespace string
}

// KustomizationLabels are on what a Kustomization applies.
func KustomizationLabels() OwnerLabels {
	return OwnerLabels{Name: api.OwnerName, Namespace: api.OwnerNamespace}
}

// HelmReleaseLabels are on what a HelmRelease applies.
func HelmReleaseLabels() OwnerLabels {
	return OwnerLabels{Name: api.HelmOwnerName, Namespace: api.HelmOwnerNamespace}
}

// Set labels an object as applied by the owner of that name.
func (l OwnerLabels) Set(u *unstructured.Unstructured, owner types.NamespacedName) {
	labels := u.GetLabels()
	if labels == nil {
		labels = make(map[string]string, 2)
	}
	labels[l.Name] = owner.Name
	labels[l.Namespace] = owner.Namespace
	u.SetLabels(labels)
}

// Of returns the owner that the labels of an object name; the zero value when they name none. Labels are a claim that
// anyone with write access can copy: they are reason enough to leave an object alone, and never reason enough to take one
// over.
func (l OwnerLabels) Of(u *unstructured.Unstructured) types.NamespacedName {
	labels := metadata(u, "labels")
	name, _ := labels[l.Name].(string)
	namespace, _ := labels[l.Namespace].(string)
	if name == "" || namespace == "" {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// SetOwner labels an object as applied by the Kustomization of that name.
func SetOwner(u *unstructured.Unstructured, owner types.NamespacedName) {
	KustomizationLabels().Set(u, owner)
}

// OwnerOf returns the Kustomization that the owner labels of an object name, as OwnerLabels.Of does.
func OwnerOf(u *unstructured.Unstructured) types.NamespacedName { return KustomizationLabels().Of(u) }

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

package sync

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/resmap"

	"github.com/cleat-dev/cleat/internal/api"
)

// refuseRenamed refuses a build in which spec.targetNamespace has renamed a Namespace object. The kustomize library does so
// without a word: `flux-system` in Git becomes a second `apps`, the tracked flux-system is gone from the build, and is pruned
// with all that is in it (faults.md F05).
//
// The library does not tell the old names after a build, so that what holds a Namespace is built once more without the
// target. Few builds have both.
func refuseRenamed(settings unstructured.Unstructured, built resmap.ResMap, build func(unstructured.Unstructured) (resmap.ResMap, error)) error {
	target, _, _ := unstructured.NestedString(settings.Object, "spec", "targetNamespace")
	if target == "" || len(namespaces(built)) == 0 {
		return nil
	}
	without := *settings.DeepCopy()
	unstructured.RemoveNestedField(without.Object, "spec", "targetNamespace")
	plain, err := build(without)
	if err != nil {
		return err
	}
	renamed := slices.DeleteFunc(namespaces(plain), func(name string) bool { return slices.Contains(namespaces(built), name) })
	if len(renamed) == 0 {
		return nil
	}
	return api.Faultf(api.NamespaceRenamedReason, api.RetryInterval,
		"spec.targetNamespace would rename the Namespace %s to %s, and the one of the old name would be pruned with all that is in it; take it out of this path, or name it %[2]s there",
		strings.Join(renamed, ", "), target)
}

// namespaces returns the names of the Namespace objects of a build, sorted.
func namespaces(resources resmap.ResMap) []string {
	var names []string
	for _, resource := range resources.Resources() {
		if gvk := resource.GetGvk(); gvk.Group == "" && gvk.Kind == "Namespace" {
			names = append(names, resource.GetName())
		}
	}
	slices.Sort(names)
	return names
}

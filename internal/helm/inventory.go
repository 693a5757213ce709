package helm

import (
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/object"
)

// inventoryOf lists what a release consists of, as Flux does in status.inventory: the objects of its manifest in their order,
// without hooks, and then the CustomResourceDefinitions that its chart brings. What needs a namespace and names none is in the
// release's. Of a kind that the cluster does not know it is not known whether it needs one: it is listed as it is written.
func inventoryOf(manifest, namespace string, crds []charts.CRD, kinds apimeta.RESTMapper) (*v2.ResourceInventory, error) {
	objects, err := ssautil.ReadObjects(strings.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of the release: %w", err)
	}
	inventory := &v2.ResourceInventory{Entries: []v2.ResourceRef{}}
	for _, u := range objects {
		if u.GetNamespace() == "" && namespaced(u, kinds) {
			u.SetNamespace(namespace)
		}
		inventory.Entries = append(inventory.Entries, entryOf(u))
	}
	for _, crd := range crds {
		inventory.Entries = append(inventory.Entries, entryOf(crd.Object))
	}
	return inventory, nil
}

func entryOf(u *unstructured.Unstructured) v2.ResourceRef {
	ref := object.RefOf(u)
	return v2.ResourceRef{ID: ref.ID(), Version: ref.Version}
}

func namespaced(u *unstructured.Unstructured, kinds apimeta.RESTMapper) bool {
	gvk := u.GroupVersionKind()
	mapping, err := kinds.RESTMapping(gvk.GroupKind(), gvk.Version)
	return err == nil && mapping.Scope.Name() == apimeta.RESTScopeNameNamespace
}

package helm

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	helmrelease "helm.sh/helm/v3/pkg/release"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/object"
)

// takeStock puts into the status what the release consists of after an action.
func takeStock(status *v2.HelmReleaseStatus, result step) {
	switch {
	case result.Kind == Uninstall && result.Err == nil:
		status.Inventory = nil
	case result.inventory != nil:
		status.Inventory = result.inventory
	}
}

// inventoryOf lists what a release consists of, as Flux does in status.inventory: the objects of its manifest in their order,
// without hooks, and then the CustomResourceDefinitions that its chart brings. What needs a namespace and names none is in the
// release's. Of a kind that the cluster does not know it is not known whether it needs one: it is listed as it is written.
func inventoryOf(rel *helmrelease.Release, withCRDs bool, kinds apimeta.RESTMapper) (*v2.ResourceInventory, error) {
	objects, err := objectsIn(rel.Manifest)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	inventory := &v2.ResourceInventory{Entries: []v2.ResourceRef{}}
	for _, u := range objects {
		if u.GetNamespace() == "" && namespaced(u, kinds) {
			u.SetNamespace(rel.Namespace)
		}
		inventory.Entries = append(inventory.Entries, entryOf(u))
	}
	if !withCRDs || rel.Chart == nil {
		return inventory, nil
	}
	crds, err := charts.CRDs(rel.Chart)
	if err != nil {
		return nil, fmt.Errorf("reading the definitions in the chart: %w", err)
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

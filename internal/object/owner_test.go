package object

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestOwner(t *testing.T) {
	u := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {app: x}}}`)
	if got := OwnerOf(u); got != (types.NamespacedName{}) {
		t.Errorf("owner of an object without labels = %v", got)
	}
	owner := types.NamespacedName{Namespace: "flux-system", Name: "apps"}
	SetOwner(u, owner)
	if got := OwnerOf(u); got != owner {
		t.Errorf("owner = %v, want %v", got, owner)
	}
	if u.GetLabels()["app"] != "x" {
		t.Error("another label was lost")
	}
}

// A23: half a claim is none.
func TestA23_OwnerNeedsBothLabels(t *testing.T) {
	for _, labels := range []string{
		`{kustomize.toolkit.fluxcd.io/name: apps}`,
		`{kustomize.toolkit.fluxcd.io/namespace: flux-system}`,
		`{kustomize.toolkit.fluxcd.io/name: "", kustomize.toolkit.fluxcd.io/namespace: flux-system}`,
	} {
		u := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: `+labels+`}}`)
		if got := OwnerOf(u); got != (types.NamespacedName{}) {
			t.Errorf("%s: owner = %v", labels, got)
		}
	}
}

func TestMarked(t *testing.T) {
	for metadata, want := range map[string]bool{
		`{annotations: {x/prune: Disabled}}`: true,
		`{labels: {x/prune: DISABLED}}`:      true,
		`{annotations: {x/prune: enabled}}`:  false,
		`{annotations: {prune: disabled}}`:   false,
		`{name: a}`:                          false,
	} {
		u := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: `+metadata+`}`)
		if got := Marked(u, "x/prune", "disabled"); got != want {
			t.Errorf("%s: %t, want %t", metadata, got, want)
		}
	}
}

// What one kind of owner has labelled is not another's.
func TestOwnerLabelsOfKinds(t *testing.T) {
	u := parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}`)
	release := types.NamespacedName{Namespace: "apps", Name: "web"}
	HelmReleaseLabels().Set(u, release)
	if got := HelmReleaseLabels().Of(u); got != release {
		t.Errorf("owner = %v, want %v", got, release)
	}
	if got := OwnerOf(u); got != (types.NamespacedName{}) {
		t.Errorf("it belongs to the Kustomization %v", got)
	}
}

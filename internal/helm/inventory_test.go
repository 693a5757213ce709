package helm

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	helmrelease "helm.sh/helm/v3/pkg/release"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// stored returns the releases that Flux has stored, by name and version.
func storedByFlux(t *testing.T) map[string]*helmrelease.Release {
	t.Helper()
	text, err := os.ReadFile("storage/testdata/flux-made/1-helm-storage.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*helmrelease.Release{}
	for _, o := range read(t, text) {
		items, isList, _ := unstructured.NestedSlice(o.(*unstructured.Unstructured).Object, "items")
		if !isList {
			items = []any{o.(*unstructured.Unstructured).Object}
		}
		for _, item := range items {
			data, ok, _ := unstructured.NestedString(item.(map[string]any), "data", "release")
			if !ok {
				continue
			}
			rel := decodeRelease(t, data)
			found[rel.Name] = rel
		}
	}
	return found
}

// decodeRelease decodes the data of a Secret of Helm's: that, and what it holds, is in base64.
func decodeRelease(t *testing.T, data string) *helmrelease.Release {
	t.Helper()
	outer, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := base64.StdEncoding.DecodeString(string(outer))
	if err != nil {
		t.Fatal(err)
	}
	reader, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	rel := &helmrelease.Release{}
	if err := json.Unmarshal(text, rel); err != nil {
		t.Fatal(err)
	}
	return rel
}

// kindsOf knows some kinds that need a namespace.
func kindsOf() apimeta.RESTMapper {
	mapper := apimeta.NewDefaultRESTMapper(nil)
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Service"}, {Group: "apps", Version: "v1", Kind: "Deployment"},
	} {
		mapper.Add(gvk, apimeta.RESTScopeNamespace)
	}
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, apimeta.RESTScopeRoot)
	return mapper
}

// TestInventoryIsFluxs: of the releases that Flux has stored comes the inventory that it has written.
func TestInventoryIsFluxs(t *testing.T) {
	releases, _ := golden(t, "installed.yaml")
	byName := storedByFlux(t)
	for name, hr := range releases {
		rel := byName[releaseName(hr)]
		if rel == nil {
			t.Fatalf("no release of %s", name)
		}
		got, err := inventoryOf(rel, true, kindsOf())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(hr.Status.Inventory, got); diff != "" {
			t.Errorf("%s (-Flux +got):\n%s", name, diff)
		}
	}
}

func TestInventory(t *testing.T) {
	rel := &helmrelease.Release{Namespace: "demo", Manifest: `
apiVersion: v1
kind: Namespace
metadata: {name: extra}
---
# Source: x
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: extra}}
---
apiVersion: unknown.example.com/v1
kind: Thing
metadata: {name: c}
`}
	got, err := inventoryOf(rel, true, kindsOf())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, entry := range got.Entries {
		ids = append(ids, entry.ID)
	}
	if diff := cmp.Diff([]string{"_extra__Namespace", "demo_a__ConfigMap", "extra_b__ConfigMap", "_c_unknown.example.com_Thing"}, ids); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := inventoryOf(&helmrelease.Release{Manifest: "a: ["}, true, kindsOf()); err == nil {
		t.Error("a manifest that cannot be read is taken for an empty one")
	}
}

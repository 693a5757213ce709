package image_test

import (
	"archive/tar"
	"encoding/json"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// spdx is what the tests read of a bill of materials.
type spdx struct {
	Namespace string `json:"documentNamespace"`
	Packages  []struct {
		ID         string `json:"SPDXID"`
		Name       string `json:"name"`
		Version    string `json:"versionInfo"`
		References []struct {
			Locator string `json:"referenceLocator"`
		} `json:"externalRefs"`
	} `json:"packages"`
	Relationships []struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	} `json:"relationships"`
}

// bill reads the bill of materials in an image.
func bill(t *testing.T, img v1.Image, path string) spdx {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[len(layers)-1].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	r := tar.NewReader(content)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("looking for %s: %v", path, err)
		}
		if h.Name != path {
			continue
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		var found spdx
		if err := json.Unmarshal(text, &found); err != nil {
			t.Fatal(err)
		}
		return found
	}
}

func TestBillListsTheProgramAndWhatItWasMadeFrom(t *testing.T) {
	c := config(shared)
	c.Version = "v1.2.3"
	c.Modules = []debug.Module{
		{Path: "example.com/Files", Version: "v2.0.0+incompatible", Sum: "h1:x"},
		{Path: "example.com/old", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/new", Version: "v1.0.1"}},
	}
	found := bill(t, build(t, c), "usr/share/sbom/hello.spdx.json")
	got := map[string]string{}
	for _, p := range found.Packages {
		got[p.Name] = p.References[0].Locator
	}
	// hello is compiled from files that are named, so Go records it under the module's path.
	want := map[string]string{
		"github.com/cleat-dev/cleat": "pkg:golang/github.com/cleat-dev/cleat@v1.2.3",
		"stdlib":                     "pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"),
		"example.com/Files":          "pkg:golang/example.com/files@v2.0.0%2Bincompatible",
		"example.com/new":            "pkg:golang/example.com/new@v1.0.1",
	}
	for name, locator := range want {
		if got[name] != locator {
			t.Errorf("%s is listed as %q, want %q", name, got[name], locator)
		}
	}
	if len(got) != len(want) || len(found.Relationships) != len(want) {
		t.Errorf("the bill lists %v with %d relationships", got, len(found.Relationships))
	}
	if !strings.HasPrefix(found.Namespace, "https://spdx.org/spdxdocs/hello-") {
		t.Errorf("the document is %q", found.Namespace)
	}
}

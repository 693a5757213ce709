package render

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/helm/charts"
)

// recorded is a release that Flux has made.
type recorded struct {
	Name, Namespace string
	Version         int
	Config          map[string]any
	Manifest        string
	ChartVersion    string
	Hooks           []struct{ Name, Path, Manifest string }
}

// TestFlux renders what Flux 2.9 has rendered, and gets the same bytes. There is one difference: Flux, by Helm 4, leaves the line
// feed at the end of the last document of each file, which Helm 3 takes away.
func TestFlux(t *testing.T) {
	text, err := os.ReadFile("testdata/flux-releases.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]recorded
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 5 {
		t.Fatalf("%d releases", len(all))
	}
	oci := PostRender{
		Owner:          types.NamespacedName{Namespace: "demo", Name: "web-oci"},
		CommonMetadata: &v2.CommonMetadata{Labels: map[string]string{"team": "web"}},
		Kustomize: []v2.PostRenderer{{Kustomize: &v2.Kustomize{Patches: []kustomize.Patch{{
			Patch:  `[{"op":"add","path":"/metadata/annotations","value":{"patched":"yes"}}]`,
			Target: &kustomize.Selector{Kind: "Service"},
		}}}}},
	}
	for name, want := range all {
		t.Run(name, func(t *testing.T) {
			file, _, _ := strings.Cut(want.ChartVersion, "+")
			q := Request{
				Chart: packaged(t, "testdata/web-"+file+".tgz"), Values: want.Config,
				Release: chartutil.ReleaseOptions{Name: want.Name, Namespace: want.Namespace, Revision: want.Version, IsInstall: want.Version == 1, IsUpgrade: want.Version > 1},
				Post:    PostRender{Owner: types.NamespacedName{Namespace: "demo", Name: want.Name}},
			}
			if want.Name == "web-oci-web-oci" {
				q.Post = oci
			}
			got, err := New().Render(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			trimmed := strings.TrimSuffix(strings.ReplaceAll(want.Manifest, "\n\n---\n", "\n---\n"), "\n")
			if diff := cmp.Diff(trimmed, got.Manifest); diff != "" {
				t.Errorf("manifest:\n%s", diff)
			}
			for i, hook := range want.Hooks {
				if i >= len(got.Hooks) || got.Hooks[i].Path != hook.Path || got.Hooks[i].Manifest != strings.TrimSuffix(hook.Manifest, "\n") {
					t.Errorf("hooks: %+v, want %+v", got.Hooks, want.Hooks)
				}
			}
			sameInstalled(t, q, got)
		})
	}
}

// packaged reads a chart from an archive.
func packaged(t testing.TB, name string) *charts.Chart {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, fstest.MapFS{"chart.tgz": {Data: data}})
}

// load reads a chart from its files.
func load(t testing.TB, files fs.FS) *charts.Chart {
	t.Helper()
	c, err := charts.New(charts.Limits{}).Load(context.Background(), "sha256:"+t.Name(), func() (fs.FS, func(), error) { return files, func() {}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

package helm

import (
	"context"
	"io"
	"log/slog"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/cleat-dev/cleat/internal/api"
)

// undecoded is an object as the cache holds it.
func undecoded(kind, name string, set map[string]string) *unstructured.Unstructured {
	u := api.Undecoded(sourcev1.GroupVersion.WithKind(kind))
	u.SetNamespace(namespace)
	u.SetName(name)
	for field, value := range set {
		path := map[string][]string{
			"revision": {"status", "artifact", "revision"}, "digest": {"status", "artifact", "digest"}, "type": {"spec", "type"},
			"kind": {"spec", "sourceRef", "kind"}, "name": {"spec", "sourceRef", "name"},
		}[field]
		if err := unstructured.SetNestedField(u.Object, value, path...); err != nil {
			panic(err)
		}
	}
	return u
}

func TestNewArtifactWakesItsCharts(t *testing.T) {
	reader := fake.NewClientBuilder().WithScheme(api.NewScheme()).WithIndex(api.Undecoded(api.HelmChartKind), SourceIndex, SourceKeys).WithObjects(
		undecoded("HelmChart", "a", map[string]string{"kind": "HelmRepository", "name": "charts"}),
		undecoded("HelmChart", "b", map[string]string{"kind": "HelmRepository", "name": "other"}),
		undecoded("HelmChart", "c", map[string]string{"kind": "GitRepository", "name": "charts"}),
	).Build()
	woken := ChartsOf(reader, slog.New(slog.NewTextHandler(io.Discard, nil)))(context.Background(), undecoded("HelmRepository", "charts", nil))
	if len(woken) != 1 || woken[0].NamespacedName != (client.ObjectKey{Namespace: namespace, Name: "a"}) {
		t.Errorf("woken: %v", woken)
	}
	one := map[string]string{"revision": "1", "digest": "x"}
	for name, c := range map[string]struct {
		kind     string
		old, new map[string]string
		spec     bool // the generation has changed
		want     bool
	}{
		"nothing":                   {"GitRepository", one, one, false, false},
		"another spec":              {"GitRepository", one, one, true, false},
		"another revision":          {"GitRepository", one, map[string]string{"revision": "2", "digest": "x"}, false, true},
		"another digest":            {"Bucket", one, map[string]string{"revision": "1", "digest": "y"}, false, true},
		"the first":                 {"HelmRepository", nil, one, false, true},
		"another spec, in registry": {"HelmRepository", map[string]string{"type": "oci"}, map[string]string{"type": "oci"}, true, true},
		"same spec, in registry":    {"HelmRepository", map[string]string{"type": "oci"}, map[string]string{"type": "oci"}, false, false},
	} {
		before, after := undecoded(c.kind, "x", c.old), undecoded(c.kind, "x", c.new)
		if c.spec {
			after.SetGeneration(2)
		}
		if got := SourceChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

package helm

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
)

func TestLackingOf(t *testing.T) {
	const artifact = `artifact: {revision: r, digest: d, path: p, url: u, lastUpdateTime: "2026-11-25T00:00:00Z"}`
	for name, tt := range map[string]struct{ kind, generation, status, want string }{
		"ready":                         {"HelmChart", "2", `observedGeneration: 2, ` + artifact, ""},
		"not looked at":                 {"HelmChart", "1", `observedGeneration: -1`, unreconciled},
		"an earlier spec":               {"HelmChart", "2", `observedGeneration: 1, ` + artifact, unreconciled},
		"an earlier spec, failing":      {"OCIRepository", "2", `observedGeneration: 1, conditions: [{type: Ready, status: "False", message: no such tag}], ` + artifact, "no such tag"},
		"an earlier spec, ready":        {"OCIRepository", "2", `observedGeneration: 1, conditions: [{type: Ready, status: "True", message: stored}], ` + artifact, unreconciled},
		"stalled":                       {"HelmChart", "1", `observedGeneration: 1, conditions: [{type: Stalled, status: "True", message: no such chart}], ` + artifact, "no such chart"},
		"nothing yet":                   {"OCIRepository", "1", `observedGeneration: 1`, noArtifact},
		"F25: fails, and has something": {"OCIRepository", "1", `observedGeneration: 1, conditions: [{type: Ready, status: "False", message: down}], ` + artifact, ""},
		"says of no generation":         {"ExternalArtifact", "3", artifact, ""},
		"external, nothing yet":         {"ExternalArtifact", "3", `conditions: []`, noArtifact},
	} {
		t.Run(name, func(t *testing.T) {
			u := read(t, []byte("{apiVersion: source.toolkit.fluxcd.io/v1, kind: "+tt.kind+", metadata: {generation: "+tt.generation+"}, status: {"+tt.status+"}}"))[0].(*unstructured.Unstructured)
			if got := lackingOf(u); got != tt.want {
				t.Errorf("it lacks %q, want %q", got, tt.want)
			}
		})
	}
}

const ociRelease = `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: demo, generation: 1, uid: "1"}
spec: {interval: 10m, chartRef: {kind: OCIRepository, name: web}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: web, namespace: demo, generation: 1}
spec: {url: "oci://example.com/charts/web", interval: 1m}
`

const (
	ociFirst  = "1.0.0@sha256:6fcb496ee101f5c5b1f382365dade6101fe8b43e95e972a46c46e12c05050baf"
	ociSecond = "1.0.0@sha256:7fcb496ee101f5c5b1f382365dade6101fe8b43e95e972a46c46e12c05050baf"
)

// TestF25_F32_ALostSourceLeavesTheReleaseReady: whoever has a release stays as it is while the source cannot be had, or its snapshot
// is lost; whoever has none says what it waits for. A lost snapshot is fetched again.
func TestF25_F32_ALostSourceLeavesTheReleaseReady(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(ociRelease))...)
	if got := ready(w.reconcile("web")); got != "False SourceNotReady: OCIRepository 'demo/web' is not ready: latest generation of object has not been reconciled" {
		t.Errorf("before it was looked at: %s", got)
	}
	w.publish("OCIRepository", "web", ociFirst)
	if err := w.store.Remove(artifact.Object{Kind: "OCIRepository", Namespace: "demo", Name: "web"}); err != nil {
		t.Fatal(err)
	}
	got := ready(w.reconcile("web"))
	if got != "False ArtifactFailed: the artifact of revision "+ociFirst+" is not in the storage, waiting for OCIRepository 'demo/web' to fetch it again" {
		t.Errorf("with a lost snapshot: %s", got)
	}
	if !cmp.Equal(w.lost, []string{"OCIRepository/demo/web"}) {
		t.Errorf("fetched again are %v", w.lost)
	}
	w.publish("OCIRepository", "web", ociFirst)
	if got := ready(w.reconcile("web")); !strings.HasPrefix(got, "True") {
		t.Fatalf("with everything there: %s", got)
	}
	before := w.reconcile("web")
	w.status(api.OCIRepositoryKind, "web", map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "False", "message": "down"}}})
	if diff := cmp.Diff(before, w.reconcile("web")); diff != "" {
		t.Errorf("a source without an artifact changes a release (-before +after):\n%s", diff)
	}
}

// TestADR15_ADigestIsNoKey: a chart that is in memory is not handed out to a HelmRelease whose source has not published it.
func TestADR15_ADigestIsNoKey(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(ociRelease+"---"+strings.ReplaceAll(ociRelease, "name: web", "name: thief")))...)
	w.publish("OCIRepository", "web", ociFirst)
	if got := ready(w.reconcile("web")); !strings.HasPrefix(got, "True") {
		t.Fatal(got)
	}
	owner := api.Undecoded(api.OCIRepositoryKind)
	if err := w.client.Get(t.Context(), types.NamespacedName{Namespace: "demo", Name: "web"}, owner); err != nil {
		t.Fatal(err)
	}
	forged, _, _ := unstructured.NestedMap(owner.Object, "status", "artifact")
	w.status(api.OCIRepositoryKind, "thief", map[string]any{"artifact": forged})
	if got := ready(w.reconcile("thief")); !strings.Contains(got, "is not in the storage") {
		t.Errorf("read another's chart by its digest: %s", got)
	}
}

// TestF23_OCIRevisions: the version of a chart from a registry, and what of it is refused.
func TestF23_OCIRevisions(t *testing.T) {
	for name, tt := range map[string]struct {
		revision string
		options  Options
		version  string
		fault    string
	}{
		"tracked":               {revision: ociFirst, version: "1.0.0+6fcb496ee101"},
		"pushed again":          {revision: ociSecond, version: "1.0.0+7fcb496ee101"},
		"not tracked":           {revision: ociFirst, options: Options{DisableChartDigestTracking: true}, version: "1.0.0"},
		"by digest":             {revision: strings.TrimPrefix(ociFirst, "1.0.0@"), version: "1.0.0+6fcb496ee101"},
		"of another version":    {revision: "2.0.0@" + strings.TrimPrefix(ociFirst, "1.0.0@"), fault: "ChartMutateError"},
		"a tag of no version":   {revision: "latest@" + strings.TrimPrefix(ociFirst, "1.0.0@"), fault: "ChartMutateError"},
		"what is not a digest":  {revision: "1.0.0@nonsense", fault: "ChartMutateError"},
		"a plus as registries…": {revision: "1.0.0_x@" + strings.TrimPrefix(ociFirst, "1.0.0@"), version: "1.0.0+6fcb496ee101"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.options, read(t, []byte(ociRelease))...)
			version := ""
			w.act = func(_ context.Context, a *attempt) error {
				version = a.chart.Metadata().Version
				return nil
			}
			w.publish("OCIRepository", "web", tt.revision)
			hr := w.reconcile("web")
			if version != tt.version {
				t.Errorf("version %q, want %q", version, tt.version)
			}
			if tt.fault != "" && !strings.HasPrefix(ready(hr), "False "+tt.fault+": could not mutate chart with source revision: ") {
				t.Errorf("%s, want %s", ready(hr), tt.fault)
			}
		})
	}
}

// TestSourceMoved: what wakes the readers of a source, and what does not.
func TestSourceMoved(t *testing.T) {
	chart := func(status string) *unstructured.Unstructured {
		return read(t, []byte("{apiVersion: source.toolkit.fluxcd.io/v1, kind: HelmChart, metadata: {generation: 1}, status: {"+status+"}}"))[0].(*unstructured.Unstructured)
	}
	const artifact = `artifact: {revision: r, digest: d, path: p, url: u, lastUpdateTime: "2026-11-25T00:00:00Z"}`
	for name, tt := range map[string]struct {
		before, after string
		want          bool
	}{
		"an artifact":          {`observedGeneration: 1`, `observedGeneration: 1, ` + artifact, true},
		"another digest":       {`observedGeneration: 1, ` + artifact, `observedGeneration: 1, ` + strings.Replace(artifact, "digest: d", "digest: e", 1), true},
		"looked at":            {`observedGeneration: 0, ` + artifact, `observedGeneration: 1, ` + artifact, true},
		"stalled":              {`observedGeneration: 1`, `observedGeneration: 1, conditions: [{type: Stalled, status: "True", message: m}]`, true},
		"fails, and has it":    {`observedGeneration: 1, ` + artifact, `observedGeneration: 1, conditions: [{type: Ready, status: "False", message: m}], ` + artifact, false},
		"was handled":          {`observedGeneration: 1, ` + artifact, `observedGeneration: 1, lastHandledReconcileAt: x, ` + artifact, false},
		"offered at a new URL": {`observedGeneration: 1, ` + artifact, `observedGeneration: 1, ` + strings.Replace(artifact, "url: u", "url: v", 1), false},
	} {
		if got := sourceMoved().Update(event.UpdateEvent{ObjectOld: chart(tt.before), ObjectNew: chart(tt.after)}); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !sourceMoved().Delete(event.DeleteEvent{Object: chart("{}"[1:1])}) {
		t.Error("a deleted HelmChart is not made anew")
	}
	if sourceMoved().Delete(event.DeleteEvent{Object: api.Undecoded(api.OCIRepositoryKind)}) {
		t.Error("a deleted source wakes its readers")
	}
}

// TestIndexes: a HelmRelease is found by its source and by what it refers to, also when a field elsewhere is of no use.
func TestIndexes(t *testing.T) {
	for spec, want := range map[string][2][]string{
		`{chart: {spec: {sourceRef: {kind: GitRepository, name: x}}}, interval: 9999999h}`: {{"HelmChart/demo/demo-web"}, nil},
		`{chart: {spec: {sourceRef: {namespace: infra}}}}`:                                 {{"HelmChart/infra/demo-web"}, nil},
		`{chartRef: {kind: OCIRepository, name: x, namespace: infra}}`:                     {{"OCIRepository/infra/x"}, nil},
		`{chartRef: {kind: ExternalArtifact, name: x}, kubeConfig: {secretRef: {name: k}}, valuesFrom: [{kind: Secret, name: a}, {kind: ConfigMap, name: b}, 1]}`: {
			{"ExternalArtifact/demo/x"}, {"Secret/demo/k", "Secret/demo/a", "ConfigMap/demo/b"}},
	} {
		u := read(t, []byte("{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: web, namespace: demo}, spec: "+spec+"}"))[0]
		if diff := cmp.Diff(want, [2][]string{sourceKeys(u), referenceKeys(u)}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
	}
}

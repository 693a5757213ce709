package helm

import (
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const webRelease = `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: demo, generation: 1, uid: "1"}
spec:
  interval: 10m
  chart:
    metadata: {labels: {team: a}, annotations: {note: b}}
    spec: {chart: web, sourceRef: {kind: HelmRepository, name: charts}}
`

// helmChart reads a HelmChart; nil when there is none.
func (w *world) helmChart(namespace, name string) *sourcev1.HelmChart {
	w.Helper()
	chart := &sourcev1.HelmChart{}
	err := w.client.Get(w.Context(), types.NamespacedName{Namespace: namespace, Name: name}, chart)
	if client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return chart
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// TestHelmChartIsKept: it is as spec.chart has it, whoever else writes to it, and anew when it was deleted.
func TestHelmChartIsKept(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(webRelease))...)
	hr := w.reconcile("web")
	if hr.Status.HelmChart != "demo/demo-web" {
		t.Errorf("on record is %q", hr.Status.HelmChart)
	}
	chart := w.helmChart("demo", "demo-web")
	want := map[string]string{"team": "a", "helm.toolkit.fluxcd.io/name": "web", "helm.toolkit.fluxcd.io/namespace": "demo"}
	if !cmp.Equal(chart.Labels, want) || chart.Annotations["note"] != "b" || chart.Spec.Version != "*" || chart.Spec.ReconcileStrategy != "ChartVersion" {
		t.Errorf("made %+v", chart)
	}

	edited := &sourcev1.HelmChart{ObjectMeta: named("demo", "demo-web")}
	w.edit(edited, func() { edited.Spec.Suspend, edited.Annotations["other"] = true, "x" })
	w.events.Take()
	w.reconcile("web")
	if chart := w.helmChart("demo", "demo-web"); !chart.Spec.Suspend || chart.Annotations["other"] != "x" || w.events.Take() != nil {
		t.Errorf("what somebody else says of it was undone: %+v", chart)
	}

	w.edit(edited, func() { edited.Spec.Version = "2.0.0" })
	w.reconcile("web")
	if got := w.helmChart("demo", "demo-web").Spec.Version; got != "*" {
		t.Errorf("its version stays %s", got)
	}
	if events := w.events.Words(); !cmp.Equal(events, []string{"Normal HelmChartConfigured Configured HelmChart/demo/demo-web with SourceRef 'HelmRepository/demo/charts'"}) {
		t.Errorf("told of %q", events)
	}

	if err := w.client.Delete(t.Context(), edited); err != nil {
		t.Fatal(err)
	}
	w.reconcile("web")
	if w.helmChart("demo", "demo-web") == nil {
		t.Error("it was not made anew")
	}
}

// TestHelmChartGoes: with the namespace of its source, and for chartRef.
func TestHelmChartGoes(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(webRelease))...)
	w.reconcile("web")
	w.events.Take()
	hr := &v2.HelmRelease{ObjectMeta: named("demo", "web")}
	w.edit(hr, func() { hr.Spec.Chart.Spec.SourceRef.Namespace, hr.Generation = "infra", 2 })
	got := w.reconcile("web")
	if w.helmChart("demo", "demo-web") != nil || w.helmChart("infra", "demo-web") == nil || got.Status.HelmChart != "infra/demo-web" {
		t.Errorf("after its source has moved: %q is on record", got.Status.HelmChart)
	}
	if events := w.events.Words(); !cmp.Equal(events, []string{
		"Normal HelmChartDeleted Deleted HelmChart/demo/demo-web",
		"Normal HelmChartCreated Created HelmChart/infra/demo-web with SourceRef 'HelmRepository/infra/charts'",
	}) {
		t.Errorf("told of %q", events)
	}

	w.edit(hr, func() {
		hr.Spec.Chart, hr.Spec.ChartRef, hr.Generation = nil, &v2.CrossNamespaceSourceReference{Kind: "OCIRepository", Name: "web"}, 3
	})
	got = w.reconcile("web")
	if w.helmChart("infra", "demo-web") != nil || got.Status.HelmChart != "" {
		t.Errorf("with a chartRef: %q is on record", got.Status.HelmChart)
	}
	if got := ready(got); got != "False ArtifactFailed: could not get Source object: OCIRepository 'demo/web' not found" {
		t.Errorf("and it says %s", got)
	}
}

// TestA23_HelmChartOfAnother: a name that two HelmReleases make, from a namespace and a name that are cut at another place.
func TestA23_HelmChartOfAnother(t *testing.T) {
	w := newWorld(t, Options{}, append(read(t, []byte(webRelease)), &sourcev1.HelmChart{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "demo-web", Labels: map[string]string{
			"helm.toolkit.fluxcd.io/name": "o-web", "helm.toolkit.fluxcd.io/namespace": "dem",
		}},
		Spec: sourcev1.HelmChartSpec{Chart: "theirs"},
	})...)
	got := w.reconcile("web")
	if w.helmChart("demo", "demo-web").Spec.Chart != "theirs" || !strings.Contains(ready(got), "belongs to the HelmRelease dem/o-web") {
		t.Errorf("%s", ready(got))
	}
	// Nor is it deleted, although the status names it.
	if err := w.client.Delete(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if got := w.reconcile("web"); got != nil || w.helmChart("demo", "demo-web") == nil {
		t.Errorf("the HelmChart of another went with %v", got)
	}
}

// TestA24_ForgedHelmChart: a status is no proof that a HelmChart is one's own.
func TestA24_ForgedHelmChart(t *testing.T) {
	w := newWorld(t, Options{}, append(read(t, []byte(webRelease)), &sourcev1.HelmChart{ObjectMeta: named("other", "precious")})...)
	hr := w.reconcile("web")
	hr.Status.HelmChart = "other/precious"
	if err := w.client.Status().Update(t.Context(), hr); err != nil {
		t.Fatal(err)
	}
	if got := w.reconcile("web"); w.helmChart("other", "precious") == nil || got.Status.HelmChart != "demo/demo-web" {
		t.Errorf("it was deleted, and %q is on record", got.Status.HelmChart)
	}
}

// TestSuspendedIsLeftAlone: neither the object nor its HelmChart is touched.
func TestSuspendedIsLeftAlone(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(webRelease))...)
	hr := &v2.HelmRelease{ObjectMeta: named("demo", "web")}
	w.edit(hr, func() { hr.Spec.Suspend = true })
	if got := w.reconcile("web"); w.helmChart("demo", "demo-web") != nil || got.Finalizers != nil || got.Status.Conditions != nil {
		t.Errorf("%+v", got)
	}
}

package helm

import (
	"context"
	"os"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// golden returns the HelmReleases and HelmCharts that Flux has left.
func golden(t *testing.T, file string) (map[string]*v2.HelmRelease, map[string]*sourcev1.HelmChart) {
	t.Helper()
	text, err := os.ReadFile("testdata/flux/" + file)
	if err != nil {
		t.Fatal(err)
	}
	releases, helmCharts := map[string]*v2.HelmRelease{}, map[string]*sourcev1.HelmChart{}
	for _, o := range read(t, text) {
		u := o.(*unstructured.Unstructured)
		switch u.GetKind() {
		case v2.HelmReleaseKind:
			hr := &v2.HelmRelease{}
			if err := api.Decode(u, hr); err != nil {
				t.Fatal(err)
			}
			releases[hr.Name] = hr
		case sourcev1.HelmChartKind:
			chart := &sourcev1.HelmChart{}
			if err := api.Decode(u, chart); err != nil {
				t.Fatal(err)
			}
			helmCharts[chart.Name] = chart
		}
	}
	return releases, helmCharts
}

// timeless drops what is another time at every run.
func timeless(status v2.HelmReleaseStatus) v2.HelmReleaseStatus {
	status = *status.DeepCopy()
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	status.LastAttemptedReleaseActionDuration = nil
	for _, s := range status.History {
		s.FirstDeployed, s.LastDeployed = metav1.Time{}, metav1.Time{}
		for _, hook := range s.GetTestHooks() {
			hook.LastStarted, hook.LastCompleted = metav1.Time{}, metav1.Time{}
		}
	}
	return status
}

const flux = `
apiVersion: v1
kind: ConfigMap
metadata: {name: web-values, namespace: demo}
data: {one: "42", values.yaml: "greeting: from-config-map\nnested: {number: 5}\n"}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: OCIRepository
metadata: {name: web, namespace: demo, generation: 1}
spec: {url: "oci://example.com/charts/web", interval: 1m}
`

// TestStatusIsFluxs: of the same objects, and the same actions, comes the status that Flux has written, and the events.
func TestStatusIsFluxs(t *testing.T) {
	const token = "sha256:9d918967850445ac2d4d1a490c397c49869cac5b73eb29316bfc3e7b901e01ab"
	const none = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	const failing = "sha256:59f8c9c81c6e9bbfe6d9be49549096e867d59d941710bf63f3150a96dcbafbfe"
	const ociDigest = "sha256:6fcb496ee101f5c5b1f382365dade6101fe8b43e95e972a46c46e12c05050baf"
	about := func(revision, token, oci string) string {
		text := "map[helm.toolkit.fluxcd.io/app-version:1.0.0 "
		if oci != "" {
			text += "helm.toolkit.fluxcd.io/oci-digest:" + oci + " "
		}
		return text + "helm.toolkit.fluxcd.io/revision:" + revision + " helm.toolkit.fluxcd.io/token:" + token + "]"
	}
	releases, helmCharts := golden(t, "installed.yaml")
	for name, tt := range map[string]struct {
		act    func(*v2.Snapshot) ([]step, error)
		events []string
	}{
		"web": {
			act: func(s *v2.Snapshot) ([]step, error) {
				return []step{ended(Install, false, s, "", nil), ended(Test, false, s, hooksRun(1), nil)}, nil
			},
			events: []string{
				"Normal HelmChartCreated Created HelmChart/demo/demo-web with SourceRef 'HelmRepository/demo/charts' map[]",
				"Normal InstallSucceeded Helm install succeeded for release demo/web.v1 with chart web@1.0.0 " + about("1.0.0", token, ""),
				"Normal TestSucceeded Helm test succeeded for release demo/web.v1 with chart web@1.0.0: 1 test hook completed successfully " + about("1.0.0", token, ""),
			},
		},
		"web-failing-test": {
			act: func(s *v2.Snapshot) ([]step, error) {
				return []step{ended(Install, false, s, "", nil), ended(Test, false, s, "", errTest)},
					api.Faultf(retriesExceededReason, api.RetryNever, "Failed to install after 1 attempt(s)")
			},
			events: []string{
				"Normal HelmChartCreated Created HelmChart/demo/demo-web-failing-test with SourceRef 'HelmRepository/demo/charts' map[]",
				"Normal InstallSucceeded Helm install succeeded for release demo/web-failing-test.v1 with chart web@1.0.0 " + about("1.0.0", failing, ""),
				"Warning TestFailed Helm test failed for release demo/web-failing-test.v1 with chart web@1.0.0: " + errTest.Error() + " " + about("1.0.0", failing, ""),
			},
		},
		"web-git": {
			act: func(s *v2.Snapshot) ([]step, error) { return []step{ended(Install, false, s, "", nil)}, nil },
			events: []string{
				"Normal HelmChartCreated Created HelmChart/demo/demo-web-git with SourceRef 'GitRepository/demo/shop' map[]",
				"Normal InstallSucceeded Helm install succeeded for release demo/web-git.v1 with chart web@1.0.0 " + about("1.0.0", none, ""),
			},
		},
		"web-oci": {
			act: func(s *v2.Snapshot) ([]step, error) { return []step{ended(Install, false, s, "", nil)}, nil },
			events: []string{"Normal InstallSucceeded Helm install succeeded for release web-oci/web-oci-web-oci.v1 with chart web@1.0.0+6fcb496ee101 " +
				about("1.0.0+6fcb496ee101", none, ociDigest)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := releases[name]
			hr := want.DeepCopy()
			hr.Status = v2.HelmReleaseStatus{}
			w := newWorld(t, Options{}, append(read(t, []byte(flux)), hr)...)
			w.act = func(ctx context.Context, a *attempt) error {
				steps, err := tt.act(want.Status.History.Latest())
				save := a.run.Save(ctx, func(hr *v2.HelmRelease) {
					s := &hr.Status
					s.StorageNamespace, s.History, s.Inventory = hr.GetStorageNamespace(), want.Status.History, want.Status.Inventory
					s.LastAttemptedGeneration, s.LastAttemptedReleaseAction = hr.Generation, v2.ReleaseActionInstall
					s.LastAttemptedRevision, s.LastAttemptedRevisionDigest, s.LastAttemptedConfigDigest = a.chart.Metadata().Version, a.ociDigest, a.configDigest
					s.Failures, s.InstallFailures = want.Status.Failures, want.Status.InstallFailures
				})
				if save != nil {
					return save
				}
				a.reported, a.drift = append(a.reported, steps...), &drifting{}
				return err
			}
			if hr.HasChartTemplate() {
				waiting := w.reconcile(name)
				if got := ready(waiting); got != "False SourceNotReady: HelmChart 'demo/demo-"+name+"' is not ready: latest generation of object has not been reconciled" {
					t.Errorf("without an artifact: %s", got)
				}
				w.sameChart(helmCharts["demo-"+name])
				w.publish("HelmChart", "demo-"+name, "1.0.0")
			} else {
				w.publish("OCIRepository", "web", "1.0.0@"+ociDigest)
			}
			got := w.reconcile(name)
			if diff := cmp.Diff(timeless(want.Status), timeless(got.Status)); diff != "" {
				t.Errorf("status (-Flux +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.events, w.events.Take()); diff != "" {
				t.Errorf("events (-Flux +got):\n%s", diff)
			}
			if !cmp.Equal(got.Finalizers, []string{"finalizers.fluxcd.io"}) {
				t.Errorf("finalizers %v", got.Finalizers)
			}

			w.act = nil
			if name == "web-failing-test" {
				w.act = func(context.Context, *attempt) error { _, err := tt.act(nil); return err }
			}
			again := w.reconcile(name)
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("a run in which nothing is done writes (-before +after):\n%s", diff)
			}
			if events := w.events.Take(); events != nil {
				t.Errorf("and tells of %v", events)
			}
		})
	}
}

// sameChart compares the HelmChart in the world with the one that Flux has made.
func (w *world) sameChart(want *sourcev1.HelmChart) {
	w.Helper()
	got := &sourcev1.HelmChart{}
	if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(want), got); err != nil {
		w.Fatal(err)
	}
	if diff := cmp.Diff(want.Spec, got.Spec); diff != "" {
		w.Errorf("spec of the HelmChart (-Flux +got):\n%s", diff)
	}
	if diff := cmp.Diff(want.Labels, got.Labels); diff != "" {
		w.Errorf("labels of the HelmChart (-Flux +got):\n%s", diff)
	}
}

// TestUpgradedStatusIsFluxs: and after an upgrade, to a chart that the HelmChart is configured for.
func TestUpgradedStatusIsFluxs(t *testing.T) {
	before, _ := golden(t, "installed.yaml")
	after, helmCharts := golden(t, "upgraded.yaml")
	hr, want := before["web"], after["web"]
	w := newWorld(t, Options{}, append(read(t, []byte(flux)), hr)...)
	w.reconcile("web")
	w.publish("HelmChart", "demo-web", "1.0.0")
	w.reconcile("web")
	w.events.Take()

	now := &v2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web"}}
	w.edit(now, func() {
		now.Spec, now.Generation = want.Spec, want.Generation
		now.Annotations = map[string]string{"reconcile.fluxcd.io/requestedAt": "now1"}
	})
	if got := ready(w.reconcile("web")); got != "False SourceNotReady: HelmChart 'demo/demo-web' is not ready: latest generation of object has not been reconciled" {
		t.Errorf("with the chart of an earlier spec: %s", got)
	}
	w.publish("HelmChart", "demo-web", "1.1.0")
	w.act = func(ctx context.Context, a *attempt) error {
		a.drift = &drifting{}
		a.reported = append(a.reported, ended(Upgrade, false, want.Status.History.Latest(), "", nil), ended(Test, false, want.Status.History.Latest(), hooksRun(1), nil))
		return a.run.Save(ctx, func(hr *v2.HelmRelease) {
			s := &hr.Status
			s.History, s.Inventory, s.LastAttemptedGeneration, s.LastAttemptedReleaseAction = want.Status.History, want.Status.Inventory, hr.Generation, v2.ReleaseActionUpgrade
			s.LastAttemptedRevision, s.LastAttemptedConfigDigest = "1.1.0", a.configDigest
		})
	}
	got := w.reconcile("web")
	w.sameChart(helmCharts["demo-web"])
	if events := w.events.Words(); len(events) != 3 || events[0] != "Normal HelmChartConfigured Configured HelmChart/demo/demo-web with SourceRef 'HelmRepository/demo/charts'" {
		t.Errorf("events %q", events)
	}
	if diff := cmp.Diff(timeless(want.Status), timeless(got.Status)); diff != "" {
		t.Errorf("status (-Flux +got):\n%s", diff)
	}
}

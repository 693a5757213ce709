package helm

import (
	"context"
	"errors"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/chart"
	helmrelease "helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// stores returns an attempt for demo/web with a release of that name in the storage that Helm's command has made.
func (w *world) stores() *attempt {
	w.Helper()
	hr := w.reconcile("web")
	key := types.NamespacedName{Namespace: "demo", Name: "web"}
	writers := &writers{Secrets: storage.Namespace{Client: w.client, Name: "demo"}, by: map[string]string{}}
	revisions, err := storage.Observe(w.Context(), writers, "web")
	if err != nil {
		w.Fatal(err)
	}
	rel := &helmrelease.Release{
		Name: "web", Namespace: "demo", Version: 1, Info: &helmrelease.Info{Status: helmrelease.StatusDeployed},
		Chart: &chart.Chart{Metadata: &chart.Metadata{Name: "web", Version: "1.0.0"}},
	}
	if err := revisions.Driver(w.Context(), storage.Operation{Method: storage.ClientSide}).Create(storage.Key("web", 1), rel); err != nil {
		w.Fatal(err)
	}
	clear(writers.by) // what wrote it is not known to be of our kind
	a := &attempt{hr: hr, run: &reconcile.Run[*v2.HelmRelease]{Obj: hr}, key: key, cluster: w.r.Clusters.Of(key)}
	a.stored = &stored{at: w.r.specOf(a).Target, revisions: revisions, writers: writers}
	return a
}

// TestF16_AnotherOnesReleaseStays: a HelmRelease that has never come to release anything takes nothing with it, even if it was about to
// take over what somebody else has made.
func TestF16_AnotherOnesReleaseStays(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(webRelease))...)
	a := w.stores()
	a.hr.Status.StorageNamespace, a.hr.Status.LastAttemptedReleaseAction = "demo", v2.ReleaseActionUpgrade
	if err := w.r.uninstallAll(t.Context(), a); err != nil {
		t.Errorf("it was to be uninstalled: %v", err)
	}
	if a.last.Kind == Uninstall {
		t.Error("it is uninstalled")
	}
}

// TestA29_TemplatesQuoteValues: what a template says of the values that it was given shows none that came from a Secret.
func TestA29_TemplatesQuoteValues(t *testing.T) {
	w := newWorld(t, Options{}, append(read(t, []byte(strings.Replace(ociRelease, "interval: 10m,",
		`interval: 10m, valuesFrom: [{kind: Secret, name: db}, {kind: Secret, name: db, valuesKey: token, targetPath: a}, {kind: ConfigMap, name: plain}],`, 1))),
		&corev1.Secret{ObjectMeta: named("demo", "db"), Data: map[string][]byte{
			"values.yaml": []byte("db: {url: 'postgres://canary-one', list: [canary-two], pin: 99887766, on: true, short: web}"), "token": []byte("canary-three: x"),
		}},
		&corev1.ConfigMap{ObjectMeta: named("demo", "plain"), Data: map[string]string{"values.yaml": "shown: in-clear"}})...)
	w.publish("OCIRepository", "web", ociFirst)
	said := ""
	w.act = func(_ context.Context, a *attempt) error {
		err := errors.New("postgres://canary-one canary-two 99887766 canary-three: x true web in-clear")
		said = object.MaskError(err, a.secret()).Error()
		return nil
	}
	w.reconcile("web")
	if want := "*** *** *** *** true web in-clear"; said != want {
		t.Errorf("%q, want %q", said, want)
	}
}

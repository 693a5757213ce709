package helm

import (
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
)

// released is a HelmRelease as one is that has released something.
func (w *world) released(name string) *v2.HelmRelease {
	w.Helper()
	hr := w.reconcile(name)
	hr.Status.StorageNamespace = "demo"
	hr.Status.History = v2.Snapshots{{Name: name, Namespace: "demo", Version: 3, Status: "deployed", ChartName: "web", ChartVersion: "1.0.0"}}
	if err := w.client.Status().Update(w.Context(), hr); err != nil {
		w.Fatal(err)
	}
	w.events.Take()
	return hr
}

// TestFinalize: what becomes of the release and of the HelmChart. The API server of the release is not there in this test, so that
// nothing that has to be uninstalled can be.
func TestFinalize(t *testing.T) {
	for name, tt := range map[string]struct {
		options   Options
		change    func(*v2.HelmRelease)
		gone      bool
		says      string // by event
		keepChart bool
	}{
		"F12: suspended": {
			change: func(hr *v2.HelmRelease) { hr.Spec.Suspend = true }, gone: true, keepChart: true,
			says: "Warning Orphaned it was suspended when it was deleted; the release demo/web.v3 stays on the cluster",
		},
		"F08: the ServiceAccount has no name that one can have": {
			options: Options{OrphanAfter: time.Hour}, change: func(hr *v2.HelmRelease) { hr.Spec.ServiceAccountName = "a/b" }, gone: true,
			says: "Warning Orphaned unable to uninstall: cannot act as this ServiceAccount: ",
		},
		"F11: the way to the cluster is gone": {
			options: Options{OrphanAfter: time.Hour}, change: func(hr *v2.HelmRelease) { hr.Spec.KubeConfig = kubeConfig("none") }, gone: true,
			says: "Warning Orphaned unable to uninstall: spec.kubeConfig: reading Secret/demo/none: ",
		},
		"F11: the cluster is gone for too long": {
			options: Options{OrphanAfter: time.Nanosecond}, change: func(*v2.HelmRelease) {}, gone: true,
			says: "Warning Orphaned unable to uninstall: it was tried for 1ns: looking at the release: ",
		},
		"the cluster does not answer just now": {options: Options{OrphanAfter: time.Hour}, change: func(*v2.HelmRelease) {}, keepChart: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tt.options, read(t, []byte(webRelease))...)
			hr := w.released("web")
			w.edit(hr, func() { tt.change(hr) })
			if err := w.client.Delete(t.Context(), hr); err != nil {
				t.Fatal(err)
			}
			got := w.reconcile("web")
			if (got == nil) != tt.gone {
				t.Errorf("left is %+v", got)
			}
			if chart := w.helmChart("demo", "demo-web"); (chart != nil) != tt.keepChart {
				t.Errorf("the HelmChart is %v", chart)
			}
			events := w.events.Words()
			if tt.says != "" && (len(events) == 0 || !strings.HasPrefix(events[0], tt.says)) {
				t.Errorf("told of %q, not of %q", events, tt.says)
			}
			if !tt.gone && !strings.HasPrefix(ready(got), "False StateError: ") {
				t.Errorf("and says %s", ready(got))
			}
		})
	}
}

// TestF02_NothingReleased: who has released nothing goes without asking anybody, with its HelmChart; what is there of its name is
// somebody else's.
func TestF02_NothingReleased(t *testing.T) {
	w := newWorld(t, Options{OrphanAfter: time.Hour}, read(t, []byte(webRelease))...)
	hr := w.reconcile("web")
	if err := w.client.Delete(t.Context(), hr); err != nil {
		t.Fatal(err)
	}
	if got := w.reconcile("web"); got != nil || w.helmChart("demo", "demo-web") != nil {
		t.Errorf("left is %+v", got)
	}
	if events := w.events.Words(); !cmp.Equal(events[len(events)-1:], []string{"Normal HelmChartDeleted Deleted HelmChart/demo/demo-web"}) {
		t.Errorf("told of %q", events)
	}
}

func TestKeepReason(t *testing.T) {
	for want, hr := range map[string]*v2.HelmRelease{
		"":              {Spec: v2.HelmReleaseSpec{Chart: &v2.HelmChartTemplate{}}},
		"was suspended": {Spec: v2.HelmReleaseSpec{ChartRef: &v2.CrossNamespaceSourceReference{}, Suspend: true}},
		"A26: its spec": {},
	} {
		got := keepReason(hr)
		if want = strings.TrimPrefix(want, "A26: "); !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%+v is kept because %q, want %q", hr.Spec, got, want)
		}
	}
}

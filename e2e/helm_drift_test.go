package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

const driftingRelease = `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: charts}
spec: {interval: 1h, url: %s, ref: {branch: main}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: app}
spec: {interval: 1h, chart: app, sourceRef: {kind: GitRepository, name: charts}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: app}
spec:
  interval: 1h
  chartRef: {kind: HelmChart, name: app}
  driftDetection: {mode: enabled}
  install: {disableWait: true%s}
`

const chartHeader = "-- app/Chart.yaml --\napiVersion: v2\nname: app\nversion: 1.0.0\n"

// newDriftingRelease is newDrifting with a release.
func newDriftingRelease(t *testing.T, cluster *testenv.Cluster, n int) *drifting {
	t.Helper()
	d := &drifting{t: t, cluster: cluster, namespace: cluster.Namespace(t, "drift"), record: "helmrelease-app-drift"}
	d.repo = create(t, testenv.Git(t), d.namespace)
	var files strings.Builder
	files.WriteString(chartHeader + "-- app/templates/objects.yaml --\n")
	for i := range n {
		fmt.Fprintf(&files, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-%d}\ndata: {color: blue}\n---\n", i)
	}
	d.commit = push(t, d.repo, files.String())
	return d
}

// release has the chart installed. method says more about how.
func (d *drifting) release(method string) {
	d.t.Helper()
	if _, err := d.cluster.Apply(d.t.Context(), fmt.Appendf(nil, driftingRelease, d.repo.URL, method), d.namespace); err != nil {
		d.t.Fatal(err)
	}
	d.until(d.hr(), live.Ready)
}

func (d *drifting) hr() live.Ref { return live.Ref{Kind: "hr", Namespace: d.namespace, Name: "app"} }

// TestDriftOfReleases: a hundred edits of a release at once all end as declared, each recorded once, however the release is applied,
// and not by an upgrade.
func TestDriftOfReleases(t *testing.T) {
	const n = 100
	for name, method := range map[string]string{"ssa": "", "csa": ", serverSideApply: false"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDriftingRelease(t, testenv.Shared(t), n)
			d.agent(d.cluster.Kubeconfig)
			d.release(method)
			began := time.Now()
			d.edit(0, n)
			d.untilBlue(n)
			t.Logf("%d edits were put right within %s of the first", n, time.Since(began).Round(time.Millisecond))
			d.each(n)
			hr := d.until(d.hr(), live.Ready)
			if version := field(hr, "{.status.history[0].version}"); version != "1" {
				t.Errorf("the release is at version %s", version)
			}
		})
	}
}

// TestKilledWhileCorrectingARelease is TestKilledWhileCorrecting for a release.
func TestKilledWhileCorrectingARelease(t *testing.T) {
	cluster := testenv.Shared(t)
	for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
		t.Run(string(when), func(t *testing.T) {
			t.Parallel()
			proxy := testenv.NewProxy(t, cluster)
			d := newDriftingRelease(t, cluster, 3)
			a := testenv.NewAgent(t, proxy.Kubeconfig, d.namespace)
			start := func() {
				t.Helper()
				if err := a.StartChild(t.Context(), proxy.Kubeconfig); err != nil {
					t.Fatal(err)
				}
			}
			start()
			d.release("")
			tripped := proxy.Arm(1, when, a.Kill)
			d.edit(0, 1)
			select {
			case <-tripped:
			case <-time.After(time.Minute):
				t.Fatal("nothing was written about the edit")
			}
			writes, _ := proxy.Disarm()
			if !strings.Contains(writes[0], "cm-0") {
				t.Fatalf("killed at %s", writes[0])
			}
			start()
			d.untilBlue(3)
			d.until(d.hr(), live.Ready)
			if when == testenv.BeforeWrite {
				d.each(1)
			}
		})
	}
}

// TestF19_ContestedRelease is TestF19_Contested for a release.
func TestF19_ContestedRelease(t *testing.T) {
	cluster := testenv.Shared(t)
	proxy := testenv.NewProxy(t, cluster)
	d := newDriftingRelease(t, cluster, 2)
	d.agent(proxy.Kubeconfig)
	d.release("")
	ctx, stop := context.WithCancel(t.Context())
	var rewriting sync.WaitGroup
	defer rewriting.Wait()
	defer stop()
	rewriting.Go(func() { // as a controller does: whenever it finds something else
		for ctx.Err() == nil {
			if _, err := d.cluster.Until(ctx, d.cm(0), blue); err != nil {
				return
			}
			if err := d.cluster.Patch(ctx, d.cm(0), `{"data":{"color":"red"}}`); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	hr := d.until(d.hr(), live.Condition("Drifted", "True", "Contested"))
	if said := field(hr, `{.status.conditions[?(@.type=="Drifted")].message}`); !strings.Contains(said, "keeps changing ConfigMap/"+d.namespace+"/cm-0: data.color") {
		t.Errorf("the condition says %q", said)
	}
	proxy.Arm(0, testenv.BeforeWrite, nil) // to count
	d.edit(1, 2)
	d.until(d.cm(1), blue)
	select { // there is nothing to wait for but that nothing happens
	case <-time.After(15 * time.Second):
	case <-ctx.Done():
	}
	writes, _ := proxy.Disarm()
	for _, w := range writes {
		if strings.Contains(w, "cm-0") {
			t.Errorf("written after it was told: %s", w)
		}
	}
}

// TestNoFalseDriftOfReleases is TestNoFalseDrift for a chart of all that: over ten full looks and two restarts.
func TestNoFalseDriftOfReleases(t *testing.T) {
	cluster := testenv.Shared(t)
	d := newDriftingRelease(t, cluster, 0)
	testenv.Mutate(t, cluster, d.namespace)
	text, err := os.ReadFile("testdata/charts.txtar")
	if err != nil {
		t.Fatal(err)
	}
	_, files, _ := strings.Cut(string(text), "-- app/")
	files = "-- app/" + strings.ReplaceAll(files, "NS", d.namespace)
	files = strings.ReplaceAll(strings.ReplaceAll(files, "-- app/", "-- app/templates/"), "-- app/templates/crd.yaml", "-- app/crds/crd.yaml")
	d.commit = push(t, d.repo, chartHeader+files)
	a := d.agent(cluster.Kubeconfig)
	d.release("")
	for ref, patch := range map[live.Ref]string{
		{Kind: "validatingwebhookconfigurations", Name: d.namespace + "-hooks"}: `[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K"}]`,
		{Kind: "deployments", Namespace: d.namespace, Name: "web"}:              `[{"op":"add","path":"/metadata/annotations/somebody","value":"was here"}]`,
		{Kind: "serviceaccounts", Namespace: d.namespace, Name: "runner"}:       `[{"op":"add","path":"/secrets","value":[{"name":"made"}]}]`,
	} {
		if err := cluster.JSONPatch(t.Context(), ref, patch); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if err := cluster.Scale(t.Context(), live.Ref{Kind: "deployments", Namespace: d.namespace, Name: "web"}, "3"); err != nil {
		t.Error(err)
	}
	asked := 0
	for range 3 { // who does not remember looks at every object anew
		for range 4 { // and so does who is asked to
			asked++
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"%d"}}}`, asked)
			if err := cluster.Patch(t.Context(), d.hr(), patch); err != nil {
				t.Fatal(err)
			}
			d.until(d.hr(), func(obj *unstructured.Unstructured) bool {
				return live.Ready(obj) && field(obj, "{.status.lastHandledReconcileAt}") == fmt.Sprint(asked)
			})
		}
		metrics, err := answerOf(t.Context(), a.Metrics())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "cleat_drift_detected_total") || strings.HasPrefix(line, "cleat_drift_corrected_total") {
				t.Errorf("taken for drift: %s", line)
			}
		}
		hr := d.until(d.hr(), live.Ready)
		if said := field(hr, `{.status.conditions[?(@.type=="Drifted")].reason}`); said != "NoDriftDetected" {
			t.Errorf("Drifted: %s", said)
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	web, err := cluster.Get(t.Context(), live.Ref{Kind: "deployments", Namespace: d.namespace, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if n := field(web, "{.spec.replicas}"); n != "3" {
		t.Errorf("%s replicas, the autoscaler has set 3", n)
	}
}

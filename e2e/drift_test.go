package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/agent"
	"github.com/cleat-dev/cleat/internal/drift"
)

// drifting is a Kustomization of many ConfigMaps, in a namespace of its own, with whoever edits them.
type drifting struct {
	t         *testing.T
	cluster   *testenv.Cluster
	namespace string
	repo      *gitserver.Repo
	commit    string
	record    string // the name of the ConfigMap with the record
}

// newDrifting makes n ConfigMaps, cm-0, cm-1, …, of which each says color=blue, beside the objects of more. It needs an agent to
// become Ready.
func newDrifting(t *testing.T, cluster *testenv.Cluster, n int, more string) *drifting {
	t.Helper()
	d := &drifting{t: t, cluster: cluster, namespace: cluster.Namespace(t, "drift"), record: "kustomization-app-drift"}
	d.repo = create(t, testenv.Git(t), d.namespace)
	var files strings.Builder
	files.WriteString("-- app/objects.yaml --\n")
	for i := range n {
		fmt.Fprintf(&files, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-%d}\ndata: {color: blue}\n---\n", i)
	}
	files.WriteString(more)
	d.commit = push(t, d.repo, files.String())
	return d
}

// install has the objects applied.
func (d *drifting) install(interval string) {
	d.t.Helper()
	manifests := strings.ReplaceAll(fmt.Sprintf(killObjects, d.repo.URL, d.namespace), "interval: 1h, retryInterval", "interval: "+interval+", retryInterval")
	manifests = strings.ReplaceAll(manifests, "wait: true, ", "") // some of it never becomes healthy here
	if _, err := d.cluster.Apply(d.t.Context(), []byte(manifests), d.namespace); err != nil {
		d.t.Fatal(err)
	}
	d.untilReady()
}

func (d *drifting) untilReady() {
	d.t.Helper()
	d.until(live.Ref{Kind: "ks", Namespace: d.namespace, Name: "app"}, live.ReadyAt(d.commit))
}

func (d *drifting) until(ref live.Ref, holds func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*time.Minute)
	defer cancel()
	obj, err := d.cluster.Until(ctx, ref, holds)
	if err != nil {
		d.t.Fatal(err)
	}
	return obj
}

func (d *drifting) cm(i int) live.Ref {
	return live.Ref{Kind: "configmaps", Namespace: d.namespace, Name: fmt.Sprintf("cm-%d", i)}
}

// edit changes ConfigMaps from to to, several at a time.
func (d *drifting) edit(from, to int) {
	d.t.Helper()
	var group sync.WaitGroup
	for part := range 8 {
		group.Go(func() {
			for i := from + part; i < to; i += 8 {
				if err := d.cluster.Patch(d.t.Context(), d.cm(i), `{"data":{"color":"red"}}`); err != nil {
					d.t.Errorf("editing %s: %v", d.cm(i), err)
				}
			}
		})
	}
	group.Wait()
}

func blue(obj *unstructured.Unstructured) bool { return field(obj, "{.data.color}") == "blue" }

// untilBlue waits until n ConfigMaps are as declared.
func (d *drifting) untilBlue(n int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*time.Minute)
	defer cancel()
	if err := d.cluster.UntilAll(ctx, "configmaps", d.namespace, n, blue); err != nil {
		d.t.Fatal(err)
	}
}

// records reads the record as `cleat drift` shows it, once it holds n incidents.
func (d *drifting) records(n int) []drift.Record {
	d.t.Helper()
	var records []drift.Record
	d.until(live.Ref{Kind: "configmaps", Namespace: d.namespace, Name: d.record}, func(obj *unstructured.Unstructured) bool {
		records = nil
		if obj == nil {
			return false
		}
		if err := json.Unmarshal([]byte(field(obj, "{.data.records}")), &records); err != nil {
			d.t.Errorf("the record cannot be read: %v", err)
		}
		return len(records) >= n
	})
	return records
}

// each checks that each of n objects is recorded, once, as put right.
func (d *drifting) each(n int) {
	d.t.Helper()
	records := d.records(n)
	if len(records) != n {
		d.t.Errorf("%d objects are recorded, of %d", len(records), n)
	}
	for _, r := range records {
		if r.Times != 1 || r.State != drift.Corrected || r.Corrections != 1 || len(r.Differences) != 1 || r.Differences[0].Path != "data.color" {
			d.t.Errorf("recorded as %+v", r)
		}
	}
}

func (d *drifting) agent(kubeconfig string) *testenv.Agent {
	d.t.Helper()
	a := testenv.NewAgent(d.t, kubeconfig, d.namespace)
	if err := a.Start(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// TestDriftOfAThousand: a thousand edits at once all end as declared, each recorded once.
func TestDriftOfAThousand(t *testing.T) {
	const n = 1000
	d := newDrifting(t, testenv.Shared(t), n, "")
	d.agent(d.cluster.Kubeconfig)
	d.install("1h")
	began := time.Now()
	d.edit(0, n)
	d.untilBlue(n)
	t.Logf("%d edits were put right within %s of the first", n, time.Since(began).Round(time.Millisecond))
	d.each(n)
}

// TestDriftWhileAPIServerIsOutOfReach: a hundred objects are edited while the agent cannot see it. All end as declared, each
// recorded once, and what cannot be seen meanwhile is not taken for gone.
func TestDriftWhileAPIServerIsOutOfReach(t *testing.T) {
	const n = 100
	cluster := testenv.Shared(t)
	proxy := testenv.NewProxy(t, cluster)
	d := newDrifting(t, cluster, n, "")
	d.agent(proxy.Kubeconfig)
	d.install("1h")
	d.edit(0, n/2)
	proxy.Cut(true)
	d.edit(n/2, n)
	proxy.Cut(false)
	d.untilBlue(n)
	d.each(n)
}

// TestDriftWhileAPIServerRestarts: a control plane stops and starts again while a hundred objects are edited by somebody who tries
// each until it is done. All end as declared, each recorded once.
func TestDriftWhileAPIServerRestarts(t *testing.T) {
	const n = 100
	cluster := testenv.NewRestarting(t)
	d := newDrifting(t, cluster.Cluster, n, "")
	d.agent(cluster.Kubeconfig)
	d.install("1h")

	half := make(chan struct{})
	var editing sync.WaitGroup
	editing.Go(func() {
		for i := range n {
			if i == n/2 {
				close(half)
			}
			d.editOnce(i)
		}
	})
	<-half
	if err := cluster.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	editing.Wait()
	d.untilBlue(n)
	d.each(n)
}

// editOnce changes one ConfigMap, whatever happens on the way: the version that it was at guards against doing so twice when the
// answer is lost.
func (d *drifting) editOnce(i int) {
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*time.Minute)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	var edit string
	for {
		if edit == "" {
			if cm, err := d.cluster.Get(ctx, d.cm(i)); err == nil {
				edit = fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"data":{"color":"red"}}`, cm.GetResourceVersion())
			}
		}
		if edit != "" {
			if err := d.cluster.Patch(ctx, d.cm(i), edit); err == nil || apierrors.IsConflict(err) {
				return
			}
		}
		select {
		case <-ctx.Done():
			d.t.Errorf("%s could not be edited: %v", d.cm(i), ctx.Err())
			return
		case <-again.C:
		}
	}
}

// TestKilledWhileCorrecting kills the agent with SIGKILL at the write by which it puts an object right, before and after it. Either
// way the object ends as declared; when nothing was written it is recorded, once.
func TestKilledWhileCorrecting(t *testing.T) {
	cluster := testenv.Shared(t)
	for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
		t.Run(string(when), func(t *testing.T) {
			t.Parallel()
			proxy := testenv.NewProxy(t, cluster)
			d := newDrifting(t, cluster, 3, "")
			a := testenv.NewAgent(t, proxy.Kubeconfig, d.namespace)
			start := func() {
				t.Helper()
				if err := a.StartChild(t.Context(), proxy.Kubeconfig); err != nil {
					t.Fatal(err)
				}
			}
			start()
			d.install("1h")
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
			d.untilReady()
			if when == testenv.BeforeWrite {
				d.each(1)
			}
		})
	}
}

// TestF19_Contested: a controller that rewrites an object each time it is put right is named, with the field, and soon there is no
// more than one write a minute. Other objects are put right at once all the while.
func TestF19_Contested(t *testing.T) {
	cluster := testenv.Shared(t)
	proxy := testenv.NewProxy(t, cluster)
	d := newDrifting(t, cluster, 2, "")
	d.agent(proxy.Kubeconfig)
	d.install("1h")
	proxy.Arm(0, testenv.BeforeWrite, nil) // to count

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
	contested := d.until(live.Ref{Kind: "ks", Namespace: d.namespace, Name: "app"}, live.Condition("Drifted", "True", "Contested"))
	message := field(contested, `{.status.conditions[?(@.type=="Drifted")].message}`)
	for _, want := range []string{live.Manager, "cm-0", "data.color"} {
		if !strings.Contains(message, want) {
			t.Errorf("the condition does not name %s: %s", want, message)
		}
	}
	before, _ := proxy.Disarm()
	proxy.Arm(0, testenv.BeforeWrite, nil)
	began := time.Now()
	d.edit(1, 2)
	d.until(d.cm(1), blue)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("another object waited for %s", took)
	}
	writes := func(all []string) (n int) {
		for _, w := range all {
			if strings.Contains(w, "cm-0") {
				n++
			}
		}
		return n
	}
	if n := writes(before); n > 6 {
		t.Errorf("%d writes before it was told: %v", n, before)
	}
	select { // there is nothing to wait for but that nothing happens
	case <-time.After(15 * time.Second):
	case <-ctx.Done():
	}
	after, _ := proxy.Disarm()
	if n := writes(after); n > 0 {
		t.Errorf("%d writes within %s after it was told: %v", n, time.Since(began), after)
	}
	var out bytes.Buffer
	if code := agent.Run(t.Context(), []string{"drift", "-n", d.namespace, "configmap/cm-0"}, []string{"KUBECONFIG=" + cluster.Kubeconfig}, &out, io.Discard); code != 0 ||
		!strings.Contains(out.String(), "Contested") {
		t.Errorf("exit code %d: %s", code, &out)
	}
}

// TestNoFalseDrift: over ten intervals and two restarts nothing is taken for drift of what charts and operators ship, although others
// write to it: status, certificates, aggregated rules, replicas, and a webhook that changes Deployments on their way.
func TestNoFalseDrift(t *testing.T) {
	cluster := testenv.Shared(t)
	d := newDrifting(t, cluster, 0, "")
	testenv.Mutate(t, cluster, d.namespace)
	text, err := os.ReadFile("testdata/charts.txtar")
	if err != nil {
		t.Fatal(err)
	}
	d.commit = push(t, d.repo, strings.ReplaceAll(string(text), "NS", d.namespace))
	a := d.agent(cluster.Kubeconfig)
	d.install("1s")
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
	rounds := func(n int) {
		t.Helper()
		ks := live.Ref{Kind: "ks", Namespace: d.namespace, Name: "app"}
		total := func(obj *unstructured.Unstructured) int64 {
			history, _, _ := unstructured.NestedSlice(obj.Object, "status", "history")
			latest, _ := history[0].(map[string]any)
			n, _ := latest["totalReconciliations"].(int64)
			return n
		}
		from := total(d.until(ks, live.ReadyAt(d.commit)))
		d.until(ks, func(obj *unstructured.Unstructured) bool { return total(obj) >= from+int64(n) })
	}
	for range 3 { // who does not remember looks at every object anew
		rounds(4)
		metrics, err := answerOf(t.Context(), a.Metrics())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "cleat_drift_detected_total") || strings.HasPrefix(line, "cleat_drift_corrected_total") {
				t.Errorf("taken for drift: %s", line)
			}
		}
		ks := d.until(live.Ref{Kind: "ks", Namespace: d.namespace, Name: "app"}, live.ReadyAt(d.commit))
		if said := field(ks, `{.status.conditions[?(@.type=="Drifted")]}`); said != "" {
			t.Errorf("taken for drift: %s", said)
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

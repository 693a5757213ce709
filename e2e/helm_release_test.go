package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/helm"
	helmcharts "github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

// helmWorld is a namespace on a real API server with charts for HelmReleases, and whoever looks at what becomes of them.
type helmWorld struct {
	*testing.T
	namespace string
	other     client.Client
	secrets   *driver.Secrets
	store     *artifact.Store
	proxy     *testenv.Proxy
}

func newHelmWorld(t *testing.T) *helmWorld {
	t.Helper()
	cluster := testenv.Shared(t)
	w := &helmWorld{T: t, namespace: cluster.Namespace(t, "helm"), proxy: testenv.NewProxy(t, cluster)}
	var err error
	if w.other, err = client.New(cluster.Config, client.Options{Scheme: api.NewScheme()}); err != nil {
		t.Fatal(err)
	}
	w.secrets = driver.NewSecrets(kubernetes.NewForConfigOrDie(cluster.Config).CoreV1().Secrets(w.namespace))
	if w.store, err = artifact.Open(artifact.Options{Dir: t.TempDir(), Address: "cleat"}); err != nil {
		t.Fatal(err)
	}
	return w
}

// publish makes a chart of templates, in the form `-- file --`, the one of a HelmChart.
func (w *helmWorld) publish(name, version, files string) {
	w.Helper()
	c := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: name, Version: version, AppVersion: "1.0"}, Values: map[string]any{}}
	for _, part := range strings.Split(files, "-- ")[1:] {
		file, text, _ := strings.Cut(part, " --\n")
		if strings.HasPrefix(file, "templates/") {
			c.Templates = append(c.Templates, &chart.File{Name: file, Data: []byte(text)})
		} else {
			c.Files = append(c.Files, &chart.File{Name: file, Data: []byte(text)})
		}
	}
	dir := w.TempDir()
	packaged, err := chartutil.Save(c, dir)
	if err != nil {
		w.Fatal(err)
	}
	data, err := os.ReadFile(packaged)
	if err != nil {
		w.Fatal(err)
	}
	source := &sourcev1.HelmChart{}
	key := types.NamespacedName{Namespace: w.namespace, Name: name}
	if err := w.other.Get(w.Context(), key, source); apierrors.IsNotFound(err) {
		w.apply(fmt.Sprintf("apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmChart\nmetadata: {name: %s}\n"+
			"spec: {chart: %[1]s, interval: 1h, sourceRef: {kind: HelmRepository, name: none}}", name))
		if err := w.other.Get(w.Context(), key, source); err != nil {
			w.Fatal(err)
		}
	}
	stored, err := w.store.PublishFile(artifact.Object{Kind: "HelmChart", Namespace: w.namespace, Name: name}, filepath.Base(packaged), version, bytes.NewReader(data))
	if err != nil {
		w.Fatal(err)
	}
	text := fmt.Sprintf(`{"status":{"observedGeneration":%d,"artifact":{"digest":%q,"path":%q,"url":%q,"revision":%q,"lastUpdateTime":"2026-01-01T00:00:00Z"}}}`,
		source.Generation, stored.Digest, stored.Path, stored.URL, stored.Revision)
	if err := w.other.Status().Patch(w.Context(), source, client.RawPatch(types.MergePatchType, []byte(text))); err != nil {
		w.Fatal(err)
	}
}

// apply applies objects to the namespace of the test.
func (w *helmWorld) apply(text string) {
	w.Helper()
	for _, part := range strings.Split(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(part), &u.Object); err != nil {
			w.Fatal(err)
		}
		u.SetNamespace(w.namespace)
		if err := w.other.Patch(w.Context(), u, client.Apply, client.FieldOwner("kubectl"), client.ForceOwnership); err != nil { //nolint:staticcheck // as internal/kube does
			w.Fatal(err)
		}
	}
}

// release applies a HelmRelease of the chart of its name, with more of its spec as YAML in a line.
func (w *helmWorld) release(name, spec string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: %s}\nspec: {interval: 1h, chartRef: {kind: HelmChart, name: %[1]s}, %s}", name, spec))
}

// get returns the HelmRelease; nil when there is none.
func (w *helmWorld) get(name string) *v2.HelmRelease {
	w.Helper()
	hr := &v2.HelmRelease{}
	err := w.other.Get(w.Context(), types.NamespacedName{Namespace: w.namespace, Name: name}, hr)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return hr
}

// data returns the data of a ConfigMap; nil when it is not there.
func (w *helmWorld) data(name string) map[string]string {
	w.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	err := w.other.Get(w.Context(), types.NamespacedName{Namespace: w.namespace, Name: name}, u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	return data
}

// stored returns what Helm's own driver finds of a release, as `v1 deployed`, the oldest first.
func (w *helmWorld) stored(name string) []string {
	w.Helper()
	releases, err := w.secrets.Query(map[string]string{"name": name, "owner": "helm"})
	if err != nil {
		return nil
	}
	releaseutil.SortByRevision(releases)
	var out []string
	for _, rel := range releases {
		out = append(out, fmt.Sprintf("v%d %s", rel.Version, rel.Info.Status))
	}
	return out
}

// helmAgent is one process of an agent that has only HelmReleases.
type helmAgent struct {
	w     *helmWorld
	queue workqueue.TypedRateLimitingInterface[ctrl.Request]

	events  *sourcetest.Events
	kill    func()
	stopped sync.WaitGroup
}

// reconciler is what a worker calls.
type reconciler interface {
	Reconcile(context.Context, ctrl.Request) (ctrl.Result, error)
}

// agent starts a process that works on a HelmRelease until it is killed, or the test ends.
func (w *helmWorld) agent(name string, options helm.Options) *helmAgent {
	w.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", w.proxy.Kubeconfig)
	if err != nil {
		w.Fatal(err)
	}
	config.QPS = -1
	ctx, cancel := context.WithCancel(context.Background())
	a := &helmAgent{w: w, events: &sourcetest.Events{}}
	a.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	worker, cluster, start := w.reconciler(config, options, a)
	a.stopped.Go(func() { start(ctx) })
	a.kill = sync.OnceFunc(func() {
		cancel()
		a.queue.ShutDown()
	})
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: w.namespace, Name: name}}
	a.stopped.Go(func() { a.work(ctx, worker) })
	a.queue.Add(request)
	w.Cleanup(func() {
		a.kill()
		a.stopped.Wait()
		cluster.Close()
	})
	return a
}

func (w *helmWorld) reconciler(config *rest.Config, options helm.Options, a *helmAgent) (reconciler, *kube.Cluster, func(context.Context)) {
	w.Helper()
	direct, err := client.New(config, client.Options{Scheme: api.NewScheme()})
	if err != nil {
		w.Fatal(err)
	}
	cluster, err := kube.Connect(config, kube.Options{Namespace: "flux-system", Owner: kube.HelmReleases()})
	if err != nil {
		w.Fatal(err)
	}
	log, recorder, waker := slog.New(slog.NewTextHandler(logOf(w), &slog.HandlerOptions{Level: slog.LevelDebug})), reconcile.NewRecorder(a.events), &reconcile.Waker{}
	r := helm.New(helm.Reconciler{
		Reader: direct, Live: direct, Snapshots: w.store, Charts: helmcharts.New(helmcharts.Limits{}), Clusters: kube.NewClusters(cluster, kube.RemoteOptions{Secrets: direct}),
		Recorder: recorder, Waker: waker, Log: log, Options: options, Lost: func(schema.GroupVersionKind, types.NamespacedName) {},
	})
	if err := waker.Start(w.Context(), a.queue); err != nil {
		w.Fatal(err)
	}
	edge := sourcetest.Edge(direct)
	edge.Timing = reconcile.Timing{MinRetry: 50 * time.Millisecond, MaxRetry: time.Second, Dependency: time.Second}
	return reconcile.NewController(r.Kind(), edge, api.HelmManager, recorder, log), cluster, func(ctx context.Context) { _ = r.Start(ctx) }
}

func logOf(w *helmWorld) io.Writer {
	if os.Getenv("E2E_LOG") == "" {
		return io.Discard
	}
	return os.Stderr
}

// work is the one worker.
func (a *helmAgent) work(ctx context.Context, do reconciler) {
	for {
		request, down := a.queue.Get()
		if down {
			return
		}
		result, _ := do.Reconcile(ctx, request)
		a.queue.Done(request)
		if result.RequeueAfter > 0 {
			a.queue.AddAfter(request, result.RequeueAfter)
		}
	}
}

// wake has the agent look again.
func (a *helmAgent) wake(name string) {
	a.queue.Add(ctrl.Request{NamespacedName: types.NamespacedName{Namespace: a.w.namespace, Name: name}})
}

// until waits until ok says so about the HelmRelease, which is nil when there is none.
func (w *helmWorld) until(name, what string, ok func(*v2.HelmRelease) bool) *v2.HelmRelease {
	w.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for {
		hr := w.get(name)
		if ok(hr) {
			return hr
		}
		if time.Now().After(deadline) {
			var text []byte
			if hr != nil {
				text, _ = yaml.Marshal(hr.Status)
			}
			w.Fatalf("it does not become %s; stored: %v\n%s", what, w.stored(name), text)
		}
		time.Sleep(20 * time.Millisecond) // the test watches from outside
	}
}

func saysReady(status string) func(*v2.HelmRelease) bool {
	return func(hr *v2.HelmRelease) bool {
		ready := reconcile.Condition(hr, "Ready")
		return ready != nil && string(ready.Status) == status && ready.ObservedGeneration == hr.Generation
	}
}

func saysStalled(hr *v2.HelmRelease) bool {
	stalled := reconcile.Condition(hr, "Stalled")
	return stalled != nil && stalled.ObservedGeneration == hr.Generation
}

// isGone says that the HelmRelease is not there any more.
func isGone(hr *v2.HelmRelease) bool { return hr == nil }

// said returns a condition as `Status Reason: message`.
func said(hr *v2.HelmRelease, kind string) string {
	c := reconcile.Condition(hr, kind)
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

func (w *helmWorld) wantStored(name string, want ...string) {
	w.Helper()
	if got := w.stored(name); !slices.Equal(got, want) {
		w.Errorf("the storage has %v of %s, want %v", got, name, want)
	}
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is\n%q, want\n%q", what, got, want)
	}
}

// plainChart has an object, and a hook before and after each action, that says in its name which.
const plainChart = `
-- templates/config.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {answer: {{ .Values.answer | default 1 | quote }}, version: {{ .Chart.Version | quote }}}
{{ if .Values.bad }}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-bad}
spec: {ports: [{port: 123456789}]}
{{ end }}
-- templates/hooks.yaml --
{{ range $hook := list "pre-install" "post-install" "pre-upgrade" "post-upgrade" "pre-rollback" "post-rollback" "pre-delete" "post-delete" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $.Release.Name }}-{{ $hook }}
  annotations: {helm.sh/hook: {{ $hook }}}
data: {revision: {{ $.Release.Revision | quote }}}
{{ end }}
`

// Install, upgrade, a failing upgrade that is rolled back, what mends it, and the end.
func TestHelmLifecycle(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	w.release("app", "values: {answer: 1}")
	a := w.agent("app", helm.Options{})
	hr := w.until("app", "ready", saysReady("True"))
	want(t, "Ready", said(hr, "Ready"), "True InstallSucceeded: Helm install succeeded for release "+w.namespace+"/app.v1 with chart app@1.0.0")
	w.wantStored("app", "v1 deployed")
	if w.data("app-pre-install") == nil || w.data("app-post-install") == nil {
		t.Error("the hooks of the install have not run")
	}

	w.publish("app", "1.1.0", plainChart)
	w.release("app", "values: {answer: 2}")
	a.wake("app")
	hr = w.until("app", "upgraded", saysReady("True"))
	want(t, "Ready", said(hr, "Ready"), "True UpgradeSucceeded: Helm upgrade succeeded for release "+w.namespace+"/app.v2 with chart app@1.1.0")
	w.wantStored("app", "v1 superseded", "v2 deployed")
	if got := w.data("app"); got["answer"] != "2" || got["version"] != "1.1.0" {
		t.Errorf("the upgrade has made %v", got)
	}

	w.release("app", "values: {answer: 3, bad: true}, upgrade: {remediation: {remediateLastFailure: true}}")
	a.wake("app")
	hr = w.until("app", "stalled", saysStalled)
	want(t, "Stalled", said(hr, "Stalled"), "True RetriesExceeded: Failed to upgrade after 1 attempt(s)")
	want(t, "Remediated", said(hr, "Remediated"), "True RollbackSucceeded: Helm rollback to previous release "+w.namespace+"/app.v2 with chart app@1.1.0 succeeded")
	w.wantStored("app", "v1 superseded", "v2 superseded", "v3 failed", "v4 deployed")
	if got := w.data("app"); got["answer"] != "2" {
		t.Errorf("rolled back, there is %v", got)
	}

	w.release("app", "values: {answer: 4}")
	a.wake("app")
	w.until("app", "mended", saysReady("True"))
	if got := w.data("app"); got["answer"] != "4" {
		t.Errorf("mended, there is %v", got)
	}

	if err := w.other.Delete(t.Context(), w.get("app")); err != nil {
		t.Fatal(err)
	}
	a.wake("app")
	w.until("app", "gone", isGone)
	w.wantStored("app")
	if w.data("app") != nil || w.data("app-post-delete") == nil {
		t.Error("what it has made is not uninstalled, or the hooks of that have not run")
	}
}

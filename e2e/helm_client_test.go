package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// helmEdge is a cluster on which Helm's SDK works through clients of ours, in a namespace of its own.
type helmEdge struct {
	*edge
	releases *kube.Cluster
	user     *kube.User
	storage  *storage.Storage
	options  client.Options
}

func newHelmEdge(t *testing.T) *helmEdge {
	t.Helper()
	h := &helmEdge{edge: newEdge(t)}
	h.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	h.releases = h.For(kube.HelmReleases())
	t.Cleanup(h.releases.Close)
	var err error
	if h.user, err = h.releases.User(""); err != nil {
		t.Fatal(err)
	}
	memory := driver.NewMemory()
	memory.SetNamespace(h.namespace)
	h.storage = storage.Init(memory)
	h.options = client.Options{
		Owner:   types.NamespacedName{Namespace: h.namespace, Name: "web"},
		Release: types.NamespacedName{Namespace: h.namespace, Name: "web"},
		Method:  client.ServerSide, Wait: client.Poller,
		Log: t.Logf,
	}
	return h
}

// operation returns the client of one operation.
func (h *helmEdge) operation(t *testing.T, ctx context.Context) *client.Client {
	t.Helper()
	c, err := client.New(ctx, h.releases, h.user, h.options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// action returns what an action of the SDK is begun with.
func (h *helmEdge) action(t *testing.T, ctx context.Context) *action.Configuration {
	t.Helper()
	c := h.operation(t, ctx)
	capabilities, err := client.Capabilities(ctx, h.releases)
	if err != nil {
		t.Fatal(err)
	}
	return &action.Configuration{KubeClient: c, Releases: h.storage, RESTClientGetter: c.Getter(), Capabilities: capabilities, Log: t.Logf}
}

// labels is the post-renderer that labels everything as the HelmRelease's.
type labels struct {
	t     *testing.T
	owner types.NamespacedName
}

func (l labels) Run(manifests *bytes.Buffer) (*bytes.Buffer, error) {
	objects, err := client.Parse(manifests)
	if err != nil {
		return nil, err
	}
	out := &bytes.Buffer{}
	for _, u := range objects {
		kube.HelmReleases().Labels.Set(u, l.owner)
		text, err := yaml.Marshal(u)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "---\n%s", text)
	}
	return out, nil
}

func chartOf(templates ...string) *chart.Chart {
	c := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0", AppVersion: "1.0.0"}}
	for i, text := range templates {
		c.Templates = append(c.Templates, &chart.File{Name: fmt.Sprintf("templates/%d.yaml", i), Data: []byte(text)})
	}
	return c
}

func (h *helmEdge) install(t *testing.T, ctx context.Context, c *chart.Chart) (*release.Release, error) {
	t.Helper()
	install := action.NewInstall(h.action(t, ctx))
	install.ReleaseName, install.Namespace = "web", h.namespace
	install.Timeout, install.Wait, install.WaitForJobs, install.SkipCRDs = time.Minute, true, true, true
	install.PostRenderer = labels{t, h.options.Owner}
	install.TakeOwnership = true
	return install.RunWithContext(ctx, c, nil)
}

func (h *helmEdge) upgrade(t *testing.T, c *chart.Chart, change func(*action.Upgrade)) (*release.Release, error) {
	t.Helper()
	upgrade := action.NewUpgrade(h.action(t, t.Context()))
	upgrade.Namespace = h.namespace
	upgrade.Timeout, upgrade.Wait, upgrade.WaitForJobs = time.Minute, true, true
	upgrade.PostRenderer = labels{t, h.options.Owner}
	upgrade.TakeOwnership = true
	if change != nil {
		change(upgrade)
	}
	return upgrade.RunWithContext(t.Context(), "web", c, nil)
}

func (h *helmEdge) ref(kind, name string) object.Ref {
	ref := object.Ref{Version: "v1", Kind: kind, Namespace: h.namespace, Name: name}
	switch kind {
	case "Deployment":
		ref.Group = "apps"
	case "Job":
		ref.Group = "batch"
	}
	return ref
}

// exists says whether an object is there.
func (h *helmEdge) exists(t *testing.T, ref object.Ref) bool {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(ref.GroupVersionKind())
	err := h.other.Get(t.Context(), ref.NamespacedName(), u)
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// web is the chart of which Flux made testdata/helm/managed-fields.json.
const web = `apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {greeting: hello, values: "{}"}
---
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {token: not-a-real-token}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: "example.com/web:1.0.0", ports: [{name: http, containerPort: 8080}]}]
`

const extra = `apiVersion: v1
kind: ConfigMap
metadata: {name: extra}
data: {a: b}
`

// TestHelmInstallsAsFluxDoes: what the SDK installs through us is managed as Flux's golden record says, by either apply method.
func TestHelmInstallsAsFluxDoes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "helm", "managed-fields.json"))
	if err != nil {
		t.Fatal(err)
	}
	type managed struct {
		Operation string         `json:"operation"`
		FieldsV1  map[string]any `json:"fieldsV1"`
	}
	var golden map[string]managed
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	for _, method := range []client.ApplyMethod{client.ServerSide, client.ClientSide} {
		t.Run(string(method), func(t *testing.T) {
			h := newHelmEdge(t)
			h.options.Method = method
			rel, err := h.install(t, t.Context(), chartOf(web))
			if err != nil {
				t.Fatal(err)
			}
			if rel.Info.Status != release.StatusDeployed {
				t.Errorf("status = %s", rel.Info.Status)
			}
			for kind, want := range golden {
				live := h.get(t, h.ref(kind, "web"))
				if live.GetLabels()["app.kubernetes.io/managed-by"] != "Helm" || live.GetAnnotations()["meta.helm.sh/release-name"] != "web" {
					t.Errorf("%s lacks what Helm puts on it: %v", kind, live.Object["metadata"])
				}
				var ours []managed
				for _, entry := range live.GetManagedFields() {
					if entry.Manager != "helm-controller" {
						continue
					}
					m := managed{Operation: string(entry.Operation)}
					if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &m.FieldsV1); err != nil {
						t.Fatal(err)
					}
					ours = append(ours, m)
				}
				switch {
				case method == client.ClientSide && (len(ours) != 1 || ours[0].Operation != "Update"):
					t.Errorf("%s is managed by %v", kind, ours)
				case method == client.ServerSide:
					if diff := cmp.Diff([]managed{want}, ours); diff != "" {
						t.Errorf("%s is managed otherwise than by Flux (-want +got):\n%s", kind, diff)
					}
				}
			}
		})
	}
}

// TestHelmUpgrades: what is the same is not written, what the chart drops is deleted if it is the release's to delete, and fields
// that it drops go.
func TestHelmUpgrades(t *testing.T) {
	const kept = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}\ndata: {a: b}\n"
	const handed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: handed}\ndata: {a: b}\n"
	for _, method := range []client.ApplyMethod{client.ServerSide, client.ClientSide} {
		t.Run(string(method), func(t *testing.T) {
			h := newHelmEdge(t)
			h.options.Method = method
			if _, err := h.install(t, t.Context(), chartOf(web, extra, kept, handed)); err != nil {
				t.Fatal(err)
			}
			before := map[string]string{}
			for _, kind := range []string{"ConfigMap", "Secret", "Service"} {
				before[kind] = h.get(t, h.ref(kind, "web")).GetResourceVersion()
			}
			if _, err := h.upgrade(t, chartOf(web, extra, kept, handed), nil); err != nil {
				t.Fatal(err)
			}
			for kind, version := range before {
				if got := h.get(t, h.ref(kind, "web")).GetResourceVersion(); got != version {
					t.Errorf("%s was written although nothing has changed", kind)
				}
			}
			h.patch(t, h.ref("ConfigMap", "handed"), "another", `{"metadata":{"annotations":{"meta.helm.sh/release-name":"another"}}}`)
			if _, err := h.upgrade(t, chartOf(strings.Replace(web, "{greeting: hello, ", "{", 1)), nil); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]bool{"web": true, "extra": false, "kept": true, "handed": true} {
				if got := h.exists(t, h.ref("ConfigMap", name)); got != want {
					t.Errorf("ConfigMap %s is there: %t, want %t", name, got, want)
				}
			}
			if data := h.get(t, h.ref("ConfigMap", "web")).Object["data"].(map[string]any); data["greeting"] != nil || data["values"] == nil {
				t.Errorf("data = %v", data)
			}
		})
	}
}

// TestHelmSwitchesToServerSide: what was written by client-side apply, also by Flux's corrections, does not hold on to fields that
// the chart drops.
func TestHelmSwitchesToServerSide(t *testing.T) {
	h := newHelmEdge(t)
	h.options.Method = client.ClientSide
	if _, err := h.install(t, t.Context(), chartOf(web)); err != nil {
		t.Fatal(err)
	}
	h.options.Method = client.ServerSide
	for range 2 {
		if _, err := h.upgrade(t, chartOf(web), nil); err != nil {
			t.Fatal(err)
		}
	}
	h.patch(t, h.ref("ConfigMap", "web"), "helm-controller", `{"data":{"greeting":"corrected"}}`)
	if _, err := h.upgrade(t, chartOf(strings.Replace(web, "{greeting: hello, ", "{", 1)), nil); err != nil {
		t.Fatal(err)
	}
	live := h.get(t, h.ref("ConfigMap", "web"))
	if data := live.Object["data"].(map[string]any); data["greeting"] != nil {
		t.Errorf("data = %v", data)
	}
	for _, entry := range live.GetManagedFields() {
		if entry.Manager == "helm-controller" && entry.Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("managedFields still has %v", entry)
		}
	}
}

// TestHelmForces: an immutable field is refused, and with force the object is made anew; a namespace never is.
func TestHelmForces(t *testing.T) {
	const immutable = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\nimmutable: true\ndata: {a: %q}\n"
	for _, method := range []client.ApplyMethod{client.ServerSide, client.ClientSide} {
		t.Run(string(method), func(t *testing.T) {
			h := newHelmEdge(t)
			h.options.Method = method
			if _, err := h.install(t, t.Context(), chartOf(fmt.Sprintf(immutable, "1"))); err != nil {
				t.Fatal(err)
			}
			before := h.get(t, h.ref("ConfigMap", "fixed"))
			if _, err := h.upgrade(t, chartOf(fmt.Sprintf(immutable, "2")), nil); !apierrors.IsInvalid(err) && !strings.Contains(fmt.Sprint(err), "immutable") {
				t.Fatalf("without force: %v", err)
			}
			if _, err := h.upgrade(t, chartOf(fmt.Sprintf(immutable, "2")), func(u *action.Upgrade) { u.Force = true }); err != nil {
				t.Fatal(err)
			}
			after := h.get(t, h.ref("ConfigMap", "fixed"))
			if after.GetUID() == before.GetUID() || after.Object["data"].(map[string]any)["a"] != "2" {
				t.Errorf("after force: %v", after.Object)
			}
		})
	}
}

// TestHelmValidates: a field that the schema does not know is refused by the API server, unless that is switched off.
func TestHelmValidates(t *testing.T) {
	const typo = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndate: {a: b}\n"
	for _, method := range []client.ApplyMethod{client.ServerSide, client.ClientSide} {
		h := newHelmEdge(t)
		h.options.Method = method
		c := h.operation(t, t.Context())
		list, err := c.Build(strings.NewReader(typo), true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(list); err == nil || !strings.Contains(err.Error(), "date") {
			t.Errorf("%s: %v", method, err)
		}
		h.options.SkipValidation = true
		c = h.operation(t, t.Context())
		if list, err = c.Build(strings.NewReader(typo), false); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(list); method == client.ClientSide && err != nil { // no server-side apply takes what has no schema
			t.Errorf("%s without validation: %v", method, err)
		}
	}
	h := newHelmEdge(t)
	c := h.operation(t, t.Context())
	_, err := c.Build(strings.NewReader("{apiVersion: x.io/v1, kind: Nothing, metadata: {name: a}}"), true)
	if err == nil || !strings.Contains(err.Error(), `no matches for kind "Nothing" in version "x.io/v1"`) {
		t.Errorf("of an unknown kind: %v", err)
	}
	h.options.DropUnserved = true
	list, err := h.operation(t, t.Context()).Build(strings.NewReader("{apiVersion: x.io/v1, kind: Nothing, metadata: {name: a}}\n---\n"+extra), false)
	if err != nil || len(list) != 1 {
		t.Errorf("of what is to be deleted: %v, %v", list, err)
	}
}

// TestHelmUninstalls: everything goes and is waited for; what another release has taken over stays.
func TestHelmUninstalls(t *testing.T) {
	h := newHelmEdge(t)
	if _, err := h.install(t, t.Context(), chartOf(web, extra)); err != nil {
		t.Fatal(err)
	}
	h.patch(t, h.ref("ConfigMap", "extra"), "another", `{"metadata":{"annotations":{"meta.helm.sh/release-name":"another"}}}`)
	h.patch(t, h.ref("Service", "web"), "another", `{"metadata":{"finalizers":["cleat.dev/slow"]}}`)
	parked := make(chan struct{})
	h.options.Parked = func() func() { close(parked); return func() {} }
	go func() {
		<-parked
		h.patch(t, h.ref("Service", "web"), "another", `{"metadata":{"finalizers":null}}`)
	}()
	uninstall := action.NewUninstall(h.action(t, t.Context()))
	uninstall.Wait, uninstall.Timeout, uninstall.DeletionPropagation = true, time.Minute, "foreground"
	if _, err := uninstall.Run("web"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ConfigMap", "Secret", "Service", "Deployment"} {
		if h.exists(t, h.ref(kind, "web")) {
			t.Errorf("%s is still there", kind)
		}
	}
	if !h.exists(t, h.ref("ConfigMap", "extra")) {
		t.Error("what another release has taken over is gone")
	}
}

const unschedulable = `apiVersion: apps/v1
kind: Deployment
metadata: {name: stuck}
spec:
  selector: {matchLabels: {app: stuck}}
  template:
    metadata: {labels: {app: stuck}}
    spec: {nodeSelector: {nowhere: "true"}, containers: [{name: a, image: a}]}
`

// TestHelmWaits: a wait parks the operation, ends with its context at once, names what is not ready, and fails early.
func TestHelmWaits(t *testing.T) {
	h := newHelmEdge(t)
	var parked, resumed int
	began := make(chan struct{}, 10)
	h.options.Parked = func() func() {
		parked++
		began <- struct{}{}
		return func() { resumed++ }
	}
	create := func(ctx context.Context, text string) (*client.Client, helmkube.ResourceList) {
		c := h.operation(t, ctx)
		list, err := c.Build(strings.NewReader(text), true)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			kube.HelmReleases().Labels.Set(info.Object.(*unstructured.Unstructured), h.options.Owner)
		}
		if _, err := c.Create(list); err != nil {
			t.Fatal(err)
		}
		return c, list
	}
	stuck := fmt.Sprintf("[Deployment/%s/stuck status: 'InProgress']", h.namespace)

	ctx, cancel := context.WithCancel(t.Context())
	c, list := create(ctx, unschedulable)
	go func() { <-began; cancel() }()
	at := time.Now()
	if err := c.Wait(list, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("of an operation that has ended: %v", err)
	}
	if took := time.Since(at); took > 20*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if _, err := c.Create(list); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := helmGet(list); !errors.Is(err, context.Canceled) {
		t.Errorf("Helm's own requests after the end: %v", err)
	}
	if parked != 1 || resumed != 1 {
		t.Errorf("parked %d times, resumed %d times", parked, resumed)
	}

	c, list = create(t.Context(), unschedulable)
	if err := c.Wait(list, 2*time.Second); !errors.Is(err, client.ErrNotHealthy) || !strings.HasSuffix(err.Error(), "timeout waiting for: "+stuck) {
		t.Errorf("in too short a time: %v", err)
	}
	h.options.Wait = client.Legacy
	c, list = create(t.Context(), unschedulable)
	if err := c.Wait(list, 2*time.Second); !errors.Is(err, client.ErrNotHealthy) {
		t.Errorf("as Helm 3 waits: %v", err)
	}

	h.options.Wait = client.Poller
	var err error
	h.options.Judge, err = health.NewJudge([]kustomize.CustomHealthCheck{{APIVersion: "v1", Kind: "ConfigMap", HealthCheckExpressions: kustomize.HealthCheckExpressions{
		Failed: "data.state == 'bad'", Current: "data.state == 'good'",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]string{"good": "", "bad": "failed early due to stalled resources: [ConfigMap/" + h.namespace + "/judged status: 'Failed']"} {
		c, list = create(t.Context(), "{apiVersion: v1, kind: ConfigMap, metadata: {name: judged}, data: {state: "+state+"}}")
		if err := c.Wait(list, time.Minute); (want == "") != (err == nil) || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", state, err)
		}
	}
	// Those on Deployments and ConfigMaps linger for the next wait.
	if watches, _ := h.releases.Observer.Counts(); watches > 2 {
		t.Errorf("%d watches are left", watches)
	}
}

// helmGet reads the first object of a list as Helm's own code does.
func helmGet(list helmkube.ResourceList) (string, error) {
	err := list[0].Get()
	return list[0].ResourceVersion, err
}

const job = `apiVersion: batch/v1
kind: Job
metadata: {name: %s, annotations: {helm.sh/hook: %s, helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}}
spec:
  backoffLimit: 0
  template:
    spec: {restartPolicy: Never, %scontainers: [{name: a, image: a}]}
`

// TestHelmHooks: a Job is waited for until it has completed and is deleted then; one that fails says why, and a Pod is done when it
// has succeeded, not when it is ready.
func TestHelmHooks(t *testing.T) {
	h := newHelmEdge(t)
	if _, err := h.install(t, t.Context(), chartOf(extra, fmt.Sprintf(job, "migrate", "pre-install", ""))); err != nil {
		t.Fatal(err)
	}
	if h.exists(t, h.ref("Job", "migrate")) {
		t.Error("the hook is still there")
	}
	go func() { // play the kubelet of a node that is not there
		for t.Context().Err() == nil {
			pods := &unstructured.UnstructuredList{}
			pods.SetGroupVersionKind(h.ref("PodList", "").GroupVersionKind())
			if err := h.other.List(t.Context(), pods, ctrlclient.InNamespace(h.namespace), ctrlclient.MatchingLabels{"job-name": "broken"}); err != nil {
				return
			}
			for _, pod := range pods.Items {
				patch := ctrlclient.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Failed"}}`))
				if h.other.Status().Patch(t.Context(), &pod, patch) == nil {
					return
				}
			}
		}
	}()
	_, err := h.upgrade(t, chartOf(extra, fmt.Sprintf(job, "broken", "pre-upgrade", "nodeSelector: {nowhere: x}, ")), nil)
	if err == nil || !strings.Contains(err.Error(), "Job/"+h.namespace+"/broken status: 'Failed' (BackoffLimitExceeded)") {
		t.Errorf("of a hook that fails: %v", err)
	}
	c := h.operation(t, t.Context())
	list, err := c.Build(strings.NewReader("{apiVersion: v1, kind: Pod, metadata: {name: runs}, spec: {containers: [{name: a, image: a}]}}"), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(list); err != nil {
		t.Fatal(err)
	}
	if err := c.WatchUntilReady(list, 2*time.Second); !errors.Is(err, client.ErrNotHealthy) {
		t.Errorf("of a Pod that goes on: %v", err)
	}
	pod := h.get(t, h.ref("Pod", "runs"))
	if err := h.other.Status().Patch(t.Context(), pod, ctrlclient.RawPatch(types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`))); err != nil {
		t.Fatal(err)
	}
	if phase, err := c.WaitAndGetCompletedPodPhase("runs", time.Minute); err != nil || phase != "Succeeded" {
		t.Errorf("phase %s, %v", phase, err)
	}
	pods, err := c.GetPodList(h.namespace, metav1.ListOptions{FieldSelector: "metadata.name=runs"})
	if err != nil || len(pods.Items) != 1 {
		t.Errorf("pods of the hook: %v, %v", pods, err)
	}
}

// TestA15_HelmActsAsTheTenant: what a ServiceAccount may not do, a release that acts as it cannot; templates look up with its eyes.
func TestA15_HelmActsAsTheTenant(t *testing.T) {
	h := newHelmEdge(t)
	h.mustApply(t, `apiVersion: v1
kind: ServiceAccount
metadata: {name: tenant, namespace: NS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tenant, namespace: NS}
rules: [{apiGroups: [""], resources: [configmaps], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tenant, namespace: NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}
subjects: [{kind: ServiceAccount, name: tenant, namespace: NS}]`)
	name, err := kube.Username(types.NamespacedName{Namespace: h.namespace, Name: "tenant"})
	if err != nil {
		t.Fatal(err)
	}
	if h.user, err = h.releases.User(name); err != nil {
		t.Fatal(err)
	}
	if _, err := h.install(t, t.Context(), chartOf(extra)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.upgrade(t, chartOf(extra, "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: canary-value}}"), nil); err == nil ||
		!strings.Contains(err.Error(), "forbidden") || !strings.Contains(err.Error(), "tenant") || strings.Contains(err.Error(), "canary") {
		t.Errorf("of a Secret: %v", err)
	}
	for _, tt := range []struct {
		kind, namespace, name string
		found, forbidden      bool
	}{
		{"ConfigMap", h.namespace, "extra", true, false},
		{"ConfigMap", h.namespace, "none", false, false},
		{"ConfigMap", h.namespace, "", true, false},
		{"ConfigMap", "kube-system", "extension-apiserver-authentication", false, true},
		{"ConfigMap", "", "", false, true},
		{"Secret", h.namespace, "s", false, true},
	} {
		got, err := client.Lookup(t.Context(), h.user, "v1", tt.kind, tt.namespace, tt.name)
		if apierrors.IsForbidden(err) != tt.forbidden || (err == nil) == tt.forbidden || (len(got) > 0) != tt.found {
			t.Errorf("lookup of %s %s/%s: %v, %v", tt.kind, tt.namespace, tt.name, got, err)
		}
	}
	all, err := client.Lookup(t.Context(), h.user, "v1", "ConfigMap", h.namespace, "")
	if items, _ := all["items"].([]any); err != nil || len(items) < 1 {
		t.Errorf("all: %v, %v", all, err)
	}
	if _, err := client.Lookup(t.Context(), h.user, "x.io/v1", "Nothing", "", "a"); err == nil {
		t.Error("lookup of an unknown kind is no error")
	}
	// What else the SDK could make of the getter acts as nobody else.
	config, err := h.operation(t, t.Context()).Getter().ToRESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	direct, err := ctrlclient.New(config, ctrlclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &unstructured.Unstructured{}
	s.SetGroupVersionKind(h.ref("Secret", "s").GroupVersionKind())
	if err := direct.Get(t.Context(), types.NamespacedName{Namespace: h.namespace, Name: "s"}, s); !apierrors.IsForbidden(err) {
		t.Errorf("with the getter's config: %v", err)
	}
}

// TestF20_HelmCRDs: only definitions are taken, each policy does what it says, and their kinds can be used afterwards.
func TestF20_HelmCRDs(t *testing.T) {
	h := newHelmEdge(t)
	group := "g" + strings.ReplaceAll(h.namespace, "edge-", "") + ".example.com"
	crd := func(description string) []*unstructured.Unstructured {
		text := fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.%[1]s}
spec:
  group: %[1]s
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, description: %[2]q, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: stray, namespace: %[3]s}
`, group, description, h.namespace)
		objects, err := client.Parse(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return objects
	}
	ref := object.Ref{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition", Name: "things." + group}
	apply := func(policy client.CRDPolicy, description string) {
		t.Helper()
		if _, err := h.operation(t, t.Context()).ApplyCRDs(crd(description), policy, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	says := func(want string) {
		t.Helper()
		versions, _, _ := unstructured.NestedSlice(h.get(t, ref).Object, "spec", "versions")
		if got, _, _ := unstructured.NestedString(versions[0].(map[string]any), "schema", "openAPIV3Schema", "description"); got != want {
			t.Errorf("description %q, want %q", got, want)
		}
	}
	apply(client.SkipCRDs, "one")
	if h.exists(t, ref) {
		t.Error("Skip has made it")
	}
	known, err := client.Capabilities(t.Context(), h.releases)
	if err != nil || known.APIVersions.Has(group+"/v1/Thing") {
		t.Fatalf("capabilities before: %v", err)
	}
	apply(client.CreateCRDs, "one")
	says("one")
	if labels := h.get(t, ref).GetLabels(); labels["helm.toolkit.fluxcd.io/name"] != "web" {
		t.Errorf("labels = %v", labels)
	}
	if manager := h.get(t, ref).GetManagedFields()[0]; manager.Manager != "helm-controller" || manager.Operation != "Apply" {
		t.Errorf("managed by %s, %s", manager.Manager, manager.Operation)
	}
	if _, err := h.operation(t, t.Context()).Build(strings.NewReader("{apiVersion: "+group+"/v1, kind: Thing, metadata: {name: a}}"), true); err != nil {
		t.Errorf("its kind cannot be used: %v", err)
	}
	if known, err = client.Capabilities(t.Context(), h.releases); err != nil || !known.APIVersions.Has(group+"/v1/Thing") {
		t.Errorf("capabilities after: %v", err)
	}
	apply(client.CreateCRDs, "two")
	says("one")
	apply(client.CreateReplaceCRDs, "two")
	says("two")
	if h.exists(t, h.ref("ConfigMap", "stray")) {
		t.Error("another kind was taken from crds/")
	}
}

// TestHelmDrift: what differs is named as Flux names it, and corrected object by object in the way the release was written.
func TestHelmDrift(t *testing.T) {
	marked := strings.Replace(extra, "{name: extra}", "{name: marked, annotations: {helm.toolkit.fluxcd.io/driftDetection: disabled}}", 1)
	for _, method := range []client.ApplyMethod{client.ServerSide, client.ClientSide} {
		t.Run(string(method), func(t *testing.T) {
			h := newHelmEdge(t)
			h.options.Method = method
			rel, err := h.install(t, t.Context(), chartOf(web, extra, marked))
			if err != nil {
				t.Fatal(err)
			}
			objects, err := client.Parse(strings.NewReader(rel.Manifest))
			if err != nil {
				t.Fatal(err)
			}
			ignore := []jsondiff.IgnoreRule{{Paths: []string{"/data/greeting"}, Selector: &jsondiff.Selector{Kind: "ConfigMap"}}}
			c := h.operation(t, t.Context())
			if found, err := c.Drift(objects, ignore); err != nil || len(found) != 0 {
				t.Fatalf("right after the install: %v, %v", found, err)
			}
			h.patch(t, h.ref("Deployment", "web"), "kubectl", `{"spec":{"replicas":5}}`)
			h.patch(t, h.ref("Secret", "web"), "kubectl", `{"data":{"token":"Y2FuYXJ5LXZhbHVl"}}`)
			h.patch(t, h.ref("ConfigMap", "marked"), "kubectl", `{"data":{"a":"changed"}}`)
			h.patch(t, h.ref("ConfigMap", "web"), "kubectl", `{"data":{"greeting":"ignored"}}`)
			if err := h.other.Delete(t.Context(), h.get(t, h.ref("ConfigMap", "extra"))); err != nil {
				t.Fatal(err)
			}
			found, err := c.Drift(objects, ignore)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, d := range found {
				lines = append(lines, strings.ReplaceAll(d.String(), h.namespace, "NS"))
			}
			slices.Sort(lines)
			want := []string{
				"ConfigMap/NS/extra removed",
				"Deployment/NS/web changed (0 additions, 1 changes, 0 removals)",
				"Secret/NS/web changed (0 additions, 1 changes, 0 removals)",
			}
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			h.patch(t, h.ref("ConfigMap", "web"), "kubectl", `{"data":{"values":"changed too"}}`)
			if found, err = c.Drift(objects, ignore); err != nil {
				t.Fatal(err)
			}
			done, err := c.Correct(found)
			if err != nil || len(done) != 4 {
				t.Fatalf("corrected %v, %v", done, err)
			}
			if found, err = c.Drift(objects, ignore); err != nil || len(found) != 0 {
				t.Errorf("after the correction: %v, %v", found, err)
			}
			if data := h.get(t, h.ref("ConfigMap", "web")).Object["data"].(map[string]any); data["greeting"] != "ignored" || data["values"] != "{}" {
				t.Errorf("with an ignored field: %v", data)
			}
			operation := metav1.ManagedFieldsOperationApply
			if method == client.ClientSide {
				operation = metav1.ManagedFieldsOperationUpdate
			}
			for _, entry := range h.get(t, h.ref("Deployment", "web")).GetManagedFields() {
				if entry.Manager == "helm-controller" && entry.Operation != operation {
					t.Errorf("corrected by %s", entry.Operation)
				}
			}
		})
	}
}

// TestF47_HelmCapabilities: what charts may ask about is what Helm would tell them; a second look costs two small requests, and an
// aggregated API server that is away hides only its own kinds.
func TestF47_HelmCapabilities(t *testing.T) {
	h := newHelmEdge(t)
	first, err := client.Capabilities(t.Context(), h.releases)
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.operation(t, t.Context()).Getter().ToDiscoveryClient()
	if err != nil {
		t.Fatal(err)
	}
	want, err := action.GetVersionSet(d)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		t.Fatal(err)
	}
	slices.Sort(want)
	if diff := cmp.Diff([]string(want), []string(first.APIVersions)); diff != "" {
		t.Errorf("API versions (-Helm's +ours):\n%s", diff)
	}
	h.requests.take()
	second, err := client.Capabilities(t.Context(), h.releases)
	if err != nil || len(second.APIVersions) != len(first.APIVersions) || second.KubeVersion != first.KubeVersion || first.KubeVersion.Major != "1" {
		t.Errorf("again: %v", err)
	}
	if seen := h.requests.take(); len(seen) > 2 {
		t.Errorf("to look again took %v", seen)
	}
	if _, err := d.OpenAPISchema(); err == nil {
		t.Error("the schema was downloaded")
	}
	h.mustApply(t, `apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.away.example.com}
spec: {group: away.example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 10, insecureSkipTLSVerify: true, service: {name: nobody, namespace: default}}`)
	t.Cleanup(func() {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("apiregistration.k8s.io/v1")
		u.SetKind("APIService")
		u.SetName("v1.away.example.com")
		if err := h.other.Delete(context.Background(), u); err != nil {
			t.Error(err)
		}
	})
	for range 5 {
		third, err := client.Capabilities(t.Context(), h.releases)
		if err != nil || !third.APIVersions.Has("apps/v1/Deployment") {
			t.Fatalf("with an API server away: %v", err)
		}
	}
}

// TestF21_HelmGrowsNothing: a hundred operations leave no goroutine, no connection and no memory behind.
func TestF21_HelmGrowsNothing(t *testing.T) {
	h := newHelmEdge(t)
	h.options.Log = nil
	if _, err := h.install(t, t.Context(), chartOf(extra)); err != nil {
		t.Fatal(err)
	}
	round := func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := h.operation(t, ctx)
		list, err := c.Build(strings.NewReader(extra), true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Update(list, list, false); err != nil {
			t.Fatal(err)
		}
		if _, err := helmGet(list); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(list, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Capabilities(ctx, h.releases); err != nil {
			t.Fatal(err)
		}
		config, err := c.Getter().ToRESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerVersion(); err != nil {
			t.Fatal(err)
		}
	}
	measure := func() (int, uint64) {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	for range 10 {
		round()
	}
	goroutines, heap := measure()
	for range 100 {
		round()
	}
	after, grown := measure()
	if after > goroutines+10 {
		t.Errorf("%d goroutines, then %d", goroutines, after)
	}
	if grown > heap+2<<20 {
		t.Errorf("%d bytes, then %d", heap, grown)
	}
	// That on ConfigMaps lingers for the next wait.
	if watches, _ := h.releases.Observer.Counts(); watches > 1 {
		t.Errorf("%d watches are left", watches)
	}
}

// TestHelmCreatesNamespace: a namespace that is there is left as it is, and one that is not is made.
func TestHelmCreatesNamespace(t *testing.T) {
	for _, exists := range []bool{true, false} {
		h := newHelmEdge(t)
		before := h.get(t, object.Ref{Version: "v1", Kind: "Namespace", Name: h.namespace}).GetResourceVersion()
		if !exists {
			h.namespace += "-new"
			h.options.Release.Namespace = h.namespace
		}
		install := action.NewInstall(h.action(t, t.Context()))
		install.ReleaseName, install.Namespace, install.CreateNamespace = "web", h.namespace, true
		memory := driver.NewMemory()
		memory.SetNamespace(h.namespace)
		h.storage.Driver = memory
		if _, err := install.RunWithContext(t.Context(), chartOf(extra), nil); err != nil {
			t.Fatal(err)
		}
		namespace := h.get(t, object.Ref{Version: "v1", Kind: "Namespace", Name: h.namespace})
		if exists && namespace.GetResourceVersion() != before {
			t.Error("a namespace that was there was written")
		}
		if !h.exists(t, h.ref("ConfigMap", "extra")) {
			t.Error("nothing was installed")
		}
	}
}

// TestHelmHookRunsAnew: the last run of a hook is never taken for this one.
func TestHelmHookRunsAnew(t *testing.T) {
	h := newHelmEdge(t)
	c := h.operation(t, t.Context())
	for i, done := range []bool{true, false} {
		list, err := c.Build(strings.NewReader(fmt.Sprintf(job, "once", "pre-install", "")), true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Create(list); apierrors.IsAlreadyExists(err) == done {
			t.Fatalf("time %d: %v", i, err)
		}
		if done {
			if err := c.WatchUntilReady(list, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
}

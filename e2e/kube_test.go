package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// edge is a kube.Cluster whose requests are counted, in a namespace of its own, and somebody else with a kubectl.
type edge struct {
	*kube.Cluster
	applier   *kube.Applier
	owner     types.NamespacedName
	namespace string
	requests  *requests
	woken     chan types.NamespacedName
	other     client.Client
}

// requests notes what goes to the API server, but for watches, which go on by themselves, and can be cut off from it.
type requests struct {
	next   http.RoundTripper
	before func(*http.Request) error
	answer func(*http.Request) *http.Response // instead of the API server, unless nil

	mu      sync.Mutex
	seen    []string
	down    bool
	watches []io.Closer
}

func (r *requests) RoundTrip(req *http.Request) (*http.Response, error) {
	watch := req.URL.Query().Has("watch")
	r.mu.Lock()
	down, next := r.down, r.next
	if !watch {
		r.seen = append(r.seen, req.Method+" "+req.URL.RequestURI())
	}
	r.mu.Unlock()
	if down {
		return nil, errors.New("the API server is away")
	}
	if r.before != nil {
		if err := r.before(req); err != nil {
			return nil, err
		}
	}
	if r.answer != nil {
		if resp := r.answer(req); resp != nil {
			return resp, nil
		}
	}
	resp, err := next.RoundTrip(req)
	if err != nil || !watch {
		return resp, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down { // the outage has begun while the watch was being opened
		resp.Body.Close()
		return nil, errors.New("the API server is away")
	}
	r.watches = append(r.watches, resp.Body)
	return resp, nil
}

// outage has every request fail from now on, and cuts the watches, or ends that.
func (r *requests) outage(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	for _, w := range r.watches {
		w.Close()
	}
	r.watches = nil
}

// take returns the requests since the last time.
func (r *requests) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

func newEdge(t *testing.T) *edge {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", testenv.Kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{
		namespace: "edge-" + testenv.Token(),
		requests:  &requests{},
		woken:     make(chan types.NamespacedName, 1000),
	}
	e.owner = types.NamespacedName{Namespace: e.namespace, Name: "apps"}
	if e.other, err = client.New(config, client.Options{Scheme: runtime.NewScheme()}); err != nil {
		t.Fatal(err)
	}
	counted := rest.CopyConfig(config)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper { // once for each user
		e.requests.mu.Lock()
		defer e.requests.mu.Unlock()
		e.requests.next = next
		return e.requests
	})
	if e.Cluster, err = kube.Connect(counted, kube.Options{Namespace: "flux-system"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	e.Observer.Subscribe(func(owner types.NamespacedName) { e.woken <- owner })
	if e.applier, err = e.Applier(""); err != nil {
		t.Fatal(err)
	}
	return e
}

// parse reads objects; NS in the text is the namespace of the test. They are labelled as the owner's.
func (e *edge) parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for _, part := range strings.Split(strings.ReplaceAll(text, "NS", e.namespace), "\n---\n") {
		u := &unstructured.Unstructured{}
		raw, err := yaml.YAMLToJSON([]byte(part))
		if err != nil {
			t.Fatal(err)
		}
		if err := u.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		object.SetOwner(u, e.owner)
		objects = append(objects, u)
	}
	return objects
}

// apply declares and applies objects as a reconcile does.
func (e *edge) apply(t *testing.T, objects []*unstructured.Unstructured) (kube.ChangeSet, error) {
	t.Helper()
	var refs []object.Ref
	for _, u := range objects {
		refs = append(refs, object.RefOf(u))
	}
	e.Observer.Watch(e.owner, refs)
	return e.applier.Apply(t.Context(), e.owner, objects, kube.ApplyOptions{WaitTimeout: 30 * time.Second})
}

func (e *edge) mustApply(t *testing.T, text string) kube.ChangeSet {
	t.Helper()
	set, err := e.apply(t, e.parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// await returns when ok holds for what is observed of an object. It is woken by the observer only, which proves that it
// wakes.
func (e *edge) await(t *testing.T, what string, ref object.Ref, ok func(kube.Observation, kube.State) bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		obs, state := e.Observer.Get(ref)
		if ok(obs, state) {
			return
		}
		select {
		case <-e.woken:
		case <-timeout:
			t.Fatalf("%s: %s is observed as %+v, %+v", what, ref, obs, state)
		}
	}
}

func (e *edge) synced(t *testing.T, refs ...object.Ref) {
	t.Helper()
	for _, ref := range refs {
		e.await(t, "synced", ref, func(_ kube.Observation, s kube.State) bool { return s.Synced })
	}
}

func (e *edge) get(t *testing.T, ref object.Ref) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(ref.GroupVersionKind())
	err := e.other.Get(t.Context(), ref.NamespacedName(), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (e *edge) patch(t *testing.T, ref object.Ref, manager, patch string) {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(ref.GroupVersionKind())
	u.SetNamespace(ref.Namespace)
	u.SetName(ref.Name)
	err := e.other.Patch(t.Context(), u, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner(manager))
	if err != nil {
		t.Fatal(err)
	}
}

func (e *edge) configMap(name string) object.Ref {
	return object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: e.namespace, Name: name}
}

func actions(set kube.ChangeSet) []string {
	var out []string
	for _, c := range set {
		out = append(out, c.String())
	}
	return out
}

const namespaceAndTwo = `
apiVersion: v1
kind: ConfigMap
metadata: {name: b, namespace: NS}
data: {x: "1"}
---
apiVersion: v1
kind: Namespace
metadata: {name: NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: NS}
data: {x: "1"}`

// What is as it was left costs no request; what somebody changed, and only that, is applied again.
func TestKubeAppliesOnlyWhatChanged(t *testing.T) {
	e := newEdge(t)
	set := e.mustApply(t, namespaceAndTwo)
	want := []string{
		"Namespace/" + e.namespace + " created", "ConfigMap/" + e.namespace + "/a created", "ConfigMap/" + e.namespace + "/b created",
	}
	if diff := cmp.Diff(want, actions(set)); diff != "" {
		t.Fatalf("first apply (-want +got):\n%s", diff)
	}
	e.synced(t, set.Refs()...)

	e.requests.take()
	set = e.mustApply(t, namespaceAndTwo)
	if n := len(set.Effective()); n != 0 || len(set) != 3 {
		t.Errorf("second apply: %v", actions(set))
	}
	if seen := e.requests.take(); len(seen) != 0 {
		t.Errorf("second apply asked the API server: %q", seen)
	}

	// A field of somebody else is none of our business; one of ours is.
	before, _ := e.Observer.Get(e.configMap("b"))
	e.patch(t, e.configMap("a"), "someone", `{"data":{"theirs":"y"}}`)
	e.patch(t, e.configMap("b"), "someone", `{"data":{"x":"2"}}`)
	e.await(t, "drift", e.configMap("b"), func(o kube.Observation, _ kube.State) bool { return o.Owned != before.Owned })
	e.requests.take()
	set = e.mustApply(t, namespaceAndTwo)
	if diff := cmp.Diff([]string{"ConfigMap/" + e.namespace + "/b configured"}, actions(set.Effective())); diff != "" {
		t.Errorf("after drift (-want +got):\n%s", diff)
	}
	for _, seen := range e.requests.take() {
		if !strings.Contains(seen, "/configmaps/b") {
			t.Errorf("a request about what did not drift: %s", seen)
		}
	}
	if got := e.get(t, e.configMap("a")).Object["data"]; !cmp.Equal(got, map[string]any{"x": "1", "theirs": "y"}) {
		t.Errorf("data of a = %v", got)
	}

	// What kubectl adds is taken off again, as Flux does.
	e.patch(t, e.configMap("a"), "kubectl-edit", `{"data":{"added":"z"}}`)
	e.await(t, "an edit", e.configMap("a"), func(o kube.Observation, _ kube.State) bool { return o.Unclean })
	e.mustApply(t, namespaceAndTwo)
	if got := e.get(t, e.configMap("a")).Object["data"]; !cmp.Equal(got, map[string]any{"x": "1", "theirs": "y"}) {
		t.Errorf("data of a after kubectl edit = %v", got)
	}

	// What is gone is seen to be gone, and comes back.
	if err := e.other.Delete(t.Context(), e.get(t, e.configMap("b"))); err != nil {
		t.Fatal(err)
	}
	e.await(t, "deletion", e.configMap("b"), func(_ kube.Observation, s kube.State) bool { return s.Gone() })
	set = e.mustApply(t, namespaceAndTwo)
	if diff := cmp.Diff([]string{"ConfigMap/" + e.namespace + "/b created"}, actions(set.Effective())); diff != "" {
		t.Errorf("after a deletion (-want +got):\n%s", diff)
	}
}

func crdAndWidget(name string) string {
	return fmt.Sprintf(`
apiVersion: %[1]s.example.com/v1
kind: Widget
metadata: {name: w, namespace: NS}
spec: {size: 1}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.%[1]s.example.com}
spec:
  group: %[1]s.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: NS}`, name)
}

// A custom resource is applied right after its CRD; when the CRD goes, its objects are not known to be gone but not known
// at all; and when it comes back, so does the watch.
func TestF39_KubeFollowsKindsThatComeAndGo(t *testing.T) {
	e := newEdge(t)
	group := "g" + testenv.Token()
	text := crdAndWidget(group)
	set := e.mustApply(t, text)
	widget := object.Ref{Group: group + ".example.com", Version: "v1", Kind: "Widget", Namespace: e.namespace, Name: "w"}
	crd := object.Ref{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition", Name: "widgets." + group + ".example.com"}
	if len(set.Effective()) != 3 {
		t.Fatalf("first apply: %v", actions(set))
	}
	e.synced(t, widget, crd)

	// A CRD with an object that is not pruned along stays (F06).
	pruned, err := e.applier.Prune(t.Context(), e.owner, []object.Ref{crd}, kube.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pruned[0].Outcome != kube.InUse || !strings.Contains(pruned[0].Message, widget.String()) {
		t.Errorf("pruning a CRD in use: %+v", pruned)
	}

	if err := e.other.Delete(t.Context(), e.get(t, crd)); err != nil {
		t.Fatal(err)
	}
	e.await(t, "without the CRD", widget, func(_ kube.Observation, s kube.State) bool {
		return !s.Synced && errors.Is(s.Err, kube.ErrNotServed)
	})
	// An object of a kind that is not served is gone; one of a kind that was never is, too.
	lingering, err := e.applier.Lingering(t.Context(), []object.Ref{widget})
	if err != nil || len(lingering) != 0 {
		t.Errorf("lingering = %v, %v", lingering, err)
	}
	pruned, err = e.applier.Prune(t.Context(), e.owner, []object.Ref{widget, {Group: "never.example.com", Version: "v1", Kind: "Never", Name: "n"}}, kube.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if gone := pruned.With(kube.Gone); len(gone) != 2 {
		t.Errorf("pruning objects of kinds that are not served: %+v", pruned)
	}

	set = e.mustApply(t, text)
	if n := len(set.Effective()); n != 2 {
		t.Errorf("after the CRD was deleted: %v", actions(set))
	}
	e.synced(t, widget)

	pruned, err = e.applier.Prune(t.Context(), e.owner, set.Refs(), kube.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, p := range pruned {
		order = append(order, p.Ref.Kind)
	}
	if diff := cmp.Diff([]string{"Widget", "Namespace", "CustomResourceDefinition"}, order); diff != "" {
		t.Errorf("order of deletion (-want +got):\n%s", diff)
	}
}

// One wrong object keeps its stage from being applied, and all that is wrong is told at once, without a Secret's value.
func TestF38_F45_KubeReportsEveryRefusal(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	_, err := e.apply(t, e.parse(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: fine, namespace: NS}
---
apiVersion: v1
kind: Secret
metadata: {name: canary, namespace: NS}
stringData: {password: 918273645}
---
apiVersion: v1
kind: Service
metadata: {name: no-ports, namespace: NS}
spec: {type: NodePort}
---
apiVersion: none.example.com/v1
kind: Unknown
metadata: {name: u, namespace: NS}`))
	var refused *kube.RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("error = %v", err)
	}
	var names []string
	for _, f := range refused.Failures {
		names = append(names, f.Ref.Kind)
	}
	if diff := cmp.Diff([]string{"Secret", "Service", "Unknown"}, names); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	if !apierrors.IsInvalid(refused.Failures[1]) {
		t.Errorf("the reason of %v is lost", refused.Failures[1])
	}
	if text := err.Error(); strings.Contains(text, "918273645") || !strings.Contains(text, "Service/"+e.namespace+"/no-ports dry-run failed (Invalid): ") {
		t.Errorf("text: %s", text)
	}
	if e.get(t, e.configMap("fine")) != nil {
		t.Error("a part of the stage was applied")
	}
}

// An immutable field is refused, unless the object may be made anew.
func TestF41_KubeRecreatesOnlyOnDemand(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	e.mustApply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, immutable: true, data: {x: '1'}}")
	before := e.get(t, e.configMap("c")).GetUID()
	if _, err := e.apply(t, e.parse(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, immutable: true, data: {x: '2'}}")); !apierrors.IsInvalid(err) {
		t.Fatalf("error = %v, want Invalid", err)
	}
	set := e.mustApply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS, annotations: {kustomize.toolkit.fluxcd.io/force: enabled}}, immutable: true, data: {x: '2'}}")
	if len(set) != 1 || !set[0].Recreated || e.get(t, e.configMap("c")).GetUID() == before {
		t.Errorf("with force: %+v", set)
	}
}

// Annotations say what is left alone, and the skipped stay in the set.
func TestKubeSkipsWhatIsMarked(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	text := `
apiVersion: v1
kind: ConfigMap
metadata: {name: ignored, namespace: NS, annotations: {kustomize.toolkit.fluxcd.io/ssa: Ignore}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: off-limits, namespace: NS, labels: {kustomize.toolkit.fluxcd.io/reconcile: disabled}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: once, namespace: NS, annotations: {kustomize.toolkit.fluxcd.io/ssa: IfNotPresent}}
data: {x: "1"}`
	// A definition that is left alone is not waited for, there or not.
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS-none, annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}}}")
	prefix := "ConfigMap/" + e.namespace
	if diff := cmp.Diff([]string{prefix + "/ignored skipped", prefix + "/off-limits skipped", prefix + "/once created"}, actions(e.mustApply(t, text))); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	text = strings.Replace(text, `"1"`, `"2"`, 1)
	if diff := cmp.Diff([]string{prefix + "/ignored skipped", prefix + "/off-limits skipped", prefix + "/once skipped"}, actions(e.mustApply(t, text))); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
}

// Of all that is to be pruned, only what is still the owner's is deleted, and what is held up is told.
func TestF03_F05_F10_KubePrunesOnlyItsOwn(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	set := e.mustApply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: moved, namespace: NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: keep, namespace: NS, annotations: {kustomize.toolkit.fluxcd.io/prune: Disabled}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, namespace: NS, finalizers: [example.com/hold]}`)
	e.patch(t, e.configMap("moved"), "other", `{"metadata":{"labels":{"kustomize.toolkit.fluxcd.io/name":"other"}}}`)
	refs := append(set.Refs(), e.configMap("missing"),
		object.Ref{Version: "v1", Kind: "Namespace", Name: "default"}, object.Ref{Version: "v1", Kind: "Namespace", Name: "kube-system"})
	result, err := e.applier.Prune(t.Context(), e.owner, refs, kube.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]kube.Outcome)
	for _, p := range result {
		got[p.Ref.Name] = p.Outcome
		if p.Ref.Name == "held" && !strings.Contains(p.Message, "example.com/hold") {
			t.Errorf("the message %q does not name the finalizer", p.Message)
		}
	}
	want := map[string]kube.Outcome{
		"plain": kube.Deleted, "moved": kube.HandedOver, "keep": kube.KeptDisabled, "held": kube.Deleting,
		"missing": kube.Gone, "default": kube.KeptProtected, "kube-system": kube.KeptProtected,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]object.Ref{e.configMap("held")}, result.Remaining()); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
	if e.get(t, e.configMap("plain")) != nil || e.get(t, e.configMap("moved")) == nil || e.get(t, e.configMap("keep")) == nil {
		t.Error("the wrong objects were deleted")
	}
	if lingering, err := e.applier.Lingering(t.Context(), set.Refs()); err != nil || !slices.Contains(lingering.Refs(), e.configMap("held")) || slices.Contains(lingering.Refs(), e.configMap("plain")) || !strings.Contains(lingering.String(), "example.com/hold") {
		t.Errorf("lingering = %v, %v", lingering, err)
	}
	e.patch(t, e.configMap("held"), "other", `{"metadata":{"finalizers":null}}`)
	e.await(t, "release", e.configMap("held"), func(_ kube.Observation, s kube.State) bool { return s.Gone() })
}

// An object that is replaced between the look and the deletion is not deleted.
func TestA50_KubeDeletesOnlyWhatItRead(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	set := e.mustApply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}}")
	var replaced bool
	e.requests.before = func(req *http.Request) error {
		if req.Method != http.MethodDelete || replaced {
			return nil
		}
		replaced = true
		live := e.get(t, e.configMap("c"))
		if err := e.other.Delete(context.Background(), live); err != nil {
			return err
		}
		theirs := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
		theirs.SetNamespace(e.namespace)
		theirs.SetName("c")
		return e.other.Create(context.Background(), theirs)
	}
	result, err := e.applier.Prune(t.Context(), e.owner, set.Refs(), kube.PruneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !replaced || result[0].Outcome != kube.HandedOver {
		t.Errorf("result = %+v", result)
	}
	if e.get(t, e.configMap("c")) == nil {
		t.Error("somebody else's object was deleted")
	}
}

// An API server that cannot be reached tells nothing about objects; when it is back, what happened meanwhile is seen.
func TestF48_KubeObservesAcrossAnOutage(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, namespaceAndTwo)
	e.synced(t, e.configMap("a"), e.configMap("b"))
	e.requests.outage(true)
	if err := e.other.Delete(t.Context(), e.get(t, e.configMap("a"))); err != nil {
		t.Fatal(err)
	}
	// A need that is declared now cannot be met, and that must not look like an answer.
	secret := object.Ref{Version: "v1", Kind: "Secret", Namespace: e.namespace, Name: "s"}
	e.Observer.Pin(e.owner, []object.Ref{secret})
	e.await(t, "outage", secret, func(_ kube.Observation, s kube.State) bool { return s.Err != nil })
	if _, s := e.Observer.Get(secret); s.Gone() {
		t.Errorf("an object that could not be looked for is gone: %+v", s)
	}
	if _, s := e.Observer.Get(e.configMap("a")); s.Gone() {
		t.Errorf("an object is gone without word from the API server: %+v", s)
	}
	e.requests.outage(false)
	e.await(t, "end of the outage", e.configMap("a"), func(_ kube.Observation, s kube.State) bool { return s.Gone() })
	e.await(t, "end of the outage", e.configMap("b"), func(_ kube.Observation, s kube.State) bool { return s.Synced && s.Found })
	e.await(t, "end of the outage", secret, func(_ kube.Observation, s kube.State) bool { return s.Gone() })
}

// An object outside the inventory is watched by name, whoever owns it.
func TestKubePinsForeignObjects(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	job := object.Ref{Group: "batch", Version: "v1", Kind: "Job", Namespace: e.namespace, Name: "theirs"}
	e.Observer.Pin(e.owner, []object.Ref{job})
	e.await(t, "absence", job, func(_ kube.Observation, s kube.State) bool { return s.Gone() })
	theirs := e.parse(t, "{apiVersion: batch/v1, kind: Job, metadata: {name: theirs, namespace: NS}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}}")[0]
	theirs.SetLabels(nil)
	if err := e.other.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	e.await(t, "creation", job, func(o kube.Observation, s kube.State) bool { return s.Found && o.Health.Status == health.InProgress })
	if err := e.other.Delete(t.Context(), theirs, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	e.await(t, "deletion", job, func(o kube.Observation, s kube.State) bool { return s.Gone() || o.Health.Status == health.Terminating })
	e.Observer.Pin(e.owner, nil)
	if _, s := e.Observer.Get(job); !errors.Is(s.Err, kube.ErrNotWatched) {
		t.Errorf("after the pin was drawn: %+v", s)
	}
	e.Forget(e.owner)
	if watches, observations := e.Observer.Counts(); watches != 0 || observations != 0 {
		t.Errorf("%d watches and %d observations are left without an owner", watches, observations)
	}
}

// Who may not list learns so, and takes nothing for gone.
func TestKubeObserverIsRefused(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", testenv.Kubeconfig(t))
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate.UserName = "nobody"
	cluster, err := kube.Connect(config, kube.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	woken := make(chan struct{}, 100)
	cluster.Observer.Subscribe(func(types.NamespacedName) { woken <- struct{}{} })
	ref := object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "default", Name: "a"}
	cluster.Observer.Watch(types.NamespacedName{Namespace: "n", Name: "o"}, []object.Ref{ref})
	for {
		_, state := cluster.Observer.Get(ref)
		if state.Gone() {
			t.Fatal("what may not be seen is taken for gone")
		}
		if apierrors.IsForbidden(state.Err) {
			return
		}
		select {
		case <-woken:
		case <-time.After(30 * time.Second):
			t.Fatalf("state = %+v, want Forbidden", state)
		}
	}
}

// One API server serves both kinds of owners over one connection, and what is one's is not observed as the other's.
func TestKubeForHelmReleases(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS}")
	releases := e.For(kube.HelmReleases())
	t.Cleanup(releases.Close)
	if releases.Mapper != e.Mapper {
		t.Error("each has its own discovery")
	}
	one, err := releases.User("system:serviceaccount:flux-system:tenant")
	if err != nil {
		t.Fatal(err)
	}
	if two, err := e.User("system:serviceaccount:flux-system:tenant"); err != nil || one != two {
		t.Errorf("each has its own client: %v", err)
	}
	applier, err := releases.Applier("")
	if err != nil {
		t.Fatal(err)
	}
	u := e.parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: NS}\ndata: {a: b}")[0]
	u.SetLabels(nil)
	kube.HelmReleases().Labels.Set(u, e.owner)
	ref := e.configMap("a")
	for _, o := range []*kube.Observer{e.Observer, releases.Observer} {
		o.Watch(e.owner, []object.Ref{ref})
	}
	if _, err := applier.Apply(t.Context(), e.owner, []*unstructured.Unstructured{u}, kube.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	synced := func(_ object.Ref, _ kube.Observation, s kube.State) (bool, error) { return s.Synced, nil }
	for _, o := range []*kube.Observer{e.Observer, releases.Observer} {
		if err := o.Await(t.Context(), kube.Wait{Labelled: []object.Ref{ref}}, synced); err != nil {
			t.Fatal(err)
		}
	}
	if obs, state := releases.Observer.Get(ref); !state.Found || obs.Owner != e.owner || obs.Owned == (object.Digest{}) || obs.Unclean {
		t.Errorf("as a HelmRelease's: %+v, %+v", obs, state)
	}
	if obs, state := e.Observer.Get(ref); state.Found {
		t.Errorf("as a Kustomization's: %+v", obs)
	}
	if manager := e.get(t, ref).GetManagedFields()[0].Manager; manager != "helm-controller" {
		t.Errorf("it was written by %s", manager)
	}
	// A kind that an apply of one makes known is watched by the other.
	widget := object.Ref{Group: "cleat.dev", Version: "v1", Kind: "Late", Namespace: e.namespace, Name: "a"}
	releases.Observer.Watch(e.owner, []object.Ref{ref, widget})
	notServed := func(_ object.Ref, _ kube.Observation, s kube.State) (bool, error) {
		return errors.Is(s.Err, kube.ErrNotServed), nil
	}
	if err := releases.Observer.Await(t.Context(), kube.Wait{Labelled: []object.Ref{widget}}, notServed); err != nil {
		t.Fatal(err)
	}
	e.mustApply(t, `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lates.cleat.dev}
spec:
  group: cleat.dev
  names: {kind: Late, plural: lates}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := releases.Observer.Await(ctx, kube.Wait{Labelled: []object.Ref{widget}}, synced); err != nil {
		t.Errorf("the new kind is not watched: %v", err)
	}
}

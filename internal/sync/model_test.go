package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	gosync "sync"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// modelAPI is an API server in memory, as far as an agent sees it that applies ConfigMaps for one Kustomization: what is real
// about it are preconditions, names that are taken, and that a request may be done without its answer being heard. After every
// write it holds that what is on the cluster is tracked.
type modelAPI struct {
	t  *testing.T
	mu gosync.Mutex
	// objects by "resource/name"; all are in the namespace demo.
	objects map[string]map[string]any
	counter int
	writes  []string
	quiet   bool // do not hold that everything is tracked
}

// modelGroup is where the Kustomization is served, and modelPath where everything else is.
const (
	modelGroup = "/apis/kustomize.toolkit.fluxcd.io/v1"
	modelCore  = "/api/v1"
)

var modelOwner = types.NamespacedName{Namespace: "demo", Name: "shop"}

func newModel(t *testing.T) *modelAPI {
	m := &modelAPI{t: t, objects: map[string]map[string]any{}}
	m.put("kustomizations/shop", map[string]any{
		"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
		"metadata": map[string]any{
			"namespace": "demo", "name": "shop", "generation": int64(1), "finalizers": []any{api.Finalizer},
			"annotations": map[string]any{api.AllowEmptyAnnotation: "true"},
		},
		"spec": map[string]any{"interval": "1h", "prune": true, "sourceRef": map[string]any{"kind": "GitRepository", "name": "shop"}},
	})
	return m
}

// put stores an object under a new resourceVersion.
func (m *modelAPI) put(key string, obj map[string]any) map[string]any {
	m.counter++
	metadata := obj["metadata"].(map[string]any)
	if metadata["uid"] == nil {
		metadata["uid"] = fmt.Sprintf("uid-%d", m.counter)
	}
	metadata["resourceVersion"] = fmt.Sprint(m.counter)
	m.objects[key] = obj
	return obj
}

// serve answers one request; the caller holds the lock.
func (m *modelAPI) serve(r *http.Request, body []byte) (int, any) {
	if answer, ok := modelDiscovery[r.URL.Path]; ok {
		return http.StatusOK, answer
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, modelGroup), modelCore), "/namespaces/demo/")
	if rest == "" {
		rest = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, modelGroup), modelCore), "/")
	}
	rest = strings.TrimSuffix(rest, "/status")
	if resource, name, one := strings.Cut(rest, "/"); !one {
		return m.collection(r, resource, body)
	} else if _, known := modelKinds[resource]; !known {
		return failure(apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name))
	}
	return m.single(r, rest, body)
}

var modelKinds = map[string]string{"configmaps": "ConfigMap", "kustomizations": "Kustomization"}

var modelDiscovery = map[string]any{
	"/api":  map[string]any{"kind": "APIVersions", "versions": []string{"v1"}},
	"/apis": metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}},
	modelCore: metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch"}},
	}},
	modelGroup: metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "kustomize.toolkit.fluxcd.io/v1", APIResources: []metav1.APIResource{
		{Name: "kustomizations", Kind: "Kustomization", Namespaced: true, Verbs: metav1.Verbs{"get"}},
		{Name: "kustomizations/status", Kind: "Kustomization", Namespaced: true, Verbs: metav1.Verbs{"patch"}},
	}},
}

var statusKind = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}

func failure(err *apierrors.StatusError) (int, any) {
	err.ErrStatus.TypeMeta = statusKind
	return int(err.ErrStatus.Code), err.ErrStatus
}

func (m *modelAPI) collection(r *http.Request, resource string, body []byte) (int, any) {
	if r.Method == http.MethodGet {
		items := []any{}
		for _, key := range slices.Sorted(maps.Keys(m.objects)) {
			if strings.HasPrefix(key, resource+"/") {
				items = append(items, m.objects[key])
			}
		}
		return http.StatusOK, map[string]any{"apiVersion": "v1", "kind": modelKinds[resource] + "List", "items": items,
			"metadata": map[string]any{"resourceVersion": fmt.Sprint(m.counter)}}
	}
	obj := decodeModel(m.t, body)
	key := resource + "/" + obj["metadata"].(map[string]any)["name"].(string)
	if m.objects[key] != nil {
		return failure(apierrors.NewAlreadyExists(schema.GroupResource{Resource: resource}, key))
	}
	return http.StatusCreated, m.put(key, obj)
}

func (m *modelAPI) single(r *http.Request, key string, body []byte) (int, any) {
	live := m.objects[key]
	apply := strings.Contains(r.Header.Get("Content-Type"), "apply-patch")
	if live == nil && !apply {
		return failure(apierrors.NewNotFound(schema.GroupResource{}, key))
	}
	switch {
	case r.Method == http.MethodGet:
		return http.StatusOK, live
	case r.Method == http.MethodDelete:
		var options metav1.DeleteOptions
		if err := json.Unmarshal(body, &options); err != nil {
			m.t.Error(err)
		}
		u := unstructured.Unstructured{Object: live}
		if p := options.Preconditions; p == nil || p.UID == nil || p.ResourceVersion == nil {
			m.t.Errorf("%s is deleted without preconditions", key)
		} else if *p.UID != u.GetUID() || *p.ResourceVersion != u.GetResourceVersion() {
			return failure(apierrors.NewConflict(schema.GroupResource{}, key, errors.New("another object")))
		}
		delete(m.objects, key)
		return http.StatusOK, metav1.Status{TypeMeta: statusKind, Status: metav1.StatusSuccess}
	case apply:
		return m.apply(key, live, decodeModel(m.t, body), r.URL.Query().Has("dryRun"))
	default:
		return http.StatusOK, m.put(key, merge(clone(live), decodeModel(m.t, body)))
	}
}

// apply is what a server-side apply by the only manager does.
func (m *modelAPI) apply(key string, live, wanted map[string]any, dryRun bool) (int, any) {
	if live == nil {
		if dryRun {
			return http.StatusOK, wanted
		}
		return http.StatusCreated, m.put(key, wanted)
	}
	result := clone(live)
	result["data"] = wanted["data"]
	result["metadata"].(map[string]any)["labels"] = wanted["metadata"].(map[string]any)["labels"]
	if dryRun || cmp.Equal(live, result) {
		return http.StatusOK, result
	}
	return http.StatusOK, m.put(key, result)
}

func clone(obj map[string]any) map[string]any { return runtime.DeepCopyJSON(obj) }

// merge is RFC 7396.
func merge(into, patch map[string]any) map[string]any {
	for key, value := range patch {
		fields, isMap := value.(map[string]any)
		below, wasMap := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			into[key] = merge(below, fields)
		case isMap:
			into[key] = merge(map[string]any{}, fields)
		default:
			into[key] = value
		}
	}
	return into
}

func decodeModel(t *testing.T, body []byte) map[string]any {
	raw, err := yaml.YAMLToJSON(body)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(raw, &u.Object); err != nil {
		t.Fatal(err)
	}
	return runtime.DeepCopyJSON(normal(u.Object).(map[string]any))
}

// normal turns the numbers of encoding/json into those of Unstructured.
func normal(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = normal(v[key])
		}
	case []any:
		for i := range v {
			v[i] = normal(v[i])
		}
	case float64:
		return int64(v)
	}
	return value
}

// tracked is what the status names, and the pages that it names.
func (m *modelAPI) tracked() []object.Ref {
	ks := m.objects["kustomizations/shop"]
	entries, _, _ := unstructured.NestedSlice(ks, "status", "inventory", "entries")
	var refs []object.Ref
	for _, e := range entries {
		ref, err := object.ParseRef(e.(map[string]any)["id"].(string), "v1")
		if err != nil {
			m.t.Error(err)
		}
		if !object.IsPage(modelOwner, ref) {
			refs = append(refs, ref)
			continue
		}
		page := m.objects["configmaps/"+ref.Name]
		content, _, _ := unstructured.NestedString(page, "data", pageKey)
		if read, err := object.ParsePage(modelOwner, ref.Name, content); err == nil {
			refs = append(refs, read.Refs...)
		}
	}
	return object.Union(refs, nil)
}

// owned is what is on the cluster with the owner's labels, and pages how many pages there are.
func (m *modelAPI) owned() (refs []object.Ref, pages int) {
	for key, obj := range m.objects {
		u := &unstructured.Unstructured{Object: obj}
		ref := object.RefOf(u)
		switch {
		case !strings.HasPrefix(key, "configmaps/") || object.OwnerOf(u) != modelOwner:
		case object.IsPage(modelOwner, ref):
			pages++
		default:
			refs = append(refs, ref)
		}
	}
	object.Sort(refs)
	return refs, pages
}

// modelProcess is one agent's connection to the model.
type modelProcess struct {
	*modelAPI
	at    int  // the write, from 1 on, that goes wrong; 0 for none
	after bool // the API server does it all the same
	dies  bool // the agent ends there; otherwise it learns of a timeout and goes on

	count int
	dead  bool
	// unreadable is what a GET of it fails for.
	unreadable string
}

var errModelDown = errors.New("no answer")

func (p *modelProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	if r.URL.Query().Has("watch") { // nothing ever happens behind the agent's back
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
		return response(r, http.StatusOK, pr), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, errModelDown
	}
	if p.unreadable != "" && r.Method == http.MethodGet && strings.Contains(r.URL.Path, p.unreadable) {
		return nil, errModelDown
	}
	write := r.Method != http.MethodGet && !r.URL.Query().Has("dryRun")
	wrong := false
	if write {
		p.count++
		wrong = p.count == p.at
	}
	if wrong {
		p.dead = p.dies
		if !p.after {
			return nil, errModelDown
		}
	}
	code, answer := p.serve(r, body)
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	if write {
		p.writes = append(p.writes, r.Method+" "+r.URL.Path)
		p.checkTracked()
	}
	if wrong {
		return nil, errModelDown
	}
	return response(r, code, io.NopCloser(bytes.NewReader(raw))), nil
}

func response(r *http.Request, code int, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r}
}

func (m *modelAPI) checkTracked() {
	owned, _ := m.owned()
	if m.quiet {
		return
	}
	if lost := object.Subtract(owned, m.tracked()); len(lost) > 0 {
		m.t.Errorf("%v is on the cluster and in no inventory, after:\n%s", lost, strings.Join(m.writes, "\n"))
	}
}

// modelCache is an agent's cache of the Kustomization. It is filled when the agent starts, and lags then: now and then it hears of
// what has happened.
type modelCache struct {
	*modelAPI
	random *rand.Rand
	stuck  bool
	seen   map[string]any
}

func (c *modelCache) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil || !c.stuck && c.random.IntN(3) == 0 {
		c.seen = clone(c.objects["kustomizations/shop"])
	}
	into.(*unstructured.Unstructured).Object = clone(c.seen)
	return nil
}

func (c *modelCache) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("the cache of the model knows one object")
}

// modelAgent is an agent that has just been started.
type modelAgent struct {
	process *modelProcess
	cache   *modelCache
	events  *record.FakeRecorder
	cluster *kube.Cluster
	do      *reconcile.Controller[*kustomizev1.Kustomization, *attempt]
	desired []*unstructured.Unstructured
}

func (m *modelAPI) start(process *modelProcess, limit int, random *rand.Rand) *modelAgent {
	m.t.Helper()
	process.modelAPI = m
	config := &rest.Config{Host: "http://model", Transport: process, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeJSON}}
	cluster, err := kube.Connect(config, kube.Options{Namespace: "flux-system"})
	if err != nil {
		m.t.Fatal(err)
	}
	direct, err := client.New(config, client.Options{Scheme: api.NewScheme(), Mapper: cluster.Mapper})
	if err != nil {
		m.t.Fatal(err)
	}
	log, cache := slog.New(slog.DiscardHandler), &modelCache{modelAPI: m, random: random}
	events := &record.FakeRecorder{Events: make(chan string, 1000)}
	recorder := reconcile.NewRecorder(events)
	r := New(Reconciler{
		Reader: cache, Live: direct, Pages: direct, Clusters: kube.NewClusters(cluster, kube.RemoteOptions{}), Recorder: recorder,
		Waker: &reconcile.Waker{}, Log: log, Options: Options{InventoryLimit: limit},
	}, direct)
	a := &modelAgent{process: process, cache: cache, events: events, cluster: cluster}
	kind := r.Kind()
	kind.Steps = func(*attempt) []reconcile.Step[*attempt] {
		return []reconcile.Step[*attempt]{
			{Name: "build", Do: func(_ context.Context, at *attempt) error {
				at.artifact = &meta.Artifact{Revision: "main@sha1:0"}
				at.build = &Build{}
				for _, u := range a.desired {
					at.build.Objects = append(at.build.Objects, u.DeepCopy())
					at.desired = append(at.desired, object.RefOf(u))
				}
				return nil
			}},
			{Name: "connect", Do: r.connect}, {Name: "plan", Do: r.makePlan}, {Name: "track", Do: r.track}, {Name: "apply", Do: r.apply}, {Name: "prune", Do: r.prune},
		}
	}
	a.do = reconcile.NewController(kind, reconcile.Edge{
		Reader: cache, Client: direct, Metrics: reconcile.NewMetrics(prometheus.NewRegistry()), Watchdog: reconcile.NewWatchdog(),
	}, api.SyncStatusManager, recorder, log)
	return a
}

// run reconciles once and says whether the agent lives.
func (a *modelAgent) run(t *testing.T, desired []*unstructured.Unstructured) bool {
	t.Helper()
	a.desired = desired
	if _, err := a.do.Reconcile(t.Context(), ctrl.Request{NamespacedName: modelOwner}); err != nil && !errors.Is(err, errModelDown) {
		t.Fatal(err)
	}
	a.process.mu.Lock()
	defer a.process.mu.Unlock()
	return !a.process.dead
}

// fault reconciles once and returns the fault of the condition Ready; empty when the run went through.
func (a *modelAgent) fault(t *testing.T, desired []*unstructured.Unstructured) string {
	t.Helper()
	a.run(t, desired)
	a.process.mu.Lock()
	defer a.process.mu.Unlock()
	ks := &kustomizev1.Kustomization{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(a.process.objects["kustomizations/shop"], ks); err != nil {
		t.Fatal(err)
	}
	if ready := reconcile.Condition(ks, meta.ReadyCondition); ready != nil && ready.Status != metav1.ConditionTrue {
		return ready.Message
	}
	return ""
}

// randomSet makes a random set of ConfigMaps.
func randomSet(random *rand.Rand) []*unstructured.Unstructured {
	var set []*unstructured.Unstructured
	for i := range 7 {
		if random.IntN(2) == 0 {
			continue
		}
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"value": fmt.Sprint(random.IntN(2))},
		}}
		u.SetNamespace("demo")
		u.SetName(fmt.Sprintf("object-%d", i))
		object.SetOwner(u, modelOwner)
		set = append(set, u)
	}
	return set
}

func refsOf(set []*unstructured.Unstructured) []object.Ref {
	var refs []object.Ref
	for _, u := range set {
		refs = append(refs, object.RefOf(u))
	}
	object.Sort(refs)
	return refs
}

// F04, F34, F48, F50: whatever commits follow each other, wherever between two writes the agent dies or an answer is lost, all
// that is on the cluster is tracked after every single write, with an inventory in one piece and with one in pages; and the
// next run that is let through brings the cluster to what Git says, with an inventory of just that.
func TestF04_F34_F48_F50_AnyInterleavingKeepsTrack(t *testing.T) {
	sequences := 6
	if testing.Short() { // by hand; make test runs all
		sequences = 2
	}
	for _, limit := range []int{10_000, 150} {
		for _, dies := range []bool{true, false} {
			t.Run(fmt.Sprintf("limit=%d,dies=%t", limit, dies), func(t *testing.T) {
				random := rand.New(rand.NewPCG(uint64(limit), 7))
				spilled := 0
				for range sequences {
					spilled += interleave(t, random, limit, dies)
					if t.Failed() {
						return
					}
				}
				if (spilled > 0) != (limit < 1000) {
					t.Errorf("%d inventories were spilled with a limit of %d bytes", spilled, limit)
				}
			})
		}
	}
}

// interleave runs one sequence of commits and returns how often the inventory was in pages at the end of one.
func interleave(t *testing.T, random *rand.Rand, limit int, dies bool) (spilled int) {
	t.Helper()
	m := newModel(t)
	var agent *modelAgent
	for range 4 {
		desired := randomSet(random)
		for quiet := false; !quiet; {
			process := &modelProcess{dies: dies}
			agent = m.start(process, limit, random)
			for alive := true; alive && !quiet; {
				process.at, process.count, process.after = max(0, random.IntN(16)-4), 0, random.IntN(2) == 0
				alive = agent.run(t, desired)
				quiet = alive && (process.at == 0 || process.count < process.at)
				if random.IntN(4) == 0 { // another commit comes before this one has got through
					desired, quiet = randomSet(random), false
				}
			}
			agent.cluster.Close()
		}
		owned, pages := m.owned()
		if diff := cmp.Diff(refsOf(desired), owned, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("on the cluster (-desired +live):\n%s\nafter:\n%s", diff, strings.Join(m.writes, "\n"))
		}
		if diff := cmp.Diff(refsOf(desired), m.tracked(), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("tracked (-desired +tracked):\n%s\nafter:\n%s", diff, strings.Join(m.writes, "\n"))
		}
		if pages > 0 {
			spilled++
		}
	}
	return spilled
}

// F48: a status write that is done but not answered, with a cache that has not heard of it, does not make the next run take for
// on record what no longer is.
func TestF48_UnansweredWrite(t *testing.T) {
	m := newModel(t)
	process := &modelProcess{}
	agent := m.start(process, 10_000, rand.New(rand.NewPCG(1, 1)))
	defer agent.cluster.Close()
	both := configMaps("a", "b")
	agent.run(t, both)
	agent.cache.stuck = true
	process.count, process.at, process.after = 0, 2, true // after the deletion of b, the status without b
	agent.run(t, both[:1])
	if process.count < 2 {
		t.Fatalf("%d writes: the answer that was to be lost was never given", process.count)
	}
	process.at = 0
	agent.run(t, both) // holds after each write that b is tracked
	if owned, _ := m.owned(); len(owned) != 2 {
		t.Errorf("on the cluster: %v", owned)
	}
}

func configMaps(names ...string) []*unstructured.Unstructured {
	var set []*unstructured.Unstructured
	for _, name := range names {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"x": "y"}}}
		u.SetNamespace("demo")
		u.SetName(name)
		object.SetOwner(u, modelOwner)
		set = append(set, u)
	}
	return set
}

// F50: nothing is taken from a page that is gone or was tampered with, that is told, and the run goes on; one that cannot be
// read stops the run before anything is changed; and an agent that remembers what was in it loses nothing.
func TestF50_LostPages(t *testing.T) {
	for _, test := range []struct {
		name    string
		harm    func(*modelAPI, *modelProcess, string)
		restart bool
		lost    bool // what only the page named is left alone
		stopped bool // nothing at all is done
	}{
		{"nothing", func(*modelAPI, *modelProcess, string) {}, true, false, false},
		{"gone", func(m *modelAPI, _ *modelProcess, page string) { delete(m.objects, page) }, true, true, false},
		{"tampered with", func(m *modelAPI, _ *modelProcess, page string) {
			m.objects[page]["data"].(map[string]any)[pageKey] = "demo/shop\ndemo_foreign__ConfigMap v1\n"
		}, true, true, false},
		{"unreadable", func(_ *modelAPI, p *modelProcess, page string) { p.unreadable = page }, true, false, true},
		{"gone, and remembered", func(m *modelAPI, _ *modelProcess, page string) { delete(m.objects, page) }, false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newModel(t)
			process := &modelProcess{}
			agent := m.start(process, 100, rand.New(rand.NewPCG(1, 1)))
			agent.run(t, configMaps("a", "b", "c", "d", "e", "f"))
			m.put("configmaps/foreign", configMaps("foreign")[0].Object)
			m.objects["configmaps/foreign"]["metadata"].(map[string]any)["labels"] = map[string]any{}
			if test.restart {
				agent.cluster.Close()
				process = &modelProcess{}
				agent = m.start(process, 100, rand.New(rand.NewPCG(1, 1)))
			}
			defer agent.cluster.Close()
			page, named := m.anyPage(t)
			test.harm(m, process, page)
			before, _ := m.owned()
			m.quiet = true // what is harmed here is tracked no more, which is the point
			fault := agent.fault(t, configMaps("new"))
			after, _ := m.owned()

			want := refsOf(configMaps("new"))
			switch {
			case test.stopped:
				want = before
			case test.lost:
				want = object.Union(want, named)
			}
			if diff := cmp.Diff(want, after); diff != "" {
				t.Errorf("on the cluster (-want +got):\n%s", diff)
			}
			if wrong := strings.Contains(fault, "a page of the inventory"); wrong != test.stopped {
				t.Errorf("the run ended with %q", fault)
			}
			told := false
			for len(agent.events.Events) > 0 {
				event := <-agent.events.Events
				told = told || strings.Contains(event, lostPagesReason)
			}
			if told != test.lost {
				t.Errorf("told of a lost page: %t", told)
			}
			if m.objects["configmaps/foreign"] == nil {
				t.Error("what a tampered page named was deleted")
			}
		})
	}
}

// anyPage returns the key of a page and what it names.
func (m *modelAPI) anyPage(t *testing.T) (string, []object.Ref) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if ref := object.RefOf(&unstructured.Unstructured{Object: m.objects[key]}); object.IsPage(modelOwner, ref) {
			content, _, _ := unstructured.NestedString(m.objects[key], "data", pageKey)
			page, err := object.ParsePage(modelOwner, ref.Name, content)
			if err != nil {
				t.Fatal(err)
			}
			return key, page.Refs
		}
	}
	t.Fatal("there is no page")
	return "", nil
}

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

func decode(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParse(t *testing.T) {
	const one = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"
	for name, tt := range map[string]struct {
		text string
		want []string
		bad  bool
	}{
		"nothing":           {"", nil, false},
		"only comments":     {"# a\n---\n# b\n", nil, false},
		"empty documents":   {"---\n\n---\nnull\n---\n" + one, []string{"ConfigMap/a"}, false},
		"two":               {one + "\n---\n# Source: x\n{apiVersion: v1, kind: Secret, metadata: {name: b, namespace: ns}}", []string{"ConfigMap/a", "Secret/ns/b"}, false},
		"a list":            {"apiVersion: v1\nkind: List\nitems: [" + one + ", {apiVersion: v1, kind: Pod, metadata: {name: b}}]", []string{"ConfigMap/a", "Pod/b"}, false},
		"a list in a list":  {"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: [" + one + "]}]", []string{"ConfigMap/a"}, false},
		"a list of a kind":  {"apiVersion: v1\nkind: ConfigMapList\nitems: [" + one + "]", []string{"ConfigMap/a"}, false},
		"an empty list":     {"{apiVersion: v1, kind: List, items: []}", nil, false},
		"no kind":           {"{apiVersion: v1, metadata: {name: a}}", nil, true},
		"no YAML":           {"a: [", nil, true},
		"a text":            {"hello", nil, true},
		"a list of no kind": {"{apiVersion: v1, kind: List, items: [{kind: List, items: [{a: b}]}]}", nil, true},
		"a list of texts":   {"{apiVersion: v1, kind: List, items: [a]}", nil, true},
	} {
		objects, err := Parse(strings.NewReader(tt.text))
		if (err != nil) != tt.bad {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		var got []string
		for _, u := range objects {
			got = append(got, object.RefOf(u).String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" && !tt.bad {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Whatever a chart renders to, it is read or refused, and what is read has a kind.
func FuzzParse(f *testing.F) {
	f.Add("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\napiVersion: v1\nkind: List\nitems: []\n")
	f.Add("kind: List\nitems: [{kind: List, items: [{kind: X}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		objects, err := Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, u := range objects {
			if u.GetKind() == "" {
				t.Errorf("an object without a kind: %v", u.Object)
			}
		}
	})
}

// TestThreeWay: what the last manifest had and the new one has not goes, what the new one has is set, and what others have added
// stays; lists of known kinds are merged by their keys, and others replaced.
func TestThreeWay(t *testing.T) {
	for name, tt := range map[string]struct{ before, after, live, want string }{
		"nothing": {
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, uid: u}, data: {a: b, theirs: c}}",
			"",
		},
		"a field that was dropped": {
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, c: d}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: b, c: d, theirs: c}}",
			"application/strategic-merge-patch+json {data: {c: null}}",
		},
		"a field that was changed on the cluster": {
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {a: b}}",
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {a: b}}",
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {a: theirs}}",
			"application/merge-patch+json {spec: {a: b}}",
		},
		"a container of others": {
			"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a}]}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a}, {name: sidecar, image: s}]}}",
			`application/strategic-merge-patch+json {spec: {"$setElementOrder/containers": [{name: a}], containers: [{name: a, image: b}]}}`,
		},
		"a list of a custom kind": {
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {l: [{name: a}]}}",
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {l: [{name: b}]}}",
			"{apiVersion: x.io/v1, kind: X, metadata: {name: a}, spec: {l: [{name: a}, {name: theirs}]}}",
			"application/merge-patch+json {spec: {l: [{name: b}]}}",
		},
	} {
		patch, err := threeWay(decode(t, tt.before), decode(t, tt.after), decode(t, tt.live))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if patch == nil || tt.want == "" {
			if patch != nil || tt.want != "" {
				t.Errorf("%s: got %v, want %q", name, patch, tt.want)
			}
			continue
		}
		kind, text, _ := strings.Cut(tt.want, " ")
		var want, got any
		if err := yaml.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		data, err := patch.Data(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || string(patch.Type()) != kind {
			t.Errorf("%s as %s (-want +got):\n%s", name, patch.Type(), diff)
		}
	}
}

// TestHealthWait: what an observation means for a wait, by each strategy.
func TestHealthWait(t *testing.T) {
	deployment := object.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "n", Name: "a"}
	job := object.Ref{Group: "batch", Version: "v1", Kind: "Job", Namespace: "n", Name: "j"}
	is := func(status health.Status) kube.Observation {
		return kube.Observation{Health: health.Result{Status: status, Message: "why"}}
	}
	found, gone := kube.State{Found: true, Synced: true}, kube.State{Synced: true}
	for name, tt := range map[string]struct {
		strategy WaitStrategy
		ref      object.Ref
		obs      kube.Observation
		state    kube.State
		done     bool
		fails    string
		late     string
	}{
		"healthy":            {Poller, deployment, is(health.Current), found, true, "", ""},
		"in progress":        {Poller, deployment, is(health.InProgress), found, false, "", "Deployment/n/a status: 'InProgress'"},
		"unknown":            {Poller, deployment, is(health.Unknown), found, false, "", "Deployment/n/a status: 'Unknown' (why)"},
		"gone":               {Poller, deployment, is(""), gone, false, "", "Deployment/n/a status: 'NotFound'"},
		"not seen yet":       {Poller, deployment, is(""), kube.State{}, false, "", "Deployment/n/a status: 'Unknown'"},
		"not to be watched":  {Poller, deployment, is(""), kube.State{Err: errors.New("forbidden")}, false, "", "Deployment/n/a status: 'Unknown' (forbidden)"},
		"stalled":            {Poller, deployment, is(health.Failed), found, false, "failed early due to stalled resources: [Deployment/n/a status: 'Failed']", ""},
		"stalled for Helm 3": {Legacy, deployment, is(health.Failed), found, false, "", "Deployment/n/a status: 'Failed'"},
		"a failed Job":       {Legacy, job, is(health.Failed), found, false, "failed early due to stalled resources: [Job/n/j status: 'Failed']", ""},
		"an expired Job":     {Poller, job, is(""), gone, true, "", ""},
	} {
		w := &healthWait{strategy: tt.strategy, expiring: map[object.Key]bool{job.Key(): true}, looks: map[object.Ref]look{}}
		done, err := w.judge(tt.ref, tt.obs, tt.state)
		if done != tt.done || (err != nil) != (tt.fails != "") || err != nil && !strings.HasSuffix(err.Error(), tt.fails) {
			t.Errorf("%s: %t, %v", name, done, err)
		}
		if err == nil && !done && w.timedOut().Error() != ErrNotHealthy.Error()+": timeout waiting for: ["+tt.late+"]" {
			t.Errorf("%s: %v", name, w.timedOut())
		}
	}
}

// TestLegacy: Helm 3 waits for some kinds only.
func TestLegacy(t *testing.T) {
	for text, want := range map[string]bool{
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}":                       true,
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {paused: true}}": false,
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}":                             false,
		"{apiVersion: x.io/v1, kind: Deployment, metadata: {name: a}}":                       false,
	} {
		if got := isLegacy(decode(t, text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

func TestAt(t *testing.T) {
	u := decode(t, `{apiVersion: v1, kind: X, spec: {"a/b": {"c~d": [x, {k: z}]}, none: null}}`)
	for pointer, want := range map[string]any{
		"/spec/a~1b/c~0d/0":   "x",
		"/spec/a~1b/c~0d/1/k": "z",
		"/kind":               "X",
	} {
		if got, ok := at(u.Object, pointer); !ok || got != want {
			t.Errorf("%s: %v, %t", pointer, got, ok)
		}
	}
	for _, pointer := range []string{"/spec/b", "/spec/a~1b/c~0d/2", "/spec/a~1b/c~0d/-", "/spec/a~1b/c~0d/0/x", "/kind/x"} {
		if got, ok := at(u.Object, pointer); ok {
			t.Errorf("%s: %v", pointer, got)
		}
	}
	if got, ok := at(u.Object, "/spec/none"); !ok || got != nil {
		t.Errorf("null: %v, %t", got, ok)
	}
}

func TestDriftedText(t *testing.T) {
	ref := object.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "demo", Name: "web"}
	for want, got := range map[string]string{
		"Deployment/demo/web removed":                                       Drifted{Ref: ref, Missing: true}.String(),
		"Deployment/demo/web changed (0 additions, 1 changes, 0 removals)":  Drifted{Ref: ref, Changes: 1}.String(),
		"Deployment/demo/web changed (12 additions, 0 changes, 3 removals)": Drifted{Ref: ref, Additions: 12, Removals: 3}.String(),
		"Deployment/demo/web created":                                       Correction{Ref: ref, Created: true}.String(),
		"Deployment/demo/web configured":                                    Correction{Ref: ref}.String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// server returns a cluster that is no more than one handler, and its user.
func server(t *testing.T, handler http.HandlerFunc) (*kube.Cluster, *kube.User) {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	cluster, err := kube.Connect(&rest.Config{Host: s.URL, BearerToken: "t0ken"}, kube.Options{Owner: kube.HelmReleases()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	user, err := cluster.User("system:serviceaccount:n:tenant")
	if err != nil {
		t.Fatal(err)
	}
	return cluster, user
}

// TestEndOfOperation: a request without a context of its own ends with the operation, though the server never answers; it carried
// the user's identity.
func TestEndOfOperation(t *testing.T) {
	asked := make(chan http.Header, 1)
	cluster, user := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	c, err := New(ctx, cluster, user, Options{Method: ServerSide, Wait: Poller, Release: types.NamespacedName{Namespace: "n", Name: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.Getter().ToRESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	direct, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		res, err := direct.Get(config.Host + "/api")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		done <- err
	}()
	header := <-asked
	if header.Get("Authorization") != "Bearer t0ken" || header.Get("Impersonate-User") != "system:serviceaccount:n:tenant" {
		t.Errorf("it was asked as %v", header)
	}
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the request ended well")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the request goes on")
	}
	res, err := direct.Get(config.Host + "/api")
	if err == nil {
		res.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a request after the end: %v", err)
	}
	if err := c.IsReachable(); !errors.Is(err, context.Canceled) {
		t.Errorf("reachable after the end: %v", err)
	}
	if _, err := c.Build(strings.NewReader(""), true); !errors.Is(err, context.Canceled) {
		t.Errorf("a build after the end: %v", err)
	}
	for name, wait := range map[string]func() error{
		"Wait":            func() error { return c.Wait(nil, time.Minute) },
		"WatchUntilReady": func() error { return c.WatchUntilReady(nil, time.Minute) },
		"WaitForDelete":   func() error { return c.WaitForDelete(nil, time.Minute) },
	} {
		if err := wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

func TestNewRefusesUnknownWords(t *testing.T) {
	cluster, user := server(t, http.NotFound)
	for _, options := range []Options{{Method: "ssh", Wait: Poller}, {Method: ServerSide, Wait: "forever"}, {}} {
		if _, err := New(t.Context(), cluster, user, options); err == nil {
			t.Errorf("%+v was taken", options)
		}
	}
}

// TestLookupBounded: a lookup that would never end is refused.
func TestLookupBounded(t *testing.T) {
	pages := 0
	_, user := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if !strings.Contains(r.URL.Path, "/configmaps") {
			switch r.URL.Path {
			case "/api":
				fmt.Fprint(w, `{"kind":"APIVersions","versions":["v1"]}`)
			case "/api/v1":
				fmt.Fprint(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"configmaps","namespaced":true,"kind":"ConfigMap","verbs":["list"]}]}`)
			default:
				fmt.Fprint(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
			}
			return
		}
		pages++
		items := strings.Repeat(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},`, lookupPage)
		fmt.Fprint(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"continue":"more"},"items":[`+strings.TrimSuffix(items, ",")+`]}`)
	})
	if _, err := Lookup(t.Context(), user, "v1", "ConfigMap", "n", ""); !errors.Is(err, ErrLookupTooLarge) {
		t.Errorf("error = %v", err)
	}
	if pages > maxLookup/lookupPage+1 {
		t.Errorf("%d pages were read", pages)
	}
}

// TestPanicOfAnObject: each object is written on a goroutine of its own, where nobody else would keep a panic from ending the process.
func TestPanicOfAnObject(t *testing.T) {
	u := decode(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: ns}}")
	info := &resource.Info{Object: u, Name: "a", Namespace: "ns", Mapping: &meta.RESTMapping{GroupVersionKind: u.GroupVersionKind()}}
	c := &Client{ctx: t.Context(), options: Options{Log: func(string, ...any) {}}}
	err := c.each(helmkube.ResourceList{info}, func(*resource.Info) error { panic("gave up") })
	if err == nil || err.Error() != "ConfigMap/ns/a: panic: gave up" {
		t.Errorf("it ended as %v", err)
	}
}

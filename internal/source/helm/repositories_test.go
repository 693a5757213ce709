package helm

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The status is held against the one in Flux's recording of the same index.
func TestRepositoryStatusIsFluxs(t *testing.T) {
	s := serve(t, map[string]string{"/charts/index.yaml": readText(t, "testdata/flux-index.yaml")}, false)
	w := newWorld(t, helmRepository("charts", s.URL+"/charts", nil))
	o := w.repository("charts")
	const revision = "3eeb62882f1eb8e753c8754db47096934385d7afca87c87f197138dc748bbf88"
	size := int64(1033)
	condition := func(kind string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: "True", Reason: "Succeeded", ObservedGeneration: 1, Message: "stored artifact: revision 'sha256:" + revision + "'"}
	}
	want := sourcev1.HelmRepositoryStatus{
		ObservedGeneration: 1, URL: "http://source-controller/helmrepository/demo/charts/index.yaml",
		Conditions: []metav1.Condition{condition("Ready"), condition("ArtifactInStorage")},
		Artifact: &fluxmeta.Artifact{
			Digest: "sha256:6180e819fc81e8f7a0b8d559930d7d2ee721d8a9e0765c2704d4a31f124aef6a", Revision: "sha256:" + revision, Size: &size,
			Path: "helmrepository/demo/charts/index-" + revision + ".yaml", URL: "http://source-controller/helmrepository/demo/charts/index-" + revision + ".yaml",
		},
	}
	if diff := cmp.Diff(want, o.Status, cmpopts.IgnoreTypes(metav1.Time{})); diff != "" {
		t.Errorf("status (-Flux +ours):\n%s", diff)
	}
	event := "Normal NewArtifact stored fetched index of size 1.033kB from '" + s.URL + "/charts'"
	if diff := cmp.Diff([]string{event}, w.events.Words()); diff != "" {
		t.Errorf("events:\n%s", diff)
	}
	again := w.repository("charts")
	if again.ResourceVersion != o.ResourceVersion || len(w.events.Words()) > 0 {
		t.Error("a run in which nothing changed wrote a status or sent an event")
	}
	res := httptest.NewRecorder()
	w.store.Handler().ServeHTTP(res, httptest.NewRequest(http.MethodGet, "/helmrepository/demo/charts/index.yaml", nil))
	if res.Code != http.StatusOK || res.Body.Len() != 1033 {
		t.Errorf("index.yaml is answered with %d and %d bytes", res.Code, res.Body.Len())
	}
	if w.indexes.Parsed() != 1 {
		t.Errorf("parsed %d times", w.indexes.Parsed())
	}
}

func TestRepositoryComesBackAtItsInterval(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\nentries: {}\n"}, false)
	for interval, want := range map[time.Duration]time.Duration{0: time.Minute, time.Hour: time.Hour} {
		w := newWorld(t, helmRepository("charts", s.URL, func(s *sourcev1.HelmRepositorySpec) { s.Interval.Duration = interval }))
		result, err := w.repositories(context.Background(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "charts"}})
		if err != nil || result.RequeueAfter != want {
			t.Errorf("interval %v: comes back after %v, %v", interval, result.RequeueAfter, err)
		}
	}
}

// A repository in a registry, or a suspended one, is left exactly as it is.
func TestStaticRepositoryIsLeftAlone(t *testing.T) {
	w := newWorld(t, helmRepository("registry", "oci://127.0.0.1:1/charts", func(s *sourcev1.HelmRepositorySpec) { s.Type = "oci" }),
		helmRepository("suspended", "http://127.0.0.1:1", func(s *sourcev1.HelmRepositorySpec) { s.Suspend = true }))
	for _, name := range []string{"registry", "suspended"} {
		before := &sourcev1.HelmRepository{}
		w.get(name, before)
		if diff := cmp.Diff(before, w.repository(name)); diff != "" {
			t.Errorf("%s has changed:\n%s", name, diff)
		}
	}
}

func TestF35_UnchangedIndexIsNotSentAgain(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\nentries: {}\n"}, false)
	sent := 0
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" {
			sent++
		}
		return false
	}
	w := newWorld(t, helmRepository("charts", s.URL, nil))
	for range 3 {
		w.repository("charts")
	}
	if sent != 1 {
		t.Errorf("the index was sent %d times", sent)
	}
	s.set("/index.yaml", "apiVersion: v1\nentries:\n  a: []\n")
	before := w.repository("charts").Status.Artifact.Revision
	if len(w.leftovers()) > 0 || before == "" || sent != 1 {
		t.Errorf("left over %v, sent %d", w.leftovers(), sent)
	}
}

func TestF35_BusyServerIsLeftAlone(t *testing.T) {
	s := serve(t, map[string]string{}, false)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "1800")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	w := newWorld(t, helmRepository("a", s.URL, nil), helmRepository("b", s.URL, nil), helmRepository("c", s.URL+"/stable", nil))
	reason, message := ready(w.repository("a"))
	for _, name := range []string{"b", "c"} {
		if again, same := ready(w.repository(name)); reason != sourcev1.IndexationFailedReason || again != reason || same != message {
			t.Errorf("%s %s, then of %s: %s %s", reason, message, name, again, same)
		}
	}
	if asked := s.asked(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	other := helmRepository("other", s.URL, func(s *sourcev1.HelmRepositorySpec) { s.SecretRef = &fluxmeta.LocalObjectReference{Name: "login"} })
	for _, o := range []client.Object{other, secret("login", map[string]string{"username": "me", "password": "secret"})} {
		if err := w.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if w.repository("other"); len(s.asked()) != 1 {
		t.Error("what one user was told holds another back")
	}
}

// TestA14_OneIndexIsParsedOnce: however many repositories serve it, and by whatever URL.
func TestA14_OneIndexIsParsedOnce(t *testing.T) {
	s := chartsServer(t, "web", webArchives(t))
	s.set("/copy/index.yaml", s.files["/index.yaml"])
	w := newWorld(t, helmRepository("a", s.URL, nil), helmRepository("b", s.URL, nil), helmRepository("c", s.URL+"/copy", nil))
	first := w.repository("a").Status.Artifact
	for _, name := range []string{"b", "c"} {
		a := w.repository(name).Status.Artifact
		if a == nil || a.Digest != first.Digest || a.Revision != first.Revision || a.Path == first.Path {
			t.Errorf("%s: artifact is %+v", name, a)
		}
	}
	if w.indexes.Parsed() != 1 || len(w.leftovers()) > 0 {
		t.Errorf("parsed %d times, left over %v", w.indexes.Parsed(), w.leftovers())
	}
	for _, name := range []string{"a", "b", "c"} { // with them goes what they had
		o := &sourcev1.HelmRepository{}
		w.get(name, o)
		if err := w.client.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if _, err := w.repositories(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(o)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.client.Create(t.Context(), helmRepository("d", s.URL, nil)); err != nil {
		t.Fatal(err)
	}
	if a := w.repository("d").Status.Artifact; a == nil || a.Digest != first.Digest || w.indexes.Parsed() != 2 {
		t.Errorf("artifact is %+v, parsed %d times", a, w.indexes.Parsed())
	}
}

func TestF25_LastIndexStaysWhenTheServerIsDown(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\nentries: {}\n"}, false)
	w := newWorld(t, helmRepository("charts", s.URL, nil))
	before := w.repository("charts")
	w.events.Words()
	good := s.files["/index.yaml"]
	for name, bad := range map[string]string{"a page": "<html>", "half an index": "apiVersion: v1\nentries:\n  a:\n  - name: \"", "nothing": ""} {
		s.set("/index.yaml", bad)
		o := w.repository("charts")
		if diff := cmp.Diff(before.Status.Artifact, o.Status.Artifact); diff != "" {
			t.Errorf("%s: the artifact has changed:\n%s", name, diff)
		}
		if reason, _ := ready(o); reason != sourcev1.IndexationFailedReason || !slices.ContainsFunc(told(o), func(c string) bool { return strings.HasPrefix(c, "FetchFailed=True") }) {
			t.Errorf("%s: %v", name, told(o))
		}
		if found := w.leftovers(); len(found) > 0 { // F30
			t.Errorf("%s: left over %v", name, found)
		}
	}
	s.set("/index.yaml", good)
	w.events.Words()
	if o := w.repository("charts"); !cmp.Equal(o.Status.Artifact, before.Status.Artifact) {
		t.Errorf("not the same as before: %v", o.Status.Artifact)
	}
	if events := w.events.Words(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal Succeeded stored artifact: revision") {
		t.Errorf("events %v", events)
	}
}

func TestA14_IndexOverTheLimitIsRefused(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\n" + strings.Repeat("# x\n", 1000)}, false)
	w := newWorld(t, helmRepository("charts", s.URL, nil))
	w.limits.Index = 1000
	w.restart(w.dir)
	reason, message := ready(w.repository("charts"))
	if reason != sourcev1.IndexationFailedReason || !strings.Contains(message, "--helm-index-max-size") {
		t.Errorf("%s: %s", reason, message)
	}
	s.answer = func(w http.ResponseWriter, r *http.Request) bool { // no length told, and no end
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return true
			}
		}
		return true
	}
	if again, same := ready(w.repository("charts")); again != reason || same != message {
		t.Errorf("%s: %s", again, same)
	}
}

func TestF24_SilentServerEndsAtTheTimeout(t *testing.T) {
	s := serve(t, nil, false)
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	w := newWorld(t, helmRepository("charts", s.URL, func(s *sourcev1.HelmRepositorySpec) { s.Timeout = &metav1.Duration{Duration: 100 * time.Millisecond} }))
	if _, message := ready(w.repository("charts")); !strings.Contains(message, "within spec.timeout") {
		t.Error(message)
	}
}

func TestRepositoryCredentials(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\nentries: {}\n"}, true)
	ca := pemOf(s.Certificate().Raw)
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "canary" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	ref := func(name string) *fluxmeta.LocalObjectReference { return &fluxmeta.LocalObjectReference{Name: name} }
	w := newWorld(t,
		secret("login", map[string]string{"username": "me", "password": "canary"}), secret("wrong", map[string]string{"username": "me", "password": "canary2"}),
		secret("both", map[string]string{"username": "me", "password": "canary", "caFile": ca}), secret("ca", map[string]string{"ca.crt": ca}),
		secret("half", map[string]string{"username": "canary"}), secret("no-ca", map[string]string{"ca.crt": "canary"}),
	)
	for name, c := range map[string]struct {
		login, certs *fluxmeta.LocalObjectReference
		url          string
		reason       string
	}{
		"certSecretRef":       {ref("login"), ref("ca"), s.URL, "Succeeded"},
		"all in one Secret":   {ref("both"), nil, s.URL, "Succeeded"},
		"in the URL":          {nil, ref("ca"), strings.Replace(s.URL, "https://", "https://me:canary@", 1), "Succeeded"},
		"wrong":               {ref("wrong"), ref("ca"), s.URL, sourcev1.AuthenticationFailedReason},
		"none":                {nil, ref("ca"), s.URL, sourcev1.AuthenticationFailedReason},
		"unknown authority":   {ref("login"), nil, s.URL, sourcev1.IndexationFailedReason},
		"no such Secret":      {ref("absent"), nil, s.URL, sourcev1.AuthenticationFailedReason},
		"half a login":        {ref("half"), ref("ca"), s.URL, sourcev1.AuthenticationFailedReason},
		"no certificate":      {ref("login"), ref("no-ca"), s.URL, sourcev1.AuthenticationFailedReason},
		"a URL without host":  {nil, nil, "https://", sourcev1.URLInvalidReason},
		"a registry's URL":    {nil, nil, "oci://example.com/charts", sourcev1.URLInvalidReason},
		"a URL with a canary": {nil, nil, "https://me:canary@[", sourcev1.URLInvalidReason},
	} {
		t.Run(name, func(t *testing.T) {
			o := helmRepository(strings.ReplaceAll(strings.ToLower(name), " ", "-"), c.url, func(s *sourcev1.HelmRepositorySpec) { s.SecretRef, s.CertSecretRef = c.login, c.certs })
			if err := w.client.Create(context.Background(), o); err != nil {
				t.Fatal(err)
			}
			o = w.repository(o.Name)
			if reason, message := ready(o); reason != c.reason {
				t.Errorf("%s: %s, want %s", reason, message, c.reason)
			}
			if said := fmt.Sprint(o.Status, w.events.Words()); strings.Contains(said, "canary") { // A29
				t.Errorf("it tells a secret: %s", said)
			}
		})
	}
}

func TestA18_MetadataServiceIsRefused(t *testing.T) {
	w := newWorld(t, helmRepository("charts", "http://169.254.169.254/charts", nil))
	if reason, message := ready(w.repository("charts")); reason != sourcev1.IndexationFailedReason || !strings.Contains(message, "not allowed") {
		t.Errorf("%s: %s", reason, message)
	}
}

func TestDeletedRepositoryIsRemoved(t *testing.T) {
	s := serve(t, map[string]string{"/index.yaml": "apiVersion: v1\nentries: {}\n"}, false)
	o := helmRepository("charts", s.URL, nil)
	o.Finalizers = []string{"finalizers.fluxcd.io"} // from Flux
	w := newWorld(t, o)
	digest := w.repository("charts").Status.Artifact.Digest
	if err := w.client.Delete(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKey{Namespace: namespace, Name: "charts"}
	if _, err := w.repositories(context.Background(), ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Get(context.Background(), key, o); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("it is still there: %v", err)
	}
	if f, err := w.store.OpenWritten(digest); err == nil {
		f.Close()
		t.Error("its index is still served")
	}
}

// TestLastModified: an index that was modified just before the answer may be modified once more within the same second.
func TestLastModified(t *testing.T) {
	const modified = "Tue, 24 Nov 2026 10:00:00 GMT"
	for name, tt := range map[string]struct {
		header http.Header
		want   string
	}{
		"long ago":        {http.Header{"Last-Modified": {modified}, "Date": {"Tue, 24 Nov 2026 10:00:02 GMT"}}, modified},
		"just now":        {http.Header{"Last-Modified": {modified}, "Date": {"Tue, 24 Nov 2026 10:00:01 GMT"}}, ""},
		"to come":         {http.Header{"Last-Modified": {modified}, "Date": {"Tue, 24 Nov 2026 09:00:00 GMT"}}, ""},
		"nobody knows":    {http.Header{"Last-Modified": {modified}}, ""},
		"no time":         {http.Header{"Last-Modified": {"yesterday"}, "Date": {modified}}, ""},
		"nothing is said": {http.Header{}, ""},
	} {
		if got := lastModified(tt.header); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

package kube

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// apiServer answers discovery: at once or, when old, page by page.
type apiServer struct {
	old     bool
	groups  int
	stale   string
	changes atomic.Int64 // of /apis, and so of its ETag
	bytes   atomic.Int64
	asked   atomic.Int64
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == "/version":
		fmt.Fprint(w, `{"major":"1","minor":"37","gitVersion":"v1.37.0"}`)
	case s.old:
		s.one(w, r)
	default:
		s.all(w, r)
	}
}

func (s *apiServer) one(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api":
		fmt.Fprint(w, `{"kind":"APIVersions","versions":["v1"]}`)
	case "/api/v1":
		fmt.Fprint(w, `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","kind":"Pod"},{"name":"pods/eviction","kind":"Eviction","group":"policy","version":"v1"}]}`)
	case "/apis":
		fmt.Fprint(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"away.io","versions":[{"groupVersion":"away.io/v1","version":"v1"}]}]}`)
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *apiServer) all(w http.ResponseWriter, r *http.Request) {
	etag := fmt.Sprintf(`"%s-%d"`, r.URL.Path, s.changes.Load())
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	var items []string
	group := func(name, kind, freshness string) {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":%q},"versions":[{"version":"v1","freshness":%q,"resources":[
			{"resource":"x","responseKind":{"group":%q,"version":"v1","kind":%q},"scope":"Namespaced"}]}]}`, name, freshness, name, kind))
	}
	if r.URL.Path == "/api" {
		group("", "Pod", "Current")
	}
	for i := range s.groups {
		if r.URL.Path == "/apis" {
			group(fmt.Sprintf("g%d.example.com", i), "Thing", "Current")
		}
	}
	if r.URL.Path == "/apis" && s.stale != "" {
		group(s.stale, "Lost", "Stale")
	}
	n, _ := fmt.Fprint(w, `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[`+strings.Join(items, ",")+`]}`)
	s.bytes.Add(int64(n))
}

func connected(t *testing.T, s *apiServer) *Cluster {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := Connect(&rest.Config{Host: server.URL}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// F47: a group whose server is away is known, its kinds as they were if the API server says, and all others are.
func TestF47_Versions(t *testing.T) {
	for name, s := range map[string]*apiServer{"at once": {stale: "away.io"}, "one by one": {old: true}} {
		c := connected(t, s)
		got, err := c.Versions(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := []string{"away.io/v1", "away.io/v1/Lost", "v1", "v1/Pod"}
		if s.old {
			want = []string{"away.io/v1", "v1", "v1/Eviction", "v1/Pod"}
		}
		if diff := cmp.Diff(want, got.Served); diff != "" || !slices.Equal(got.Failing, []string{"away.io/v1"}) || got.Server.GitVersion != "v1.37.0" {
			t.Errorf("%s (-want +got):\n%s%v", name, diff, got)
		}
		before := s.asked.Load()
		if again, err := c.Versions(t.Context()); err != nil || again != got {
			t.Errorf("%s: another answer although nothing has changed: %v", name, err)
		}
		if n := s.asked.Load() - before; n > 2 {
			t.Errorf("%s: to look again took %d requests", name, n)
		}
	}
}

// F21: five hundred groups are read once, kept once, and seen to change.
func TestF21_VersionsAreKeptOnce(t *testing.T) {
	s := &apiServer{groups: 500}
	c := connected(t, s)
	if _, err := c.Versions(t.Context()); err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	read, before := s.bytes.Load(), heap()
	for range 200 {
		if _, err := c.For(HelmReleases()).Versions(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.bytes.Load() != read {
		t.Errorf("%d bytes more were read", s.bytes.Load()-read)
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d bytes, then %d", before, after)
	}
	s.groups++
	s.changes.Add(1)
	got, err := c.Versions(t.Context())
	if err != nil || !slices.Contains(got.Served, "g500.example.com/v1/Thing") {
		t.Errorf("a new group is not seen: %v", err)
	}
}

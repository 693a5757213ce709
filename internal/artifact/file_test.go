package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var (
	podinfo = Object{Kind: "HelmChart", Namespace: "demo", Name: "podinfo"}
	charts  = Object{Kind: "HelmRepository", Namespace: "demo", Name: "charts"}
	layer   = Object{Kind: "OCIRepository", Namespace: "demo", Name: "layer"}
)

func registered(t *testing.T, s *Store) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(s.Usage()); err != nil {
		t.Fatal(err)
	}
	return registry
}

func publishFile(t *testing.T, s *Store, o Object, file, content string) string {
	t.Helper()
	a, err := s.PublishFile(o, file, "r", strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return a.Digest
}

func readFile(t *testing.T, s *Store, digest string) string {
	t.Helper()
	f, err := s.OpenWritten(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A chart and an index keep their bytes and Flux's names, and a restart finds them without a look at their source.
func TestF32_FilesArePublishedAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for _, c := range []struct {
		o          Object
		file, link string
	}{
		{podinfo, "podinfo-6.0.0.tgz", "latest.tar.gz"},
		{charts, "index-0a1b.yaml", "index.yaml"},
		{layer, "sha256:0a1b.tar.gz", "latest.tar.gz"},
	} {
		a, err := s.PublishFile(c.o, c.file, "6.0.0", strings.NewReader("bytes of "+c.file))
		if err != nil {
			t.Fatal(err)
		}
		const sumLength = len("sha256:") + 64
		if want := c.o.dir() + "/" + c.file; a.Path != want || *a.Size != int64(len("bytes of "+c.file)) || len(a.Digest) != sumLength || a.Revision != "6.0.0" {
			t.Errorf("artifact %+v", a)
		}
		s = openStore(t, dir)
		if !s.Holds(c.o, a) {
			t.Errorf("%s is lost after a restart", a.Path)
		}
		if got := readFile(t, s, a.Digest); got != "bytes of "+c.file {
			t.Errorf("%s holds %q", a.Path, got)
		}
		for _, name := range []string{a.Path, c.o.dir() + "/" + c.link} {
			res := httptest.NewRecorder()
			s.Handler().ServeHTTP(res, httptest.NewRequest(http.MethodGet, "/"+name, nil))
			if res.Code != http.StatusOK || res.Body.String() != "bytes of "+c.file {
				t.Errorf("GET %s: %d %q", name, res.Code, res.Body)
			}
		}
	}
}

// A layer that was copied is somebody else's tarball: its digest stays, and whoever reads the files gets them.
func TestCopiedTarballIsUnpackedWhenAskedFor(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	var told []string
	s.Subscribe(func(digest string) { told = append(told, digest) })
	digest := publishFile(t, s, layer, "sha256:1.tar.gz", string(makeTar(t, tarEntry{Header: tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o644}, content: "kind: A"})))
	if !slices.Equal(told, []string{digest}) {
		t.Errorf("subscribers were told of %v", told)
	}
	if found := residue(t, s); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	for range 2 { // the second time after a restart
		snap, release, err := s.AcquireWritten(digest)
		if err != nil {
			t.Fatal(err)
		}
		if snap.Digest != digest || len(snap.Files()) != 1 {
			t.Errorf("snapshot %s of %v", snap.Digest, snap.Files())
		}
		release()
		s = openStore(t, dir)
	}
}

// Bytes that are no tarball stay published; who wants files hears what is wrong, not that the source must fetch it again.
func TestFileThatIsNoTarballHasNoSnapshot(t *testing.T) {
	s := openStore(t, t.TempDir())
	digest := publishFile(t, s, layer, "sha256:1.tar.gz", "a WASM module")
	for range 2 {
		if _, _, err := s.AcquireWritten(digest); err == nil || errors.Is(err, ErrNotFound) {
			t.Fatalf("acquire: %v", err)
		}
	}
	if readFile(t, s, digest) != "a WASM module" {
		t.Error("the bytes are gone")
	}
	index := publishFile(t, s, charts, "index-1.yaml", "entries: {}")
	if _, _, err := s.AcquireWritten(index); !errors.Is(err, ErrNotFound) {
		t.Errorf("an index was taken for a tarball: %v", err)
	}
}

func TestA04_FileOverTheLimitIsNotPublished(t *testing.T) {
	s := openStore(t, t.TempDir(), func(o *Options) { o.Limits = Limits{Files: 10, Bytes: 1 << 10, Depth: 3} })
	before := publishFile(t, s, podinfo, "podinfo-1.tgz", strings.Repeat("x", 1<<10))
	_, err := s.PublishFile(podinfo, "podinfo-2.tgz", "2", bytes.NewReader(make([]byte, 1<<10+1)))
	if !errors.Is(err, ErrLimit) {
		t.Fatalf("error %v", err)
	}
	if found := residue(t, s); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	readFile(t, s, before)
}

func TestA01_FileNamesAreTheStoresOwn(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, file := range []string{"", "..", "../x.tgz", "a/b.tgz", ".x.tgz", "latest.tar.gz", "index.yaml", "run.sh"} {
		if _, err := s.PublishFile(podinfo, file, "1", strings.NewReader("x")); !errors.Is(err, ErrPath) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestStoredBytesArePublishedAgainWithoutACopy(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	digest := publishFile(t, s, podinfo, "podinfo-1.tgz", "chart")
	other := Object{Kind: "HelmChart", Namespace: "other", Name: "podinfo"}
	a, err := s.PublishStored(other, "podinfo-1.tgz", "1", digest)
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := os.Stat(filepath.Join(dir, podinfo.dir(), "podinfo-1.tgz"))
	two, err2 := os.Stat(filepath.Join(dir, a.Path))
	if errors.Join(err1, err2) != nil || !os.SameFile(one, two) {
		t.Errorf("copied, or not there: %v %v", err1, err2)
	}
	if err := s.Remove(podinfo); err != nil {
		t.Fatal(err)
	}
	if !s.Holds(other, a) || readFile(t, s, digest) != "chart" {
		t.Error("lost with the object that stored it first")
	}
	if _, err := s.PublishStored(other, "x.tgz", "1", "sha256:"+strings.Repeat("0", 64)); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// TestA20_ADigestIsNoKey: somebody who may write a status in one namespace and knows a digest of another one gets nothing by it.
func TestA20_ADigestIsNoKey(t *testing.T) {
	s := openStore(t, t.TempDir())
	theirs, err := s.Publish(shop, "1.tar.gz", "r1", stored(t, s, map[string]string{"secret.yaml": "x"}))
	if err != nil {
		t.Fatal(err)
	}
	chart := publishFile(t, s, podinfo, "podinfo-1.tgz", "chart")
	for name, o := range map[string]Object{
		"another namespace": {shop.Kind, "mallory", shop.Name}, "another name": {shop.Kind, shop.Namespace, "sho"},
		"another kind": {"Bucket", shop.Namespace, shop.Name}, "a path": {shop.Kind, "mallory/../" + shop.Namespace, shop.Name}, "nobody": {},
	} {
		if _, _, err := s.Acquire(o, theirs.Digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: the snapshot: %v", name, err)
		}
		if _, err := s.OpenFile(o, chart); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: the chart: %v", name, err)
		}
		if s.Holds(o, theirs) {
			t.Errorf("%s: a status with the path of another object's artifact counts", name)
		}
	}
	if !s.HasIn("demo", theirs.Digest) || s.HasIn("mallory", theirs.Digest) || s.HasIn("", theirs.Digest) || s.HasIn("dem", theirs.Digest) {
		t.Error("HasIn looks in other namespaces")
	}
	_, release, err := s.Acquire(shop, theirs.Digest)
	if err != nil {
		t.Fatal(err)
	}
	release()
	f, err := s.OpenFile(podinfo, chart)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// The agent is no way around that: it does not fetch from itself, whatever URL it is given.
func TestA18_TheAgentIsNotServed(t *testing.T) {
	s := openStore(t, t.TempDir())
	publishFile(t, s, podinfo, "podinfo-1.tgz", "chart")
	for agent, want := range map[string]int{
		"": http.StatusOK, "Go-http-client/1.1": http.StatusOK, "cleat": http.StatusForbidden,
		"git/2.0 (cleat)": http.StatusForbidden, "Helm/3.22.0 (cleat)": http.StatusForbidden,
	} {
		req := httptest.NewRequest(http.MethodGet, "/"+podinfo.dir()+"/podinfo-1.tgz", nil)
		req.Header.Set("User-Agent", agent)
		res := httptest.NewRecorder()
		if s.Handler().ServeHTTP(res, req); res.Code != want {
			t.Errorf("%q: %d, want %d", agent, res.Code, want)
		}
	}
}

// Superseded indexes and charts go as tarballs do, each judged by its own link.
func TestSupersededFilesAreCollected(t *testing.T) {
	now := time.Now()
	s := openStore(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	var kept []string
	for _, v := range []string{"1", "2", "3"} {
		now = now.Add(time.Hour)
		kept = []string{publishFile(t, s, charts, "index-"+v+".yaml", "index "+v), publishFile(t, s, podinfo, "podinfo-"+v+".tgz", "chart "+v)}
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if len(s.published) != 2 {
		t.Errorf("published: %v", s.published)
	}
	for _, digest := range kept {
		readFile(t, s, digest)
	}
}

func TestF30_UsageCountsWhatIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	mirrors, err := s.Dir("mirrors")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mirrors, "pack"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	snap := stored(t, s, map[string]string{"a": "12345", "b/c": "67890"})
	if _, err := s.Publish(shop, "1.tar.gz", "r", snap); err != nil {
		t.Fatal(err)
	}
	publishFile(t, s, podinfo, "podinfo-1.tgz", "chart")
	publishFile(t, s, charts, "index-1.yaml", "index")
	for range 2 { // the second time after a restart
		if err := s.Collect(); err != nil {
			t.Fatal(err)
		}
		bytes, items := s.held()
		if diff := cmp.Diff(map[string]int64{"artifacts": snap.Size + 10, "snapshots": 10, "mirrors": 1000}, bytes); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]int64{"artifacts": 3, "snapshots": 1}, items); diff != "" {
			t.Error(diff)
		}
		if n, err := testutil.GatherAndCount(registered(t, s), "cleat_storage_bytes", "cleat_storage_items"); err != nil || n != 5 {
			t.Errorf("%d series, error %v", n, err)
		}
		s = openStore(t, dir)
		if _, err := s.Dir("mirrors"); err != nil {
			t.Fatal(err)
		}
	}
}

// Collection runs until it is told to stop, and its last word is an error only if the last collection failed.
func TestStartStops(t *testing.T) {
	s := openStore(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Start(ctx); err != nil {
		t.Error(err)
	}
}

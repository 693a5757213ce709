package external

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

var apps = client.ObjectKey{Namespace: "demo", Name: "apps"}

// world is a controller in front of an API server that is a fake, and a server that somebody else runs.
type world struct {
	t       *testing.T
	client  client.Client
	store   *artifact.Store
	events  *record.FakeRecorder
	artifs  *Artifacts
	serve   http.HandlerFunc
	url     string
	fetched atomic.Int32
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, events: record.NewFakeRecorder(10)}
	server := httptest.NewServer(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		w.fetched.Add(1)
		w.serve(res, req)
	}))
	t.Cleanup(server.Close)
	w.url = server.URL + "/externalartifact/demo/apps/1.tar.gz"
	o := &sourcev1.ExternalArtifact{ObjectMeta: metav1.ObjectMeta{Namespace: apps.Namespace, Name: apps.Name}}
	w.client = fake.NewClientBuilder().WithScheme(api.NewScheme()).WithObjects(o).WithStatusSubresource(o).Build()
	w.restart(t.TempDir())
	return w
}

func (w *world) restart(dir string) {
	w.t.Helper()
	var err error
	w.store, err = artifact.Open(artifact.Options{Dir: dir, Address: "source-controller", Limits: artifact.Limits{Files: 100, Bytes: 1 << 20, Depth: 10}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.artifs = New(Options{
		Store: w.store, Artifacts: NewFetcher(w.store, source.Network{}), Reader: w.client, Log: slog.New(slog.DiscardHandler),
		Recorder: reconcile.NewRecorder(w.events), Timing: reconcile.Timing{MinRetry: time.Second, MaxRetry: time.Minute},
	})
}

// offers sets the status as another controller does.
func (w *world) offers(a *meta.Artifact) {
	w.t.Helper()
	var o sourcev1.ExternalArtifact
	if err := w.client.Get(w.t.Context(), apps, &o); err != nil {
		w.t.Fatal(err)
	}
	o.Status.Artifact = a
	if err := w.client.Status().Update(w.t.Context(), &o); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reconcile() ctrl.Result {
	w.t.Helper()
	result, err := w.artifs.Reconcile(context.Background(), ctrl.Request{NamespacedName: apps})
	if err != nil {
		w.t.Fatal(err)
	}
	return result
}

func (w *world) event() string {
	select {
	case e := <-w.events.Events:
		return e
	default:
		return ""
	}
}

func (w *world) holds(digest string) bool {
	_, release, err := w.store.Acquire(stored(ctrl.Request{NamespacedName: apps}), digest)
	if err == nil {
		release()
	}
	return err == nil
}

func tarball(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, h := range headers {
		content := "kind: A"
		if h.Typeflag != tar.TypeReg {
			content = ""
		}
		h.Size = int64(len(content))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (w *world) artifact(content []byte) *meta.Artifact {
	sum := sha256.Sum256(content)
	return &meta.Artifact{Digest: "sha256:" + hex.EncodeToString(sum[:]), URL: w.url, Revision: "latest@sha256:1", Path: "x", LastUpdateTime: metav1.Now()}
}

func sends(content []byte) http.HandlerFunc {
	return func(res http.ResponseWriter, _ *http.Request) { _, _ = res.Write(content) }
}

func TestArtifactOfAnotherControllerIsStored(t *testing.T) {
	w := newWorld(t)
	if result := w.reconcile(); result != (ctrl.Result{}) {
		t.Errorf("without an artifact: %+v", result)
	}
	content := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o600})
	a := w.artifact(content)
	w.serve = sends(content)
	w.offers(a)
	var before sourcev1.ExternalArtifact
	if err := w.client.Get(t.Context(), apps, &before); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w.restart(dir)
	for range 3 { // again without a change, and after a restart with the disk kept
		w.reconcile()
		if !w.holds(a.Digest) {
			t.Fatalf("not stored: %s", w.event())
		}
		w.restart(dir)
	}
	if n := w.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	w.restart(t.TempDir()) // F32: the disk is lost
	if w.reconcile(); !w.holds(a.Digest) || w.fetched.Load() != 2 {
		t.Errorf("not fetched again: %s", w.event())
	}
	var after sourcev1.ExternalArtifact
	if err := w.client.Get(t.Context(), apps, &after); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("somebody else's object was written to: %s", diff)
	}
	if err := w.client.Delete(t.Context(), &after); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	if objects := w.store.Objects(sourcev1.ExternalArtifactKind); len(objects) > 0 {
		t.Errorf("left behind: %v", objects)
	}
}

func TestUnusableArtifacts(t *testing.T) {
	good := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o600})
	for _, c := range []struct {
		name  string
		serve http.HandlerFunc
		set   func(*meta.Artifact)
		retry bool
		want  string
	}{
		{"other bytes than the digest says", sends([]byte("evil")), nil, true, "its digest is"},
		{"another kind of digest", sends(good), func(a *meta.Artifact) { a.Digest = "sha512:00" }, false, "status.artifact.digest"},
		{"a file URL", sends(good), func(a *meta.Artifact) { a.URL = "file:///etc/passwd" }, false, "status.artifact.url"},
		{"A18 the metadata service", sends(good), func(a *meta.Artifact) { a.URL = "http://169.254.169.254/x" }, true, "not allowed"},
		{"a server that has lost it", http.NotFound, nil, true, "404"},
		{"a server that wants credentials", func(res http.ResponseWriter, _ *http.Request) { res.WriteHeader(http.StatusForbidden) }, nil, true,
			"status.artifact.url must name a server"},
		{"A09 a redirect to the metadata service", func(res http.ResponseWriter, req *http.Request) {
			http.Redirect(res, req, "http://169.254.169.254/x", http.StatusFound)
		}, nil, true, "not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.serve = c.serve
			a := w.artifact(good)
			if c.set != nil {
				c.set(a)
			}
			w.offers(a)
			result := w.reconcile()
			if (result.RequeueAfter > 0) != c.retry {
				t.Errorf("result %+v", result)
			}
			if e := w.event(); !strings.HasPrefix(e, "Warning ArtifactFailed ") || !strings.Contains(e, c.want) {
				t.Errorf("event %q", e)
			}
			if w.reconcile(); w.event() != "" {
				t.Error("the same failure was told twice")
			}
			if w.holds(a.Digest) {
				t.Error("it was stored")
			}
		})
	}
}

// TestDigestThatIsHeldBecomesTheObjectsOwn: what another object published, or this one before, can be collected any time.
func TestDigestThatIsHeldBecomesTheObjectsOwn(t *testing.T) {
	w := newWorld(t)
	content := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o600})
	other := tarball(t, tar.Header{Name: "b.yaml", Typeflag: tar.TypeReg, Mode: 0o600})
	a, b := w.artifact(content), w.artifact(other)
	file := func(a *meta.Artifact) string { return strings.TrimPrefix(a.Digest, "sha256:") + ".tar.gz" }
	neighbour := artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: "demo", Name: "neighbour"}
	if _, err := w.store.PublishFile(neighbour, file(a), "1", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	w.serve = sends(other)
	own := stored(ctrl.Request{NamespacedName: apps})
	for _, named := range []*meta.Artifact{a, b, a} {
		w.offers(named)
		w.reconcile()
		if !w.store.IsLatest(own, file(named), named.Digest) {
			t.Errorf("%s is not the object's newest: %s", named.Digest, w.event())
		}
	}
	if n := w.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	told := 0
	w.store.Subscribe(func(string) { told++ })
	if w.reconcile(); told != 0 {
		t.Error("published again without a change")
	}
	if err := w.store.Remove(neighbour); err != nil {
		t.Fatal(err)
	}
	if !w.holds(a.Digest) {
		t.Error("it went with the object that had published it")
	}
}

// TestFailuresThatPass: neither a server that is behind nor a disk that fails for a while is a reason to give up.
func TestFailuresThatPass(t *testing.T) {
	content := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o600})
	t.Run("a server that is behind", func(t *testing.T) {
		w := newWorld(t)
		a := w.artifact(content)
		w.serve = sends([]byte("the one before"))
		w.offers(a)
		if result := w.reconcile(); result.RequeueAfter != time.Minute {
			t.Errorf("comes back after %v", result.RequeueAfter)
		}
		w.serve = sends(content)
		if w.reconcile(); !w.holds(a.Digest) {
			t.Error(w.event())
		}
	})
	t.Run("a disk that fails", func(t *testing.T) {
		w := newWorld(t)
		dir := t.TempDir()
		w.restart(dir)
		a := w.artifact(content)
		w.serve = sends(content)
		w.offers(a)
		snapshots := filepath.Join(dir, ".cleat", "snapshots")
		if err := os.Remove(snapshots); err != nil {
			t.Fatal(err)
		}
		if result := w.reconcile(); result.RequeueAfter != time.Second {
			t.Errorf("comes back after %v: %s", result.RequeueAfter, w.event())
		}
		if err := os.Mkdir(snapshots, 0o755); err != nil {
			t.Fatal(err)
		}
		if w.reconcile(); !w.holds(a.Digest) || w.fetched.Load() != 1 {
			t.Errorf("fetched %d times: %s", w.fetched.Load(), w.event())
		}
	})
}

func TestA01_to_A04_HostileTarballs(t *testing.T) {
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	tw := tar.NewWriter(zw)
	if err := tw.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	half := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg})
	var noTar bytes.Buffer
	zw = gzip.NewWriter(&noTar)
	if _, err := zw.Write(bytes.Repeat([]byte("x"), 2048)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"A01 a name outside": tarball(t, tar.Header{Name: "../../x", Typeflag: tar.TypeReg}),
		"A04 a bomb":         bomb.Bytes(),
		"no tarball":         []byte("hello"),
		"nothing":            {},
		"half a tarball":     half[:len(half)/2],
		"no tar":             noTar.Bytes(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.serve = sends(content)
			w.offers(w.artifact(content))
			if result := w.reconcile(); result.RequeueAfter != 0 {
				t.Errorf("result %+v", result)
			}
			if e := w.event(); !strings.Contains(e, "unusable artifact") {
				t.Errorf("event %q", e)
			}
		})
	}
	t.Run("A02, A03 links and devices are dropped", func(t *testing.T) {
		w := newWorld(t)
		content := tarball(t, tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o6777},
			tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, tar.Header{Name: "pipe", Typeflag: tar.TypeFifo})
		a := w.artifact(content)
		w.serve = sends(content)
		w.offers(a)
		w.reconcile()
		snapshot, release, err := w.store.AcquireWritten(a.Digest)
		if err != nil {
			t.Fatal(err, w.event())
		}
		defer release()
		if len(snapshot.Files()) != 1 {
			t.Errorf("files %v", snapshot.Files())
		}
	})
	t.Run("A04 more bytes than the limit", func(t *testing.T) {
		w := newWorld(t)
		w.serve = func(res http.ResponseWriter, req *http.Request) {
			for req.Context().Err() == nil {
				if _, err := res.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}
		w.offers(w.artifact(nil))
		if result := w.reconcile(); result.RequeueAfter != 0 {
			t.Errorf("result %+v", result)
		}
		if e := w.event(); !strings.Contains(e, "over the limit") {
			t.Errorf("event %q", e)
		}
	})
}

// TestA20_ADigestOfAnotherNamespace: what another namespace has stored is not published for whoever names its digest.
func TestA20_ADigestOfAnotherNamespace(t *testing.T) {
	content := tarball(t, tar.Header{Name: "secret.yaml", Typeflag: tar.TypeReg})
	for namespace, fetched := range map[string]int32{"alice": 1, apps.Namespace: 0} {
		w := newWorld(t)
		w.serve = http.NotFound
		a := w.artifact(content)
		theirs := artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: namespace, Name: "shop"}
		if _, err := w.store.PublishFile(theirs, "1.tar.gz", "r1", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		w.offers(a)
		w.reconcile()
		if held := w.holds(a.Digest); held != (fetched == 0) || w.fetched.Load() != fetched {
			t.Errorf("held by an object in %s: published %v, asked for %d times", namespace, held, w.fetched.Load())
		}
	}
}

// TestA18_NotFromTheStorageItself: the URL may be that of the agent's own storage, and have been redirected to it.
func TestA18_NotFromTheStorageItself(t *testing.T) {
	w := newWorld(t)
	content := tarball(t, tar.Header{Name: "secret.yaml", Typeflag: tar.TypeReg})
	theirs := artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: "alice", Name: "shop"}
	published, err := w.store.PublishFile(theirs, "1.tar.gz", "r1", bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	storage := httptest.NewServer(w.store.Handler())
	t.Cleanup(storage.Close)
	to := storage.URL + "/" + published.Path
	w.serve = func(res http.ResponseWriter, req *http.Request) { http.Redirect(res, req, to, http.StatusFound) }
	for _, url := range []string{to, w.url} {
		a := w.artifact(content)
		a.URL = url
		w.offers(a)
		w.reconcile()
		if e := w.event(); w.holds(a.Digest) || !strings.Contains(e, "403: artifacts are fetched without credentials, and by an agent never from its own storage") && url == to {
			t.Errorf("%s: event %q", url, e)
		}
	}
}

func FuzzVerified(f *testing.F) {
	f.Add([]byte("a"), "sha256:00")
	f.Fuzz(func(t *testing.T, content []byte, want string) {
		sum := sha256.Sum256(content)
		v := &verified{r: bytes.NewReader(content), sum: sha256.New(), want: want}
		var out bytes.Buffer
		_, err := out.ReadFrom(v)
		if ok := strings.EqualFold(want, fmt.Sprintf("sha256:%x", sum)); (err == nil) != ok {
			t.Errorf("error %v", err)
		}
	})
}

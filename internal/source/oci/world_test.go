package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	push "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore-go/pkg/root"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

// world is one agent with one storage, in front of an API server that is a fake.
type world struct {
	t      *testing.T
	client client.Client
	store  *artifact.Store
	limits artifact.Limits
	clouds map[string]Cloud
	own    bool // ServiceAccounts may stand for identities in clouds
	budget func() *source.Budget
	root   root.TrustedMaterial
	events *sourcetest.Events
	clock  *clock
	run    func(context.Context, ctrl.Request) (ctrl.Result, error)
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{at: time.Now()}, client: sourcetest.Client(objects, &sourcev1.OCIRepository{})}
	w.restart(t.TempDir())
	return w
}

// restart starts a new agent on the storage.
func (w *world) restart(dir string) {
	w.t.Helper()
	var err error
	if w.store, err = artifact.Open(artifact.Options{Dir: dir, Address: "source-controller", Limits: w.limits}); err != nil {
		w.t.Fatal(err)
	}
	w.events = &sourcetest.Events{}
	w.run = NewRepositories(Options{
		Store: w.store, Secrets: w.client, Recorder: reconcile.NewRecorder(w.events), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Waker: &reconcile.Waker{}, Now: w.clock.now, Clouds: w.clouds, ObjectIdentity: w.own, Budget: w.budget,
		PublicRoot: func(context.Context) (root.TrustedMaterial, error) { return w.root, nil },
		Edge:       sourcetest.Edge(w.client),
	}).Reconcile
}

func repository(url string, set func(*sourcev1.OCIRepositorySpec)) *sourcev1.OCIRepository {
	o := &sourcev1.OCIRepository{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web", UID: "1", Generation: 1}}
	o.Spec = sourcev1.OCIRepositorySpec{
		URL: url, Interval: metav1.Duration{Duration: time.Minute}, Timeout: &metav1.Duration{Duration: 20 * time.Second}, Insecure: true,
	}
	if set != nil {
		set(&o.Spec)
	}
	return o
}

func secretOf(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name}, Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

var web = client.ObjectKey{Namespace: "demo", Name: "web"}

func (w *world) reconcile() (*sourcev1.OCIRepository, ctrl.Result) { return w.reconcileKey(web) }

func (w *world) reconcileKey(key client.ObjectKey) (*sourcev1.OCIRepository, ctrl.Result) {
	w.t.Helper()
	result, err := w.run(context.Background(), ctrl.Request{NamespacedName: key})
	if err != nil {
		w.t.Fatal(err)
	}
	var o sourcev1.OCIRepository
	if err := w.client.Get(context.Background(), key, &o); client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	return &o, result
}

// change updates the object as a user does.
func (w *world) change(set func(*sourcev1.OCIRepository)) {
	w.t.Helper()
	var o sourcev1.OCIRepository
	if err := w.client.Get(context.Background(), web, &o); err != nil {
		w.t.Fatal(err)
	}
	set(&o)
	if err := w.client.Update(context.Background(), &o); err != nil {
		w.t.Fatal(err)
	}
}

// conditions lists "type=status reason", in order.
func conditions(o *sourcev1.OCIRepository) []string {
	var all []string
	for _, c := range o.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	return all
}

// ready returns "status reason" of the condition Ready.
func ready(o *sourcev1.OCIRepository) string {
	c := reconcile.Condition(o, "Ready")
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func message(o *sourcev1.OCIRepository, kind string) string {
	if c := reconcile.Condition(o, kind); c != nil {
		return c.Message
	}
	return ""
}

var healthy = []string{"Ready=True Succeeded", "ArtifactInStorage=True Succeeded"}

// server is a registry that counts what it is asked, as "METHOD path".
type server struct {
	*httptest.Server
	host string // host:port
	back string // the same for pushes, where host wants TLS

	mu       sync.Mutex
	requests []string
	// before is called with each request that is not a push; it answers in the registry's place by returning true.
	before func(http.ResponseWriter, *http.Request) bool
}

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(s.handler())
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *server) handler() http.Handler {
	reg := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	return http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		if req.Header.Get("User-Agent") != userAgent {
			reg.ServeHTTP(res, req) // the test itself
			return
		}
		s.mu.Lock()
		s.requests = append(s.requests, req.Method+" "+req.URL.Path)
		before := s.before
		s.mu.Unlock()
		if before != nil && before(res, req) {
			return
		}
		reg.ServeHTTP(res, req)
	})
}

func (s *server) hook(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// take returns the requests since it was called last, without the pings.
func (s *server) take() []string {
	return slices.DeleteFunc(s.takeAll(), func(r string) bool { return r == "GET /v2/" })
}

func (s *server) takeAll() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.requests
	s.requests = nil
	return all
}

func (s *server) url(repository string) string { return "oci://" + s.host + "/" + repository }

// push puts an image under a tag, or under its digest for "".
func (s *server) push(t *testing.T, repository, tag string, image v1.Image) v1.Hash {
	t.Helper()
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	reference := cmp.Or(s.back, s.host) + "/" + repository
	if tag == "" {
		reference += "@" + digest.String()
	} else {
		reference += ":" + tag
	}
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := push.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return digest
}

const contentType = types.MediaType("application/vnd.cncf.flux.content.v1.tar+gzip")

// image makes an artifact of one layer.
func image(t *testing.T, layer []byte, kind types.MediaType, annotations map[string]string) v1.Image {
	t.Helper()
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.flux.config.v1+json")
	made, err := mutate.Append(base, mutate.Addendum{Layer: static.NewLayer(layer, kind)})
	if err != nil {
		t.Fatal(err)
	}
	if annotations != nil {
		made = mutate.Annotations(made, annotations).(v1.Image)
	}
	return made
}

// files makes an artifact of a tarball with the files.
func files(t *testing.T, content map[string]string) v1.Image {
	t.Helper()
	var headers []tar.Header
	for _, name := range sortedKeys(content) {
		headers = append(headers, tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(content[name]))})
	}
	return image(t, tarball(t, headers, content), contentType, nil)
}

func tarball(t *testing.T, headers []tar.Header, content map[string]string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	zw := gzip.NewWriter(&buffer)
	tw := tar.NewWriter(zw)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// stored lists the files of the artifact as "path=content".
func (w *world) stored(o *sourcev1.OCIRepository) []string {
	w.t.Helper()
	if o.Status.Artifact == nil {
		return nil
	}
	snapshot, release, err := w.store.AcquireWritten(o.Status.Artifact.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	defer release()
	var all []string
	for _, name := range sortedKeys(snapshot.Files()) {
		f, err := snapshot.FS().Open(name)
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, name+"="+string(text))
	}
	return all
}

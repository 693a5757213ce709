package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	push "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/oci"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

const namespace = "demo"

// world is one agent with one storage, in front of an API server that is a fake.
type world struct {
	t            *testing.T
	client       client.Client
	dir          string
	store        *artifact.Store
	indexes      *Indexes
	events       *sourcetest.Events
	limits       Limits
	registry     Registry
	repositories func(context.Context, ctrl.Request) (ctrl.Result, error)
	charts       *Charts
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, limits: DefaultLimits, dir: t.TempDir()}
	w.client = sourcetest.Client(objects, &sourcev1.HelmRepository{}, &sourcev1.HelmChart{}, &sourcev1.GitRepository{}, &sourcev1.Bucket{})
	w.registry = oci.NewCharts(oci.Options{Secrets: w.client})
	w.restart(w.dir)
	return w
}

// restart starts a new agent on a storage directory.
func (w *world) restart(dir string) {
	w.t.Helper()
	var err error
	if w.store, err = artifact.Open(artifact.Options{Dir: dir, Address: "source-controller"}); err != nil {
		w.t.Fatal(err)
	}
	w.dir, w.events, w.indexes = dir, &sourcetest.Events{}, NewIndexes(w.store)
	o := Options{
		Store: w.store, Indexes: w.indexes, Fetcher: NewFetcher(source.Network{}, w.limits), Secrets: w.client,
		Registry: w.registry,
		Recorder: reconcile.NewRecorder(w.events), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Edge: sourcetest.Edge(w.client),
	}
	w.repositories = NewRepositories(o).Reconcile
	w.charts = NewCharts(o)
}

// repository runs the reconciler for a HelmRepository and returns it.
func (w *world) repository(name string) *sourcev1.HelmRepository {
	w.t.Helper()
	key := client.ObjectKey{Namespace: namespace, Name: name}
	if _, err := w.repositories(context.Background(), ctrl.Request{NamespacedName: key}); err != nil {
		w.t.Fatal(err)
	}
	o := &sourcev1.HelmRepository{}
	w.get(name, o)
	return o
}

// chart runs the reconciler for a HelmChart and returns it.
func (w *world) chart(name string) (*sourcev1.HelmChart, ctrl.Result) {
	w.t.Helper()
	result, err := w.charts.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	if err != nil {
		w.t.Fatal(err)
	}
	o := &sourcev1.HelmChart{}
	w.get(name, o)
	return o, result
}

func (w *world) get(name string, o client.Object) {
	w.t.Helper()
	if err := w.client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, o); err != nil {
		w.t.Fatal(err)
	}
}

// change updates an object's spec as a user does.
func (w *world) change(o client.Object) {
	w.t.Helper()
	o.SetGeneration(o.GetGeneration() + 1)
	if err := w.client.Update(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
}

// git makes a GitRepository "shop" offer these files at a revision.
func (w *world) git(revision string, files map[string]string) {
	w.t.Helper()
	writer, err := w.store.NewWriter()
	if err != nil {
		w.t.Fatal(err)
	}
	defer writer.Close()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := writer.AddFile(name, false, strings.NewReader(files[name])); err != nil {
			w.t.Fatal(err)
		}
	}
	snapshot, err := writer.Commit()
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := w.store.Publish(artifact.Object{Kind: "GitRepository", Namespace: namespace, Name: "shop"}, sha([]byte(revision))[:12]+".tar.gz", revision, snapshot)
	if err != nil {
		w.t.Fatal(err)
	}
	o := &sourcev1.GitRepository{ObjectMeta: named("shop")}
	if err := w.client.Create(context.Background(), o); err != nil {
		w.get("shop", o)
	}
	o.Status.Artifact = a
	if err := w.client.Status().Update(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
}

// stored returns the files of the chart that a HelmChart offers.
func (w *world) stored(o *sourcev1.HelmChart) map[string]string {
	w.t.Helper()
	if o.Status.Artifact == nil {
		w.t.Fatalf("no artifact: %v", told(o))
	}
	f, err := w.store.OpenWritten(o.Status.Artifact.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	return untar(w.t, f)
}

// leftovers lists what lies in the directory for temporary files.
func (w *world) leftovers() []string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, ".cleat", "tmp", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// told lists "type=status reason: message", in order.
func told(o reconcile.Object) []string {
	var all []string
	for _, c := range o.GetConditions() {
		all = append(all, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return all
}

// ready returns the reason and message of Ready.
func ready(o reconcile.Object) (reason, message string) {
	if c := reconcile.Condition(o, "Ready"); c != nil {
		return c.Reason, c.Message
	}
	return "", ""
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "1", Generation: 1}
}

func helmRepository(name, url string, set func(*sourcev1.HelmRepositorySpec)) *sourcev1.HelmRepository {
	o := &sourcev1.HelmRepository{ObjectMeta: named(name)}
	o.Spec = sourcev1.HelmRepositorySpec{URL: url, Timeout: &metav1.Duration{Duration: 20 * time.Second}}
	if set != nil {
		set(&o.Spec)
	}
	return o
}

func helmChart(name, kind, from, chart, version string, set func(*sourcev1.HelmChartSpec)) *sourcev1.HelmChart {
	o := &sourcev1.HelmChart{ObjectMeta: named(name)}
	o.Spec = sourcev1.HelmChartSpec{
		Chart: chart, Version: version, Interval: metav1.Duration{Duration: 10 * time.Minute}, ReconcileStrategy: sourcev1.ReconcileStrategyChartVersion,
		SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: kind, Name: from},
	}
	if set != nil {
		set(&o.Spec)
	}
	return o
}

func secret(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: named(name), Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s
}

// server is a chart repository: files by path, and who asked for them.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string]string
	requests []string // "path user:password"
	answer   func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t *testing.T, files map[string]string, secure bool) *server {
	t.Helper()
	s := &server{files: files}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		s.mu.Lock()
		s.requests = append(s.requests, strings.TrimSpace(r.URL.Path+" "+strings.Trim(user+":"+password, ":")))
		text, ok := s.files[r.URL.Path]
		answer := s.answer
		s.mu.Unlock()
		switch {
		case answer != nil && answer(w, r):
		case !ok:
			http.NotFound(w, r)
		default:
			etag := `"` + sha([]byte(text)) + `"`
			w.Header().Set("ETag", etag)
			if r.Header.Get("If-None-Match") == etag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, text)
		}
	})
	s.Server = httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(name, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = text
}

// asked returns the requests since it was called last.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// targz makes a tarball of name, content, name, content…
func targz(t testing.TB, files ...string) string {
	t.Helper()
	var entries []tar.Header
	var contents []string
	for i := 0; i < len(files); i += 2 {
		entries = append(entries, tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))})
		contents = append(contents, files[i+1])
	}
	return entriesGz(t, entries, contents)
}

func entriesGz(t testing.TB, entries []tar.Header, contents []string) string {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for i := range entries {
		if err := tw.WriteHeader(&entries[i]); err != nil {
			t.Fatal(err)
		}
		if i < len(contents) {
			if _, err := io.WriteString(tw, contents[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// packaged is a small chart.
func packaged(t testing.TB, name, version string) string {
	return targz(t, name+"/Chart.yaml", chartYAML(name, version), name+"/values.yaml", "a: 1\nb: {c: 2, d: 3}\n",
		name+"/other.yaml", "b: {d: 4}\n", name+"/templates/a.yaml", "kind: ConfigMap\n")
}

func chartYAML(name, version string) string {
	return fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)
}

// indexOf lists archives by path, with their digests.
func indexOf(name string, archives map[string]string) string {
	text := "apiVersion: v1\nentries:\n  " + name + ":\n"
	for _, at := range slices.Sorted(maps.Keys(archives)) {
		version := strings.TrimSuffix(filepath.Base(at), ".tgz")[len(name)+1:]
		text += fmt.Sprintf("  - name: %s\n    version: %s\n    digest: %s\n    urls: [%q]\n", name, version, sha([]byte(archives[at])), at)
	}
	return text
}

func untar(t testing.TB, r io.Reader) map[string]string {
	t.Helper()
	zr, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

// registryServer is a container registry with basic authentication if user is set. It returns host:port.
func registryServer(t *testing.T, user string) string {
	t.Helper()
	next := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if user != "" && r.Header.Get("X-Setup") == "" && name+":"+password != user {
			w.Header().Set("WWW-Authenticate", `Basic realm="charts"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// setup marks requests of the test itself.
type setup struct{}

func (setup) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("X-Setup", "yes")
	return http.DefaultTransport.RoundTrip(r)
}

func pushChart(t *testing.T, host, repository, tag, archive string) {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(archive), "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(host+"/"+repository+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := push.Write(ref, image, push.WithTransport(setup{})); err != nil {
		t.Fatal(err)
	}
}

func readText(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func sha(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }

func pemOf(certificate []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
}

// queue remembers what was put on it.
type queue struct {
	workqueue.TypedRateLimitingInterface[ctrl.Request]
	added []ctrl.Request
}

func (q *queue) Add(r ctrl.Request) { q.added = append(q.added, r) }

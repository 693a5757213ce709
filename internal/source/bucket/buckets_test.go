package bucket

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/e2e/s3server"
	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

const bucketName = "shop"

var shop = client.ObjectKey{Namespace: "demo", Name: "shop"}

// world is one agent with one storage, in front of an API server that is a fake, and a real S3 server.
type world struct {
	t      testing.TB
	client client.Client
	dir    string
	limits Limits
	clouds clouds // nil: the real ones
	store  *artifact.Store
	events *sourcetest.Events
	run    func(context.Context, ctrl.Request) (ctrl.Result, error)
}

func newWorld(t testing.TB, limits Limits, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, limits: limits, client: sourcetest.Client(objects, &sourcev1.Bucket{})}
	w.restart(t.TempDir())
	return w
}

// restart starts a new agent on the storage.
func (w *world) restart(dir string) {
	w.t.Helper()
	var err error
	w.dir = dir
	if w.store, err = artifact.Open(artifact.Options{Dir: dir, Address: "source-controller"}); err != nil {
		w.t.Fatal(err)
	}
	fetcher, err := NewFetcher(w.store, source.Network{}, w.limits)
	if err != nil {
		w.t.Fatal(err)
	}
	w.events = &sourcetest.Events{}
	if w.clouds != nil {
		fetcher.clouds = w.clouds
	}
	w.run = New(Options{
		Store: w.store, Buckets: fetcher, Secrets: w.client, Identities: source.Identities{Client: w.client}, Recorder: reconcile.NewRecorder(w.events), Log: slog.New(slog.DiscardHandler),
		Edge: sourcetest.Edge(w.client),
	}).Reconcile
}

func (w *world) reconcile() *sourcev1.Bucket {
	w.t.Helper()
	if _, err := w.run(w.t.Context(), ctrl.Request{NamespacedName: shop}); err != nil {
		w.t.Fatal(err)
	}
	var o sourcev1.Bucket
	if err := w.client.Get(w.t.Context(), shop, &o); client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	return &o
}

// ready reconciles and fails the test unless the Bucket is Ready.
func (w *world) ready() *sourcev1.Bucket {
	w.t.Helper()
	o := w.reconcile()
	if c := reconcile.Condition(o, meta.ReadyCondition); c == nil || c.Status != metav1.ConditionTrue {
		w.t.Fatalf("not Ready: %+v", o.Status.Conditions)
	}
	return o
}

// fails reconciles and returns the reason and message of a Bucket that must not be Ready.
func (w *world) fails() (reason, message string) {
	w.t.Helper()
	o := w.reconcile()
	c := reconcile.Condition(o, meta.ReadyCondition)
	if c == nil || c.Status != metav1.ConditionFalse {
		w.t.Fatalf("it did not fail: %+v", o.Status.Conditions)
	}
	return c.Reason, c.Message
}

func (w *world) change(set func(*sourcev1.Bucket)) {
	w.t.Helper()
	var o sourcev1.Bucket
	if err := w.client.Get(w.t.Context(), shop, &o); err != nil {
		w.t.Fatal(err)
	}
	set(&o)
	o.Generation++
	if err := w.client.Update(w.t.Context(), &o); err != nil {
		w.t.Fatal(err)
	}
}

// files reads the snapshot of the artifact as its readers do.
func (w *world) files(o *sourcev1.Bucket) map[string]string {
	w.t.Helper()
	snapshot, release, err := w.store.Acquire(stored(shop), o.Status.Artifact.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	defer release()
	files := map[string]string{}
	for name := range snapshot.Files() {
		content, err := os.ReadFile(filepath.Join(snapshot.Dir(), name))
		if err != nil {
			w.t.Fatal(err)
		}
		files[name] = string(content)
	}
	return files
}

func server(t testing.TB, objects map[string]string) *s3server.Server {
	t.Helper()
	s := s3server.Start()
	t.Cleanup(s.Close)
	if err := s.MakeBucket(bucketName); err != nil {
		t.Fatal(err)
	}
	put(t, s, objects)
	return s
}

func put(t testing.TB, s *s3server.Server, objects map[string]string) {
	t.Helper()
	for key, content := range objects {
		if err := s.Put(bucketName, key, content); err != nil {
			t.Fatal(err)
		}
	}
}

func bucket(endpoint string, set ...func(*sourcev1.BucketSpec)) *sourcev1.Bucket {
	o := &sourcev1.Bucket{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop", UID: "1", Generation: 1}}
	o.Spec = sourcev1.BucketSpec{
		Provider: sourcev1.BucketProviderGeneric, BucketName: bucketName, Endpoint: endpoint, Insecure: true,
		SecretRef: &meta.LocalObjectReference{Name: "keys"},
		Interval:  metav1.Duration{Duration: time.Minute}, Timeout: &metav1.Duration{Duration: 20 * time.Second},
	}
	for _, f := range set {
		f(&o.Spec)
	}
	return o
}

func secret(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	return s
}

func keys() *corev1.Secret {
	return secret("keys", map[string]string{"accesskey": s3server.AccessKey, "secretkey": s3server.SecretKey})
}

func TestBucketBecomesAnArtifact(t *testing.T) {
	s := server(t, map[string]string{"deploy/app.yaml": "kind: A", "deploy/img.png": "png", "folder/": "", "readme.md": "hello"})
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	o := w.ready()

	// Flux excludes nothing from buckets by default, and hashes "key etag\n" in the order of the keys.
	var lines strings.Builder
	content := map[string]string{"deploy/app.yaml": "kind: A", "deploy/img.png": "png", "readme.md": "hello"}
	for _, key := range slices.Sorted(maps.Keys(content)) {
		fmt.Fprintf(&lines, "%s %s\n", key, md5Of(content[key]))
	}
	sum := sha256.Sum256([]byte(lines.String()))
	hexed := hex.EncodeToString(sum[:])
	if diff := cmp.Diff(content, w.files(o)); diff != "" {
		t.Error(diff)
	}
	a := o.Status.Artifact
	if a.Revision != "sha256:"+hexed || a.Path != "bucket/demo/shop/"+hexed+".tar.gz" || a.URL != "http://source-controller/"+a.Path {
		t.Errorf("artifact %+v, want revision %s", a, hexed)
	}
	if want := "http://source-controller/bucket/demo/shop/latest.tar.gz"; o.Status.URL != want {
		t.Errorf("url %s", o.Status.URL)
	}
	message := fmt.Sprintf("stored artifact: revision 'sha256:%s'", hexed)
	for _, kind := range []string{meta.ReadyCondition, sourcev1.ArtifactInStorageCondition} {
		if c := reconcile.Condition(o, kind); c == nil || c.Status != metav1.ConditionTrue || c.Message != message || c.Reason != meta.SucceededReason {
			t.Errorf("%s: %+v", kind, c)
		}
	}
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal NewArtifact stored artifact with 3 fetched files from 'shop' bucket map[") {
		t.Errorf("events %q", events)
	}
}

func TestNothingIsDownloadedWhenNothingHasChanged(t *testing.T) {
	s := server(t, map[string]string{"a.yaml": "1", ".sourceignore": "*.md", "b.md": "x"})
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	first := w.ready()
	for range 2 { // the second time after a restart with the disk kept
		s.Forget()
		again := w.ready()
		if got := s.Downloads(); len(got) > 0 {
			t.Errorf("downloaded %v", got)
		}
		if n := s.Lists(); n != 2 {
			t.Errorf("%d lists, want one of the bucket and one for .sourceignore", n)
		}
		if diff := cmp.Diff(first.Status, again.Status); diff != "" {
			t.Error(diff)
		}
		w.restart(w.dir)
	}
}

func TestOnlyChangedObjectsAreDownloaded(t *testing.T) {
	objects := map[string]string{}
	for i := range 50 {
		objects[fmt.Sprintf("dir-%d/file.yaml", i)] = fmt.Sprintf("content %d", i)
	}
	s := server(t, objects)
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	w.ready()
	w.restart(w.dir)
	s.Forget()
	put(t, s, map[string]string{"dir-7/file.yaml": "changed", "new.yaml": "new"})
	if err := s.Delete(bucketName, "dir-8/file.yaml"); err != nil {
		t.Fatal(err)
	}
	o := w.ready()
	if diff := cmp.Diff([]string{"dir-7/file.yaml", "new.yaml"}, s.Downloads()); diff != "" {
		t.Error(diff)
	}
	objects["dir-7/file.yaml"], objects["new.yaml"] = "changed", "new"
	delete(objects, "dir-8/file.yaml")
	if diff := cmp.Diff(objects, w.files(o)); diff != "" {
		t.Error(diff)
	}
}

// TestContentOfAnotherBucketIsNotReused: an ETag says nothing about content of another server or bucket.
func TestContentOfAnotherBucketIsNotReused(t *testing.T) {
	// Both list the same names with the same ETags, as servers do that count versions instead of hashing content.
	one := &versioned{fake3{objects: map[string]string{"a.yaml": "1", ".sourceignore": "none\n"}}}
	two := &versioned{fake3{objects: map[string]string{"a.yaml": "2", ".sourceignore": "nada\n"}}}
	first, second := httptest.NewServer(one), httptest.NewServer(two)
	defer first.Close()
	defer second.Close()
	endpoint := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	for name, change := range map[string]func(*sourcev1.Bucket){
		"endpoint": func(o *sourcev1.Bucket) { o.Spec.Endpoint = endpoint(second) },
		"name":     func(o *sourcev1.Bucket) { o.Spec.BucketName, o.Spec.Endpoint = "other", endpoint(second) },
		"region":   func(o *sourcev1.Bucket) { o.Spec.Region, o.Spec.Endpoint = "eu-west-1", endpoint(second) },
	} {
		w := newWorld(t, Limits{}, bucket(endpoint(first)), keys())
		before := w.ready()
		again := w.ready()
		if again.ResourceVersion != before.ResourceVersion {
			t.Fatal("the same bucket is not the same")
		}
		w.change(change)
		o := w.ready()
		if diff := cmp.Diff(two.objects, w.files(o)); diff != "" || o.Status.Artifact.Digest == before.Status.Artifact.Digest {
			t.Errorf("%s: it has content of the bucket before:\n%s", name, diff)
		}
	}
	spec := func(change func(*sourcev1.BucketSpec)) string {
		o := bucket("s3.example").Spec
		change(&o)
		return origin(&o, secrets{keys: map[string][]byte{"accesskey": []byte("alice"), "secretkey": []byte("s3cret")}})
	}
	same := spec(func(*sourcev1.BucketSpec) {})
	for name, change := range map[string]func(*sourcev1.BucketSpec){
		"endpoint": func(s *sourcev1.BucketSpec) { s.Endpoint = "s4.example" }, "name": func(s *sourcev1.BucketSpec) { s.BucketName = "x" },
		"region": func(s *sourcev1.BucketSpec) { s.Region = "x" }, "provider": func(s *sourcev1.BucketSpec) { s.Provider = "aws" },
		"two fields": func(s *sourcev1.BucketSpec) { s.Endpoint, s.BucketName = "s3.examples", "hop" },
	} {
		if spec(change) == same {
			t.Errorf("%s: is the same origin", name)
		}
	}
	if spec(func(s *sourcev1.BucketSpec) { s.Prefix, s.Provider = "x", "" }) != same {
		t.Error("another prefix of the same bucket is another origin")
	}
	o := bucket("s3.example").Spec
	if origin(&o, secrets{keys: map[string][]byte{"accesskey": []byte("bob")}}) == same {
		t.Error("the bucket of another account is the same origin")
	}
}

// versioned gives every content the same ETag.
type versioned struct{ fake3 }

func (v *versioned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, key, isObject := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if isObject && key != "" {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, v.objects[key])
		return
	}
	var list bytes.Buffer
	recorded := httptest.NewRecorder()
	v.fake3.ServeHTTP(recorded, r)
	list.WriteString(etagPattern.ReplaceAllString(recorded.Body.String(), `<ETag>"v1"</ETag>`))
	_, _ = list.WriteTo(w)
}

var etagPattern = regexp.MustCompile(`<ETag>[^<]*</ETag>`)

// With the disk lost everything is fetched again; it is the same artifact, and no news.
func TestF32_LostDiskIsFetchedAgain(t *testing.T) {
	s := server(t, map[string]string{"a.yaml": "1"})
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	first := w.ready()
	w.restart(t.TempDir())
	second := w.ready()
	if second.Status.Artifact.Digest != first.Status.Artifact.Digest || !w.store.Holds(stored(shop), second.Status.Artifact) {
		t.Errorf("artifact %+v", second.Status.Artifact)
	}
	if events := w.events.Take(); len(events) > 0 {
		t.Errorf("events %q", events)
	}
}

func TestIgnorePatterns(t *testing.T) {
	s := server(t, map[string]string{"app/a.yaml": "1", "app/a.md": "2", "app/b.txt": "3", ".sourceignore": "*.md\n"})
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	want := func(step string, names ...string) *sourcev1.Bucket {
		t.Helper()
		o := w.ready()
		if diff := cmp.Diff(names, slices.Sorted(maps.Keys(w.files(o)))); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
		return o
	}
	want("as the bucket says", ".sourceignore", "app/a.yaml", "app/b.txt")
	w.change(func(o *sourcev1.Bucket) { o.Spec.Ignore = ptr.To("*.txt\n!*.md\n") })
	o := want("as the object says", ".sourceignore", "app/a.md", "app/a.yaml")
	if ptr.Deref(o.Status.ObservedIgnore, "") != "*.txt\n!*.md\n" {
		t.Errorf("observedIgnore %v", o.Status.ObservedIgnore)
	}
	put(t, s, map[string]string{".sourceignore": "app/a.yaml\n"})
	want("as the bucket says now", ".sourceignore", "app/a.md")
	w.change(func(o *sourcev1.Bucket) { o.Spec.Ignore, o.Spec.Prefix = nil, "app/b" })
	want("with a prefix", ".sourceignore", "app/b.txt")
}

func TestA05_KeysThatLeaveTheDirectoryAreRefused(t *testing.T) {
	for _, key := range []string{"../../x", "a/../../x", "/etc/passwd", "a//b", ".git/config", "a\\..\\b"} {
		s := server(t, map[string]string{"fine.yaml": "1"})
		w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
		before := w.ready()
		lister := &fake3{objects: map[string]string{"fine.yaml": "2", key: "evil"}}
		_, err := listing{storage: lister, limits: DefaultLimits}.read(t.Context())
		if !errors.Is(err, artifact.ErrPath) {
			t.Errorf("%q: %v", key, err)
		}
		hostile := httptest.NewServer(lister)
		defer hostile.Close()
		w.change(func(o *sourcev1.Bucket) { o.Spec.Endpoint = strings.TrimPrefix(hostile.URL, "http://") })
		if reason, message := w.fails(); reason != sourcev1.InvalidPathReason || !strings.Contains(message, "illegal path") {
			t.Errorf("%q: %s: %s", key, reason, message)
		}
		if !w.store.Holds(stored(shop), before.Status.Artifact) {
			t.Error("what was good before is gone")
		}
	}
}

// fake3 lists what no honest server would; it is both a storage and a server.
type fake3 struct{ objects map[string]string }

func (f *fake3) list(_ context.Context, prefix string, visit func(Object) error) error {
	for _, key := range slices.Sorted(maps.Keys(f.objects)) {
		if strings.HasPrefix(key, prefix) {
			if err := visit(Object{Key: key, ETag: md5Of(f.objects[key]), Size: int64(len(f.objects[key]))}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fake3) open(_ context.Context, o Object) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(f.objects[o.Key])), nil
}

func (f *fake3) close() {}

func (f *fake3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("location") {
		fmt.Fprint(w, `<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LocationConstraint>`)
		return
	}
	fmt.Fprintf(w, `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>%s</Name><IsTruncated>false</IsTruncated>`, bucketName)
	_ = f.list(r.Context(), r.URL.Query().Get("prefix"), func(o Object) error {
		fmt.Fprintf(w, `<Contents><Key>%s</Key><ETag>"%s"</ETag><Size>%d</Size></Contents>`, o.Key, o.ETag, o.Size)
		return nil
	})
	fmt.Fprint(w, `</ListBucketResult>`)
}

func TestA04_BucketsOverTheLimits(t *testing.T) {
	s := server(t, map[string]string{"a": "1", "b": "22", "c": "333"})
	for name, limits := range map[string]Limits{
		"listed":  {Listed: 2, Objects: 10, Bytes: 100},
		"objects": {Listed: 10, Objects: 2, Bytes: 100},
		"bytes":   {Listed: 10, Objects: 10, Bytes: 5},
	} {
		s.Forget()
		w := newWorld(t, limits, bucket(s.Endpoint), keys())
		if reason, message := w.fails(); reason != sourcev1.BucketOperationFailedReason || !strings.Contains(message, "over the limit") {
			t.Errorf("%s: %s: %s", name, reason, message)
		}
		if got := s.Downloads(); len(got) > 0 {
			t.Errorf("%s: downloaded %v", name, got)
		}
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	for _, c := range []struct {
		name, reason, message string
		set                   func(*sourcev1.BucketSpec)
		secrets               []client.Object
	}{
		{"no such bucket", sourcev1.BucketOperationFailedReason, "bucket 'other' not found, check spec.bucketName and spec.endpoint",
			func(b *sourcev1.BucketSpec) { b.BucketName = "other" }, []client.Object{keys()}},
		{"no Secret", sourcev1.AuthenticationFailedReason, `reading the Secret demo/keys of spec.secretRef: secrets "keys" not found`, nil, nil},
		{"an incomplete Secret", sourcev1.AuthenticationFailedReason,
			`authentication failed: the Secret of spec.secretRef needs the keys "accesskey" and "secretkey"`, nil,
			[]client.Object{secret("keys", map[string]string{"accesskey": "x"})}},
		{"a wrong key", sourcev1.AuthenticationFailedReason, "authentication failed: the server answers SignatureDoesNotMatch, check the Secret of spec.secretRef", nil,
			[]client.Object{secret("keys", map[string]string{"accesskey": s3server.AccessKey, "secretkey": "hunter2"})}},
		{"no key", sourcev1.AuthenticationFailedReason, "authentication failed: the server answers AccessDenied, check the Secret of spec.secretRef",
			func(b *sourcev1.BucketSpec) { b.SecretRef = nil }, nil},
		{"an endpoint with a scheme", sourcev1.URLInvalidReason, "",
			func(b *sourcev1.BucketSpec) { b.Endpoint = "http://" + b.Endpoint + "/x" }, []client.Object{keys()}},
		{"a service account", api.UnsupportedReason, "",
			func(b *sourcev1.BucketSpec) { b.Provider, b.ServiceAccountName = "aws", "x" }, nil},
		{"an STS of another provider", sourcev1.InvalidSTSConfigurationReason, "STS provider 'aws' is not supported for the 'generic' bucket provider",
			func(b *sourcev1.BucketSpec) {
				b.STS = &sourcev1.BucketSTSSpec{Provider: "aws", Endpoint: "https://sts.amazonaws.com"}
			}, []client.Object{keys()}},
		{"a server that is not there", sourcev1.BucketOperationFailedReason, "dial: connection refused",
			func(b *sourcev1.BucketSpec) { b.Endpoint = unusedAddress(t) }, []client.Object{keys()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := bucket(s.Endpoint)
			if c.set != nil {
				c.set(&o.Spec)
			}
			w := newWorld(t, Limits{}, append(c.secrets, o)...)
			reason, message := w.fails()
			if reason != c.reason || c.message != "" && message != c.message {
				t.Errorf("%s: %s", reason, message)
			}
			if _, again := w.fails(); again != message {
				t.Errorf("the second time it says %q, the first %q", again, message)
			}
			if strings.Contains(message, "hunter2") {
				t.Errorf("the secret is in %q", message)
			}
		})
	}
}

func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestPublicBucketNeedsNoSecret(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	s.Public()
	newWorld(t, Limits{}, bucket(s.Endpoint, func(b *sourcev1.BucketSpec) { b.SecretRef = nil })).ready()
}

func TestTemporaryKeysFromLDAP(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	with := func(password string) *world {
		return newWorld(t, Limits{}, secret("ldap", map[string]string{"username": s3server.LDAPUser, "password": password}),
			bucket(s.Endpoint, func(b *sourcev1.BucketSpec) {
				b.SecretRef = nil
				b.STS = &sourcev1.BucketSTSSpec{Provider: "ldap", Endpoint: s.URL + "/sts", SecretRef: &meta.LocalObjectReference{Name: "ldap"}}
			}))
	}
	with(s3server.LDAPPassword).ready()
	reason, message := with("hunter2").fails()
	if reason != sourcev1.AuthenticationFailedReason || strings.Contains(message, "hunter2") {
		t.Errorf("%s: %s", reason, message)
	}
}

func TestA11_TLSNeedsTheServersAuthority(t *testing.T) {
	s := s3server.StartTLS()
	t.Cleanup(s.Close)
	if err := errors.Join(s.MakeBucket(bucketName), s.Put(bucketName, "a", "1")); err != nil {
		t.Fatal(err)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate()}))
	secure := func(b *sourcev1.BucketSpec) { b.Insecure = false }
	_, message := newWorld(t, Limits{}, keys(), bucket(s.Endpoint, secure)).fails()
	if !strings.Contains(message, "unknown authority") {
		t.Errorf("%s", message)
	}
	newWorld(t, Limits{}, keys(), secret("ca", map[string]string{"ca.crt": ca}), bucket(s.Endpoint, secure, func(b *sourcev1.BucketSpec) {
		b.CertSecretRef = &meta.LocalObjectReference{Name: "ca"}
	})).ready()
}

func TestProxyIsUsed(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	var through sync.Map
	target := s.Endpoint
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Store(r.Host, r.Header.Get("Proxy-Authorization") != "")
		s.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	newWorld(t, Limits{}, keys(), secret("proxy", map[string]string{"address": proxy.URL, "username": "u", "password": "p"}),
		bucket("s3.invalid", func(b *sourcev1.BucketSpec) { b.ProxySecretRef = &meta.LocalObjectReference{Name: "proxy"} })).ready()
	if known, ok := through.Load("s3.invalid"); !ok || known != true {
		t.Errorf("not through the proxy, or without its password; the server is %s", target)
	}
}

func TestA18_LinkLocalAddressesAreNotAsked(t *testing.T) {
	_, message := newWorld(t, Limits{}, keys(), bucket("169.254.169.254")).fails()
	if !strings.Contains(message, "not allowed") {
		t.Error(message)
	}
}

// A server that never answers, or never ends its list, holds nobody longer than spec.timeout.
func TestF24_ServersThatDoNotFinish(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"silent": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"endless": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("location") {
				fmt.Fprint(w, `<LocationConstraint/>`)
				return
			}
			fmt.Fprint(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>`)
		},
		"one endless page": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `<ListBucketResult>`)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("<Contents><Key>a</Key></Contents>", 1000)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(serve)
			defer s.Close()
			w := newWorld(t, Limits{}, keys(), bucket(strings.TrimPrefix(s.URL, "http://"), func(b *sourcev1.BucketSpec) {
				b.Timeout = &metav1.Duration{Duration: 500 * time.Millisecond}
			}))
			begin := time.Now()
			reason, message := w.fails()
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if reason != sourcev1.BucketOperationFailedReason {
				t.Errorf("%s: %s", reason, message)
			}
		})
	}
}

// A server that says for how long is left alone for as long, by those who bring the same keys; others are not held back.
func TestF35_RetryAfterIsHonoured(t *testing.T) {
	for provider, secrets := range map[string]map[string]string{
		sourcev1.BucketProviderGeneric: {"accesskey": "me", "secretkey": "hunter2"},
		sourcev1.BucketProviderAzure:   {"accountKey": "aHVudGVyMg=="},
	} {
		t.Run(provider, func(t *testing.T) {
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.Header().Set("Retry-After", "1800")
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			defer s.Close()
			endpoint := s.URL
			if provider == sourcev1.BucketProviderGeneric {
				endpoint = strings.TrimPrefix(s.URL, "http://")
			}
			busy := func(o *sourcev1.BucketSpec) { o.Provider = provider }
			w := newWorld(t, Limits{}, secret("keys", secrets), bucket(endpoint, busy))
			reason, message := w.fails()
			if want := "the server answers 503: it is overloaded or down for maintenance"; reason != sourcev1.BucketOperationFailedReason || message != want {
				t.Errorf("%s: %s", reason, message)
			}
			result, err := w.run(t.Context(), ctrl.Request{NamespacedName: shop})
			if err != nil || result.RequeueAfter < 1700*time.Second {
				t.Errorf("comes back after %v: %v", result.RequeueAfter, err)
			}
			w.change(func(o *sourcev1.Bucket) { o.Spec.BucketName = "other" })
			if _, again := w.fails(); again != message || asked.Load() != 1 {
				t.Errorf("asked %d times, the last with %q", asked.Load(), again)
			}
			mine := secret("mine", map[string]string{"accesskey": "other", "secretkey": "hunter2", "accountKey": "b3RoZXI="})
			if err := w.client.Create(t.Context(), mine); err != nil {
				t.Fatal(err)
			}
			w.change(func(o *sourcev1.Bucket) { o.Spec.SecretRef.Name = "mine" })
			if w.fails(); asked.Load() != 2 {
				t.Errorf("what one user was told holds another back: asked %d times", asked.Load())
			}
		})
	}
}

// What is served stays served while the bucket cannot be reached, and one event tells of the recovery.
func TestF25_OutageKeepsTheArtifact(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	w := newWorld(t, Limits{}, bucket(s.Endpoint), keys())
	before := w.ready().Status.Artifact
	w.events.Take()
	w.change(func(o *sourcev1.Bucket) { o.Spec.Endpoint = unusedAddress(t) })
	o := w.reconcile()
	if diff := cmp.Diff(before, o.Status.Artifact); diff != "" {
		t.Error(diff)
	}
	w.events.Take()
	w.change(func(o *sourcev1.Bucket) { o.Spec.Endpoint = s.Endpoint })
	w.ready()
	if events := w.events.Take(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal Succeeded ") {
		t.Errorf("events %q", events)
	}
}

// An object that changes between the list and the download is not mixed into the revision that was listed.
func TestChangedMeanwhileIsNotPublished(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	c, err := openS3(t.Context(), source.Network{}, &bucket(s.Endpoint).Spec, secrets{keys: keys().Data})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	i, err := listing{storage: c, limits: DefaultLimits}.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, map[string]string{"a": "2"})
	err = download(t.Context(), c, i.sorted(), func(_ Object, r io.Reader) error { _, err := io.ReadAll(r); return err })
	if !errors.Is(err, errGone) {
		t.Errorf("error %v", err)
	}
}

func TestSuspendedAndDeleted(t *testing.T) {
	s := server(t, map[string]string{"a": "1"})
	o := bucket(s.Endpoint)
	o.Finalizers = []string{api.Finalizer}
	w := newWorld(t, Limits{}, o, keys())
	a := w.ready().Status.Artifact
	w.change(func(o *sourcev1.Bucket) { o.Spec.Suspend = true })
	s.Forget()
	if w.reconcile(); s.Lists() > 0 {
		t.Error("a suspended Bucket was listed")
	}
	if !w.store.Holds(stored(shop), a) {
		t.Error("a suspended Bucket lost its artifact")
	}
	if err := w.client.Delete(t.Context(), w.reconcile()); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	if w.store.Holds(stored(shop), a) {
		t.Error("a deleted Bucket still has an artifact")
	}
	if err := w.client.Get(t.Context(), shop, &sourcev1.Bucket{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the object is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, ".cleat/buckets/demo/shop.json")); !os.IsNotExist(err) {
		t.Errorf("what was remembered of it is still there: %v", err)
	}
}

// A server that sends more or less than it listed, or hangs up, gives an error and no artifact.
func TestSizesAreChecked(t *testing.T) {
	for content, ok := range map[string]bool{"12345": true, "1234": false, "123456": false} {
		err := download(t.Context(), &fake3{objects: map[string]string{"a": content}}, []Object{{Key: "a", Size: 5}},
			func(_ Object, r io.Reader) error { _, err := io.ReadAll(r); return err })
		if (err == nil) != ok || err != nil && !errors.Is(err, errSize) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("a/b.yaml", "*.md", "etag")
	f.Add("../../x", "", "")
	f.Add("a//b", "**/", "\n")
	f.Fuzz(func(t *testing.T, key, ignore, etag string) {
		i, err := listing{storage: &fake3{objects: map[string]string{key: etag, "z": "1"}}, ignore: &ignore, limits: DefaultLimits}.read(t.Context())
		if err != nil {
			return
		}
		for k := range i.objects {
			if artifact.CheckPath(k) != nil {
				t.Errorf("%q is in the index", k)
			}
		}
		i.revision()
	})
}

// The library ends a list that was cut off without an error. To take that for all there is would empty the artifact.
func TestListThatIsCutOffIsNotComplete(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("location") {
			fmt.Fprint(w, `<LocationConstraint/>`)
			return
		}
		fmt.Fprint(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>`+
			`<Contents><Key>a</Key><ETag>"1"</ETag><Size>1</Size></Contents></ListBucketResult>`)
	}))
	defer endless.Close()
	c, err := openS3(t.Context(), source.Network{}, &bucket(strings.TrimPrefix(endless.URL, "http://")).Spec, secrets{keys: keys().Data})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	listed := 0
	err = c.list(ctx, "", func(Object) error {
		if listed++; listed == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after %d objects: %v", listed, err)
	}
}

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

package webhook

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const token = "canary-token"

// world is a server whose Receivers a test puts in, in front of a fake API server.
type world struct {
	t *testing.T
	*Server
	client  client.Client
	events  *sourcetest.Events
	written chan string // objects whose annotation was written
}

// newWorld returns a server that acts, with the Secrets of newReceiver and what is given. The way to issuers is closed.
func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := newIdleWorld(t, objects...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- w.triggers.run(ctx) }()
	go func() { ended <- w.act(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// newIdleWorld is the same with a server that only judges.
func newIdleWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	objects = append(objects, secretOf("token", map[string]string{"token": token, "email": "push@example.iam", "audience": "https://hooks.example.com"}))
	w := &world{t: t, events: &sourcetest.Events{}, written: make(chan string, 10_000)}
	w.client = interceptor.NewClient(sourcetest.Client(objects).(client.WithWatch), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			err := c.Patch(ctx, o, p, opts...)
			w.written <- o.GetObjectKind().GroupVersionKind().Kind + "/" + o.GetNamespace() + "/" + o.GetName()
			return err
		},
	})
	w.Server = NewServer(Options{
		Client: w.client, Objects: func(schema.GroupVersionKind) client.Reader { return w.client }, Requests: reconcile.NewRequests(),
		Recorder: reconcile.NewRecorder(w.events), Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Issuers: roundTripper(func(req *http.Request) (*http.Response, error) {
			t.Errorf("%s was asked", req.URL)
			return nil, io.EOF
		}),
	})
	w.synced.Store(true)
	w.waiting = nil // nobody waits: tests make all their requests one after the other
	return w
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

func secretOf(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	return s
}

func repository(namespace, name string, labels map[string]string) *sourcev1.GitRepository {
	return &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
}

// newReceiver returns a Receiver of a type that is ready, with the Secret token and one resource, GitRepository shop.
func newReceiver(kind string) *notificationv1.Receiver {
	r := &notificationv1.Receiver{
		TypeMeta:   metav1.TypeMeta{APIVersion: api.ReceiverKind.GroupVersion().String(), Kind: api.ReceiverKind.Kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: kind, UID: "1", Generation: 1},
		Spec: notificationv1.ReceiverSpec{
			Type: kind, SecretRef: &meta.LocalObjectReference{Name: "token"},
			Resources: []notificationv1.ReceiverResource{resource("GitRepository", "shop")},
		},
	}
	key := token
	if kind == notificationv1.GenericOIDCReceiver {
		r.Spec.SecretRef, key = nil, ""
	}
	r.Status.WebhookPath = r.GetWebhookPath(key)
	reconcile.SetCondition(r, meta.ReadyCondition, metav1.ConditionTrue, meta.SucceededReason, "")
	return r
}

func resource(kind, name string) notificationv1.ReceiverResource {
	return notificationv1.ReceiverResource{CrossNamespaceObjectReference: notificationv1.CrossNamespaceObjectReference{Kind: kind, Name: name}}
}

// add makes a Receiver known, as the watch does, and returns its path.
func (w *world) add(r *notificationv1.Receiver) string {
	w.t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.follow().OnAdd(&unstructured.Unstructured{Object: fields}, false)
	return r.Status.WebhookPath
}

// call is one request.
type call struct {
	method, path, from string
	header             map[string]string
	body               io.Reader
	length             int64
}

func post(path string, body []byte, header map[string]string) call {
	return call{path: path, header: header, body: strings.NewReader(string(body)), length: int64(len(body))}
}

// do returns the answer to a request.
func (w *world) do(c call) (status int, text string) {
	if c.method == "" {
		c.method = http.MethodPost
	}
	req := httptest.NewRequest(c.method, c.path, nil)
	if c.body != nil {
		req.Body, req.ContentLength = io.NopCloser(c.body), c.length
	}
	if c.from != "" {
		req.RemoteAddr = c.from
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	res := httptest.NewRecorder()
	w.ServeHTTP(res, req)
	return res.Code, strings.TrimSpace(res.Body.String())
}

// wrote returns the objects whose annotation was written, of which there are to be n, and then none for as long as nothing
// may be written.
func (w *world) wrote(n int) []string {
	w.t.Helper()
	objects := make([]string, 0, n)
	for range n {
		select {
		case o := <-w.written:
			objects = append(objects, o)
		case <-time.After(time.Minute):
			w.t.Fatalf("only %v were requested, want %d", objects, n)
		}
	}
	return objects
}

func payload(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile("testdata/payloads/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func mac(algorithm func() hash.Hash, key string, body []byte) string {
	m := hmac.New(algorithm, []byte(key))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

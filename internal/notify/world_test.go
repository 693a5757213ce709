package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

const (
	canary   = "canary-s3cret"
	commit   = "f12aaebd0ed930b86b96ed6583add2ad249033ae"
	objectID = types.UID("4ada5449-048d-4537-8123-24b4307593b1")
)

// watched is a cache whose objects are those of a fake API server, and whose Alerts the test puts in by itself.
type watched struct {
	cache.Cache
	client.Client
}

func (w watched) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return w.Client.Get(ctx, key, o, opts...)
}

func (w watched) List(ctx context.Context, o client.ObjectList, opts ...client.ListOption) error {
	return w.Client.List(ctx, o, opts...)
}

func (w watched) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return informer{}, nil
}

func (w watched) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// informer is one that has told everything.
type informer struct{ cache.Informer }

func (informer) AddEventHandler(toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return registration{}, nil
}

type registration struct {
	toolscache.ResourceEventHandlerRegistration
}

func (registration) HasSyncedChecker() toolscache.DoneChecker { return synced{} }

type synced struct{}

func (synced) Name() string { return "test" }

func (synced) Done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// world is a dispatcher in front of a fake API server.
type world struct {
	t *testing.T
	*Dispatcher
	bus    *reconcile.Bus
	events *sourcetest.Events
	client client.Client
	log    *strings.Builder

	mu     sync.Mutex // held while workers may be under way
	clock  time.Time
	pauses []time.Duration
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

// newWorld returns a dispatcher for objects in YAML, divided by lines of ---.
func newWorld(t *testing.T, objects string, change ...func(*Options)) *world {
	t.Helper()
	var all []client.Object
	var alerts []*unstructured.Unstructured // not the API server's: it would refuse one that cannot be decoded
	for text := range strings.SplitSeq(objects, "---\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		if u.GetKind() == "Secret" {
			s := &corev1.Secret{}
			if err := yaml.Unmarshal([]byte(text), s); err != nil {
				t.Fatal(err)
			}
			s.Data = map[string][]byte{}
			for key, value := range s.StringData {
				s.Data[key] = []byte(value)
			}
			all = append(all, s)
			continue
		}
		if u.GetUID() == "" {
			u.SetUID(types.UID("9bd41e22-" + u.GetName()))
		}
		if u.GetKind() == alerting.AlertKind {
			alerts = append(alerts, u)
			continue
		}
		all = append(all, u)
	}
	w := &world{t: t, bus: reconcile.NewBus(prometheus.NewRegistry()), events: &sourcetest.Events{}, client: sourcetest.Client(all), log: &strings.Builder{}}
	w.clock = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	o := Options{
		Watched: watched{Client: w.client}, Secrets: w.client, Objects: func(schema.GroupVersionKind) client.Reader { return w.client }, News: w.bus,
		Recorder: reconcile.NewRecorder(w.events), RateLimit: 5 * time.Minute, Registry: prometheus.NewRegistry(),
		Log: slog.New(slog.NewJSONHandler(w.log, nil)), clouds: fixedClouds{},
	}
	for _, c := range change {
		c(&o)
	}
	w.Dispatcher = New(o)
	w.limit.now, w.outbox.now = w.now, w.now
	w.outbox.wait = func(_ context.Context, d time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pauses = append(w.pauses, d)
		w.clock = w.clock.Add(d)
	}
	for _, u := range alerts {
		w.know(u)
	}
	t.Cleanup(func() { w.settle() })
	return w
}

// settle returns when nothing is queued any more.
func (w *world) settle() { w.outbox.workers.Wait() }

// hear is news that has come off the bus.
func (w *world) hear(n reconcile.News) {
	w.take(context.Background(), w.notice(n))
	w.settle()
}

type fixedClouds struct{}

func (fixedClouds) Token(_ context.Context, c cloud, _ *target) (string, error) {
	return canary + "-of-" + c.name, nil
}

func newAlert(spec string) string {
	return "apiVersion: notification.toolkit.fluxcd.io/v1beta3\nkind: Alert\nmetadata: {name: all, namespace: demo}\nspec: " + spec + "\n---\n"
}

func newProvider(spec string) string {
	return "apiVersion: notification.toolkit.fluxcd.io/v1beta3\nkind: Provider\nmetadata: {name: sink, namespace: demo, uid: 16131a8a-a5b7-4e09-a285-1674adf55b83}\nspec: " + spec + "\n---\n"
}

func newSecret(data string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: sink, namespace: demo}\nstringData: " + data + "\n---\n"
}

const everything = `{providerRef: {name: sink}, eventSources: [{kind: Kustomization, name: "*"}]}`

// newNews returns news of a Kustomization.
func newNews(severity reconcile.Severity, reason, message string) reconcile.News {
	return reconcile.News{
		InvolvedObject: corev1.ObjectReference{
			Kind: "Kustomization", Namespace: "demo", Name: "shop", UID: objectID, APIVersion: api.KustomizationKind.GroupVersion().String(), ResourceVersion: "326",
		},
		Severity: severity, Timestamp: metav1.NewTime(time.Date(2026, 11, 23, 11, 58, 13, 0, time.UTC)), Message: message, Reason: reason,
		Metadata: map[string]string{
			"kustomize.toolkit.fluxcd.io/revision":       "main@sha1:" + commit,
			"event.toolkit.fluxcd.io/team":               "shop",
			"kustomize.toolkit.fluxcd.io/change_request": "7", "unrelated/key": "untold", "kustomize.toolkit.fluxcd.io/token": "untold",
		},
		ReportingController: "kustomize-controller", ReportingInstance: "vm",
	}
}

func failureNews() reconcile.News {
	return newNews(reconcile.SeverityError, "BuildFailed", "kustomization path not found: ./nowhere\nsecond <line> & \"more\"")
}

func successNews() reconcile.News {
	return newNews(reconcile.SeverityInfo, "ReconciliationSucceeded", "Reconciliation finished")
}

// request is one that an endpoint was sent.
type request struct {
	Method string
	Host   string
	Path   string
	Query  url.Values
	Header http.Header
	Body   string
}

// endpoint is a server that keeps what it is sent.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
}

// newEndpoint returns a server that answers by answer, or 200 and an empty JSON object.
func newEndpoint(t *testing.T, answer func(w http.ResponseWriter, r request)) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r := request{req.Method, req.Host, req.URL.EscapedPath(), req.URL.Query(), req.Header, string(body)}
		e.mu.Lock()
		e.requests = append(e.requests, r)
		e.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) take() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.requests
	e.requests = nil
	return out
}

func (r request) json(t *testing.T) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(r.Body), &out); err != nil {
		t.Fatalf("%v: %s", err, r.Body)
	}
	return out
}

// unstructuredShop is the Kustomization that news are about.
var unstructuredShop = unstructured.Unstructured{Object: map[string]any{
	"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": map[string]any{"name": "shop", "namespace": "demo", "uid": string(objectID)},
}}

package helm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

// world is an API server that is a fake, a storage, and a Reconciler whose step "release" the test plays. What the step really does
// to a real cluster the e2e tests show.
type world struct {
	*testing.T
	client client.Client
	store  *artifact.Store
	events *sourcetest.Events
	lost   []string
	r      *Reconciler
	do     *reconcile.Controller[*v2.HelmRelease, *attempt]
	// act is the step "release"; nil is in sync.
	act func(context.Context, *attempt) error
}

// read returns the objects of a YAML text.
func read(t testing.TB, text []byte) []client.Object {
	t.Helper()
	var objects []client.Object
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(u); err != nil {
			return objects
		}
		if len(u.Object) > 0 {
			objects = append(objects, u)
		}
	}
}

func newWorld(t *testing.T, options Options, objects ...client.Object) *world {
	t.Helper()
	w := &world{T: t, events: &sourcetest.Events{}}
	w.client = sourcetest.Client(objects, &v2.HelmRelease{}, &sourcev1.HelmChart{}, &sourcev1.OCIRepository{}, &sourcev1.ExternalArtifact{})
	w.client = numbered(w.client)
	var err error
	if w.store, err = artifact.Open(artifact.Options{Dir: t.TempDir(), Address: "cleat"}); err != nil {
		t.Fatal(err)
	}
	cluster, err := kube.Connect(&rest.Config{Host: "http://127.0.0.1:1"}, kube.Options{Owner: kube.HelmReleases()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	log, recorder := slog.New(slog.DiscardHandler), reconcile.NewRecorder(w.events)
	w.r = New(Reconciler{
		Reader: w.client, Live: w.client, Snapshots: w.store, Charts: charts.New(charts.Limits{}),
		Clusters: kube.NewClusters(cluster, kube.RemoteOptions{Secrets: w.client}), Recorder: recorder, Waker: &reconcile.Waker{}, Log: log, Options: options,
		Lost: func(kind schema.GroupVersionKind, key types.NamespacedName) {
			w.lost = append(w.lost, kind.Kind+"/"+key.String())
		},
	})
	w.r.dependants.Served = depend.Kinds
	kind := w.r.Kind()
	steps := kind.Steps
	kind.Steps = func(a *attempt) []reconcile.Step[*attempt] {
		list := steps(a)
		for i := range list {
			if list[i].Name == releaseStep {
				list[i].Do = func(ctx context.Context, a *attempt) error {
					if w.act == nil {
						return nil
					}
					return w.act(ctx, a)
				}
			}
		}
		return list
	}
	w.do = reconcile.NewController(kind, sourcetest.Edge(w.client), api.HelmManager, recorder, log)
	return w
}

// numbered gives what is applied a UID and a generation, as an API server does.
func numbered(c client.Client) client.Client {
	return interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			before := api.Undecoded(obj.GetObjectKind().GroupVersionKind())
			_ = c.Get(ctx, client.ObjectKeyFromObject(obj), before)                            // it may not be there
			if err := c.Patch(ctx, obj, patch, opts...); err != nil || patch != client.Apply { //nolint:staticcheck // what is asked for
				return err
			}
			u := obj.(*unstructured.Unstructured)
			if before.GetUID() == "" || !equality.Semantic.DeepEqual(before.Object["spec"], u.Object["spec"]) {
				u.SetUID(types.UID("uid of " + u.GetName()))
				u.SetGeneration(before.GetGeneration() + 1)
				return c.Update(ctx, u)
			}
			return nil
		},
	})
}

// reconcile does one run for demo/name and returns the object as it is afterwards; nil when it is gone.
func (w *world) reconcile(name string) *v2.HelmRelease {
	w.Helper()
	key := types.NamespacedName{Namespace: "demo", Name: name}
	if _, err := w.do.Reconcile(w.Context(), ctrl.Request{NamespacedName: key}); err != nil {
		w.Fatal(err)
	}
	hr := &v2.HelmRelease{}
	if err := w.client.Get(w.Context(), key, hr); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return nil
		}
		w.Fatal(err)
	}
	return hr
}

// edit changes an object as somebody else would, and counts that as another generation if its spec is concerned.
func (w *world) edit(obj client.Object, change func()) {
	w.Helper()
	if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
		w.Fatal(err)
	}
	change()
	if err := w.client.Update(w.Context(), obj); err != nil {
		w.Fatal(err)
	}
}

// publish stores a chart as the artifact of an object and says so in its status, which is that of a source which has been reconciled.
func (w *world) publish(kind, name, revision string) {
	w.Helper()
	file := "testdata/flux/web-1.0.0.tgz"
	if revision == "1.1.0" {
		file = "testdata/flux/web-1.1.0.tgz"
	}
	data, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	object := artifact.Object{Kind: kind, Namespace: "demo", Name: name}
	stored, err := w.store.PublishFile(object, "web-1.0.0.tgz", revision, bytes.NewReader(data))
	if err != nil {
		w.Fatal(err)
	}
	gvk, _ := sourceKind(kind)
	w.status(gvk, name, map[string]any{"artifact": map[string]any{
		"digest": stored.Digest, "path": stored.Path, "url": stored.URL, "revision": stored.Revision, "lastUpdateTime": "2026-11-25T00:00:00Z",
	}})
}

// status sets fields of a source's status, for the generation that it has.
func (w *world) status(gvk schema.GroupVersionKind, name string, fields map[string]any) {
	w.Helper()
	u := api.Undecoded(gvk)
	if err := w.client.Get(w.Context(), types.NamespacedName{Namespace: "demo", Name: name}, u); err != nil {
		w.Fatal(err)
	}
	if gvk != api.ExternalArtifactKind {
		fields["observedGeneration"] = u.GetGeneration()
	}
	u.Object["status"] = fields
	if err := w.client.Status().Update(w.Context(), u); err != nil {
		w.Fatal(err)
	}
}

// ended is a step as core makes it.
func ended(kind ActionKind, remedy bool, release *v2.Snapshot, more string, err error) step {
	s := step{Kind: kind, Remedy: remedy, Release: release, Err: err}
	s.Reason, s.Message = kind.words(remedy, subjectOf(release, Target{Namespace: "demo", Name: "web", Chart: "web"}, "1.0.0"), err, more)
	return s
}

// ready is the condition Ready as `Status Reason: message`.
func ready(hr *v2.HelmRelease) string { return told(hr, "Ready") }

func told(hr *v2.HelmRelease, kind string) string {
	c := reconcile.Condition(hr, kind)
	if c == nil {
		return ""
	}
	return strings.Join([]string{string(c.Status), c.Reason + ":", c.Message}, " ")
}

var errTest = errors.New("failed early due to stalled resources: [Pod/demo/web-failing-test-check status: 'Failed']")

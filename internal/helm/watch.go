package helm

import (
	"context"
	"fmt"
	"slices"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	runtimereconcile "sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// The indexes of HelmReleases: by the object whose artifact is their chart, and by the ConfigMaps and Secrets that they refer to.
const (
	sourceIndex    = "source"
	referenceIndex = "references"
)

// Setup starts the watches that wake HelmReleases: their own spec, the source of their chart, what they depend on, what their
// values come from, snapshots that were missing, and actions that have ended. kinds are those that the cluster knows.
func (r *Reconciler) Setup(ctx context.Context, mgr ctrl.Manager, kinds []schema.GroupVersionKind, do runtimereconcile.Reconciler, options controller.Options) error {
	r.dependants.Served = kinds
	releases := api.Undecoded(api.HelmReleaseKind)
	if err := mgr.GetFieldIndexer().IndexField(ctx, releases, sourceIndex, sourceKeys); err != nil {
		return fmt.Errorf("indexing HelmReleases by source: %w", err)
	}
	if err := mgr.GetFieldIndexer().IndexField(ctx, releases, referenceIndex, referenceKeys); err != nil {
		return fmt.Errorf("indexing HelmReleases by what they refer to: %w", err)
	}
	controller := ctrl.NewControllerManagedBy(mgr).Named("helmrelease").WithOptions(options).
		For(releases, builder.WithPredicates(r.Requests.Asked()))
	for _, kind := range sourceKinds {
		if slices.Contains(kinds, kind) {
			controller = controller.Watches(api.Undecoded(kind), handler.EnqueueRequestsFromMapFunc(r.readersOf(kind.Kind)), builder.WithPredicates(sourceMoved()))
		}
	}
	for _, kind := range depend.Kinds {
		if slices.Contains(kinds, kind) {
			controller = controller.Watches(api.Undecoded(kind), handler.EnqueueRequestsFromMapFunc(r.dependants.DependantsOf(kind.Kind)))
		}
	}
	return controller.
		WatchesMetadata(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(r.referrersOf("ConfigMap"))).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.referrersOf("Secret"))).
		WatchesRawSource(r.Waker).
		Complete(do)
}

// Start ends the actions that are under way when the agent stops, and returns when they have ended. It is a Runnable of
// controller-runtime's.
func (r *Reconciler) Start(ctx context.Context) error {
	<-ctx.Done()
	r.operations.stop()
	r.causes.stop()
	return nil
}

// SnapshotAdded is told when a snapshot has come into the storage.
func (r *Reconciler) SnapshotAdded(digest string) {
	for _, key := range r.missing.For(digest) {
		r.Waker.Wake(key)
	}
}

// sourceMoved lets through a source that is new, offers something else, or has something else to say for not offering it. A
// HelmChart that is deleted is made anew; what was made of other sources stays as it is when they are deleted.
func sourceMoved() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool { return lookOf(e.ObjectOld) != lookOf(e.ObjectNew) },
		DeleteFunc: func(e event.DeleteEvent) bool {
			return e.Object.GetObjectKind().GroupVersionKind().Kind == api.HelmChartKind.Kind
		},
	}
}

// look is what a HelmRelease can see of its source.
type look struct {
	generation                int64
	revision, digest, lacking string
}

func lookOf(source client.Object) look {
	u, ok := source.(*unstructured.Unstructured)
	if !ok {
		return look{}
	}
	l := look{generation: u.GetGeneration(), lacking: lackingOf(u)}
	if state, err := readSource(u); err == nil && state.Artifact != nil {
		l.revision, l.digest = state.Artifact.Revision, state.Artifact.Digest
	}
	return l
}

// readersOf returns a function that maps a source to the HelmReleases whose chart it is.
func (r *Reconciler) readersOf(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []ctrl.Request {
		return r.find(ctx, sourceIndex, referenceKey(kind, o.GetNamespace(), o.GetName()))
	}
}

// referrersOf returns the HelmReleases that refer to an object of that kind. Only objects that carry the label of
// --watch-configs-label-selector are watched.
func (r *Reconciler) referrersOf(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []ctrl.Request {
		requests := r.find(ctx, referenceIndex, referenceKey(kind, o.GetNamespace(), o.GetName()))
		for _, request := range requests {
			r.changes.Add(request.NamespacedName)
		}
		return requests
	}
}

// find returns the HelmReleases that an index has under key.
func (r *Reconciler) find(ctx context.Context, index, key string) []ctrl.Request {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v2.GroupVersion.WithKind("HelmReleaseList"))
	if err := r.Reader.List(ctx, list, client.MatchingFields{index: key}); err != nil {
		r.Log.Error("looking up whom to wake", "index", index, "key", key, "error", err)
		return nil
	}
	requests := make([]ctrl.Request, 0, len(list.Items))
	for _, item := range list.Items {
		requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&item)})
	}
	return requests
}

// sourceKeys indexes a HelmRelease by the object whose artifact is its chart, read without decoding so that a bad field elsewhere
// does not hide it.
func sourceKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	text := func(path ...string) string {
		value, _, _ := unstructured.NestedString(u.Object, path...)
		return value
	}
	if name := text("spec", "chartRef", "name"); name != "" {
		return []string{referenceKey(text("spec", "chartRef", "kind"), orElse(text("spec", "chartRef", "namespace"), u.GetNamespace()), name)}
	}
	namespace := orElse(text("spec", "chart", "spec", "sourceRef", "namespace"), u.GetNamespace())
	return []string{referenceKey(api.HelmChartKind.Kind, namespace, u.GetNamespace()+"-"+u.GetName())}
}

// referenceKeys indexes a HelmRelease by what its values come from, and by how it reaches its cluster.
func referenceKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	var keys []string
	for _, reference := range []struct{ field, kind string }{{"secretRef", "Secret"}, {"configMapRef", "ConfigMap"}} {
		if name, ok, _ := unstructured.NestedString(u.Object, "spec", "kubeConfig", reference.field, "name"); ok {
			keys = append(keys, referenceKey(reference.kind, u.GetNamespace(), name))
		}
	}
	entries, _, _ := unstructured.NestedSlice(u.Object, "spec", "valuesFrom")
	for _, entry := range entries {
		if reference, ok := entry.(map[string]any); ok {
			kind, _ := reference["kind"].(string)
			name, _ := reference["name"].(string)
			keys = append(keys, referenceKey(kind, u.GetNamespace(), name))
		}
	}
	return keys
}

func referenceKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

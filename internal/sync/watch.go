package sync

import (
	"context"
	"fmt"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	runtimereconcile "sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// The indexes of Kustomizations: by the source they read, and by the ConfigMaps and Secrets their variables and
// decryption keys come from.
const (
	sourceIndex   = "source"
	variableIndex = "variables"
)

// Setup starts the watches that wake Kustomizations: their own spec, their source's artifact, what they depend on, what
// their variables come from, the objects they wait for, and snapshots that were missing. kinds are those that the cluster knows.
func (r *Reconciler) Setup(ctx context.Context, mgr ctrl.Manager, kinds []schema.GroupVersionKind, do runtimereconcile.Reconciler, options controller.Options) error {
	r.dependants.Served = kinds
	kustomizations := api.Undecoded(api.KustomizationKind)
	if err := mgr.GetFieldIndexer().IndexField(ctx, kustomizations, sourceIndex, sourceKeys); err != nil {
		return fmt.Errorf("indexing Kustomizations by source: %w", err)
	}
	if err := mgr.GetFieldIndexer().IndexField(ctx, kustomizations, variableIndex, variableKeys); err != nil {
		return fmt.Errorf("indexing Kustomizations by variables: %w", err)
	}
	controller := ctrl.NewControllerManagedBy(mgr).Named("kustomization").WithOptions(options).
		For(kustomizations, builder.WithPredicates(r.Requests.Asked()))
	for _, kind := range sourceKinds {
		if !slices.Contains(kinds, kind) {
			continue
		}
		controller = controller.Watches(api.Undecoded(kind), r.wakeReaders(), builder.WithPredicates(reconcile.ArtifactChanged()))
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

// ObservationChanged is told when an object that owner has applied or pinned looks different on the cluster.
func (r *Reconciler) ObservationChanged(owner types.NamespacedName) {
	if r.waits.news(owner, r.lookOf(owner)) {
		r.Waker.Wake(owner)
	}
}

// SnapshotAdded is told when a snapshot has come into the storage.
func (r *Reconciler) SnapshotAdded(digest string) {
	for _, key := range r.missing.For(digest) {
		r.Waker.Wake(key)
	}
}

// wakeReaders wakes the Kustomizations that read a source that offers something else. Those whose last build has read what
// is other now come first: who waits for a change should not wait for a hundred others to report the revision.
func (r *Reconciler) wakeReaders() handler.EventHandler {
	wake := func(ctx context.Context, source client.Object, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) {
		key := referenceKey(source.GetObjectKind().GroupVersionKind().Kind, source.GetNamespace(), source.GetName())
		changed, same := r.sortReaders(r.find(ctx, sourceIndex, key), source)
		reconcile.Enqueue(queue, reconcile.Urgent, changed...)
		reconcile.Enqueue(queue, 0, same...)
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) {
			wake(ctx, e.Object, queue)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) {
			wake(ctx, e.ObjectNew, queue)
		},
	}
}

// sortReaders tells readers for which the artifact of a source holds something new from those for which it does not. Where
// that is not known, it is new.
func (r *Reconciler) sortReaders(readers []ctrl.Request, source client.Object) (changed, same []ctrl.Request) {
	if !slices.ContainsFunc(readers, func(reader ctrl.Request) bool { return r.builds.known(reader.NamespacedName) }) {
		return readers, nil
	}
	u, _ := source.(*unstructured.Unstructured)
	offered, err := artifactOf(u)
	if err != nil || offered == nil {
		return readers, nil // each finds out what is wrong
	}
	snapshot, release, err := r.Snapshots.Acquire(artifact.Object{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}, offered.Digest)
	if err != nil {
		return readers, nil // and so here
	}
	defer release()
	for _, reader := range readers {
		if r.builds.unaffected(reader.NamespacedName, snapshot) {
			same = append(same, reader)
			continue
		}
		changed = append(changed, reader)
	}
	return changed, same
}

// referrersOf returns the Kustomizations whose variables or keys come from an object of that kind. Only objects that carry the
// label of --watch-configs-label-selector are watched.
func (r *Reconciler) referrersOf(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []ctrl.Request {
		requests := r.find(ctx, variableIndex, referenceKey(kind, o.GetNamespace(), o.GetName()))
		for _, request := range requests {
			r.changes.Add(request.NamespacedName)
		}
		return requests
	}
}

// find returns the Kustomizations that an index has under key.
func (r *Reconciler) find(ctx context.Context, index, key string) []ctrl.Request {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kustomizev1.GroupVersion.WithKind("KustomizationList"))
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

// sourceKeys indexes a Kustomization by its source, read without decoding so that a bad field elsewhere does not hide it.
func sourceKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "kind")
	name, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "name")
	namespace, found, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "namespace")
	if !found || namespace == "" {
		namespace = u.GetNamespace()
	}
	return []string{referenceKey(kind, namespace, name)}
}

// variableKeys indexes a Kustomization by what its variables and decryption keys come from, and by how it reaches its cluster.
func variableKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	references, _, _ := unstructured.NestedSlice(u.Object, "spec", "postBuild", "substituteFrom")
	var keys []string
	for field, kind := range map[string]string{"secretRef": "Secret", "configMapRef": "ConfigMap"} {
		if name, ok, _ := unstructured.NestedString(u.Object, "spec", "kubeConfig", field, "name"); ok {
			keys = append(keys, referenceKey(kind, u.GetNamespace(), name))
		}
	}
	for _, entry := range references {
		if reference, ok := entry.(map[string]any); ok {
			kind, _ := reference["kind"].(string)
			name, _ := reference["name"].(string)
			keys = append(keys, referenceKey(kind, u.GetNamespace(), name))
		}
	}
	if name, found, _ := unstructured.NestedString(u.Object, "spec", "decryption", "secretRef", "name"); found {
		keys = append(keys, referenceKey("Secret", u.GetNamespace(), name))
	}
	return keys
}

func referenceKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

package helm

import (
	"context"
	"log/slog"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// SourceIndex is the name of the index of HelmCharts by their source.
const SourceIndex = "helmchart.source"

// SourceKeys indexes a HelmChart by its source. It reads without decoding, so that a bad field elsewhere does not hide it.
func SourceKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "kind")
	name, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "name")
	return []string{sourceKey(kind, u.GetNamespace(), name)}
}

func sourceKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// ChartsOf returns a map function from a source to the HelmCharts that are made from it.
func ChartsOf(reader client.Reader, log *slog.Logger) func(context.Context, client.Object) []ctrl.Request {
	return func(ctx context.Context, o client.Object) []ctrl.Request {
		key := sourceKey(o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace(), o.GetName())
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(sourcev1.GroupVersion.WithKind(sourcev1.HelmChartKind + "List"))
		if err := reader.List(ctx, list, client.MatchingFields{SourceIndex: key}); err != nil {
			log.Error("looking up whom to wake", "index", SourceIndex, "key", key, "error", err)
			return nil
		}
		requests := make([]ctrl.Request, 0, len(list.Items))
		for i := range list.Items {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return requests
	}
}

// SourceChanged lets through a source that is new or offers another artifact, and a repository in a registry whose spec has
// changed: it has no artifact, and says how charts are reached.
func SourceChanged() predicate.Predicate {
	static := func(o client.Object) bool {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return false
		}
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "type")
		return u.GetKind() == sourcev1.HelmRepositoryKind && kind == sourcev1.HelmRepositoryTypeOCI
	}
	return predicate.Or(reconcile.ArtifactChanged(), predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return static(e.ObjectNew) && e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
		},
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	})
}

package reconcile

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// Asked lets through the events by which somebody asks for a run: the object is new or gone, its spec has changed, it is
// being deleted, or an annotation that is meant for the agent has changed. Our own status writes are none of these.
func Asked() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return asked(e, "") }}
}

// asked says whether an update asks for a run, whatever becomes of one annotation.
func asked(e event.UpdateEvent, ignored string) bool {
	return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
		e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() ||
		requestsDiffer(e.ObjectOld, e.ObjectNew, ignored)
}

// requestsDiffer says whether an annotation under reconcile.fluxcd.io/ or cleat.dev/ differs, beside the one that is ignored.
func requestsDiffer(a, b client.Object, ignored string) bool {
	return missing(a.GetAnnotations(), b.GetAnnotations(), ignored) || missing(b.GetAnnotations(), a.GetAnnotations(), ignored)
}

// missing says whether b lacks a request that a holds, or holds it with another value.
func missing(a, b map[string]string, ignored string) bool {
	for key, value := range a {
		request := key != ignored && (strings.HasPrefix(key, "reconcile.fluxcd.io/") || strings.HasPrefix(key, "cleat.dev/"))
		if other, ok := b[key]; request && (!ok || other != value) {
			return true
		}
	}
	return false
}

// ArtifactChanged lets through a source that is new or offers another artifact. What was made of one that is deleted stays
// as it is.
func ArtifactChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool { return offer(e.ObjectOld) != offer(e.ObjectNew) },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

// offer identifies what a source offers. The digest counts beside the revision: a changed spec.ignore gives other content at
// the same commit.
func offer(source client.Object) string {
	u, ok := source.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	revision, _, _ := unstructured.NestedString(u.Object, "status", "artifact", "revision")
	digest, _, _ := unstructured.NestedString(u.Object, "status", "artifact", "digest")
	return revision + " " + digest
}

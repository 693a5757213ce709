package reconcile

import (
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// Asked lets through the events by which somebody asks for a run: the object is new or gone, its spec has changed, it is
// being deleted, or an annotation that is meant for the agent has changed. Our own status writes are none of these.
func Asked() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
			e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() ||
			requestsDiffer(e.ObjectOld, e.ObjectNew)
	}}
}

// requestsDiffer says whether an annotation under reconcile.fluxcd.io/ or cleat.dev/ differs.
func requestsDiffer(a, b client.Object) bool {
	return missing(a.GetAnnotations(), b.GetAnnotations()) || missing(b.GetAnnotations(), a.GetAnnotations())
}

// missing says whether b lacks a request that a holds, or holds it with another value.
func missing(a, b map[string]string) bool {
	for key, value := range a {
		request := strings.HasPrefix(key, "reconcile.fluxcd.io/") || strings.HasPrefix(key, "cleat.dev/")
		if other, ok := b[key]; request && (!ok || other != value) {
			return true
		}
	}
	return false
}

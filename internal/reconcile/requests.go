package reconcile

import (
	"sync"

	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// Requests are reconcile requests that this process makes itself. They are on the objects too, as the annotation that
// `flux reconcile` writes, but a run need not wait until that has gone to the API server and come back by the cache: it
// answers the request from here, and finds it handled when the annotation comes (docs/adr/0035).
//
// Like the annotation, a request is a level: a newer one takes the place of one that is not answered yet. A nil *Requests
// knows none.
type Requests struct {
	mu     sync.Mutex
	wakers map[schema.GroupKind]*Waker
	made   map[requested]string // that are not answered yet
	own    map[requested]string // the last that was made for an object, answered or not
}

type requested struct {
	kind schema.GroupKind
	key  types.NamespacedName
}

// NewRequests returns an empty set of requests.
func NewRequests() *Requests {
	return &Requests{wakers: map[schema.GroupKind]*Waker{}, made: map[requested]string{}, own: map[requested]string{}}
}

// Waker returns what wakes the objects of a kind. Its controller must watch it.
func (r *Requests) Waker(kind schema.GroupVersionKind) *Waker {
	r.mu.Lock()
	defer r.mu.Unlock()
	waker := r.wakers[kind.GroupKind()]
	if waker == nil {
		waker = &Waker{}
		r.wakers[kind.GroupKind()] = waker
	}
	return waker
}

// Make asks for a run for an object, under a token that must also be written to the object's annotation. It does nothing
// for kinds that no controller of this process works on: then the annotation is all there is.
func (r *Requests) Make(kind schema.GroupVersionKind, key types.NamespacedName, token string) {
	r.mu.Lock()
	waker := r.wakers[kind.GroupKind()]
	works := waker != nil && waker.started()
	if works {
		r.made[requested{kind.GroupKind(), key}] = token
		r.own[requested{kind.GroupKind(), key}] = token
	}
	r.mu.Unlock()
	if works {
		waker.Wake(key)
	}
}

// of returns the request that a run answers: the one that was made here or, when there is none, the annotation's.
func (r *Requests) of(kind schema.GroupVersionKind, key types.NamespacedName, annotation string) string {
	if r == nil {
		return annotation
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if token, ok := r.made[requested{kind.GroupKind(), key}]; ok {
		return token
	}
	return annotation
}

// answered drops a request when it is on record that it was answered, unless a newer one has been made meanwhile.
func (r *Requests) answered(kind schema.GroupVersionKind, key types.NamespacedName, token string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made[requested{kind.GroupKind(), key}] == token {
		delete(r.made, requested{kind.GroupKind(), key})
	}
}

// forget drops what was asked of an object that is gone.
func (r *Requests) forget(kind schema.GroupVersionKind, key types.NamespacedName) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.made, requested{kind.GroupKind(), key})
	delete(r.own, requested{kind.GroupKind(), key})
}

// Asked is the predicate Asked without the annotations that only repeat what was made here: the object has been woken for
// those already, and to run once more would ask a source's server twice.
func (r *Requests) Asked() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		if r.isOwn(e.ObjectNew) {
			return asked(e, meta.ReconcileRequestAnnotation)
		}
		return asked(e, "")
	}}
}

// isOwn says whether the annotation of an object is a request that was made here.
func (r *Requests) isOwn(o client.Object) bool {
	if r == nil {
		return false
	}
	token, _ := meta.ReconcileAnnotationValue(o.GetAnnotations())
	r.mu.Lock()
	defer r.mu.Unlock()
	own, made := r.own[requested{o.GetObjectKind().GroupVersionKind().GroupKind(), client.ObjectKeyFromObject(o)}]
	return made && own == token
}

package reconcile

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Waitlist remembers which objects wait for what, so that the change of one thing wakes exactly those. To miss nothing,
// an object joins before it looks whether what it needs is there, and leaves when it is.
type Waitlist[K comparable] struct {
	mu      sync.Mutex
	waiters map[K]map[types.NamespacedName]struct{}
	on      map[types.NamespacedName]map[K]struct{}
}

// NewWaitlist returns an empty list.
func NewWaitlist[K comparable]() *Waitlist[K] {
	return &Waitlist[K]{waiters: map[K]map[types.NamespacedName]struct{}{}, on: map[types.NamespacedName]map[K]struct{}{}}
}

// Join notes that the object waits for each of what, and for nothing else any more.
func (w *Waitlist[K]) Join(object types.NamespacedName, what ...K) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leave(object)
	for _, k := range what {
		if w.waiters[k] == nil {
			w.waiters[k] = map[types.NamespacedName]struct{}{}
		}
		if w.on[object] == nil {
			w.on[object] = map[K]struct{}{}
		}
		w.waiters[k][object] = struct{}{}
		w.on[object][k] = struct{}{}
	}
}

// Leave notes that the object waits for nothing any more.
func (w *Waitlist[K]) Leave(object types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leave(object)
}

func (w *Waitlist[K]) leave(object types.NamespacedName) {
	for k := range w.on[object] {
		delete(w.waiters[k], object)
		if len(w.waiters[k]) == 0 {
			delete(w.waiters, k)
		}
	}
	delete(w.on, object)
}

// For returns the objects that wait for k, in no order.
func (w *Waitlist[K]) For(k K) []types.NamespacedName {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(w.waiters[k]))
	for key := range w.waiters[k] {
		keys = append(keys, key)
	}
	return keys
}

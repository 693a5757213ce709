package reconcile

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Waitlist remembers which objects wait for what, so that the change of one thing wakes exactly those. To miss nothing,
// an object joins before it looks whether what it needs is there, and leaves when it is.
type Waitlist[K comparable] struct {
	mu      sync.Mutex
	waiting map[K]map[types.NamespacedName]struct{}
}

// NewWaitlist returns an empty list.
func NewWaitlist[K comparable]() *Waitlist[K] {
	return &Waitlist[K]{waiting: map[K]map[types.NamespacedName]struct{}{}}
}

// Join notes that the object waits for on.
func (w *Waitlist[K]) Join(on K, object types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[on] == nil {
		w.waiting[on] = map[types.NamespacedName]struct{}{}
	}
	w.waiting[on][object] = struct{}{}
}

// Leave notes that the object no longer waits for on.
func (w *Waitlist[K]) Leave(on K, object types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting[on], object)
	if len(w.waiting[on]) == 0 {
		delete(w.waiting, on)
	}
}

// For returns the objects that wait for on, in no order.
func (w *Waitlist[K]) For(on K) []types.NamespacedName {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(w.waiting[on]))
	for key := range w.waiting[on] {
		keys = append(keys, key)
	}
	return keys
}

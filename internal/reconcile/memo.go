package reconcile

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Memo keeps what was made of the spec of each object, for as long as the object has the generation that it was made of.
type Memo[T any] struct {
	mu sync.Mutex
	by map[types.NamespacedName]memo[T]
}

type memo[T any] struct {
	uid        types.UID
	generation int64
	made       T
}

// NewMemo returns an empty one.
func NewMemo[T any]() *Memo[T] { return &Memo[T]{by: map[types.NamespacedName]memo[T]{}} }

// Of returns what was made of the object's spec, or makes it.
func (m *Memo[T]) Of(obj client.Object, do func() T) T {
	key := client.ObjectKeyFromObject(obj)
	m.mu.Lock()
	defer m.mu.Unlock()
	known, ok := m.by[key]
	if !ok || known.uid != obj.GetUID() || known.generation != obj.GetGeneration() {
		known = memo[T]{obj.GetUID(), obj.GetGeneration(), do()}
		m.by[key] = known
	}
	return known.made
}

// Forget drops what is kept for an object that is gone.
func (m *Memo[T]) Forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.by, key)
}

// Len returns of how many objects something is kept.
func (m *Memo[T]) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.by)
}

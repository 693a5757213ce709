package reconcile

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Counters count something for each object: how often has what it refers to changed? Something that was begun at another count
// must not be taken up.
type Counters struct {
	mu sync.Mutex
	by map[types.NamespacedName]uint64
}

// NewCounters returns Counters that are all zero.
func NewCounters() *Counters { return &Counters{by: map[types.NamespacedName]uint64{}} }

// Add counts one more.
func (c *Counters) Add(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[key]++
}

// Get returns the count.
func (c *Counters) Get(key types.NamespacedName) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[key]
}

// Forget drops the count of an object that is gone.
func (c *Counters) Forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, key)
}

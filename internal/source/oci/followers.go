package oci

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// followers remembers which objects go by which tag, and what each has last seen it to stand for. Objects share the answers
// of a registry, so the one that happens to ask next may be the only one to hear of something new: the others are woken.
type followers struct {
	mu sync.Mutex
	of map[types.NamespacedName]followed
	by map[followed]map[types.NamespacedName]string // → digest
}

// followed is one tag as one set of credentials sees it.
type followed struct{ session, tag string }

// see notes what the object has seen, and returns those that have seen something else.
func (f *followers) see(object types.NamespacedName, what followed, digest string) []types.NamespacedName {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of, f.by = map[types.NamespacedName]followed{}, map[followed]map[types.NamespacedName]string{}
	}
	if before, ok := f.of[object]; ok && before != what {
		f.leave(object)
	}
	if f.by[what] == nil {
		f.by[what] = map[types.NamespacedName]string{}
	}
	f.of[object], f.by[what][object] = what, digest
	var others []types.NamespacedName
	for other, seen := range f.by[what] {
		if seen != digest {
			others = append(others, other)
		}
	}
	return others
}

// forget is called for an object that is gone.
func (f *followers) forget(object types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leave(object)
}

// leave is called with the lock held.
func (f *followers) leave(object types.NamespacedName) {
	what, ok := f.of[object]
	if !ok {
		return
	}
	delete(f.of, object)
	delete(f.by[what], object)
	if len(f.by[what]) == 0 {
		delete(f.by, what)
	}
}

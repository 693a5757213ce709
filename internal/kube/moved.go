package kube

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/object"
)

// Moved says which of an owner's objects look different on the cluster.
type Moved struct {
	Owner types.NamespacedName
	// Objects changed in health, identity or the fields we own, appeared or vanished.
	Objects []object.Key
	// All says that any of them may have: a watch that the owner needs has become synced, or failed.
	All bool
}

// maxMoved is how many objects of an owner are told one by one.
const maxMoved = 10_000

// moves gathers what is to be told of one owner.
type moves struct {
	objects map[object.Key]struct{}
	all     bool
}

// SubscribeObjects is Subscribe with the objects that have changed.
func (o *Observer) SubscribeObjects(changed func(Moved)) (cancel func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := o.nextID
	o.nextID++
	o.objectSubscribers[id] = changed
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.objectSubscribers, id)
	}
}

// gather notes for object subscribers that an object of an owner, or with nil any, has changed. The caller holds the lock.
func (o *Observer) gather(owner types.NamespacedName, key *object.Key) {
	if len(o.objectSubscribers) == 0 {
		return
	}
	m := o.moves[owner]
	if m == nil {
		m = &moves{objects: make(map[object.Key]struct{})}
		o.moves[owner] = m
	}
	switch {
	case m.all:
	case key == nil, len(m.objects) >= maxMoved:
		m.all, m.objects = true, nil
	default:
		m.objects[*key] = struct{}{}
	}
}

// gathered takes what there is to tell. The caller holds the lock.
func (o *Observer) gathered() (told []Moved, to []func(Moved)) {
	for owner, m := range o.moves {
		moved := Moved{Owner: owner, All: m.all}
		for key := range m.objects {
			moved.Objects = append(moved.Objects, key)
		}
		told = append(told, moved)
	}
	clear(o.moves)
	for _, s := range o.objectSubscribers {
		to = append(to, s)
	}
	return told, to
}

// SubscribeObjects has changed called as Observer.SubscribeObjects does, for all clusters.
func (c *Clusters) SubscribeObjects(changed func(Moved)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objectSubscribers = append(c.objectSubscribers, changed)
	c.own.Observer.SubscribeObjects(changed)
	for _, r := range c.remotes {
		r.Observer.SubscribeObjects(changed)
	}
}

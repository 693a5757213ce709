package reconcile

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// Urgent is the priority of an object for which something is known to have changed, before those that only look whether
// anything has. It is given up with the run: what is looked at again later is looked at in its turn.
const Urgent = 1

// Enqueue puts objects on a queue with a priority.
func Enqueue(queue workqueue.TypedRateLimitingInterface[ctrl.Request], priority int, requests ...ctrl.Request) {
	if ordered, ok := queue.(priorityqueue.PriorityQueue[ctrl.Request]); ok {
		ordered.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, requests...)
		return
	}
	for _, request := range requests {
		queue.Add(request)
	}
}

// Waker puts objects on a controller's queue when something in this process has changed for them. It is a level, not an
// edge: waking an object that is already queued does nothing, waking one that is being worked on runs it once more.
type Waker struct {
	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[ctrl.Request]
}

// Start is called by the controller with its queue; Waker is a source of events to controller-runtime.
func (w *Waker) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = queue
	return nil
}

// Wake queues the object. Before the controller has started it does nothing, since starting queues every object anyway.
func (w *Waker) Wake(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil {
		Enqueue(w.queue, Urgent, ctrl.Request{NamespacedName: key})
	}
}

// started says whether there is a controller whose objects can be woken.
func (w *Waker) started() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue != nil
}

package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// apart is the least time between two requests on one object. The first hook of a burst is acted on at once, and all that
	// come within this time after it together, when it is over: what they tell of is then fetched at once.
	apart = time.Second
	// writers is how many requests are written at a time.
	writers = 8
	// maxRetries is how often a request is written again that the API server did not take.
	maxRetries = 6
)

// triggers has objects looked at again: it wakes those that this process works on, and writes the annotation by which
// `flux reconcile` asks, for whoever else does and for the record. A wish is a level: however often an object is wanted, it
// is looked at once after the last time.
type triggers struct {
	client   client.Client
	requests *reconcile.Requests
	recorder *reconcile.Recorder
	options  Options
	queue    workqueue.TypedRateLimitingInterface[target]
	now      func() time.Time

	mu     sync.Mutex
	due    map[target]time.Time // when an object was to be looked at last, or is going to be
	wishes map[target]wish      // of what is queued
}

// wish is that an object be looked at again.
type wish struct {
	by *hook // whose hook it was
	// token is set when it has been granted in this process, and only the annotation is still to be written.
	token string
}

func newTriggers(o Options) *triggers {
	return &triggers{
		client: o.Client, requests: o.Requests, recorder: o.Recorder, options: o, now: time.Now,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[target](time.Second, time.Minute)),
		due:   map[target]time.Time{}, wishes: map[target]wish{},
	}
}

// want has an object looked at again: now or, when it was looked at lately, as soon as enough time has passed since. A wish
// that comes while another waits for its time is part of that one.
func (t *triggers) want(o target, by *hook) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.wishes[o] = wish{by: by}
	at := t.due[o]
	switch {
	case now.Sub(at) >= apart:
		t.due[o] = now
		t.queue.Add(o)
	case !at.After(now):
		t.due[o] = at.Add(apart)
		t.queue.AddAfter(o, at.Add(apart).Sub(now))
	default:
		// It is going to be looked at, and will see what this hook tells of.
	}
}

// take returns the wish for an object, unless it was granted meanwhile, and forgets what was looked at long ago.
func (t *triggers) take(o target) (wish, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	maps.DeleteFunc(t.due, func(_ target, at time.Time) bool { return now.Sub(at) >= apart })
	w, ok := t.wishes[o]
	delete(t.wishes, o)
	return w, ok
}

// putBack has a wish tried again, unless there is a newer one, which includes it.
func (t *triggers) putBack(o target, w wish) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, newer := t.wishes[o]; !newer {
		t.wishes[o] = w
	}
}

// run makes requests until ctx ends.
func (t *triggers) run(ctx context.Context) error {
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for {
				o, shutdown := t.queue.Get()
				if shutdown {
					return
				}
				t.make(ctx, o)
				t.queue.Done(o)
			}
		})
	}
	<-ctx.Done()
	t.queue.ShutDown()
	all.Wait()
	return nil
}

// make makes one request.
func (t *triggers) make(ctx context.Context, o target) {
	w, wanted := t.take(o)
	if !wanted {
		return // it was queued twice, and looked at when the first came
	}
	if w.token == "" {
		w.token = metav1.NewTime(t.now()).String()
		t.requests.Make(o.kind, o.key, w.token)
	}
	err := t.annotate(ctx, o, w.token)
	switch {
	case err == nil:
		t.queue.Forget(o)
		t.options.Log.Info("reconciliation requested", "kind", o.kind.Kind, "name", o.key.Name, "namespace", o.key.Namespace)
	case ctx.Err() != nil:
		// The agent is stopping. The sources look at everything when it starts again.
	case final(err) || t.queue.NumRequeues(o) >= maxRetries:
		t.queue.Forget(o)
		t.complain(w.by, err)
	default:
		t.putBack(o, w)
		t.queue.AddRateLimited(o)
	}
}

// annotate writes the request, as Flux's controller does.
func (t *triggers) annotate(ctx context.Context, o target, token string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{meta.ReconcileRequestAnnotation: token}}})
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	if err := t.client.Patch(ctx, o.mark(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(api.NotificationManager)); err != nil {
		return fmt.Errorf("requesting the reconciliation of %s: %w", o, err)
	}
	return nil
}

// final says that to try again is of no use.
func final(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apimeta.IsNoMatchError(err)
}

// complain says on the Receiver, and in the log, what could not be done for its hook.
func (t *triggers) complain(h *hook, err error) {
	if h == nil {
		return // its wish was another's, who has been told
	}
	t.options.Log.Error("acting on a hook", append(h.describe(), "error", err)...)
	t.recorder.Record(h.receiver, reconcile.Event{Type: corev1.EventTypeWarning, Reason: meta.FailedReason, Message: err.Error()})
}

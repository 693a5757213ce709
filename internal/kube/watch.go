package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// listTimeout is how long one page of a list may take. The API server's own limit is a minute.
const listTimeout = 2 * time.Minute

// target is what one watch selects: the objects of a kind that carry an owner label, of all namespaces or of one, or, with a
// name, one object. By judge, it is watched apart: the same objects, whose health others than kstatus decide about. All who
// judge alike share it.
type target struct {
	schema.GroupVersionKind
	namespace string
	name      string
	judge     string // health.Judge.Digest; empty for kstatus
}

func kindTarget(r object.Ref) target { return whole(r.GroupVersionKind()) }

func whole(gvk schema.GroupVersionKind) target { return target{GroupVersionKind: gvk} }

// partTarget is what is watched instead of kindTarget where a kind may not be listed in all namespaces.
func partTarget(r object.Ref) target {
	return target{GroupVersionKind: r.GroupVersionKind(), namespace: r.Namespace}
}

func pinTarget(r object.Ref) target {
	return target{GroupVersionKind: r.GroupVersionKind(), namespace: r.Namespace, name: r.Name}
}

// judged returns the target as j sees it, or the same if j has nothing to say about the kind.
func (t target) judged(j *health.Judge) target {
	if j.Judges(t.GroupKind()) {
		t.judge = j.Digest
	}
	return t
}

// narrow has a list or watch select the target; label is what carries the name of an owner.
func (t target) narrow(opts *metav1.ListOptions, label string) {
	if t.name == "" {
		opts.LabelSelector = label
		return
	}
	opts.FieldSelector = fields.OneTermEqualSelector("metadata.name", t.name).String()
}

// watch is the state of one target. The Observer's lock guards all but the channel.
type watch struct {
	target
	judge  *health.Judge // nil for kstatus
	cancel context.CancelFunc
	// users counts the owners that need it and the waits that hold it.
	users int
	// retry ends the pause before the next try.
	retry chan struct{}

	// synced: the store holds all there is as of seen.
	synced bool
	// err is why the last list failed; nil once one succeeded.
	err error
	// seen is the resourceVersion up to which events have come in.
	seen    string
	objects map[types.NamespacedName]Observation
}

// acquire starts a watch or adds a user to it. judge is that of the target.
func (o *Observer) acquire(t target, judge *health.Judge) {
	w := o.watches[t]
	if w == nil {
		ctx, cancel := context.WithCancel(o.ctx)
		w = &watch{
			target:  t,
			judge:   judge,
			cancel:  cancel,
			retry:   make(chan struct{}, 1),
			objects: make(map[types.NamespacedName]Observation),
		}
		o.watches[t] = w
		if !o.closed {
			o.wg.Go(func() { o.run(ctx, w) })
		}
	}
	w.users++
}

// release takes a user off a watch and ends it with the last. Its goroutine ends by itself; Close waits for it.
func (o *Observer) release(t target) {
	w := o.watches[t]
	w.users--
	if w.users == 0 {
		w.cancel()
		delete(o.watches, t)
	}
}

// run keeps a watch going until ctx ends. The reflector inside survives broken connections, expired versions and
// restarts of the API server; what it cannot do is find a kind that comes and goes with its CRD.
func (o *Observer) run(ctx context.Context, w *watch) {
	pause := newPause()
	for {
		served, err := o.follow(ctx, w)
		if ctx.Err() != nil {
			return
		}
		o.failed(w, err)
		if served {
			pause = newPause()
		}
		timer := time.NewTimer(pause.Step())
		select {
		case <-ctx.Done():
		case <-w.retry:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// newPause returns the pauses between looks for a kind that is not served: from a second to a minute.
func newPause() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 7, Cap: time.Minute}
}

// follow lists and watches until ctx ends or the kind is not there. It says whether the kind was served at all.
func (o *Observer) follow(ctx context.Context, w *watch) (served bool, err error) {
	mapping, err := o.kinds.mapping(ctx, w.GroupVersionKind)
	if err != nil {
		return false, err
	}
	resource := o.resource(mapping, w.target)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	source := ListFirst(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			ctx, cancel := context.WithTimeout(ctx, listTimeout)
			defer cancel()
			w.narrow(&opts, o.owner.Labels.Name)
			list, err := resource.List(ctx, opts)
			if err != nil {
				o.failed(w, err)
				if kindGone(err) {
					stop(fmt.Errorf("%s: %w", w.GroupVersionKind, ErrNotServed))
				}
				return nil, err
			}
			return observeList(list, o.owner, w.judge), nil
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
			w.narrow(&opts, o.owner.Labels.Name)
			return resource.Watch(ctx, opts)
		},
	})
	reflector := cache.NewReflectorWithOptions(source, nil, &store{observer: o, watch: w}, cache.ReflectorOptions{
		Name:            "observer",
		TypeDescription: w.GroupVersionKind.String(),
		Backoff:         &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 9, Cap: 30 * time.Second},
	})
	// The reflector would log each failed try. We log when that begins, and when it ends.
	reflector.RunWithContext(klog.NewContext(ctx, logr.Discard()))
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrNotServed) {
		// The mapping that led nowhere must not be found again.
		o.kinds.Reset()
	}
	return true, cause
}

func (o *Observer) resource(mapping *meta.RESTMapping, t target) dynamic.ResourceInterface {
	resource := o.client.Resource(mapping.Resource)
	if t.namespace != "" && mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return resource.Namespace(t.namespace)
	}
	return resource
}

// failed notes that a watch is not up to date any more. What was observed stays: a failure is no news about objects.
func (o *Observer) failed(w *watch, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.watches[w.target] != w {
		return
	}
	news := w.err == nil || w.err.Error() != err.Error()
	w.synced = false
	w.err = err
	if w.target == whole(w.GroupVersionKind) && apierrors.IsForbidden(err) {
		o.divide(w.GroupVersionKind, true)
	}
	if news {
		o.log.Warn("cannot watch", "kind", w.GroupVersionKind.String(), "namespace", w.namespace, "name", w.name, "error", err)
		o.touchUsers(w.target)
	}
}

// observed is an object on its way through a reflector, which asks for no more than metadata.
type observed struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	observation Observation
}

func newObserved(u *unstructured.Unstructured, kind Owner, judge *health.Judge) *observed {
	obs := kind.observe(u, judge)
	return &observed{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       intern(u.GetNamespace()),
			Name:            strings.Clone(u.GetName()),
			ResourceVersion: obs.ResourceVersion,
		},
		observation: obs,
	}
}

// DeepCopyObject makes observed a runtime.Object.
func (x *observed) DeepCopyObject() runtime.Object {
	c := *x
	c.ObjectMeta = *x.ObjectMeta.DeepCopy()
	return &c
}

// observedList is a page of a list, reduced as soon as it is there.
type observedList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []observed
}

func observeList(list *unstructured.UnstructuredList, kind Owner, judge *health.Judge) *observedList {
	out := &observedList{
		ListMeta: metav1.ListMeta{
			ResourceVersion:    list.GetResourceVersion(),
			Continue:           list.GetContinue(),
			RemainingItemCount: list.GetRemainingItemCount(),
		},
		Items: make([]observed, 0, len(list.Items)),
	}
	for i := range list.Items {
		out.Items = append(out.Items, *newObserved(&list.Items[i], kind, judge))
		list.Items[i].Object = nil // Let it go before the next one is reduced.
	}
	return out
}

// DeepCopyObject makes observedList a runtime.Object.
func (l *observedList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = append([]observed(nil), l.Items...)
	return &c
}

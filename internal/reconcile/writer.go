package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/cleat-dev/cleat/internal/api"
)

type undecodedObject = unstructured.Unstructured

const (
	// writeTimeout bounds one write of a status or finalizer, whatever the run's own timeout is.
	writeTimeout = 30 * time.Second
	// finalizerTries is how often the finalizer is set anew because somebody else has changed the object meanwhile.
	finalizerTries = 5
)

// writer is the one place that writes status and finalizer of the objects of a kind. It remembers the API server's last
// answer per object, because the cache may lag behind our own write, and a run that began from an inventory older than the
// one it had written itself would lose track of objects.
type writer[T Object] struct {
	client  client.Client
	gvk     schema.GroupVersionKind
	empty   func() T
	manager string

	mu      sync.Mutex
	written map[types.NamespacedName]T
	// unsure holds objects of which a write got no answer: it may have been done.
	unsure map[types.NamespacedName]bool
}

func newWriter[T Object](c client.Client, gvk schema.GroupVersionKind, empty func() T, manager string) *writer[T] {
	return &writer[T]{client: c, gvk: gvk, empty: empty, manager: manager,
		written: map[types.NamespacedName]T{}, unsure: map[types.NamespacedName]bool{}}
}

// newest returns the newer of the cached object and our own last answer for it.
func (w *writer[T]) newest(cached T) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(cached)
	answer, ok := w.written[key]
	if !ok {
		return cached
	}
	order, err := resourceversion.CompareResourceVersion(cached.GetResourceVersion(), answer.GetResourceVersion())
	if cached.GetUID() == answer.GetUID() && err == nil && order < 0 {
		return clone(answer)
	}
	delete(w.written, key)
	return cached
}

// current returns the object as a run may begin from it: the newest that is known or, when it is not known what became of the
// last write, as the API server has it. A difference taken against a cache that has not seen that write would leave out what
// is to be written anew, and what is then applied would be on record nowhere (faults.md F48).
func (w *writer[T]) current(ctx context.Context, cached T) (T, error) {
	key := client.ObjectKeyFromObject(cached)
	w.mu.Lock()
	unsure := w.unsure[key]
	w.mu.Unlock()
	if !unsure {
		return w.newest(cached), nil
	}
	live, err := w.read(ctx, cached)
	if err != nil {
		return cached, fmt.Errorf("reading what became of the last write: %w", err)
	}
	w.remember(live)
	return live, nil
}

// doubt notes that a write got no answer.
func (w *writer[T]) doubt(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unsure[key] = true
}

func (w *writer[T]) remember(answer T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := client.ObjectKeyFromObject(answer)
	w.written[key] = clone(answer)
	delete(w.unsure, key)
}

func (w *writer[T]) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.written, key)
	delete(w.unsure, key)
}

// patchStatus writes the difference in status between base and obj, if there is any, and returns the API server's answer.
// The patch carries the object's UID, so that an object deleted and created anew in between is never given the status of
// its predecessor. The error is the API server's NotFound when the object is gone.
func (w *writer[T]) patchStatus(ctx context.Context, base, obj T) (T, error) {
	diff, err := client.MergeFrom(base).Data(obj)
	if err != nil {
		return base, fmt.Errorf("comparing the status: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(diff, &fields); err != nil {
		return base, fmt.Errorf("comparing the status: %w", err)
	}
	if fields["status"] == nil {
		return base, nil // nothing has changed: no write
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": obj.GetUID()},
		"status":   fields["status"],
	})
	if err != nil {
		return base, fmt.Errorf("encoding the status: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	answer := of(w.gvk, obj)
	if err := w.client.Status().Patch(ctx, answer, client.RawPatch(types.MergePatchType, data), client.FieldOwner(w.manager)); err != nil {
		w.doubt(client.ObjectKeyFromObject(obj))
		return base, fmt.Errorf("patching the status: %w", err)
	}
	return w.take(answer)
}

// take decodes what the API server has answered and remembers it. An answer with a spec that does not decode is taken
// without it: that is the object which is being told so.
func (w *writer[T]) take(answer *undecodedObject) (T, error) {
	obj := w.empty()
	if err := api.Decode(answer, obj); err != nil {
		return decodePart(answer, w.empty)
	}
	w.remember(obj)
	return obj, nil
}

// addFinalizer puts our finalizer on the object; obj and base take over the answer's metadata.
func (w *writer[T]) addFinalizer(ctx context.Context, obj, base T) error {
	current := clone(base)
	for range finalizerTries {
		answer, err := w.patchFinalizers(ctx, current, controllerutil.AddFinalizer)
		if apierrors.IsConflict(err) { // somebody has annotated the object, say; look again
			current, err = w.read(ctx, obj)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("adding the finalizer: %w", err)
		}
		for _, o := range []T{obj, base} {
			o.SetFinalizers(answer.GetFinalizers())
			o.SetResourceVersion(answer.GetResourceVersion())
		}
		return nil
	}
	return fmt.Errorf("adding the finalizer: the object was changed %d times meanwhile", finalizerTries)
}

// removeFinalizer lets the object go.
func (w *writer[T]) removeFinalizer(ctx context.Context, obj T) error {
	_, err := w.patchFinalizers(ctx, obj, controllerutil.RemoveFinalizer)
	return client.IgnoreNotFound(err)
}

// patchFinalizers changes nothing but the list of finalizers, and only if the object is still the one that was read: the
// list is replaced as a whole, and another controller's entry must not be lost.
func (w *writer[T]) patchFinalizers(ctx context.Context, from T, change func(client.Object, string) bool) (T, error) {
	to := clone(from)
	change(to, api.Finalizer)
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": from.GetUID(), "resourceVersion": from.GetResourceVersion(), "finalizers": to.GetFinalizers(),
	}})
	if err != nil {
		return from, fmt.Errorf("encoding the finalizers: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	answer := of(w.gvk, from)
	if err := w.client.Patch(ctx, answer, client.RawPatch(types.MergePatchType, data), client.FieldOwner(w.manager)); err != nil {
		return from, err
	}
	return w.take(answer)
}

// read reads the object from the API server, past the cache.
func (w *writer[T]) read(ctx context.Context, obj T) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	answer := of(w.gvk, obj)
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(obj), answer); err != nil {
		return obj, err
	}
	if answer.GetUID() != obj.GetUID() {
		return obj, apierrors.NewNotFound(schema.GroupResource{Group: w.gvk.Group, Resource: w.gvk.Kind}, obj.GetName())
	}
	current := w.empty()
	return current, api.Decode(answer, current)
}

// doneIfGone turns the API server's word that the object is gone into ErrDone.
func doneIfGone(err error) error {
	if apierrors.IsNotFound(err) {
		return ErrDone
	}
	return err
}

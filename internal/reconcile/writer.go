package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/cleat-dev/cleat/internal/api"
)

// writer is the one place that writes status and finalizer of the objects of a kind. It remembers the API server's last
// answer per object, because the cache may lag behind our own write, and a run that began from an inventory older than the
// one it had written itself would lose track of objects.
type writer[T Object] struct {
	client  client.Client
	manager string

	mu      sync.Mutex
	written map[types.NamespacedName]T
}

func newWriter[T Object](c client.Client, manager string) *writer[T] {
	return &writer[T]{client: c, manager: manager, written: map[types.NamespacedName]T{}}
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

func (w *writer[T]) remember(answer T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written[client.ObjectKeyFromObject(answer)] = clone(answer)
}

func (w *writer[T]) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.written, key)
}

// patchStatus writes the difference in status between base and obj, if there is any, and returns the API server's answer.
// The patch carries the object's UID, so that an object deleted and created anew in between is never given the status of
// its predecessor.
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
	answer := clone(obj)
	if err := w.client.Status().Patch(ctx, answer, client.RawPatch(types.MergePatchType, data), client.FieldOwner(w.manager)); err != nil {
		if apierrors.IsNotFound(err) {
			return base, nil // deleted meanwhile: there is nobody left to tell
		}
		return base, fmt.Errorf("patching the status: %w", err)
	}
	w.remember(answer)
	return answer, nil
}

// addFinalizer puts our finalizer on the object; obj and base take over the answer's metadata.
func (w *writer[T]) addFinalizer(ctx context.Context, obj, base T) error {
	answer := clone(base)
	controllerutil.AddFinalizer(answer, api.Finalizer)
	if err := w.patchFinalizers(ctx, base, answer); err != nil {
		return fmt.Errorf("adding the finalizer: %w", err)
	}
	for _, o := range []T{obj, base} {
		o.SetFinalizers(answer.GetFinalizers())
		o.SetResourceVersion(answer.GetResourceVersion())
		o.SetManagedFields(answer.GetManagedFields())
	}
	w.remember(answer)
	return nil
}

// removeFinalizer lets the object go.
func (w *writer[T]) removeFinalizer(ctx context.Context, obj T) error {
	answer := clone(obj)
	controllerutil.RemoveFinalizer(answer, api.Finalizer)
	if err := w.patchFinalizers(ctx, obj, answer); err != nil {
		return client.IgnoreNotFound(err)
	}
	return nil
}

// patchFinalizers changes nothing but the list of finalizers, and only if the object is still the one that was read: the
// list is replaced as a whole, and another controller's entry must not be lost.
func (w *writer[T]) patchFinalizers(ctx context.Context, from, to T) error {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": from.GetUID(), "resourceVersion": from.GetResourceVersion(), "finalizers": to.GetFinalizers(),
	}})
	if err != nil {
		return fmt.Errorf("encoding the finalizers: %w", err)
	}
	return w.client.Patch(ctx, to, client.RawPatch(types.MergePatchType, data), client.FieldOwner(w.manager))
}

package kube

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/cleat-dev/cleat/internal/object"
)

// store is what a reflector fills: it keeps observations and drops the objects.
type store struct {
	observer *Observer
	watch    *watch
}

var (
	_ cache.TransformingStore      = (*store)(nil)
	_ cache.ReflectorBookmarkStore = (*store)(nil)
)

// Transformer reduces objects that are streamed instead of listed, before the reflector gathers them.
func (s *store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.asObserved(obj) }
}

func (s *store) asObserved(obj any) (*observed, error) {
	switch obj := obj.(type) {
	case *observed:
		return obj, nil
	case *unstructured.Unstructured:
		return newObserved(obj, s.observer.owner, s.watch.judge), nil
	default:
		return nil, fmt.Errorf("observing a %T", obj)
	}
}

func (s *store) Add(obj any) error { return s.Update(obj) }

func (s *store) Update(obj any) error {
	x, err := s.asObserved(obj)
	if err != nil {
		return err
	}
	o, w := s.observer, s.watch
	o.mu.Lock()
	defer o.mu.Unlock()
	w.pass(x.ResourceVersion)
	o.put(w, types.NamespacedName{Namespace: x.Namespace, Name: x.Name}, x.observation)
	return nil
}

func (s *store) Delete(obj any) error {
	gone, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("observing the end of a %T", obj)
	}
	name := types.NamespacedName{Namespace: gone.GetNamespace(), Name: gone.GetName()}
	o, w := s.observer, s.watch
	o.mu.Lock()
	defer o.mu.Unlock()
	w.pass(gone.GetResourceVersion())
	known, ok := w.objects[name]
	if !ok || older(gone.GetResourceVersion(), known.ResourceVersion) {
		return nil // The object that was recorded since is another one of that name.
	}
	delete(w.objects, name)
	o.touch(w.key(name))
	return nil
}

// Replace takes in a complete list as of a version. What was recorded after that version stays.
func (s *store) Replace(items []any, version string) error {
	o, w := s.observer, s.watch
	o.mu.Lock()
	defer o.mu.Unlock()
	listed := make(map[types.NamespacedName]bool, len(items))
	for _, item := range items {
		x, err := s.asObserved(item)
		if err != nil {
			return err
		}
		name := types.NamespacedName{Namespace: x.Namespace, Name: x.Name}
		listed[name] = true
		o.put(w, name, x.observation)
	}
	for name, known := range w.objects {
		if !listed[name] && !older(version, known.ResourceVersion) {
			delete(w.objects, name)
			o.touch(w.key(name))
		}
	}
	w.pass(version)
	o.synced(w)
	return nil
}

// Resync has nothing to do: the Observer's users have a safety net of their own, their interval.
func (s *store) Resync() error { return nil }

// Bookmark says that there is nothing to see up to a version.
func (s *store) Bookmark(version string) error {
	s.observer.mu.Lock()
	defer s.observer.mu.Unlock()
	s.watch.pass(version)
	return nil
}

// pass notes how far the events have come.
func (w *watch) pass(version string) {
	if older(w.seen, version) {
		w.seen = version
	}
}

func (w *watch) key(name types.NamespacedName) object.Key {
	return object.Key{Group: w.Group, Kind: w.Kind, Namespace: name.Namespace, Name: name.Name}
}

// put keeps an observation unless a newer one is known.
func (o *Observer) put(w *watch, name types.NamespacedName, obs Observation) {
	known, ok := w.objects[name]
	if ok && older(obs.ResourceVersion, known.ResourceVersion) {
		return
	}
	w.objects[name] = obs
	if !ok || notable(known, obs) {
		o.touch(w.key(name))
	}
}

// synced notes that a list has come in whole.
func (o *Observer) synced(w *watch) {
	if w.synced {
		return // A list anew after an expired watch; what it changed has been told.
	}
	if w.err != nil {
		o.log.Info("watching again", "kind", w.GroupVersionKind.String(), "namespace", w.namespace, "name", w.name)
	}
	w.synced, w.err = true, nil
	if w.target == whole(w.GroupVersionKind) {
		o.divide(w.GroupVersionKind, false)
	}
	o.touchUsers(w.target)
}

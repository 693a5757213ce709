package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/object"
)

// requestTimeout bounds one request. The API server gives up after a minute by itself, if it is there to do so.
const requestTimeout = 70 * time.Second

// recorder is the client that one Apply lends to the ResourceManager. It notes what the API server answers about live
// objects, which the ResourceManager keeps to itself, and hands it on to the Observer.
type recorder struct {
	client.Client
	observer *Observer

	mu sync.Mutex
	// before and after are the first and the last answer about each object; before lacks those that did not exist.
	before map[object.Key]Observation
	after  map[object.Key]Observation
	// written and deleted say what was done to each object, not counting dry-runs.
	written map[object.Key]bool
	deleted map[object.Key]bool
}

func newRecorder(c client.Client, o *Observer) *recorder {
	return &recorder{
		Client:   c,
		observer: o,
		before:   make(map[object.Key]Observation),
		after:    make(map[object.Key]Observation),
		written:  make(map[object.Key]bool),
		deleted:  make(map[object.Key]bool),
	}
}

func (r *recorder) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := r.Client.Get(ctx, key, obj, opts...); err != nil {
		return err
	}
	r.note(obj, false)
	return nil
}

func (r *recorder) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := r.Client.Patch(ctx, obj, patch, opts...); err != nil {
		return err
	}
	var o client.PatchOptions
	if o.ApplyOptions(opts); len(o.DryRun) == 0 {
		r.note(obj, true)
	}
	return nil
}

// Delete is how an object with an immutable field is made anew, if it may be. The one that was read is deleted, no
// other of its name; and never a kind that takes others along.
func (r *recorder) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	switch gk := obj.GetObjectKind().GroupVersionKind().GroupKind(); gk {
	case namespaceKind, crdKind:
		return fmt.Errorf("a %s is never recreated: everything in it would go", gk.Kind)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := r.Client.Delete(ctx, obj, append(opts, uidPrecondition(obj.GetUID()))...); err != nil {
		return err
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.deleted[object.RefOf(u).Key()] = true
	}
	return nil
}

func uidPrecondition(uid types.UID) client.Preconditions {
	if uid == "" {
		return client.Preconditions{}
	}
	return client.Preconditions{UID: &uid}
}

func (r *recorder) note(obj client.Object, written bool) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return // Only managed objects are of interest, and those are unstructured.
	}
	obs := r.observer.Record(u)
	key := object.RefOf(u).Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.before[key]; !ok && !written {
		r.before[key] = obs
	}
	r.after[key] = obs
	if written {
		r.written[key] = true
	}
}

// last returns the last answer about an object.
func (r *recorder) last(key object.Key) (Observation, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	obs, ok := r.after[key]
	return obs, ok
}

// changes returns what was done to these objects so far.
func (r *recorder) changes(objects []*unstructured.Unstructured) []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Change
	for _, u := range objects {
		ref := object.RefOf(u)
		key := ref.Key()
		if !r.written[key] {
			continue
		}
		c := Change{Ref: ref, Action: Configured, Recreated: r.deleted[key]}
		if _, existed := r.before[key]; !existed || c.Recreated {
			c.Action = Created
		}
		out = append(out, c)
	}
	return out
}

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
	// forced are the objects that ask in Git to be made anew when need be.
	forced map[object.Key]bool
	// guard is asked about a live object before it is written over; nil lets all pass.
	guard func(live *unstructured.Unstructured) error
	// tried is told of each dry-run: the live object, nil when there is none, and what the API server would make of it. It keeps
	// neither. Nil is not told.
	tried func(live, merged *unstructured.Unstructured)

	mu sync.Mutex
	// live are the objects that were read and are to be told to tried.
	live map[object.Key]*unstructured.Unstructured
	// barred is what guard has said.
	barred map[object.Key]error
	// untried are the objects of which the API server could make no dry-run.
	untried map[object.Key]bool
	// scaled are the objects whose replicas somebody else sets; yielded those whose replicas were left to that.
	scaled  map[object.Key]scaled
	yielded map[object.Key]bool
	// before and after are the first and the last answer about each object; before lacks those that did not exist.
	before map[object.Key]Observation
	after  map[object.Key]Observation
	// precious says of live objects why they are not made anew unless they ask for it themselves.
	precious map[object.Key]string
	// refused and failed are the last errors of a dry-run and of an apply.
	refused map[object.Key]error
	failed  map[object.Key]error
	// written and deleted say what was done to each object, not counting dry-runs.
	written map[object.Key]bool
	deleted map[object.Key]bool
}

func newRecorder(c client.Client, o *Observer) *recorder {
	return &recorder{
		Client:   c,
		observer: o,
		forced:   make(map[object.Key]bool),
		before:   make(map[object.Key]Observation),
		after:    make(map[object.Key]Observation),
		precious: make(map[object.Key]string),
		refused:  make(map[object.Key]error),
		failed:   make(map[object.Key]error),
		written:  make(map[object.Key]bool),
		deleted:  make(map[object.Key]bool),
		live:     make(map[object.Key]*unstructured.Unstructured),
		barred:   make(map[object.Key]error),
		untried:  make(map[object.Key]bool),
		scaled:   make(map[object.Key]scaled),
		yielded:  make(map[object.Key]bool),
	}
}

func (r *recorder) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := r.Client.Get(ctx, key, obj, opts...); err != nil {
		return err
	}
	r.note(obj, false)
	r.look(obj)
	return nil
}

// look notes what is to be known of a live object before it is tried and written over.
func (r *recorder) look(obj client.Object) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	key := object.RefOf(u).Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	if by := scaler(u); by != "" {
		replicas, _, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas")
		r.scaled[key] = scaled{by: by, replicas: replicas}
	}
	if r.tried != nil {
		r.live[key] = u
	}
	if r.guard != nil {
		r.barred[key] = r.guard(u)
	}
}

// tell hands on what a dry-run has answered.
func (r *recorder) tell(obj client.Object) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || r.tried == nil {
		return
	}
	key := object.RefOf(u).Key()
	r.mu.Lock()
	live := r.live[key]
	delete(r.live, key)
	r.mu.Unlock()
	r.tried(live, u)
}

func (r *recorder) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var o client.PatchOptions
	o.ApplyOptions(opts)
	dryRun := len(o.DryRun) > 0
	if u, ok := obj.(*unstructured.Unstructured); ok {
		r.mu.Lock()
		barred := r.barred[object.RefOf(u).Key()]
		r.mu.Unlock()
		if barred != nil {
			return barred
		}
		if patch.Type() == types.ApplyPatchType {
			r.leaveReplicas(ctx, u)
			leaveAggregated(u)
		}
	}
	err := r.Client.Patch(ctx, obj, patch, opts...)
	switch {
	case err == nil && dryRun:
		r.tell(obj)
	case err == nil:
		r.note(obj, true)
	case dryRun && isDryRunUnsupported(err):
		r.assumeChanged(obj)
		return nil
	case err != nil:
		r.noteError(obj, dryRun, err)
	}
	return err
}

// assumeChanged answers a dry-run that an admission webhook cannot take part in (faults.md F40): as if the object were not as
// it is desired, so that it is applied. That tells what the dry-run could not.
func (r *recorder) assumeChanged(obj client.Object) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.untried[object.RefOf(u).Key()] = true
	if before, ok := r.before[object.RefOf(u).Key()]; ok {
		u.SetResourceVersion(before.ResourceVersion)
	}
}

func (r *recorder) noteError(obj client.Object, dryRun bool, err error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if dryRun {
		r.refused[object.RefOf(u).Key()] = err
		return
	}
	r.failed[object.RefOf(u).Key()] = err
}

// Delete is how an object with an immutable field is made anew, if it may be. The one that was read is deleted, no
// other of its name.
func (r *recorder) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return fmt.Errorf("deleting a %T, which was not applied", obj)
	}
	key := object.RefOf(u).Key()
	r.mu.Lock()
	why := r.keeps(key, r.refused[key])
	r.mu.Unlock()
	if why != "" {
		return &keptError{why: why}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := r.Client.Delete(ctx, obj, append(opts, uidPrecondition(obj.GetUID()))...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deleted[key] = true
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
		return
	}
	r.precious[key] = precious(u)
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
	var out []Change
	for _, u := range objects {
		if c := r.corrected(Change{Ref: object.RefOf(u)}); c.Action != "" {
			out = append(out, c)
		}
	}
	return out
}

// corrected returns a change as it was seen to be, when the object was written: an apply that was begun a second time, or without
// a dry-run, does not know.
func (r *recorder) corrected(c Change) Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := c.Ref.Key()
	if !r.written[key] {
		return c
	}
	c.Recreated = r.deleted[key]
	before, existed := r.before[key]
	switch {
	case !existed, c.Recreated:
		c.Action = Created
	case before.ResourceVersion == r.after[key].ResourceVersion:
		c.Action = Unchanged
	default:
		c.Action = Configured
	}
	return c
}

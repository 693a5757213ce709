package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/cleat-dev/cleat/internal/api"
)

// Run is one object while the steps run for it.
type Run[T Object] struct {
	// Obj is the object. Its spec is only read; its status is set by Save and by the kind's Report.
	Obj T
	// Before is the condition Ready as it was before this run, or nil.
	Before *metav1.Condition
	// RequestedAt is the reconcile request that this run answers, read before it begins; empty when there is none.
	RequestedAt string

	writer        *writer[T]
	progressAfter time.Duration

	mu       sync.Mutex         // held while the status is written: a progress report may coincide with Save
	base     T                  // the object as the API server last answered
	reported []metav1.Condition // what a progress report has set, to be taken over into Obj between steps
}

func newRun[T Object](obj T, w *writer[T], progressAfter time.Duration) *Run[T] {
	requestedAt, _ := meta.ReconcileAnnotationValue(obj.GetAnnotations())
	return &Run[T]{
		Obj: obj, Before: Condition(obj, meta.ReadyCondition).DeepCopy(), RequestedAt: requestedAt,
		writer: w, progressAfter: progressAfter, base: clone(obj),
	}
}

// Save writes the status now, in the middle of the run, with what set changes in it. It is for what must be on record
// before the next step may have an effect. It returns ErrDone when the object no longer exists: then nothing may have one.
func (r *Run[T]) Save(ctx context.Context, set func(T)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reported != nil { // what is set now is newer than a progress report, and is not to be lost to it
		r.Obj.SetConditions(r.reported)
		r.reported = nil
	}
	set(r.Obj)
	return doneIfGone(r.write(ctx))
}

// HoldDeletion puts the finalizer on the object, so that its deletion waits for the kind's Cleanup. It returns ErrDone when
// the object no longer exists.
func (r *Run[T]) HoldDeletion(ctx context.Context) error {
	if controllerutil.ContainsFinalizer(r.Obj, api.Finalizer) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return doneIfGone(r.writer.addFinalizer(ctx, r.Obj, r.base))
}

// flush writes what differs from the status that the API server has; if nothing does, it writes nothing.
func (r *Run[T]) flush(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.write(ctx)
}

// write is flush for who holds the lock.
func (r *Run[T]) write(ctx context.Context) error {
	answer, err := r.writer.patchStatus(ctx, r.base, r.Obj)
	if err != nil {
		return err
	}
	r.base = answer
	return nil
}

// reportLater tells in the status of a step that lasts; stop must be called when the step has ended.
func (r *Run[T]) reportLater(ctx context.Context, progress string) (stop func()) {
	if r.progressAfter <= 0 {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(r.progressAfter)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
			r.report(ctx, progress)
		}
	})
	return func() {
		close(done)
		wg.Wait()
		if r.reported != nil { // only now: the step may have been reading Obj
			r.Obj.SetConditions(r.reported)
			r.reported = nil
		}
	}
}

// report writes the progress conditions alone. That it cannot is no reason to stop: the end of the run reports again.
func (r *Run[T]) report(ctx context.Context, progress string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	working := clone(r.base)
	Progressing(working, progress)
	if answer, err := r.writer.patchStatus(ctx, r.base, working); err == nil {
		r.base, r.reported = answer, answer.GetConditions()
	}
}

func clone[T Object](obj T) T { return obj.DeepCopyObject().(T) }

// decodePart decodes an object without its spec or, if that is not what cannot be decoded, with its metadata only.
func decodePart[T Object](undecoded *undecodedObject, into func() T) (T, error) {
	part := undecoded.DeepCopy()
	delete(part.Object, "spec")
	obj := into()
	if api.Decode(part, obj) == nil {
		return obj, nil
	}
	delete(part.Object, "status")
	obj = into()
	return obj, api.Decode(part, obj)
}

// of returns an empty undecoded object that names obj.
func of[T Object](gvk schema.GroupVersionKind, obj T) *undecodedObject {
	u := api.Undecoded(gvk)
	u.SetNamespace(obj.GetNamespace())
	u.SetName(obj.GetName())
	return u
}

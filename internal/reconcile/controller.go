package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/cleat-dev/cleat/internal/api"
)

// Object is a Flux object: it has conditions.
type Object interface {
	client.Object
	GetConditions() []metav1.Condition
	SetConditions([]metav1.Condition)
}

// Kind is all that the shared controller must know of one kind of object T, whose attempts are structs A.
type Kind[T Object, A any] struct {
	GVK schema.GroupVersionKind
	// New returns an empty object.
	New func() T
	// Suspended says that the object asks to be left alone. Deletion is handled all the same.
	Suspended func(T) bool
	// Interval, RetryInterval and Timeout read the object's spec. Timeout bounds one run of the steps.
	Interval, RetryInterval, Timeout func(T) time.Duration
	// Observed points to status.observedGeneration, Handled to the last handled reconcile request.
	Observed func(T) *int64
	Handled  func(T) *meta.ReconcileRequestStatus

	// Begin makes the attempt of one run.
	Begin func(context.Context, *Run[T]) A
	// Steps bring the world to what the object asks for. Which list it is depends on how far an earlier run has come.
	Steps func(A) []Step[A]
	// Cleanup runs instead when the object is being deleted and carries the finalizer, which is removed at the end.
	Cleanup []Step[A]
	// Report fills the kind's own part of the status and says how Ready=True is worded. It is the only place, beside
	// Run.Save, where status is set.
	Report func(A, Outcome) Success
	// After is called when the outcome is on record, to tell of it.
	After func(A, Outcome)
	// EventMetadata are the annotations of the events about the attempt.
	EventMetadata func(A) map[string]string
	// Gone is told that an object no longer exists, so that what is kept for it in memory or on disk can go.
	Gone func(types.NamespacedName)
}

// Edge is what the controllers of all kinds share.
type Edge struct {
	// Reader reads our own objects from the cache, undecoded.
	Reader client.Reader
	// Client writes to the API server.
	Client   client.Client
	Metrics  *Metrics
	Watchdog *Watchdog
	Timing   Timing
	// ProgressAfter is how long a step lasts before the status tells of it.
	ProgressAfter time.Duration
}

// Controller reconciles all objects of one kind.
type Controller[T Object, A any] struct {
	kind     Kind[T, A]
	edge     Edge
	recorder *Recorder
	writer   *writer[T]
	requeue  *requeuer
	log      *slog.Logger
}

// NewController returns the controller of a kind. manager is the field manager of its status.
func NewController[T Object, A any](kind Kind[T, A], edge Edge, manager string, recorder *Recorder, log *slog.Logger) *Controller[T, A] {
	return &Controller[T, A]{
		kind: kind, edge: edge, recorder: recorder, log: log,
		writer:  newWriter[T](edge.Client, manager),
		requeue: newRequeuer(edge.Timing),
	}
}

// Reconcile does one run for one object. It never returns an error: what went wrong is in the object's status, and when
// to try again is in the result.
func (c *Controller[T, A]) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	undecoded := api.Undecoded(c.kind.GVK)
	if err := c.edge.Reader.Get(ctx, req.NamespacedName, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			c.forget(req)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err // the cache has not started: not an outcome of this object
	}
	obj := c.kind.New()
	if err := api.Decode(undecoded, obj); err != nil {
		return c.refuse(ctx, undecoded, err)
	}
	obj = c.writer.newest(obj)
	switch {
	case !obj.GetDeletionTimestamp().IsZero():
		return c.finalize(ctx, req, obj)
	case c.kind.Suspended(obj):
		return ctrl.Result{}, nil // a suspended object is left exactly as it is
	}
	return c.attempt(ctx, req, obj)
}

// attempt runs the steps for obj and reports what came of it.
func (c *Controller[T, A]) attempt(ctx context.Context, req ctrl.Request, obj T) (ctrl.Result, error) {
	run := newRun(obj, c.writer, c.edge.ProgressAfter)
	a := c.kind.Begin(ctx, run)
	end := c.run(ctx, run, a, c.kind.Steps(a))
	if ctx.Err() != nil {
		return ctrl.Result{}, nil // the agent is stopping: what was cut off is done by whoever comes next
	}
	before := Condition(obj, meta.ReadyCondition).DeepCopy()
	if err := c.report(ctx, run, a, end); err != nil {
		c.log.Error("writing the status", "name", obj.GetName(), "namespace", obj.GetNamespace(), "error", err)
		return ctrl.Result{RequeueAfter: c.requeue.backoff.When(req)}, nil
	}
	c.tell(obj, a, end, before)
	c.kind.After(a, end)
	return ctrl.Result{RequeueAfter: c.requeue.after(req, end, c.kind.Interval(obj), c.kind.RetryInterval(obj))}, nil
}

// report turns the outcome into status and writes it. A wait that has only just begun is not worth a write.
func (c *Controller[T, A]) report(ctx context.Context, run *Run[T], a A, end Outcome) error {
	if end.Waiting != nil && end.Waiting.Quiet {
		return nil
	}
	success := c.kind.Report(a, end)
	summarize(run.Obj, end, success)
	c.conclude(run.Obj, run.RequestedAt, end)
	return run.flush(ctx)
}

// run runs the steps within the object's timeout.
func (c *Controller[T, A]) run(ctx context.Context, run *Run[T], a A, steps []Step[A]) Outcome {
	obj, started := run.Obj, time.Now()
	timeout := c.kind.Timeout(obj)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer c.edge.Watchdog.watch(c.kind.GVK.Kind+"/"+obj.GetNamespace()+"/"+obj.GetName(), started, timeout)()

	end := runSteps(ctx, a, steps, func(step Step[A], do func() error) error {
		began := time.Now()
		stop := func() {}
		if step.Progress != nil {
			stop = run.reportLater(ctx, step.Progress(a))
		}
		err := do()
		stop()
		took := time.Since(began)
		c.edge.Metrics.stepDone(c.kind.GVK.Kind, step.Name, stepResult(err), took)
		c.log.Debug("step", "name", obj.GetName(), "namespace", obj.GetNamespace(), "step", step.Name, "took", took.String())
		return err
	})
	end.Took = time.Since(started)
	c.edge.Metrics.attempt(c.kind.GVK.Kind, client.ObjectKeyFromObject(obj), end.Took)
	return end
}

// stepResult is the metric label for how a step ended.
func stepResult(err error) string {
	var waiting *Waiting
	switch {
	case err == nil, errors.Is(err, ErrDone):
		return "ok"
	case errors.As(err, &waiting):
		return "waiting"
	}
	return "fault"
}

// conclude notes that the object's generation and the user's request have been dealt with. A wait has dealt with
// neither: `flux reconcile` looks at both together with Ready. A fault has not observed the generation unless it is final.
func (c *Controller[T, A]) conclude(obj T, requestedAt string, end Outcome) {
	if end.Waiting != nil {
		return
	}
	if requestedAt != "" {
		c.kind.Handled(obj).SetLastHandledReconcileRequest(requestedAt)
	}
	if end.Fault == nil || end.Fault.Retry == api.RetryNever {
		*c.kind.Observed(obj) = obj.GetGeneration()
	}
}

// tell logs the outcome, once, and sends an event for a fault that is news.
func (c *Controller[T, A]) tell(obj T, a A, end Outcome, before *metav1.Condition) {
	log := c.log.With("name", obj.GetName(), "namespace", obj.GetNamespace(), "took", end.Took.String())
	switch {
	case end.Waiting != nil:
		log.Debug("waiting", "step", end.Step)
	case end.Fault == nil:
		log.Info("reconciled")
	default:
		if end.waitsForOthers() {
			log.Info("waiting for others", "step", end.Step, "reason", end.Fault.Reason, "error", end.Fault.Error())
		} else {
			log.Error("reconciliation failed", "step", end.Step, "reason", end.Fault.Reason, "error", end.Fault.Error())
		}
		same := before != nil && before.Reason == end.Fault.Reason && before.Message == Condition(obj, meta.ReadyCondition).Message
		if !same {
			c.recorder.Record(obj, faultEvent(end, c.kind.EventMetadata(a)))
		}
	}
}

// finalize cleans up after an object that is being deleted and lets it go.
func (c *Controller[T, A]) finalize(ctx context.Context, req ctrl.Request, obj T) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, api.Finalizer) {
		return ctrl.Result{}, nil // ours is done; somebody else's finalizer still holds the object
	}
	run := newRun(obj, c.writer, c.edge.ProgressAfter)
	a := c.kind.Begin(ctx, run)
	if end := c.run(ctx, run, a, c.kind.Cleanup); !end.Succeeded() {
		if ctx.Err() != nil {
			return ctrl.Result{}, nil
		}
		before := Condition(obj, meta.ReadyCondition)
		summarize(obj, end, Success{})
		if err := run.flush(ctx); err != nil {
			c.log.Error("writing the status", "name", obj.GetName(), "namespace", obj.GetNamespace(), "error", err)
		}
		c.tell(obj, a, end, before)
		return ctrl.Result{RequeueAfter: c.requeue.after(req, end, c.kind.Interval(obj), c.kind.RetryInterval(obj))}, nil
	}
	if err := c.writer.removeFinalizer(ctx, obj); err != nil {
		c.log.Error("removing the finalizer", "name", obj.GetName(), "namespace", obj.GetNamespace(), "error", err)
		return ctrl.Result{RequeueAfter: c.requeue.backoff.When(req)}, nil
	}
	c.log.Info("deleted", "name", obj.GetName(), "namespace", obj.GetNamespace())
	return ctrl.Result{}, nil
}

// forget drops what is kept of an object that is gone.
func (c *Controller[T, A]) forget(req ctrl.Request) {
	c.writer.forget(req.NamespacedName)
	c.requeue.backoff.Forget(req)
	c.edge.Metrics.forget(c.kind.GVK.Kind, req.NamespacedName)
	c.kind.Gone(req.NamespacedName)
}

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

// maxRun bounds one run, whatever timeout an object asks for: a run holds one of few workers. Waits hold none, and are
// bounded by the object's own timeout alone.
const maxRun = time.Hour

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
	// Began says when the attempt began, which for one that has waited is before this run; nil means with the run.
	Began func(A) time.Time
	// Steps bring the world to what the object asks for. Which list it is depends on how far an earlier run has come.
	Steps func(A) []Step[A]
	// Cleanup runs instead when the object is being deleted and carries the finalizer, which is removed at the end.
	Cleanup []Step[A]
	// Report fills the kind's own part of the status and says how Ready=True is worded. It is the only place, beside
	// Run.Save, where status is set.
	Report func(A, Outcome) Success
	// Refine changes the conditions that a fault has brought, where the kind has more to say than one; nil for kinds that have not.
	Refine func(A, Outcome)
	// After is called when the outcome is on record, to tell of it.
	After func(A, Outcome)
	// Told says that a fault needs no event, because After tells of it or nobody is to be woken for it; nil means never.
	Told func(A, Outcome) bool
	// EventMetadata are the annotations of the events about the attempt.
	EventMetadata func(A) map[string]string
	// Gone is told that an object no longer exists, so that what is kept for it in memory or on disk can go.
	Gone func(types.NamespacedName)
}

// Edge is what the controllers of all kinds share.
type Edge struct {
	// Reader reads our own objects from the cache, undecoded.
	Reader client.Reader
	// Client writes to the API server, and reads past the cache.
	Client   client.Client
	Metrics  *Metrics
	Watchdog *Watchdog
	Timing   Timing
	// Requests are those that this process has made; nil is none.
	Requests *Requests
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
	turns    *turns
	log      *slog.Logger
}

// NewController returns the controller of a kind. manager is the field manager of its status.
func NewController[T Object, A any](kind Kind[T, A], edge Edge, manager string, recorder *Recorder, log *slog.Logger) *Controller[T, A] {
	return &Controller[T, A]{
		kind: kind, edge: edge, recorder: recorder, log: log,
		writer:  newWriter(edge.Client, kind.GVK, kind.New, manager),
		requeue: newRequeuer(edge.Timing), turns: newTurns(),
	}
}

// Reconcile does one run for one object. An error is only returned when the cache cannot be read: what went wrong with the
// object is in its status, and when to try again is in the result.
func (c *Controller[T, A]) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	undecoded := api.Undecoded(c.kind.GVK)
	if err := c.edge.Reader.Get(ctx, req.NamespacedName, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			c.forget(req)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, err
	}
	obj := c.kind.New()
	if err := api.Decode(undecoded, obj); err != nil {
		return c.refuse(ctx, req, undecoded, err), nil
	}
	obj, err := c.writer.current(ctx, obj)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // the cache has yet to hear of it, and will wake us
	}
	if err != nil {
		return c.unwritten(req, obj, err), nil
	}
	switch {
	case !obj.GetDeletionTimestamp().IsZero():
		return c.finalize(ctx, req, obj), nil
	case c.kind.Suspended(obj):
		c.edge.Requests.forget(c.kind.GVK, req.NamespacedName)
		return ctrl.Result{}, nil // a suspended object is left exactly as it is
	}
	result := c.attempt(ctx, req, obj)
	result.Priority = new(int) // the next look is not urgent because this one was
	return result, nil
}

// attempt runs the steps for obj and reports what came of it.
func (c *Controller[T, A]) attempt(ctx context.Context, req ctrl.Request, obj T) ctrl.Result {
	timeout := min(c.kind.Timeout(obj), maxRun)
	defer c.edge.Watchdog.watch(c.name(obj), time.Now(), timeout+writeTimeout)()
	run := newRun(obj, c.writer, c.edge.ProgressAfter)
	run.RequestedAt = c.edge.Requests.of(c.kind.GVK, req.NamespacedName, run.RequestedAt)
	a := c.kind.Begin(ctx, run)
	end := c.run(ctx, timeout, run, a, c.kind.Steps(a))
	quiet := end.Waiting != nil && end.Waiting.Quiet // it has only just begun to wait, which is not worth a write
	if !quiet && !end.Done && ctx.Err() == nil {
		success := c.kind.Report(a, end)
		summarize(obj, end, success)
		if c.kind.Refine != nil {
			c.kind.Refine(a, end)
		}
		c.conclude(run, end)
	}
	return c.end(ctx, req, run, a, end)
}

// finalize cleans up after an object that is being deleted and lets it go.
func (c *Controller[T, A]) finalize(ctx context.Context, req ctrl.Request, obj T) ctrl.Result {
	if !controllerutil.ContainsFinalizer(obj, api.Finalizer) {
		return ctrl.Result{} // ours is done; somebody else's finalizer still holds the object
	}
	timeout := min(c.kind.Timeout(obj), maxRun)
	defer c.edge.Watchdog.watch(c.name(obj), time.Now(), timeout+writeTimeout)()
	run := newRun(obj, c.writer, c.edge.ProgressAfter)
	a := c.kind.Begin(ctx, run)
	end := c.run(ctx, timeout, run, a, c.kind.Cleanup)
	if !end.Succeeded() {
		summarize(obj, end, Success{})
		return c.end(ctx, req, run, a, end)
	}
	if err := c.writer.removeFinalizer(ctx, obj); err != nil {
		return c.unwritten(req, obj, err)
	}
	c.log.Info("deleted", "name", obj.GetName(), "namespace", obj.GetNamespace())
	return ctrl.Result{}
}

// end writes the status, tells of the outcome and says when to look again.
func (c *Controller[T, A]) end(ctx context.Context, req ctrl.Request, run *Run[T], a A, end Outcome) ctrl.Result {
	if ctx.Err() != nil {
		return ctrl.Result{} // the agent is stopping: what was cut off is done by whoever comes next
	}
	if err := run.flush(ctx); client.IgnoreNotFound(err) != nil {
		return c.unwritten(req, run.Obj, err)
	}
	if end.Waiting == nil {
		c.edge.Requests.answered(c.kind.GVK, req.NamespacedName, run.RequestedAt)
	}
	told := end.Fault != nil && c.kind.Told != nil && c.kind.Told(a, end)
	c.tell(run, end, told, c.kind.EventMetadata(a))
	c.kind.After(a, end)
	return ctrl.Result{RequeueAfter: c.requeue.after(req, end, c.kind.Interval(run.Obj), c.kind.RetryInterval(run.Obj))}
}

// unwritten says that the API server did not take what was to be written about obj.
func (c *Controller[T, A]) unwritten(req ctrl.Request, obj T, err error) ctrl.Result {
	c.log.Error("writing to the object", "name", obj.GetName(), "namespace", obj.GetNamespace(), "error", err)
	return ctrl.Result{RequeueAfter: c.requeue.backoff.When(req)}
}

// run runs the steps within the timeout.
func (c *Controller[T, A]) run(ctx context.Context, timeout time.Duration, run *Run[T], a A, steps []Step[A]) Outcome {
	obj, started := run.Obj, time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	end := runSteps(ctx, a, steps, func(step Step[A], do func() error) error {
		if step.Progress != nil {
			defer run.reportLater(ctx, step.Progress(a))()
		}
		began := time.Now()
		err := do()
		took := time.Since(began)
		c.edge.Metrics.stepDone(c.kind.GVK.Kind, step.Name, stepResult(err), took)
		c.log.Debug("step", "name", obj.GetName(), "namespace", obj.GetNamespace(), "step", step.Name, "took", took.String())
		return err
	})
	if c.kind.Began != nil {
		started = c.kind.Began(a)
	}
	end.Took = time.Since(started)
	if end.Waiting == nil {
		c.edge.Metrics.attempt(c.kind.GVK.Kind, client.ObjectKeyFromObject(obj), end.Took)
	}
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
func (c *Controller[T, A]) conclude(run *Run[T], end Outcome) {
	if end.Waiting != nil {
		return
	}
	if run.RequestedAt != "" {
		c.kind.Handled(run.Obj).SetLastHandledReconcileRequest(run.RequestedAt)
	}
	if end.Fault == nil || end.Fault.Retry == api.RetryNever {
		*c.kind.Observed(run.Obj) = run.Obj.GetGeneration()
	}
}

// tell logs the outcome, once, and sends an event for a fault that is news, unless that is told otherwise.
func (c *Controller[T, A]) tell(run *Run[T], end Outcome, told bool, metadata map[string]string) {
	log := c.log.With("name", run.Obj.GetName(), "namespace", run.Obj.GetNamespace(), "took", end.Took.String())
	switch {
	case end.Done:
		log.Debug("nothing left to do", "step", end.Step)
		return
	case end.Waiting != nil:
		log.Debug("waiting", "step", end.Step)
		return
	case end.Fault == nil:
		log.Info("reconciled")
		c.turn(run, end, metadata)
		return
	case end.waitsForOthers():
		log.Info("waiting for others", "step", end.Step, "reason", end.Fault.Reason, "error", end.Fault.Error())
	default:
		log.Error("reconciliation failed", "step", end.Step, "reason", end.Fault.Reason, "error", end.Fault.Error())
	}
	c.turn(run, end, metadata)
	now := Condition(run.Obj, meta.ReadyCondition)
	if was := run.Before; !told && (was == nil || was.Reason != now.Reason || was.Message != now.Message) {
		c.recorder.Record(run.Obj, faultEvent(end, metadata))
	}
}

// turn tells whoever wants to hear only that an object begins to fail, or does so no more. One that waits for others does neither.
func (c *Controller[T, A]) turn(run *Run[T], end Outcome, metadata map[string]string) {
	key := client.ObjectKeyFromObject(run.Obj)
	if end.waitsForOthers() {
		c.turns.wait(key, run.Before)
		return
	}
	now := Condition(run.Obj, meta.ReadyCondition)
	if now == nil {
		return
	}
	if to := c.turns.end(key, run.Before, now.Status); to != "" {
		c.recorder.turn(run.Obj, to, metadata)
	}
}

// forget drops what is kept of an object that is gone.
func (c *Controller[T, A]) forget(req ctrl.Request) {
	c.writer.forget(req.NamespacedName)
	c.requeue.backoff.Forget(req)
	c.turns.forget(req.NamespacedName)
	c.edge.Metrics.forget(c.kind.GVK.Kind, req.NamespacedName)
	c.edge.Requests.forget(c.kind.GVK, req.NamespacedName)
	c.kind.Gone(req.NamespacedName)
}

// name names an object for the liveness probe.
func (c *Controller[T, A]) name(obj T) string {
	return c.kind.GVK.Kind + "/" + obj.GetNamespace() + "/" + obj.GetName()
}

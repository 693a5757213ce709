package reconcile

import (
	"context"

	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cleat-dev/cleat/internal/api"
)

// refuse says in the status of an object with an undecodable field what is wrong with it, and leaves everything that it
// has brought about alone. The object is read without the part that cannot be decoded, so that only its conditions change.
func (c *Controller[T, A]) refuse(ctx context.Context, undecoded *unstructured.Unstructured, cause error) (ctrl.Result, error) {
	obj, err := c.decodePart(undecoded)
	if err != nil {
		c.log.Error("object cannot be read", "name", undecoded.GetName(), "namespace", undecoded.GetNamespace(), "error", err)
		return ctrl.Result{}, nil // nothing can be written to it either; it is looked at again when it changes
	}
	obj = c.writer.newest(obj)
	run := newRun(obj, c.writer, 0)
	end := Outcome{Fault: api.Faultf(api.InvalidSpecReason, api.RetryNever,
		"the spec holds a value that cannot be used, correct it and apply the object again: %w", cause)}
	before := Condition(obj, meta.ReadyCondition)
	summarize(obj, end, Success{})
	c.conclude(obj, run.RequestedAt, end)
	if err := run.flush(ctx); err != nil {
		c.log.Error("writing the status", "name", obj.GetName(), "namespace", obj.GetNamespace(), "error", err)
		return ctrl.Result{RequeueAfter: c.edge.Timing.Dependency}, nil
	}
	if before == nil || before.Message != end.Fault.Error() {
		c.recorder.Record(obj, faultEvent(end, nil))
		c.log.Error("reconciliation failed", "name", obj.GetName(), "namespace", obj.GetNamespace(),
			"reason", end.Fault.Reason, "error", end.Fault.Error())
	}
	return ctrl.Result{}, nil
}

// decodePart decodes the object without its spec or, if that is not what cannot be decoded, with its metadata only.
func (c *Controller[T, A]) decodePart(undecoded *unstructured.Unstructured) (T, error) {
	part := undecoded.DeepCopy()
	delete(part.Object, "spec")
	obj := c.kind.New()
	if api.Decode(part, obj) == nil {
		return obj, nil
	}
	delete(part.Object, "status")
	obj = c.kind.New()
	return obj, api.Decode(part, obj)
}

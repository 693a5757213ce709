package reconcile

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// refuse says in the status of an object with an undecodable field what is wrong with it, and leaves everything that it
// has brought about alone. The object is read without the part that cannot be decoded, so that only its conditions change.
// One that is being deleted is let go as far as its kind knows how to without a spec.
func (c *Controller[T, A]) refuse(ctx context.Context, req ctrl.Request, undecoded *undecodedObject, cause error) ctrl.Result {
	obj, err := decodePart(undecoded, c.kind.New)
	if err != nil {
		c.log.Error("object cannot be read", "name", undecoded.GetName(), "namespace", undecoded.GetNamespace(), "error", err)
		return ctrl.Result{} // nothing can be written to it either; it is looked at again when it changes
	}
	if !obj.GetDeletionTimestamp().IsZero() {
		return c.finalize(ctx, req, obj)
	}
	if suspended, _, _ := unstructured.NestedBool(undecoded.Object, "spec", "suspend"); suspended {
		return ctrl.Result{}
	}
	run := newRun(obj, c.writer, 0)
	end := Outcome{Fault: api.Faultf(api.InvalidSpecReason, api.RetryNever,
		"the spec holds a value that cannot be used, correct it and apply the object again: %w", cause)}
	summarize(obj, end, Success{})
	c.conclude(run, end)
	if err := run.flush(ctx); client.IgnoreNotFound(err) != nil {
		return c.unwritten(req, obj, err)
	}
	c.tell(run, end, false, nil)
	return ctrl.Result{}
}

package reconcile

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// Deletions decides when an object that is being deleted lets go of what it cannot remove.
type Deletions struct {
	// Live reads past the cache.
	Live client.Reader
	// OrphanAfter is how long a deletion that fails is tried again before it lets go.
	OrphanAfter time.Duration
}

// LetGo decides about a deletion that could not be carried out because of err (faults.md F08, F11):
//
//	who is acted as, or the way to the cluster, is not there any more → let go at once
//	the object's own namespace is terminating                         → let go at once: its ServiceAccounts and Secrets go, too
//	it is tried for longer than OrphanAfter                           → let go
//	otherwise                                                         → try again
//
// To let go is to say why; to try again is to return the fault, whose reason is the given one where err has none.
func (d Deletions) LetGo(ctx context.Context, obj client.Object, err error, withdrawn bool, reason string) (why string, _ error) {
	if withdrawn {
		return err.Error(), nil
	}
	if time.Since(obj.GetDeletionTimestamp().Time) > d.OrphanAfter {
		return fmt.Sprintf("it was tried for %s: %s", d.OrphanAfter, err), nil
	}
	terminating, looked := d.Terminating(ctx, obj.GetNamespace())
	if looked == nil && terminating {
		return fmt.Sprintf("the namespace of the %s is being deleted: %s", obj.GetObjectKind().GroupVersionKind().Kind, err), nil
	}
	fault := api.AsFault(err, reason, api.RetryBackoff)
	return "", &api.Fault{Reason: fault.Reason, Retry: api.RetryBackoff, Err: fault.Err}
}

// Terminating says whether a namespace is being deleted.
func (d Deletions) Terminating(ctx context.Context, name string) (bool, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := d.Live.Get(ctx, types.NamespacedName{Name: name}, namespace); err != nil {
		return false, err
	}
	return namespace.DeletionTimestamp != nil, nil
}

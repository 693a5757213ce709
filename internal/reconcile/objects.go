package reconcile

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Objects reads single objects of our own kinds.
type Objects struct {
	Cache client.Reader
	// Live, if set, is asked for what the cache does not hold: one that holds one shard only does not know whether an object
	// of another shard exists.
	Live client.Reader
}

// Get reads an object, whose kind is set.
func (o Objects) Get(ctx context.Context, key types.NamespacedName, into *unstructured.Unstructured) error {
	err := o.Cache.Get(ctx, key, into)
	if apierrors.IsNotFound(err) && o.Live != nil {
		return o.Live.Get(ctx, key, into)
	}
	return err
}

package source

import (
	"context"
	"errors"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// defaultTimeout is that of the API.
	defaultTimeout = 60 * time.Second
	// StoreTimeout is what writing a snapshot may take on top of spec.timeout, which is about the network. It is long
	// enough for a snapshot of artifact.DefaultLimits on a slow disk.
	StoreTimeout = 5 * time.Minute
)

// Timeout returns spec.timeout or, where there is none, what the API says instead.
func Timeout(t *metav1.Duration) time.Duration {
	if t == nil || t.Duration <= 0 {
		return defaultTimeout
	}
	return t.Duration
}

// Object is an object with an artifact in its status.
type Object interface {
	reconcile.Object
	GetArtifact() *meta.Artifact
}

// Before is what a status said of its artifact when a run began.
type Before struct {
	// Named is the artifact of the status, Stored the same if the storage has it: they differ when the volume was lost.
	Named, Stored *meta.Artifact
	// Failing says that the run before this one failed.
	Failing bool

	object artifact.Object
}

// Begin reads it.
func Begin(store *artifact.Store, kind string, o Object) Before {
	b := Before{Named: o.GetArtifact().DeepCopy(), object: artifact.Object{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}}
	if store.Holds(b.object, b.Named) {
		b.Stored = b.Named.DeepCopy()
		b.Stored.URL = store.URL(b.Stored.Path) // the address may be another than when it was stored
	}
	for _, c := range append(troubles, sourcev1.StorageOperationFailedCondition) {
		b.Failing = b.Failing || reconcile.Condition(o, c) != nil
	}
	return b
}

// Publish makes the snapshot the object's artifact under the file name. Where nothing of it has changed, it keeps the time
// of the one before.
func (b Before) Publish(store *artifact.Store, file, revision string, snapshot *artifact.Snapshot) (*meta.Artifact, error) {
	a, err := store.Publish(b.object, file, revision, snapshot)
	if err != nil {
		return nil, StoreFault(err)
	}
	if b.Stored != nil && b.Stored.HasDigest(a.Digest) && b.Stored.HasRevision(a.Revision) {
		a.LastUpdateTime = b.Stored.LastUpdateTime
	}
	return a, nil
}

// Remove removes all that is published for the object; it is the cleanup of one that Flux had put its finalizer on.
func (b Before) Remove(store *artifact.Store) error {
	if err := store.Remove(b.object); err != nil {
		return StoreFault(err)
	}
	return nil
}

// Remove does the same for an object of a kind that no longer exists.
func Remove(store *artifact.Store, kind string, key types.NamespacedName) error {
	return store.Remove(artifact.Object{Kind: kind, Namespace: key.Namespace, Name: key.Name})
}

// Stored queues, once, every object of a kind that has an artifact in the storage. One that was deleted while no agent ran
// is thereby found to be gone, and its artifacts are removed: sources have no finalizer that would wait for us.
func Stored(store *artifact.Store, kind string) source.Source {
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
		for _, o := range store.Objects(kind) {
			queue.Add(ctrl.Request{NamespacedName: types.NamespacedName{Namespace: o.Namespace, Name: o.Name}})
		}
		return nil
	})
}

// StoreFault says under which reason an error of writing a snapshot is reported, and what makes it worth trying again. What
// is wrong with the content itself waits for other content.
func StoreFault(err error) error {
	switch {
	case errors.Is(err, ErrIgnore):
		return &api.Fault{Reason: api.SourceIgnoreErrorReason, Retry: api.RetryInterval, Err: err}
	case errors.Is(err, artifact.ErrPath):
		return &api.Fault{Reason: sourcev1.InvalidPathReason, Retry: api.RetryInterval, Err: err}
	case errors.Is(err, artifact.ErrLimit), errors.Is(err, ErrLimit):
		return &api.Fault{Reason: sourcev1.ArchiveOperationFailedReason, Retry: api.RetryInterval, Err: err}
	default:
		return &api.Fault{Reason: sourcev1.ArchiveOperationFailedReason, Retry: api.RetryBackoff, Err: err}
	}
}

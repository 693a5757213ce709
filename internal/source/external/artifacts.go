package external

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// fetchTimeout is how long one download may take: these objects have no spec.timeout.
const fetchTimeout = time.Minute

// Options are what the controller of ExternalArtifacts works with.
type Options struct {
	Store     *artifact.Store
	Artifacts *Fetcher
	// Reader reads the objects from the cache, undecoded.
	Reader   client.Reader
	Recorder *reconcile.Recorder
	Timing   reconcile.Timing
	Log      *slog.Logger
}

// Artifacts is the controller of ExternalArtifacts. It is not a reconcile.Controller: that one writes status, and the
// status of these objects is somebody else's.
type Artifacts struct {
	Options
	backoff workqueue.TypedRateLimiter[ctrl.Request]

	mu   sync.Mutex
	told map[types.NamespacedName]string // the last failure that an event was recorded for
}

// New returns the controller.
func New(o Options) *Artifacts {
	return &Artifacts{
		Options: o, told: map[types.NamespacedName]string{},
		backoff: workqueue.NewTypedItemExponentialFailureRateLimiter[ctrl.Request](o.Timing.MinRetry, o.Timing.MaxRetry),
	}
}

// Reconcile makes the storage hold what the object names.
func (c *Artifacts) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	undecoded := api.Undecoded(api.ExternalArtifactKind)
	if err := c.Reader.Get(ctx, req.NamespacedName, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, c.remove(req)
		}
		return ctrl.Result{}, err // the cache has not started: not an outcome of this object
	}
	var o struct {
		Status sourcev1.ExternalArtifactStatus `json:"status"`
	}
	if err := api.Decode(undecoded, &o); err != nil {
		return c.failed(req, undecoded, errors.Join(ErrArtifact, err)), nil
	}
	named := o.Status.Artifact
	if named == nil {
		c.succeeded(req)
		return ctrl.Result{}, nil // a change of the status wakes us
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	fetched, err := c.Artifacts.publish(ctx, stored(req), named)
	if err != nil {
		return c.failed(req, undecoded, err), nil
	}
	c.succeeded(req)
	if fetched {
		c.Log.Info("stored an artifact", "name", req.Name, "namespace", req.Namespace, "revision", named.Revision)
	}
	return ctrl.Result{}, nil
}

// failed tells of a failure once, and says when to try again: never, where only another status can help, and seldom, where
// another status is likely to come first.
func (c *Artifacts) failed(req ctrl.Request, about client.Object, err error) ctrl.Result {
	c.mu.Lock()
	news := c.told[req.NamespacedName] != err.Error()
	c.told[req.NamespacedName] = err.Error()
	c.mu.Unlock()
	if news {
		c.Log.Error("fetching an artifact", "name", req.Name, "namespace", req.Namespace, "error", err)
		c.Recorder.Record(about, reconcile.Event{Type: corev1.EventTypeWarning, Reason: meta.ArtifactFailedReason, Message: err.Error()})
	}
	switch {
	case errors.Is(err, ErrArtifact), errors.Is(err, artifact.ErrLimit):
		c.backoff.Forget(req)
		return ctrl.Result{}
	case errors.Is(err, ErrDigest):
		c.backoff.Forget(req)
		return ctrl.Result{RequeueAfter: c.Timing.MaxRetry}
	}
	return ctrl.Result{RequeueAfter: max(c.backoff.When(req), source.FetchFault(err, "").After)}
}

func (c *Artifacts) succeeded(req ctrl.Request) {
	c.backoff.Forget(req)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.told, req.NamespacedName)
}

func (c *Artifacts) remove(req ctrl.Request) error {
	c.succeeded(req)
	return c.Store.Remove(stored(req))
}

func stored(req ctrl.Request) artifact.Object {
	return artifact.Object{Kind: sourcev1.ExternalArtifactKind, Namespace: req.Namespace, Name: req.Name}
}

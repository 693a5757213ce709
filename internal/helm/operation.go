package helm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/render"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// inputs are what an action is begun with. They stay with it: a run that goes along with it need not make them anew.
type inputs struct {
	values       map[string]any
	configDigest string
	chart        *charts.Chart
	ociDigest    string
	secrets      []string // among the values: of Secrets that they come from
	// Of the attempt, whichever run of it is on: the actions that have ended before the operation, and what was read of the storage.
	ended  []Ended
	stored *stored
}

// step is an action that has ended, for the history, the conditions and the events.
type step struct {
	Kind ActionKind
	// Remedy: of an Uninstall that undid a failure.
	Remedy bool
	// Release is what the history has of it now; nil when nothing of it came into the storage.
	Release *v2.Snapshot
	// Manifest is that of the release; empty without one.
	Manifest string
	// Err is nil when it has succeeded.
	Err error
	// Blameless: it has failed because it was cut off, or because an API server has not answered. Nothing is counted for it.
	Blameless bool
	// Reason and Message are Flux's words for what came of it. Logs are the last lines that Helm has logged, masked.
	Reason, Message, Logs string
	// Losing are the PersistentVolumeClaims that an Uninstall was begun with.
	Losing []string
	Took   time.Duration

	// written are the releases as they were stored last, by version; gone are those that were removed.
	written map[int]*v2.Snapshot
	// inventory is what the release consists of, when the action has made it.
	inventory *v2.ResourceInventory
	gone      map[int]bool
	// cause is a thing outside the release that it has failed of, if that is known.
	cause *cause
	// objects are those that a Correct has put right.
	objects []string
}

// Why an operation is cut off.
var (
	// errSuperseded: something else is asked for by now.
	errSuperseded = errors.New("the HelmRelease asks for something else by now")
	// errDeleted: the HelmRelease is being deleted, or is gone.
	errDeleted = errors.New("the HelmRelease is being deleted")
	// errStopped: the agent is stopping.
	errStopped = errors.New("the agent is stopping")
)

// errOccupied: another HelmRelease is at work on the same release. What is pending in the storage is then no lock of somebody dead.
var errOccupied = errors.New("the same release is being worked on for the HelmRelease")

// operation is an action that is under way, or has ended and was not taken notice of. It goes on without a worker while it waits.
type operation struct {
	inputs
	asked    asked
	artifact meta.Artifact
	began    time.Time // of the attempt
	action   Action
	place    place // of the release

	cancel context.CancelCauseFunc
	parked chan struct{} // closed when it first begins to wait
	done   chan struct{} // closed when it has ended

	mu        sync.Mutex
	left      bool // nobody goes along with it: its end has to wake the object
	cut       bool
	result    step // when done is closed
	parksOnce sync.Once

	abandoned bool // with operations.mu: the object is gone, so that nobody takes notice of its end
}

// place is where a release is stored. Whatever HelmReleases ask for it, one action is under way at it at a time.
type place struct {
	cluster         *kube.Cluster
	namespace, name string
}

// matches says whether the operation is for just this.
func (o *operation) matches(now asked, artifact *meta.Artifact) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.isFor(now, artifact)
}

// mayMatch says whether the operation is for just this if the values are still those that it was begun with.
func (o *operation) mayMatch(now asked, artifact *meta.Artifact) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now.values = o.asked.values
	return o.isFor(now, artifact)
}

// isFor is called with mu held.
func (o *operation) isFor(now asked, artifact *meta.Artifact) bool {
	return !o.cut && artifact != nil && o.asked == now && o.artifact.Digest == artifact.Digest && o.artifact.Revision == artifact.Revision
}

// adopt makes the operation that of an attempt which has found that what it was begun with is what is asked for still. It says
// whether it is.
func (o *operation) adopt(a *attempt) bool {
	if o.configDigest != a.configDigest || !o.mayMatch(a.asked, a.source.artifact) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = a.asked
	a.operation, a.inputs, a.began = o, o.inputs, o.began
	return true
}

// isCut says whether the operation was ended before it had come to its own end.
func (o *operation) isCut() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cut
}

// ended returns what came of it, if it has come to its end.
func (o *operation) ended() (step, bool) {
	select {
	case <-o.done:
		return o.result, true
	default:
		return step{}, false
	}
}

// leave has the operation's end wake the object. It is false when it has ended already.
func (o *operation) leave() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ended := o.ended(); ended {
		return false
	}
	o.left = true
	return true
}

// operations are the actions under way, one for an object.
type operations struct {
	wake func(types.NamespacedName)
	log  *slog.Logger
	// scheme knows what the storage is made of.
	scheme *runtime.Scheme
	// renderer parses each chart once for all.
	renderer *render.Renderer
	// room bounds how many work at a time. One that waits takes none.
	room chan struct{}

	mu      sync.Mutex
	by      map[types.NamespacedName]*operation
	stopped bool
	wg      sync.WaitGroup
}

// working is how many operations may work at a time. More would only wait for the API server together.
const working = 32

func newOperations(wake func(types.NamespacedName), log *slog.Logger) *operations {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	return &operations{
		wake: wake, log: log, scheme: scheme, renderer: render.New(), room: make(chan struct{}, working),
		by: map[types.NamespacedName]*operation{},
	}
}

// open returns the object's operation: one that is under way, or that has ended without anybody having taken notice; nil when
// there is none.
func (s *operations) open(key types.NamespacedName) *operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[key]
}

// begin starts an operation on a goroutine of its own. do gets a context that ends when the operation is cut off, and the
// operation, for park. After stop nothing is begun, nor while another object's operation is at the same release.
func (s *operations) begin(key types.NamespacedName, o *operation, do func(context.Context, *operation) step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	if err := s.occupied(key, o.place); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	o.cancel, o.parked, o.done = cancel, make(chan struct{}), make(chan struct{})
	s.by[key] = o
	s.wg.Go(func() {
		defer cancel(nil)
		s.room <- struct{}{}
		result := s.do(ctx, o, do)
		<-s.room
		o.mu.Lock()
		o.result = result
		close(o.done)
		left := o.left
		o.mu.Unlock()
		s.mu.Lock()
		if o.abandoned && s.by[key] == o {
			delete(s.by, key)
		}
		s.mu.Unlock()
		if left {
			s.wake(key)
		}
	})
	return nil
}

// free is errOccupied while another object's operation is at a release.
func (s *operations) free(key types.NamespacedName, at place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.occupied(key, at)
}

// occupied is free for who holds the lock.
func (s *operations) occupied(key types.NamespacedName, at place) error {
	for other, o := range s.by {
		if _, ended := o.ended(); !ended && other != key && o.place == at {
			return fmt.Errorf("%w %s", errOccupied, other)
		}
	}
	return nil
}

// do is do, of which a panic is a failure.
func (s *operations) do(ctx context.Context, o *operation, do func(context.Context, *operation) step) (result step) {
	var err error
	defer func() {
		if err != nil {
			reason, message := o.action.Kind.words(o.action.Remedy, subject{o.place.name, "unknown"}, err, "")
			result = step{Kind: o.action.Kind, Remedy: o.action.Remedy, Err: err, Reason: reason, Message: message}
		}
	}()
	defer recovered(s.log, &err)
	return do(ctx, o)
}

// park is called when an operation begins to wait; what it returns, when that ends.
func (s *operations) park(o *operation) (resumed func()) {
	o.parksOnce.Do(func() { close(o.parked) })
	<-s.room
	return func() { s.room <- struct{}{} }
}

// cancel ends an object's operation. It is still there until it has come to its end and was taken.
func (s *operations) cancel(key types.NamespacedName, why error) {
	o := s.open(key)
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut = true
	o.cancel(why)
}

// take forgets an operation whose end was taken notice of.
func (s *operations) take(key types.NamespacedName, o *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[key] == o {
		delete(s.by, key)
	}
}

// forget cuts off and forgets all of an object that is gone. An operation is there until it has come to its end: another object of
// that name must not begin one beside it.
func (s *operations) forget(key types.NamespacedName) {
	s.cancel(key, errDeleted)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.by[key]
	if o == nil {
		return
	}
	o.abandoned = true
	if _, ended := o.ended(); ended {
		delete(s.by, key)
	}
}

// stop cuts off every operation and returns when the last has ended, so that what it has left is on record in the storage.
func (s *operations) stop() {
	s.mu.Lock()
	s.stopped = true
	for _, o := range s.by {
		o.cancel(errStopped)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// along goes along with an operation until it ends, or begins to wait: then the worker is free, and the operation's end wakes
// the object (faults.md F18).
func (r *Reconciler) along(ctx context.Context, o *operation) error {
	select {
	case <-o.done:
		return nil
	case <-o.parked:
	case <-ctx.Done():
	}
	if !o.leave() {
		return nil
	}
	if quiet := time.Until(o.began.Add(r.ProgressAfter)); quiet > 0 {
		return &reconcile.Waiting{After: quiet, Quiet: true}
	}
	return &reconcile.Waiting{After: lostWake}
}

// lostWake is when an object whose operation has not woken it looks at it unasked. It is no way of waiting, but one out of a mistake.
const lostWake = 10 * time.Minute

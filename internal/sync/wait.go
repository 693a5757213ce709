package sync

import (
	"fmt"
	"strings"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// wait is an attempt that has applied everything and waits for health. It is state, not a worker: observations wake it, and
// a new revision, spec or request simply no longer matches it, which ends it.
type wait struct {
	// What the wait belongs to; see matches.
	generation  int64
	requestedAt string
	artifact    meta.Artifact

	targets   []object.Ref
	expiring  map[object.Key]bool // targets that delete themselves when they are done
	inventory []object.Ref        // of the attempt, to be reported when it ends
	digest    string              // of the build
	changed   bool                // the attempt has changed something on the cluster
	began     time.Time           // the attempt
	since     time.Time           // the wait
	deadline  time.Time
	// each: any change is news. It is set when a deletion waits for objects to vanish.
	each bool
	// over: the wait has failed. It is kept so that a change of health still wakes the object.
	over bool
	// seen is the verdict the object was last woken with.
	seen string
}

// matches says whether the wait is for just this state of the object and its source.
func (w *wait) matches(ks *kustomizev1.Kustomization, requestedAt string, artifact *meta.Artifact) bool {
	return artifact != nil && w.generation == ks.Generation && w.requestedAt == requestedAt &&
		w.artifact.Digest == artifact.Digest && w.artifact.Revision == artifact.Revision
}

// judge looks at everything that is waited for.
func (w *wait) judge(look func(object.Ref) health.Status) verdict {
	return judgeHealth(w.targets, func(ref object.Ref) health.Status {
		status := look(ref)
		if status == health.NotFound && w.expiring[ref.Key()] {
			return health.Current
		}
		return status
	})
}

// verdict is the health of all that is waited for.
type verdict struct {
	pending []string // `Kind/ns/name status: 'InProgress'`, in the order of the targets
	failed  []string
}

func (v verdict) healthy() bool { return len(v.pending)+len(v.failed) == 0 }

// key tells verdicts apart that matter to the attempt: one more healthy object among many is no reason to look again.
func (v verdict) key() string { return fmt.Sprint(len(v.pending) > 0, v.failed) }

// judgeHealth looks at every target. look returns the health of an object as last observed.
func judgeHealth(targets []object.Ref, look func(object.Ref) health.Status) verdict {
	var v verdict
	for _, target := range targets {
		status := look(target)
		line := fmt.Sprintf("%s status: '%s'", target, status)
		switch status {
		case health.Current:
		case health.Failed:
			v.failed = append(v.failed, line)
		case health.InProgress, health.Terminating, health.NotFound, health.Unknown:
			v.pending = append(v.pending, line)
		}
	}
	return v
}

// fault says what the verdict means for the attempt: nil while there is hope.
func (v verdict) fault(timedOut bool, timeout time.Duration) error {
	switch {
	case len(v.failed) > 0:
		return api.Faultf(meta.HealthCheckFailedReason, api.RetryInterval,
			"health check failed: failed early due to stalled resources: [%s]", strings.Join(v.failed, ", "))
	case len(v.pending) > 0 && timedOut:
		return api.Faultf(meta.HealthCheckFailedReason, api.RetryInterval,
			"health check failed after %s: timeout waiting for: [%s]", timeout, strings.Join(v.pending, ", "))
	}
	return nil
}

// waits holds the waits of all objects.
type waits struct {
	mu sync.Mutex
	by map[types.NamespacedName]*wait
}

func newWaits() *waits { return &waits{by: map[types.NamespacedName]*wait{}} }

// open returns the object's wait unless there is none or it is over.
func (w *waits) open(key types.NamespacedName) *wait {
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry := w.by[key]; entry != nil && !entry.over {
		return entry
	}
	return nil
}

func (w *waits) put(key types.NamespacedName, entry *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[key] = entry
}

// end keeps a wait that has failed only to be woken by.
func (w *waits) end(entry *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry.over = true
}

func (w *waits) drop(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by, key)
}

// news says whether the object's wait stands otherwise than when the object was last woken.
func (w *waits) news(key types.NamespacedName, look func(object.Ref) health.Status) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry := w.by[key]
	if entry == nil {
		return false
	}
	if entry.each {
		return true
	}
	seen := entry.judge(look).key()
	if entry.seen == seen {
		return false
	}
	entry.seen = seen
	return true
}

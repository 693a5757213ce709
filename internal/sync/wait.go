package sync

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// wait is an attempt that has applied everything and waits for health. It is state, not a worker: observations wake it, and
// a run that finds it no longer matches what the object and its source ask now drops it.
type wait struct {
	// What the wait belongs to; see matches.
	asked
	artifact meta.Artifact

	targets  []object.Ref
	by       *health.Judge       // who judges the targets; nil is kstatus
	expiring map[object.Key]bool // targets that delete themselves when they are done
	leaving  []object.Ref        // deleted, and still there
	pending  []object.Ref        // definitions that are deleted when leaving is gone
	deletion bool                // the Kustomization is being deleted and waits for leaving alone
	// Of the attempt, for its report when the wait ends.
	inventory inventory
	digest    string
	changed   bool
	began     time.Time
	since     time.Time // of the wait itself
	deadline  time.Time
	// over: there is nothing to take up. The wait is kept so that what it looks at still wakes the object.
	over bool
	// seen is the verdict that the object has been woken with, or that it found itself.
	seen string
}

// asked is what an object asked for, besides what its source offers.
type asked struct {
	uid         types.UID
	generation  int64
	requestedAt string
	// variables counts the changes of what the object's variables come from.
	variables uint64
}

// matches says whether the wait is for just this.
func (w *wait) matches(now asked, artifact *meta.Artifact) bool {
	return artifact != nil && w.asked == now && w.artifact.Digest == artifact.Digest && w.artifact.Revision == artifact.Revision
}

// judge looks at everything that is waited for.
func (w *wait) judge(look look) verdict {
	v := judgeHealth(w.targets, func(ref object.Ref) health.Result {
		is := look(ref, w.by)
		if is.Status == health.NotFound && w.expiring[ref.Key()] {
			return health.Result{Status: health.Current}
		}
		return is
	})
	for _, ref := range w.leaving {
		if look(ref, nil).Status != health.NotFound {
			v.left = append(v.left, ref.String())
		}
	}
	return v
}

// look returns the health of an object as last observed, by a judge or, without one, by kstatus.
type look func(object.Ref, *health.Judge) health.Result

// verdict is the health of all that is waited for.
type verdict struct {
	pending []string // `Kind/ns/name status: 'InProgress'`, in the order of the targets
	failed  []string
	left    []string // what was deleted and is still there
}

func (v verdict) healthy() bool { return len(v.pending)+len(v.failed) == 0 }

// key tells verdicts apart that matter to the attempt: one more healthy object among many is no reason to look again.
func (v verdict) key() string { return fmt.Sprint(len(v.pending) > 0, v.failed, v.left) }

// judgeHealth looks at every target.
func judgeHealth(targets []object.Ref, look func(object.Ref) health.Result) verdict {
	var v verdict
	for _, target := range targets {
		is := look(target)
		line := fmt.Sprintf("%s status: '%s'", target, is.Status)
		switch is.Status {
		case health.Current:
		case health.Failed:
			v.failed = append(v.failed, line)
		case health.Unknown:
			if is.Message != "" { // why nothing is known is what people need
				line += " (" + is.Message + ")"
			}
			v.pending = append(v.pending, line)
		case health.InProgress, health.Terminating, health.NotFound:
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

// left returns what the object's deletion still waits for; nil when it has not come to that.
func (w *waits) left(key types.NamespacedName) []object.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry := w.by[key]; entry != nil && entry.deletion {
		return entry.leaving
	}
	return nil
}

// pending returns the definitions that the object's deletion deletes when what it still waits for is gone.
func (w *waits) pending(key types.NamespacedName) []object.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	if entry := w.by[key]; entry != nil && entry.deletion {
		return entry.pending
	}
	return nil
}

func (w *waits) put(key types.NamespacedName, entry *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[key] = entry
}

// judge returns how the wait stands. A verdict that the object has found itself is no news to it.
func (w *waits) judge(entry *wait, look look) verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := entry.judge(look)
	entry.seen = v.key()
	return v
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
func (w *waits) news(key types.NamespacedName, look look) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	entry := w.by[key]
	if entry == nil {
		return false
	}
	seen := entry.judge(look).key()
	if entry.seen == seen {
		return false
	}
	entry.seen = seen
	return true
}

package reconcile

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// turns knows how the last attempt at each object has ended, and so whether another ends otherwise. Ready itself does not tell: it
// is Unknown while an attempt lasts.
type turns struct {
	mu    sync.Mutex
	ended map[types.NamespacedName]metav1.ConditionStatus
}

func newTurns() *turns { return &turns{ended: map[types.NamespacedName]metav1.ConditionStatus{}} }

// end takes note of how an attempt has ended, and returns what that changes; empty when it changes nothing. before is Ready as the
// run has found it, which for the first attempt that this process makes is how an earlier process has left it.
func (t *turns) end(key types.NamespacedName, before *metav1.Condition, now metav1.ConditionStatus) Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.last(key, before)
	t.ended[key] = now
	switch {
	case now == was:
		return ""
	case now == metav1.ConditionFalse:
		return TurnedBad
	case now == metav1.ConditionTrue && was == metav1.ConditionFalse:
		return TurnedGood
	}
	return "" // it is new, or its last attempt was cut off: that it is ready is what was expected
}

// wait takes note of an attempt that has come to no end of its own. What was before it is still what the next is compared with.
func (t *turns) wait(key types.NamespacedName, before *metav1.Condition) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[key] = t.last(key, before)
}

// last is called with mu held.
func (t *turns) last(key types.NamespacedName, before *metav1.Condition) metav1.ConditionStatus {
	was, known := t.ended[key]
	if !known && before != nil {
		return before.Status
	}
	return was
}

func (t *turns) forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ended, key)
}

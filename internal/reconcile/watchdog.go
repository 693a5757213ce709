package reconcile

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"
)

// Watchdog knows every attempt that is running and fails the liveness probe when one has been at it for more than twice
// its timeout: then a library ignores its deadline and only a restart frees the worker (faults.md F24).
type Watchdog struct {
	mu      sync.Mutex
	running map[*bout]struct{}
}

type bout struct {
	name    string
	started time.Time
	timeout time.Duration
}

// NewWatchdog returns a watchdog that watches nothing yet.
func NewWatchdog() *Watchdog { return &Watchdog{running: map[*bout]struct{}{}} }

// watch notes that an attempt begins; the returned function says that it ended.
func (w *Watchdog) watch(name string, now time.Time, timeout time.Duration) (done func()) {
	b := &bout{name: name, started: now, timeout: timeout}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running[b] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.running, b)
	}
}

// stuck names the attempts that have been running for more than twice their timeout.
func (w *Watchdog) stuck(now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for b := range w.running {
		if now.Sub(b.started) > 2*b.timeout {
			names = append(names, b.name)
		}
	}
	sort.Strings(names)
	return names
}

// Check is the liveness probe.
func (w *Watchdog) Check(*http.Request) error {
	if names := w.stuck(time.Now()); len(names) > 0 {
		return fmt.Errorf("stuck for more than twice their timeout: %s", strings.Join(names, ", "))
	}
	return nil
}

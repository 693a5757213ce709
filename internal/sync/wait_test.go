package sync

import (
	"errors"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

func TestVerdict(t *testing.T) {
	targets := refs("a", "b")
	for _, test := range []struct {
		name     string
		a, b     health.Status
		timedOut bool
		healthy  bool
		message  string
	}{
		{"all current", health.Current, health.Current, true, true, ""},
		{"one in progress", health.Current, health.InProgress, false, false, ""},
		{"one not there yet", health.NotFound, health.Current, false, false, ""},
		{"one in progress for too long", health.Current, health.InProgress, true, false,
			"health check failed after 1m0s: timeout waiting for: [ConfigMap/a/b status: 'InProgress']"},
		{"one failed", health.Failed, health.InProgress, false, false,
			"health check failed: failed early due to stalled resources: [ConfigMap/a/a status: 'Failed']"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := judgeHealth(targets, func(ref object.Ref) health.Status {
				return map[string]health.Status{"a": test.a, "b": test.b}[ref.Name]
			})
			if v.healthy() != test.healthy {
				t.Errorf("healthy %v, want %v", v.healthy(), test.healthy)
			}
			message := ""
			err := v.fault(test.timedOut, time.Minute)
			var fault *api.Fault
			if errors.As(err, &fault) {
				message = fault.Error()
				if fault.Reason != meta.HealthCheckFailedReason {
					t.Errorf("reason %s", fault.Reason)
				}
			}
			if diff := cmp.Diff(test.message, message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWaitNews: an object is woken when the verdict on what it waits for changes, and for nothing else.
func TestWaitNews(t *testing.T) {
	key := types.NamespacedName{Namespace: "demo", Name: "shop"}
	status := health.InProgress
	look := func(object.Ref) health.Status { return status }
	w := newWaits()
	if w.news(key, look) {
		t.Error("woken without waiting for anything")
	}
	w.put(key, &wait{targets: refs("a", "b")})
	w.news(key, look)
	if w.news(key, look) {
		t.Error("woken although nothing has changed")
	}
	status = health.Current
	if !w.news(key, look) {
		t.Error("not woken when everything turned healthy")
	}
	w.end(w.open(key))
	if w.open(key) != nil {
		t.Error("a wait that is over was taken up")
	}
	status = health.Failed
	if !w.news(key, look) {
		t.Error("not woken by news after the wait had failed")
	}
}

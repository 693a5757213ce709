package sync

import (
	"errors"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/kustomize"
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
			v := judgeHealth(targets, func(ref object.Ref) health.Result {
				return health.Result{Status: map[string]health.Status{"a": test.a, "b": test.b}[ref.Name]}
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
	look := func(object.Ref, *health.Judge) health.Result {
		return health.Result{Status: status, Message: time.Now().String()}
	}
	w := newWaits()
	if w.news(key, look) {
		t.Error("woken without waiting for anything")
	}
	entry := &wait{targets: refs("a", "b")}
	w.put(key, entry)
	w.judge(entry, look)
	if w.news(key, look) {
		t.Error("woken although the object has seen just that itself")
	}
	status = health.Current
	if !w.news(key, look) {
		t.Error("not woken when everything turned healthy")
	}
	w.end(entry)
	if w.open(key) != nil {
		t.Error("a wait that is over was taken up")
	}
	status = health.Failed
	if !w.news(key, look) {
		t.Error("not woken by news after the wait had failed")
	}
}

// TestWaitMatches: a wait is taken up only for the very thing it was begun for.
func TestWaitMatches(t *testing.T) {
	at := meta.Artifact{Revision: "main@sha1:a", Digest: "sha256:a"}
	was := asked{uid: "1", generation: 1, requestedAt: "x", variables: 1}
	w := &wait{asked: was, artifact: at}
	if !w.matches(was, &at) {
		t.Error("nothing has changed, and the wait was not taken up")
	}
	if w.matches(was, nil) {
		t.Error("taken up without an artifact")
	}
	for name, now := range map[string]asked{
		"another object":    {"2", 1, "x", 1},
		"another spec":      {"1", 2, "x", 1},
		"another request":   {"1", 1, "y", 1},
		"changed variables": {"1", 1, "x", 2},
	} {
		if w.matches(now, &at) {
			t.Errorf("%s: taken up", name)
		}
	}
	for name, now := range map[string]meta.Artifact{
		"another revision": {Revision: "main@sha1:b", Digest: "sha256:a"},
		"other content":    {Revision: "main@sha1:a", Digest: "sha256:b"},
	} {
		if w.matches(was, &now) {
			t.Errorf("%s: taken up", name)
		}
	}
}

// TestWaitLeaving: what is being deleted wakes the object when it is gone.
func TestWaitLeaving(t *testing.T) {
	key := types.NamespacedName{Namespace: "demo", Name: "shop"}
	status := health.Terminating
	look := func(object.Ref, *health.Judge) health.Result { return health.Result{Status: status} }
	w := newWaits()
	entry := &wait{over: true, leaving: refs("a")}
	w.put(key, entry)
	w.judge(entry, look)
	if w.news(key, look) {
		t.Error("woken while it is still there")
	}
	status = health.NotFound
	if !w.news(key, look) {
		t.Error("not woken when it was gone")
	}
}

// TestF55_WaitByExpressions: who judges the targets is part of the wait, and the wait of an older spec is not taken up, however
// its expressions stand (faults.md F55).
func TestF55_WaitByExpressions(t *testing.T) {
	judge, err := health.NewJudge([]kustomize.CustomHealthCheck{{APIVersion: "v1", Kind: "ConfigMap", HealthCheckExpressions: kustomize.HealthCheckExpressions{Current: "false"}}})
	if err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: "demo", Name: "shop"}
	at := meta.Artifact{Revision: "main@sha1:a", Digest: "sha256:a"}
	was := asked{uid: "1", generation: 1}
	asked := map[string]*health.Judge{}
	look := func(ref object.Ref, by *health.Judge) health.Result {
		asked[ref.Name] = by
		return health.Result{Status: health.InProgress}
	}
	w := newWaits()
	entry := &wait{asked: was, artifact: at, by: judge, targets: refs("a"), leaving: refs("b")}
	w.put(key, entry)
	if v := w.judge(entry, look); v.healthy() || len(v.left) != 1 {
		t.Errorf("the verdict is %+v", v)
	}
	if asked["a"] != judge || asked["b"] != nil {
		t.Error("not who is to judge was asked")
	}
	now := was
	now.generation++
	if open := w.open(key); open == nil || open.matches(now, &at) || !open.matches(was, &at) {
		t.Error("taken up for another spec, or not for its own")
	}
}

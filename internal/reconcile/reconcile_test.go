package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/cleat-dev/cleat/internal/api"
)

func fault(reason string, retry api.Retry) *api.Fault {
	return api.Faultf(reason, retry, "it is broken")
}

// TestSummarize is the truth table of the conditions that every kind has.
func TestSummarize(t *testing.T) {
	type row = map[string]string // condition → status and reason
	for _, test := range []struct {
		name   string
		before row
		end    Outcome
		want   row
	}{
		{"success", nil, Outcome{}, row{"Ready": "True Done"}},
		{"success after trouble", row{"Stalled": "True X", "Reconciling": "True Y"}, Outcome{}, row{"Ready": "True Done"}},
		{"waiting", row{"Stalled": "True X"}, Outcome{Waiting: &Waiting{}, Progress: "Running health checks"},
			row{"Ready": "Unknown Progressing", "Reconciling": "True Progressing"}},
		{"failed for good", row{"Reconciling": "True Y"}, Outcome{Fault: fault("Bad", api.RetryNever), Progress: "Building"},
			row{"Ready": "False Bad", "Stalled": "True Bad"}},
		{"failed in a step that reports", row{"Stalled": "True X"}, Outcome{Fault: fault("Bad", api.RetryInterval), Progress: "Building"},
			row{"Ready": "False Bad", "Reconciling": "True ProgressingWithRetry"}},
		{"failed in a quick step", row{"Reconciling": "True Y"}, Outcome{Fault: fault("Bad", api.RetryBackoff)}, row{"Ready": "False Bad"}},
		{"waits for others", row{"Reconciling": "True Y"}, Outcome{Fault: fault("DependencyNotReady", api.RetryWoken), Progress: "Fetching"},
			row{"Ready": "False DependencyNotReady"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			obj := &kustomizev1.Kustomization{}
			for kind, value := range test.before {
				status, reason, _ := strings.Cut(value, " ")
				SetCondition(obj, kind, metav1.ConditionStatus(status), reason, "before")
			}
			summarize(obj, test.end, Success{Reason: "Done", Message: "all well"})
			got := row{}
			for _, c := range obj.GetConditions() {
				got[c.Type] = string(c.Status) + " " + c.Reason
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSetConditionTwice: the same outcome again changes nothing, so that it costs no write.
func TestSetConditionTwice(t *testing.T) {
	obj := &kustomizev1.Kustomization{}
	SetCondition(obj, meta.ReadyCondition, metav1.ConditionFalse, "Bad", "it is broken")
	before := obj.DeepCopy()
	before.Status.Conditions[0].LastTransitionTime.Time = before.Status.Conditions[0].LastTransitionTime.Add(-time.Hour)
	again := before.DeepCopy()
	SetCondition(again, meta.ReadyCondition, metav1.ConditionFalse, "Bad", "it is broken")
	if diff := cmp.Diff(before, again); diff != "" {
		t.Errorf("setting the same condition changed it:\n%s", diff)
	}
}

// TestConditionsAreInFluxsOrder: those of trouble and work, then Ready, then the rest by name, in whatever order they come.
func TestConditionsAreInFluxsOrder(t *testing.T) {
	obj := &kustomizev1.Kustomization{}
	for _, kind := range []string{"TestSuccess", "Ready", "Released", "Reconciling", "Drifted", "Stalled"} {
		SetCondition(obj, kind, metav1.ConditionTrue, "X", "")
	}
	var got []string
	for _, c := range obj.GetConditions() {
		got = append(got, c.Type)
	}
	if want := []string{"Stalled", "Reconciling", "Ready", "Drifted", "Released", "TestSuccess"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestMemo: something is made once for a generation of an object, and anew for another, or for another object of that name.
func TestMemo(t *testing.T) {
	m, made := NewMemo[int](), 0
	get := func(uid types.UID, generation int64) int {
		obj := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: uid, Generation: generation}}
		return m.Of(obj, func() int { made++; return made })
	}
	for i, step := range []struct {
		uid        types.UID
		generation int64
		want       int
	}{{"1", 1, 1}, {"1", 1, 1}, {"1", 2, 2}, {"2", 2, 3}, {"2", 2, 3}} {
		if got := get(step.uid, step.generation); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	m.Forget(types.NamespacedName{Name: "a"})
	if m.Len() != 0 || get("2", 2) != 4 {
		t.Error("kept what was to be forgotten")
	}
}

// TestCounters: each object has its own.
func TestCounters(t *testing.T) {
	c, a, b := NewCounters(), types.NamespacedName{Name: "a"}, types.NamespacedName{Name: "b"}
	c.Add(a)
	c.Add(a)
	c.Add(b)
	if c.Get(a) != 2 || c.Get(b) != 1 {
		t.Errorf("%d and %d", c.Get(a), c.Get(b))
	}
	if c.Forget(a); c.Get(a) != 0 || c.Get(b) != 1 {
		t.Errorf("after one is forgotten: %d and %d", c.Get(a), c.Get(b))
	}
}

// TestF50_LongMessage: a message longer than the API allows is cut, on a rune.
func TestF50_LongMessage(t *testing.T) {
	obj := &kustomizev1.Kustomization{}
	SetCondition(obj, meta.ReadyCondition, metav1.ConditionFalse, "Bad", strings.Repeat("ä", maxConditionMessage))
	message := Condition(obj, meta.ReadyCondition).Message
	if len(message) > maxConditionMessage+len("…") || !strings.HasSuffix(message, "ä…") {
		t.Errorf("message of %d bytes ends in %q", len(message), message[len(message)-8:])
	}
}

func TestRunSteps(t *testing.T) {
	broken := api.Faultf("Bad", api.RetryNever, "it is broken")
	wait := &Waiting{After: 1}
	for _, test := range []struct {
		name string
		errs []error // of the steps 0, 1, 2
		ran  []string
		want Outcome
	}{
		{"all well", []error{nil, nil, nil}, []string{"0", "1", "2"}, Outcome{}},
		{"a fault stops", []error{nil, broken, nil}, []string{"0", "1"}, Outcome{Step: "1", Progress: "doing 1", Fault: broken}},
		{"a wrapped fault keeps its reason", []error{fmt.Errorf("x: %w", broken)}, []string{"0"}, Outcome{Step: "0", Progress: "doing 0", Fault: broken}},
		{"a wait stops", []error{wait, nil}, []string{"0"}, Outcome{Step: "0", Progress: "doing 0", Waiting: wait}},
		{"done early", []error{ErrDone, nil}, []string{"0"}, Outcome{Done: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var ran []string
			var steps []Step[string]
			for i, err := range test.errs {
				name := fmt.Sprint(i)
				steps = append(steps, Step[string]{
					Name:     name,
					Progress: func(a string) string { return a + " " + name },
					Do:       func(context.Context, string) error { ran = append(ran, name); return err },
				})
			}
			got := runSteps(context.Background(), "doing", steps, func(_ Step[string], do func() error) error { return do() })
			if diff := cmp.Diff(test.want, got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if !slices.Equal(ran, test.ran) {
				t.Errorf("ran %v, want %v", ran, test.ran)
			}
		})
	}
}

// TestRunStepsUntyped: an error that nobody gave a reason is retried with back-off, under the reason Failed.
func TestRunStepsUntyped(t *testing.T) {
	cause := errors.New("no idea")
	steps := []Step[int]{{Name: "x", Do: func(context.Context, int) error { return cause }}}
	end := runSteps(context.Background(), 0, steps, func(_ Step[int], do func() error) error { return do() })
	if end.Fault == nil || end.Fault.Retry != api.RetryBackoff || end.Fault.Reason != api.FailedReason || !errors.Is(end.Fault, cause) {
		t.Errorf("outcome %+v", end)
	}
}

func TestRequeue(t *testing.T) {
	req := ctrl.Request{NamespacedName: types.NamespacedName{Name: "x"}}
	r := newRequeuer(Timing{MinRetry: time.Second, MaxRetry: 5 * time.Second, Dependency: 30 * time.Second})
	after := func(end Outcome) time.Duration { return r.after(req, end, 10*time.Minute, time.Minute) }
	backoff := Outcome{Fault: fault("Bad", api.RetryBackoff)}
	for i, step := range []struct {
		end  Outcome
		want time.Duration
	}{
		{Outcome{}, 10 * time.Minute},
		{Outcome{Fault: fault("Bad", api.RetryInterval)}, time.Minute},
		{Outcome{Fault: &api.Fault{Reason: "Bad", Retry: api.RetryInterval, After: 7 * time.Second}}, 7 * time.Second},
		{Outcome{Fault: fault("Bad", api.RetryWoken)}, 30 * time.Second},
		{Outcome{Fault: fault("Bad", api.RetryNever)}, 0},
		{Outcome{Waiting: &Waiting{After: 7 * time.Second}}, 7 * time.Second},
		{backoff, time.Second},
		{backoff, 2 * time.Second},
		{backoff, 4 * time.Second},
		{backoff, 5 * time.Second},
		{Outcome{}, 10 * time.Minute},
		{backoff, time.Second}, // a success in between starts anew
	} {
		if got := after(step.end); got != step.want {
			t.Errorf("outcome %d: %s, want %s", i, got, step.want)
		}
	}
}

func TestJitter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := jitter(time.Minute, 5)
		if d < 57*time.Second || d > 63*time.Second {
			t.Fatalf("%s is not within 5%% of a minute", d)
		}
		seen[d] = true
	}
	if len(seen) < 100 {
		t.Errorf("only %d different delays: nothing is spread", len(seen))
	}
	if jitter(time.Minute, 0) != time.Minute {
		t.Error("no jitter was asked for")
	}
}

// TestF24_Watchdog: an attempt that runs for more than twice its timeout is named; others are not.
func TestF24_Watchdog(t *testing.T) {
	w := NewWatchdog()
	start := time.Now()
	done := w.watch("GitRepository/a/stuck", start, time.Minute)
	w.watch("GitRepository/a/fine", start, time.Hour)
	if stuck := w.stuck(start.Add(2 * time.Minute)); len(stuck) > 0 {
		t.Errorf("%v are not stuck yet", stuck)
	}
	if diff := cmp.Diff([]string{"GitRepository/a/stuck"}, w.stuck(start.Add(3*time.Minute))); diff != "" {
		t.Errorf("stuck (-want +got):\n%s", diff)
	}
	done()
	if stuck := w.stuck(start.Add(3 * time.Minute)); len(stuck) > 0 {
		t.Errorf("%v have ended", stuck)
	}
	if err := w.Check(nil); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestWaitlist(t *testing.T) {
	w := NewWaitlist[string]()
	a, b := types.NamespacedName{Name: "a"}, types.NamespacedName{Name: "b"}
	w.Join(a, "x", "y")
	w.Join(b, "x")
	w.Join(a, "y") // a no longer waits for x
	if diff := cmp.Diff([]types.NamespacedName{b}, w.For("x")); diff != "" {
		t.Errorf("waiting for x (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]types.NamespacedName{a}, w.For("y")); diff != "" {
		t.Errorf("waiting for y (-want +got):\n%s", diff)
	}
	w.Leave(a)
	w.Leave(b)
	if len(w.waiters)+len(w.on) != 0 {
		t.Errorf("left over: %v, %v", w.waiters, w.on)
	}
}

// TestNewest: a cache that lags behind our own last write does not bring the old status back.
func TestNewest(t *testing.T) {
	version := func(uid, rv, applied string) *kustomizev1.Kustomization {
		ks := &kustomizev1.Kustomization{}
		ks.Name, ks.UID, ks.ResourceVersion, ks.Status.LastAppliedRevision = "x", types.UID(uid), rv, applied
		return ks
	}
	w := newWriter(nil, api.KustomizationKind, func() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} }, "")
	w.remember(version("1", "10", "written"))
	for _, test := range []struct {
		name   string
		cached *kustomizev1.Kustomization
		want   string
	}{
		{"the cache lags", version("1", "9", "old"), "written"},
		{"another object of that name", version("2", "9", "new object"), "new object"},
		{"forgotten after that", version("1", "9", "old"), "old"},
	} {
		if got := w.newest(test.cached).Status.LastAppliedRevision; got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	w.remember(version("1", "10", "written"))
	if got := w.newest(version("1", "100", "newer")).Status.LastAppliedRevision; got != "newer" {
		t.Errorf("the cache has caught up: %q", got)
	}
}

func TestAsked(t *testing.T) {
	object := func(change func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
		ks := &kustomizev1.Kustomization{}
		ks.Generation, ks.Annotations = 1, map[string]string{"other": "1"}
		change(ks)
		return ks
	}
	same := object(func(*kustomizev1.Kustomization) {})
	now := metav1.Now()
	for name, test := range map[string]struct {
		new  *kustomizev1.Kustomization
		want bool
	}{
		"status":             {object(func(ks *kustomizev1.Kustomization) { ks.Status.ObservedGeneration = 1 }), false},
		"foreign annotation": {object(func(ks *kustomizev1.Kustomization) { ks.Annotations["other"] = "2" }), false},
		"spec":               {object(func(ks *kustomizev1.Kustomization) { ks.Generation = 2 }), true},
		"request":            {object(func(ks *kustomizev1.Kustomization) { ks.Annotations[meta.ReconcileRequestAnnotation] = "x" }), true},
		"our annotation":     {object(func(ks *kustomizev1.Kustomization) { ks.Annotations[api.AllowEmptyAnnotation] = "true" }), true},
		"deletion":           {object(func(ks *kustomizev1.Kustomization) { ks.DeletionTimestamp = &now }), true},
	} {
		if got := Asked().Update(event.UpdateEvent{ObjectOld: same, ObjectNew: test.new}); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

package reconcile_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

type nothing struct{}

// process is a controller of Kustomizations that does nothing, as one process has it: each attempt ends as the test says.
type process struct {
	t     *testing.T
	do    func(context.Context, ctrl.Request) (ctrl.Result, error)
	heard *reconcile.Subscription
	end   error
}

func newProcess(t *testing.T, c client.Client) *process {
	bus := reconcile.NewBus(prometheus.NewRegistry())
	p := &process{t: t, heard: bus.Subscribe("test", 100)}
	recorder := reconcile.NewRecorder(&sourcetest.Events{}).Telling(bus, reconcile.Reporter{Scheme: c.Scheme(), Controller: "kustomize-controller"})
	type obj = *kustomizev1.Kustomization
	every := func(obj) time.Duration { return time.Hour }
	kind := reconcile.Kind[obj, nothing]{
		GVK: api.KustomizationKind, New: func() obj { return &kustomizev1.Kustomization{} }, Suspended: func(o obj) bool { return o.Spec.Suspend },
		Interval: every, RetryInterval: every, Timeout: every,
		Observed: func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:  func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:    func(context.Context, *reconcile.Run[obj]) nothing { return nothing{} },
		Steps: func(nothing) []reconcile.Step[nothing] {
			return []reconcile.Step[nothing]{{Name: "end", Do: func(context.Context, nothing) error { return p.end }}}
		},
		Report: func(nothing, reconcile.Outcome) reconcile.Success {
			return reconcile.Success{Reason: meta.SucceededReason, Message: "all well"}
		},
		After:         func(nothing, reconcile.Outcome) {},
		EventMetadata: func(nothing) map[string]string { return map[string]string{"kustomize.toolkit.fluxcd.io/revision": "1"} },
		Gone:          func(types.NamespacedName) {},
	}
	p.do = reconcile.NewController(kind, sourcetest.Edge(c), "kustomize-controller", recorder, slog.New(slog.DiscardHandler)).Reconcile
	return p
}

// attempt makes an attempt end, and returns which turns are told.
func (p *process) attempt(end error) string {
	p.t.Helper()
	p.end = end
	if _, err := p.do(p.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "demo", Name: "shop"}}); err != nil {
		p.t.Fatal(err)
	}
	over, stop := context.WithCancel(p.t.Context())
	stop()
	var turns []string
	for {
		n, err := p.heard.Next(over)
		if err != nil {
			return strings.Join(turns, ",")
		}
		if n.Turn != "" {
			if n.InvolvedObject.Name != "shop" || n.Metadata["kustomize.toolkit.fluxcd.io/revision"] != "1" || n.Metadata["event.toolkit.fluxcd.io/team"] != "shop" {
				p.t.Errorf("%+v", n)
			}
			turns = append(turns, strings.Join([]string{string(n.Turn), string(n.Severity), n.Reason, n.Message}, " "))
		}
	}
}

// TestTurns: a turn is told when Ready has become another, and only then: not for each failure, not for a wait, and not by a process
// that finds what another has left.
func TestTurns(t *testing.T) {
	shop := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop", UID: "1", Generation: 1,
		Finalizers: []string{api.Finalizer}, Annotations: map[string]string{"event.toolkit.fluxcd.io/team": "shop"}}}
	c := sourcetest.Client([]client.Object{shop}, shop)
	first, second := newProcess(t, c), newProcess(t, c)
	broken, worse := api.Faultf("Bad", api.RetryInterval, "broken"), api.Faultf("Worse", api.RetryInterval, "more broken")
	waits := api.Faultf("DependencyNotReady", api.RetryWoken, "another is not ready")
	const bad, good = "bad error Bad broken", "good info Succeeded all well"
	for i, step := range []struct {
		by   *process
		end  error
		want string
	}{
		{first, waits, ""},
		{first, waits, ""},
		{first, nil, ""}, // it has not failed before
		{first, nil, ""},
		{first, &reconcile.Waiting{}, ""},
		{first, broken, bad},
		{first, worse, ""},
		{first, waits, ""},
		{first, &reconcile.Waiting{}, ""},
		{first, broken, ""},
		{second, broken, ""}, // was told by the first
		{second, nil, good},
		{second, nil, ""},
		{second, waits, ""},
		{second, broken, bad},
		{second, reconcile.ErrDone, ""},
		{second, nil, good},
	} {
		if got := step.by.attempt(step.end); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

package kube

import (
	"log/slog"
	"testing"

	"github.com/fluxcd/pkg/apis/kustomize"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

func judgeOf(t *testing.T, current string) *health.Judge {
	t.Helper()
	j, err := health.NewJudge([]kustomize.CustomHealthCheck{{
		APIVersion: "v1", Kind: "ConfigMap", HealthCheckExpressions: kustomize.HealthCheckExpressions{Current: current},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func (o *Observer) storeOf(t *testing.T, of target) *store {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.watches[of]
	if w == nil {
		t.Fatalf("%v is not watched", of)
	}
	return &store{observer: o, watch: w}
}

// TestJudgedWatches: who judges alike shares one watch, kstatus is asked by all others, and what is not needed any more ends.
func TestJudgedWatches(t *testing.T) {
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	defer o.Close()
	a, again, other := judgeOf(t, "false"), judgeOf(t, "false"), judgeOf(t, "data.x == 'y'")
	another := types.NamespacedName{Namespace: "flux-system", Name: "another"}
	secret := object.Ref{Version: "v1", Kind: "Secret", Namespace: "n", Name: "a"}
	watches := func(want int, when string) {
		t.Helper()
		if got, _ := o.Counts(); got != want {
			t.Errorf("%s: %d watches, want %d", when, got, want)
		}
	}
	o.Watch(owner, []object.Ref{ref, secret})
	watches(2, "without a judge")
	o.Judge(owner, a)
	watches(3, "of two kinds, one of them judged")
	o.Judge(another, again) // before what it judges
	o.Watch(another, []object.Ref{ref})
	watches(3, "with another owner that judges alike")
	o.Judge(another, other)
	watches(4, "with another owner that judges otherwise")
	o.Pin(another, []object.Ref{{Version: "v1", Kind: "ConfigMap", Namespace: "n", Name: "pinned"}})
	watches(5, "with a pin that is judged")
	o.Forget(another)
	watches(3, "after the other one has gone")
	o.Judge(owner, nil)
	watches(2, "without a judge again")
	o.Forget(owner)
	watches(0, "when all have gone")
	if len(o.needs) != 0 {
		t.Errorf("%d owners are kept", len(o.needs))
	}
}

// TestJudgedHealth: a judge and kstatus each see the same object in their own way, from the watch and from answers to writes.
func TestJudgedHealth(t *testing.T) {
	o, plain := filled(t)
	judge := judgeOf(t, "data.x == 'y'")
	o.Judge(owner, judge)
	judged := o.storeOf(t, kindTarget(ref).judged(judge))
	is := func(when string, j *health.Judge, want health.Status) {
		t.Helper()
		if got, state := o.Health(ref, j); got.Status != want || !state.Found {
			t.Errorf("%s: %v, %+v, want %s", when, got, state, want)
		}
	}
	first := configMap(1, "1")
	for _, s := range []*store{plain, judged} {
		if err := s.Replace([]any{first.DeepCopy()}, "1"); err != nil {
			t.Fatal(err)
		}
	}
	is("listed", nil, health.Current)
	is("listed", judge, health.Unknown) // there is no data
	second := configMap(2, "1")
	second.Object["data"] = map[string]any{"x": "y"}
	o.Record(second)
	is("written", judge, health.Current)
	third := configMap(3, "1")
	third.Object["data"] = map[string]any{"x": "z"}
	if err := judged.Update(third); err != nil {
		t.Fatal(err)
	}
	is("changed", judge, health.InProgress)
	is("changed", nil, health.Current)
	if _, state := o.Health(ref, judgeOf(t, "true")); state.Found || state.Gone() {
		t.Errorf("a judge that nobody declared: %+v", state)
	}
}

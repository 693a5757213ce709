package drift

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/object"
)

// shelf is a Keeper that holds what it was given.
type shelf struct{ records []Record }

func (s *shelf) Load(context.Context, Owner) ([]Record, error) { return s.records, nil }
func (s *shelf) Save(_ context.Context, _ Owner, records []Record) error {
	s.records = records
	return nil
}

// TestRestoreWhilePaused: a run that is at the objects already still gets what an earlier process has kept, once.
func TestRestoreWhilePaused(t *testing.T) {
	kept := &shelf{records: []Record{{APIVersion: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "a", State: Corrected, Reason: Missing, Times: 3}}}
	e := NewEngine(Options{Keeper: kept})
	owner := Owner{Kind: "HelmRelease", NamespacedName: types.NamespacedName{Namespace: "ns", Name: "web"}}
	defer e.Pause(owner)()
	for range 2 {
		if err := e.Restore(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
		kept.records = nil
	}
	if got := e.Records(owner); len(got) != 1 || got[0].Times != 3 {
		t.Errorf("restored: %+v", got)
	}
}

// TestNoteTold: what a run tells itself is recorded and counted, and not told again.
func TestNoteTold(t *testing.T) {
	e := NewEngine(Options{})
	owner := Owner{Kind: "HelmRelease", NamespacedName: types.NamespacedName{Namespace: "ns", Name: "web"}}
	seen := time.Now().Add(-time.Second)
	e.NoteTold(owner, object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "a"}, Verdict{Op: Create, Reason: Missing}, seen, true)
	e.NoteTold(owner, object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "b"}, Verdict{Op: Report, Reason: Missing}, seen, false)
	var states []State
	for _, r := range e.Records(owner) {
		states = append(states, r.State)
		if !r.Seen.Equal(seen) || r.Over() != (r.State == Corrected) {
			t.Errorf("recorded as %+v", r)
		}
	}
	if len(states) != 2 || states[0] != Open || states[1] != Corrected {
		t.Errorf("states: %v", states)
	}
	if events := e.known(owner).events; len(events) > 0 {
		t.Errorf("told: %v", events)
	}
	if e.Holds(owner, object.Key{Kind: "ConfigMap", Namespace: "ns", Name: "a"}) {
		t.Error("an object is looked after that was never kept")
	}
}

package sync

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// refs makes ConfigMaps of the given names.
func refs(names ...string) []object.Ref {
	var list []object.Ref
	for _, name := range names {
		list = append(list, object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: name})
	}
	return list
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name             string
		tracked, desired []object.Ref
		policies         []Policy
		want             Plan
	}{
		{"first", nil, refs("a", "b"), nil, Plan{Track: refs("a", "b")}},
		{"same", refs("a", "b"), refs("a", "b"), nil, Plan{Track: refs("a", "b")}},
		{"one gone from Git", refs("a", "b"), refs("a", "c"), nil, Plan{Track: refs("a", "b", "c"), Prune: refs("b")}},
		{"prune off", refs("a", "b"), refs("a", "c"), []Policy{keepStale}, Plan{Track: refs("a", "c")}},
		{"all gone from Git", refs("a"), nil, nil, Plan{Track: refs("a"), Prune: refs("a")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, makePlan(test.tracked, test.desired, test.policies...)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPlanProperties: for any tracked and desired sets, everything that may be touched is on record first, nothing desired
// is pruned, and after the plan has been carried out the next one changes nothing.
func TestPlanProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	subset := func() []object.Ref {
		var names []string
		for i := range 8 {
			if random.IntN(2) == 0 {
				names = append(names, fmt.Sprint(i))
			}
		}
		return refs(names...)
	}
	for range 2000 {
		tracked, desired := subset(), subset()
		plan := makePlan(tracked, desired)
		if missing := object.Subtract(object.Union(tracked, desired), plan.Track); len(missing) > 0 {
			t.Fatalf("tracked %v, desired %v: %v is not on record", tracked, desired, missing)
		}
		if wrong := object.Subtract(plan.Prune, object.Subtract(plan.Prune, desired)); len(wrong) > 0 {
			t.Fatalf("tracked %v, desired %v: %v is desired and would be pruned", tracked, desired, wrong)
		}
		if kept := makePlan(tracked, desired, keepStale); len(kept.Prune) > 0 || len(object.Subtract(kept.Track, desired)) > 0 {
			t.Fatalf("tracked %v, desired %v: with spec.prune=false the plan is %v", tracked, desired, kept)
		}
		if next := makePlan(object.Subtract(plan.Track, plan.Prune), desired); len(next.Prune) > 0 || len(object.Subtract(next.Track, desired)) > 0 {
			t.Fatalf("tracked %v, desired %v: the plan after the plan is %v", tracked, desired, next)
		}
	}
}

// TestF01_EmptySet: a build without objects over a non-empty inventory is refused unless that is allowed.
func TestF01_EmptySet(t *testing.T) {
	for _, test := range []struct {
		tracked, desired []object.Ref
		allowed, refused bool
	}{
		{nil, nil, false, false},
		{refs("a"), refs("a"), false, false},
		{refs("a"), nil, false, true},
		{refs("a"), nil, true, false},
	} {
		err := guardEmpty(makePlan(test.tracked, test.desired), test.desired, test.allowed)
		var fault *api.Fault
		if got := errors.As(err, &fault) && fault.Reason == api.EmptySetReason; got != test.refused {
			t.Errorf("tracked %v, desired %v, allowed %v: %v", test.tracked, test.desired, test.allowed, err)
		}
	}
}

// TestF01_PruneLimit: a plan that removes more than the limit is refused, unless that is allowed.
func TestF01_PruneLimit(t *testing.T) {
	four := refs("a", "b", "c", "d")
	for _, test := range []struct {
		name             string
		tracked, desired []object.Ref
		policies         []Policy
		limit            int
		allowed, refused bool
	}{
		{"off", four, refs("a"), nil, 0, false, false},
		{"a hundred percent is off", four, refs("x"), nil, 100, false, false},
		{"first", nil, four, nil, 10, false, false},
		{"nothing goes", four, four, nil, 1, false, false},
		{"just the limit", four, refs("a", "b"), nil, 50, false, false},
		{"more", four, refs("a"), nil, 50, false, true},
		{"everything is replaced", four, refs("x", "y"), nil, 99, false, true},
		{"new objects do not dilute it", four, refs("a", "x", "y", "z", "1", "2", "3", "4", "5"), nil, 50, false, true},
		{"allowed", four, refs("a"), nil, 50, true, false},
		{"spec.prune is false", four, refs("a"), []Policy{keepStale}, 50, false, false},
		{"an empty build is guardEmpty's", four, nil, nil, 50, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := guardLimit(makePlan(test.tracked, test.desired, test.policies...), test.tracked, test.desired, test.limit, test.allowed)
			var fault *api.Fault
			if got := errors.As(err, &fault) && fault.Reason == api.PruneLimitReason; got != test.refused {
				t.Errorf("%v", err)
			}
		})
	}
}

package sync

import (
	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// Plan is what an attempt is going to do, as values.
//
//	tracked  desired  │ Track  Prune
//	   –       yes    │  yes    –      to be created
//	  yes      yes    │  yes    –      to be kept as Git says
//	  yes       –     │  yes   yes     gone from Git
type Plan struct {
	// Track is on record before the first apply, so that a crash leaves nothing untracked.
	Track []object.Ref
	// Prune is deleted once everything desired has been applied. All are in the order of inventories.
	Prune []object.Ref
}

// Policy takes out of a plan what must not be done.
type Policy func(Plan) Plan

// makePlan compares what is tracked with what is desired.
func makePlan(tracked, desired []object.Ref, policies ...Policy) Plan {
	plan := Plan{Track: object.Union(desired, tracked), Prune: object.Subtract(tracked, desired)}
	for _, policy := range policies {
		plan = policy(plan)
	}
	return plan
}

// keepStale is the policy of spec.prune=false: what is gone from Git stays on the cluster, and is no longer tracked.
func keepStale(plan Plan) Plan {
	plan.Track = object.Subtract(plan.Track, plan.Prune)
	plan.Prune = nil
	return plan
}

// guardLimit refuses a plan that deletes more than limit percent of what is tracked. Nothing of it is carried out: to apply
// what is new beside what is old could run everything twice, and would make the next look at the share say something else.
// An empty build is guardEmpty's.
func guardLimit(plan Plan, tracked, desired []object.Ref, limit int, allowed bool) error {
	if limit <= 0 || limit >= 100 || allowed || len(desired) == 0 || len(plan.Prune)*100 <= len(tracked)*limit {
		return nil
	}
	return api.Faultf(api.PruneLimitReason, api.RetryInterval,
		"the build lacks %d of the %d objects that are tracked, which is more than the %d percent of --prune-limit: nothing was applied or pruned; if they are to go, annotate this Kustomization with %s=true until they have",
		len(plan.Prune), len(tracked), limit, api.AllowPruneAnnotation)
}

// guardEmpty refuses to delete everything because a build holds no object. That is far more often a wrong path, a source
// gone wrong or a bad merge than a wish (faults.md F01, F07).
func guardEmpty(plan Plan, desired []object.Ref, allowed bool) error {
	if len(desired) > 0 || len(plan.Prune) == 0 || allowed {
		return nil
	}
	return api.Faultf(api.EmptySetReason, api.RetryInterval,
		"the build holds no objects while %d are applied: nothing was pruned; if they are to go, annotate this Kustomization with %s=true or delete it",
		len(plan.Prune), api.AllowEmptyAnnotation)
}

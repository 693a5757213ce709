package helm

import (
	"context"
	"slices"
)

// dependencies says whether all that the HelmRelease depends on is ready.
func (r *Reconciler) dependencies(ctx context.Context, a *attempt) error {
	return r.dependants.Check(ctx, a.hr, slices.Concat(a.dependsOn, a.annotated), nil)
}

package helm

import (
	"context"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// reset forgets a history that is about another release than the one that is there: somebody else has made that, or the release
// has gone from where it was. Nothing is done to either.
func (r *Reconciler) reset(ctx context.Context, a *attempt, v *view) error {
	moved := v.spec.moved(v.At) != ""
	a.reported = append(a.reported, step{Kind: Reset})
	a.stored = nil // it is looked for anew, and may be elsewhere
	return unrecorded(a.run.Save(ctx, func(hr *v2.HelmRelease) {
		hr.Status.ClearHistory()
		if moved {
			hr.Status.ClearFailures()
			hr.Status.StorageNamespace = ""
		}
	}))
}

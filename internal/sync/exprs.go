package sync

import (
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// exprs are the expressions of a spec, understood. They are compiled once for a generation.
type exprs struct {
	judge     *health.Judge       // of spec.healthCheckExprs; nil without any
	dependsOn []depend.Dependency // of spec.dependsOn
	err       error
}

// understand returns the expressions of ks, or a fault that names the one which could not be understood.
func (r *Reconciler) understand(ks *kustomizev1.Kustomization) (*exprs, error) {
	e := r.understood.Of(ks, func() *exprs { return compile(ks) })
	if e.err != nil {
		return nil, api.Faultf(meta.InvalidCELExpressionReason, api.RetryNever, "%w", e.err)
	}
	return e, nil
}

func compile(ks *kustomizev1.Kustomization) *exprs {
	e := &exprs{}
	if e.judge, e.err = health.NewJudge(ks.Spec.HealthCheckExprs); e.err != nil {
		return e
	}
	self := depend.Ref{Kind: api.KustomizationKind.Kind, NamespacedName: client.ObjectKeyFromObject(ks)}
	e.dependsOn, e.err = depend.Understand(self, ks.Spec.DependsOn)
	return e
}

package sync

import (
	"fmt"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/expr"
	"github.com/cleat-dev/cleat/internal/health"
)

// The variables of a readyExpr: the Kustomization itself and the one that it depends on.
const (
	selfVariable       = "self"
	dependencyVariable = "dep"
)

// exprs are the expressions of a spec, understood.
type exprs struct {
	uid        types.UID
	generation int64

	judge *health.Judge // of spec.healthCheckExprs; nil without any
	ready []*expr.Expr  // of each entry of spec.dependsOn; nil without one
	err   error
}

// understood keeps the expressions of each Kustomization, so that they are compiled once for a generation.
type understood struct {
	mu sync.Mutex
	by map[types.NamespacedName]*exprs
}

func newUnderstood() *understood { return &understood{by: map[types.NamespacedName]*exprs{}} }

// of returns the expressions of ks, or a fault that names the one which could not be understood.
func (u *understood) of(ks *kustomizev1.Kustomization) (*exprs, error) {
	key := client.ObjectKeyFromObject(ks)
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.by[key]
	if known == nil || known.uid != ks.UID || known.generation != ks.Generation {
		known = compile(ks)
		u.by[key] = known
	}
	if known.err != nil {
		return nil, api.Faultf(meta.InvalidCELExpressionReason, api.RetryNever, "%w", known.err)
	}
	return known, nil
}

func (u *understood) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.by, key)
}

func compile(ks *kustomizev1.Kustomization) *exprs {
	e := &exprs{uid: ks.UID, generation: ks.Generation, ready: make([]*expr.Expr, len(ks.Spec.DependsOn))}
	if e.judge, e.err = health.NewJudge(ks.Spec.HealthCheckExprs); e.err != nil {
		return e
	}
	for i, dependency := range ks.Spec.DependsOn {
		if dependency.ReadyExpr == "" {
			continue
		}
		ready, err := expr.Compile(dependency.ReadyExpr, selfVariable, dependencyVariable)
		if err != nil {
			e.err = fmt.Errorf("spec.dependsOn[%d].readyExpr: %w", i, err)
			return e
		}
		e.ready[i] = ready
	}
	return e
}

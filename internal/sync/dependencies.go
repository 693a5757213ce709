package sync

import (
	"context"
	"errors"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/expr"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// dependency is something that must be ready before a Kustomization.
type dependency struct {
	depend.Ref
	ready *expr.Expr // nil for the built-in check alone
}

// dependencies says whether all that the Kustomization depends on is ready. It joins the waitlist of the dependencies before it
// looks, so that one which turns ready in between still wakes it.
func (r *Reconciler) dependencies(ctx context.Context, a *attempt) error {
	on := a.dependsOn()
	refs := make([]depend.Ref, len(on))
	for i, d := range on {
		refs[i] = d.Ref
	}
	r.dependants.Join(a.key, refs...)
	for _, d := range on {
		if err := r.checkDependency(ctx, a, d); err != nil {
			return r.orCycle(ctx, a, refs, err)
		}
	}
	r.dependants.Leave(a.key)
	return nil
}

// dependsOn returns what the spec and the annotation name.
func (a *attempt) dependsOn() []dependency {
	var on []dependency
	for i, d := range a.ks.Spec.DependsOn {
		on = append(on, dependency{Ref: depend.In(a.key.Namespace, api.KustomizationKind.Kind, d.Namespace, d.Name), ready: a.exprs.ready[i]})
	}
	for _, ref := range a.annotated {
		on = append(on, dependency{Ref: ref})
	}
	return on
}

// orCycle says that a Kustomization which waits does so for itself, if that is so: nobody but its user can end that. It then
// waits for everyone in the cycle, since any of them may break it (faults.md F54).
func (r *Reconciler) orCycle(ctx context.Context, a *attempt, on []depend.Ref, waiting *api.Fault) error {
	if waiting.Retry != api.RetryWoken {
		return waiting
	}
	self := depend.Ref{Kind: api.KustomizationKind.Kind, NamespacedName: a.key}
	var cycle depend.Cycle
	for range 2 { // once more after joining: who has changed in between would not wake us
		graph, err := depend.ReadGraph(ctx, r.Reader, r.kinds)
		if err != nil {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryBackoff, "looking for a dependency cycle: %w", err)
		}
		if cycle = graph.Cycle(self); cycle == nil {
			return waiting
		}
		r.dependants.Join(a.key, slices.Concat(on, cycle[1:])...)
	}
	return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency cycle: %s", cycle)
}

func (r *Reconciler) checkDependency(ctx context.Context, a *attempt, on dependency) *api.Fault {
	name := on.NamespacedName.String()
	if on.Kind != api.KustomizationKind.Kind { // the text for Kustomizations is Flux's
		name = on.String()
	}
	undecoded := api.Undecoded(on.GVK())
	if !slices.Contains(r.kinds, on.GVK()) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken,
			"dependency '%s' not found: the cluster did not know the kind %s when the agent was started", name, on.Kind)
	}
	if err := r.read(ctx, on.NamespacedName, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' not found", name)
		}
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryBackoff, "reading dependency '%s': %w", name, err)
	}
	if on.ready != nil {
		is, err := a.readyByExpr(on, undecoded)
		switch {
		case err != nil:
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready: its readyExpr cannot be evaluated: %w", name, err)
		case !is:
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready according to readyExpr eval", name)
		case !r.Options.AdditiveReadyExpr:
			return nil
		}
	}
	if !depend.Ready(undecoded) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready", name)
	}
	if on.Kind == api.KustomizationKind.Kind && behind(a, undecoded) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' revision is not up to date", name)
	}
	return nil
}

// readyByExpr runs a readyExpr. Why it could not is told only of objects in the same namespace: the error may quote a value of
// another tenant's (faults.md A20).
func (a *attempt) readyByExpr(on dependency, undecoded *unstructured.Unstructured) (bool, error) {
	self, err := runtime.DefaultUnstructuredConverter.ToUnstructured(a.ks)
	if err != nil {
		return false, err
	}
	is, err := on.ready.True(map[string]any{selfVariable: self, dependencyVariable: undecoded.Object})
	switch {
	case err == nil:
		return is, nil
	case on.Namespace != a.key.Namespace:
		return false, errors.New("over an object of another namespace, of which no more is told")
	}
	return false, err
}

// behind says whether a Kustomization that reads the same source has not applied the revision of this attempt.
func behind(a *attempt, undecoded *unstructured.Unstructured) bool {
	other := &kustomizev1.Kustomization{}
	if err := api.Decode(undecoded, other); err != nil {
		return true // it has applied nothing for as long as it cannot be read
	}
	same := sourceOf(other) == sourceOf(a.ks) && a.ks.Spec.SourceRef.Kind == other.Spec.SourceRef.Kind
	return same && other.Status.LastAppliedRevision != a.artifact.Revision
}

// read reads one of our own objects from the cache. A cache that holds one shard only does not know whether an object of
// another shard exists, so that it is asked for.
func (r *Reconciler) read(ctx context.Context, key types.NamespacedName, into *unstructured.Unstructured) error {
	err := r.Reader.Get(ctx, key, into)
	if apierrors.IsNotFound(err) && r.Options.Sharded {
		return r.Live.Get(ctx, key, into)
	}
	return err
}

// sourceOf returns the key of the source that ks reads.
func sourceOf(ks *kustomizev1.Kustomization) types.NamespacedName {
	key := types.NamespacedName{Namespace: ks.Spec.SourceRef.Namespace, Name: ks.Spec.SourceRef.Name}
	if key.Namespace == "" {
		key.Namespace = ks.Namespace
	}
	return key
}

package depend

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/expr"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// The variables of a readyExpr: the object itself and the one that it depends on.
const (
	selfVariable       = "self"
	dependencyVariable = "dep"
)

// Dependency is something that must be ready before an object.
type Dependency struct {
	Ref
	ready *expr.Expr // nil for the built-in check alone
}

// Understand returns what the spec of an object depends on; entries without a namespace are of its own. The error names the
// readyExpr that cannot be understood.
func Understand(self Ref, entries []meta.DependencyReference) ([]Dependency, error) {
	on := make([]Dependency, len(entries))
	for i, entry := range entries {
		on[i].Ref = In(self.Namespace, self.Kind, entry.Namespace, entry.Name)
		if entry.ReadyExpr == "" {
			continue
		}
		var err error
		if on[i].ready, err = expr.Compile(entry.ReadyExpr, selfVariable, dependencyVariable); err != nil {
			return nil, fmt.Errorf("spec.dependsOn[%d].readyExpr: %w", i, err)
		}
	}
	return on, nil
}

// Annotated returns what an object depends on by annotation. The error is a fault: it cannot be understood, or names an
// object of another namespace although that is forbidden.
func Annotated(obj client.Object, ownNamespaceOnly bool) ([]Dependency, error) {
	refs, err := Parse(obj.GetAnnotations()[api.DependsOnAnnotation], obj.GetNamespace())
	if err != nil {
		return nil, api.Faultf(api.InvalidAnnotationReason, api.RetryNever, "the annotation %s cannot be understood: %w", api.DependsOnAnnotation, err)
	}
	on := make([]Dependency, len(refs))
	for i, ref := range refs {
		if ownNamespaceOnly && ref.Namespace != obj.GetNamespace() {
			return nil, api.Faultf(acl.AccessDeniedReason, api.RetryNever,
				"can't depend on '%s' by the annotation %s, cross-namespace references have been blocked", ref, api.DependsOnAnnotation)
		}
		on[i].Ref = ref
	}
	return on, nil
}

// Checker looks whether what the objects of one kind depend on is ready, and knows who waits for what. It is safe for
// concurrent use.
type Checker struct {
	// Kind of the objects that depend.
	Kind schema.GroupVersionKind
	// Objects reads what they depend on; Cache holds all that there is to know of who depends on whom.
	Objects reconcile.Objects
	// Served are the kinds that the cluster knows.
	Served []schema.GroupVersionKind
	// Additive has a dependency with a readyExpr checked by the built-in rule as well.
	Additive bool
	// Waiting are those who wait.
	Waiting *reconcile.Waitlist[Ref]
}

// Check says whether all that an object depends on is ready. It joins the waitlist of the dependencies before it looks, so that
// one which turns ready in between still wakes it. What else a ready one of the object's own kind lacks, lacking says, if given.
func (c *Checker) Check(ctx context.Context, obj client.Object, on []Dependency, lacking func(*unstructured.Unstructured) string) error {
	refs := make([]Ref, len(on))
	for i, d := range on {
		refs[i] = d.Ref
	}
	key := client.ObjectKeyFromObject(obj)
	c.Waiting.Join(key, refs...)
	for _, d := range on {
		if fault := c.check(ctx, obj, d, lacking); fault != nil {
			return c.orCycle(ctx, key, refs, fault)
		}
	}
	c.Waiting.Leave(key)
	return nil
}

// orCycle says that an object which waits does so for itself, if that is so: nobody but its user can end that. It then
// waits for everyone in the cycle, since any of them may break it (faults.md F54).
func (c *Checker) orCycle(ctx context.Context, key types.NamespacedName, on []Ref, waiting *api.Fault) error {
	if waiting.Retry != api.RetryWoken {
		return waiting
	}
	self := Ref{Kind: c.Kind.Kind, NamespacedName: key}
	var cycle Cycle
	for range 2 { // once more after joining: who has changed in between would not wake us
		graph, err := ReadGraph(ctx, c.Objects.Cache, c.Served)
		if err != nil {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryBackoff, "looking for a dependency cycle: %w", err)
		}
		if cycle = graph.Cycle(self); cycle == nil {
			return waiting
		}
		c.Waiting.Join(key, slices.Concat(on, cycle[1:])...)
	}
	return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency cycle: %s", cycle)
}

func (c *Checker) check(ctx context.Context, obj client.Object, on Dependency, lacking func(*unstructured.Unstructured) string) *api.Fault {
	name := on.NamespacedName.String()
	if on.Kind != c.Kind.Kind { // the text for the object's own kind is Flux's
		name = on.String()
	}
	undecoded := api.Undecoded(on.GVK())
	if !slices.Contains(c.Served, on.GVK()) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken,
			"dependency '%s' not found: the cluster did not know the kind %s when the agent was started", name, on.Kind)
	}
	if err := c.Objects.Get(ctx, on.NamespacedName, undecoded); err != nil {
		if apierrors.IsNotFound(err) {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' not found", name)
		}
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryBackoff, "reading dependency '%s': %w", name, err)
	}
	if on.ready != nil {
		is, err := readyByExpr(obj, on, undecoded)
		switch {
		case err != nil:
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready: its readyExpr cannot be evaluated: %w", name, err)
		case !is:
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready according to readyExpr eval", name)
		case !c.Additive:
			return nil
		}
	}
	if !Ready(undecoded) {
		return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' is not ready", name)
	}
	if on.Kind == c.Kind.Kind && lacking != nil {
		if what := lacking(undecoded); what != "" {
			return api.Faultf(meta.DependencyNotReadyReason, api.RetryWoken, "dependency '%s' %s", name, what)
		}
	}
	return nil
}

// readyByExpr runs a readyExpr. Why it could not is told only of objects in the same namespace: the error may quote a value of
// another tenant's (faults.md A20).
func readyByExpr(obj client.Object, on Dependency, undecoded *unstructured.Unstructured) (bool, error) {
	self, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return false, err
	}
	is, err := on.ready.True(map[string]any{selfVariable: self, dependencyVariable: undecoded.Object})
	switch {
	case err == nil:
		return is, nil
	case on.Namespace != obj.GetNamespace():
		return false, errors.New("over an object of another namespace, of which no more is told")
	}
	return false, err
}

// DependantsOf returns a function that maps an object of a kind, which has changed, to those who wait for it.
func (c *Checker) DependantsOf(kind string) handler.MapFunc {
	return func(_ context.Context, on client.Object) []ctrl.Request {
		keys := c.Waiting.For(Ref{Kind: kind, NamespacedName: client.ObjectKeyFromObject(on)})
		requests := make([]ctrl.Request, 0, len(keys))
		for _, key := range keys {
			requests = append(requests, ctrl.Request{NamespacedName: key})
		}
		return requests
	}
}

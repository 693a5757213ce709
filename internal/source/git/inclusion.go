package git

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// IncludeIndex is the index of GitRepositories by the names of those that they include.
	IncludeIndex = "include"
	// maxIncludes bounds spec.include; maxIncluding how far it is followed to find a circle.
	maxIncludes  = 64
	maxIncluding = 256
)

// inclusion is an entry of spec.include, resolved.
type inclusion struct {
	name     string
	from, to string
	artifact *meta.Artifact
}

func (i inclusion) unavailable(reason string, err error) error {
	// Its own news wakes this object.
	return &api.Fault{Reason: reason, Retry: api.RetryWoken, Err: fmt.Errorf("spec.include of '%s': %w", i.name, err)}
}

// include finds the artifacts that spec.include names, all in the object's own namespace.
func (g *repositories) include(ctx context.Context, a *attempt) error {
	if len(a.obj.Spec.Include) > maxIncludes {
		return api.Faultf(illegalPathReason, api.RetryNever, "spec.include has more than %d entries", maxIncludes)
	}
	g.lacking.Leave(client.ObjectKeyFromObject(a.obj))
	for _, spec := range a.obj.Spec.Include {
		i := inclusion{name: spec.GitRepositoryRef.Name}
		var err error
		if i.from, err = includePath(spec.GetFromPath()); err == nil {
			i.to, err = includePath(spec.GetToPath())
		}
		if err != nil {
			return api.Faultf(illegalPathReason, api.RetryNever, "path calculation for include '%s' failed: %w", i.name, err)
		}
		o, err := g.get(ctx, a.obj.Namespace, i.name)
		switch {
		case apierrors.IsNotFound(err):
			return i.unavailable(notFoundReason, fmt.Errorf("there is no GitRepository of that name in namespace %s", a.obj.Namespace))
		case err != nil:
			return i.unavailable(notFoundReason, err)
		}
		if err := g.refuseCircle(ctx, a.obj, i.name); err != nil {
			return err
		}
		if i.artifact = o.GetArtifact(); !g.store.Holds(inStore(o.Namespace, o.Name), i.artifact) {
			return g.lost(a, i)
		}
		a.included = append(a.included, i)
	}
	return nil
}

// lost says what becomes of an object when what it includes is not in the storage. Where that was lost with its volume, it is
// fetched again, and until then an object that is Ready stays as it is: those who use it are no worse for the loss
// (faults.md F32).
func (g *repositories) lost(a *attempt, i inclusion) error {
	ready := reconcile.Condition(a.obj, meta.ReadyCondition)
	if i.artifact == nil || ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != a.obj.Generation {
		return i.unavailable(noArtifactReason, fmt.Errorf("no artifact available for include '%s'", i.name))
	}
	key := client.ObjectKeyFromObject(a.obj)
	g.lacking.Join(key, i.artifact.Digest)
	if g.store.Has(inStore(a.obj.Namespace, i.name), i.artifact.Digest) {
		g.lacking.Leave(key)
		return &reconcile.Waiting{After: time.Second, Quiet: true} // it came in between
	}
	g.waker.Wake(types.NamespacedName{Namespace: a.obj.Namespace, Name: i.name})
	return &reconcile.Waiting{After: g.dependency, Quiet: true}
}

// published wakes those who wait for an artifact that was lost: the object that has stored it again looks as it did before.
func (g *repositories) published(digest string) {
	for _, key := range g.lacking.For(digest) {
		g.waker.Wake(key)
	}
}

func (g *repositories) get(ctx context.Context, namespace, name string) (*sourcev1.GitRepository, error) {
	u := api.Undecoded(api.GitRepositoryKind)
	if err := g.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, u); err != nil {
		return nil, err
	}
	o := &sourcev1.GitRepository{}
	return o, api.Decode(u, o)
}

// refuseCircle looks for the object among those that it includes, and they include. Each new artifact of one would make
// another one necessary, larger every time.
func (g *repositories) refuseCircle(ctx context.Context, from *sourcev1.GitRepository, first string) error {
	seen, next := map[string]bool{}, []string{first}
	for len(next) > 0 && len(seen) < maxIncluding {
		name := next[0]
		next = next[1:]
		if name == from.Name {
			return api.Faultf(illegalPathReason, api.RetryNever, "spec.include leads back to this object by way of '%s'; remove one of the two", first)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		o, err := g.get(ctx, from.Namespace, name)
		if err != nil {
			continue // not there, or unreadable: then it includes nothing
		}
		for _, i := range o.Spec.Include {
			next = append(next, i.GitRepositoryRef.Name)
		}
	}
	return nil
}

// Included is the function of IncludeIndex.
func Included(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	entries, _, _ := unstructured.NestedSlice(u.Object, "spec", "include")
	var names []string
	for _, e := range entries {
		if entry, ok := e.(map[string]any); ok {
			if name, _, _ := unstructured.NestedString(entry, "repository", "name"); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// Including wakes the GitRepositories that include one which has changed.
func Including(reader client.Reader) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []ctrl.Request {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(sourcev1.GroupVersion.WithKind(sourcev1.GitRepositoryKind + "List"))
		if err := reader.List(ctx, list, client.InNamespace(o.GetNamespace()), client.MatchingFields{IncludeIndex: o.GetName()}); err != nil {
			return nil // the cache has not started; every object is looked at then anyway
		}
		requests := make([]ctrl.Request, 0, len(list.Items))
		for _, item := range list.Items {
			requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&item)})
		}
		return requests
	}
}

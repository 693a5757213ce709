package kube

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// restless is an API server on which somebody else is at work: between any two requests an object may be replaced, handed over
// or marked.
type restless struct {
	client.Client
	t       *testing.T
	random  *rand.Rand
	live    map[object.Key]*unstructured.Unstructured
	counter int
	deleted int
}

func (s *restless) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	u := into.(*unstructured.Unstructured)
	key := object.Key{Kind: u.GetKind(), Namespace: name.Namespace, Name: name.Name}
	defer s.meddle(key)
	live := s.live[key]
	if live == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: u.GetKind()}, name.Name)
	}
	u.Object = live.DeepCopy().Object
	return nil
}

func (s *restless) Delete(_ context.Context, obj client.Object, opts ...client.DeleteOption) error {
	u := obj.(*unstructured.Unstructured)
	key := object.RefOf(u).Key()
	live := s.live[key]
	if live == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: u.GetKind()}, u.GetName())
	}
	var o client.DeleteOptions
	o.ApplyOptions(opts)
	p := o.Preconditions
	if p != nil && (p.UID != nil && *p.UID != live.GetUID() || p.ResourceVersion != nil && *p.ResourceVersion != live.GetResourceVersion()) {
		return apierrors.NewConflict(schema.GroupResource{Resource: u.GetKind()}, u.GetName(), fmt.Errorf("it has changed"))
	}
	if why := s.foreign(live); why != "" {
		s.t.Errorf("%s was deleted, and %s", object.RefOf(live), why)
	}
	s.deleted++
	delete(s.live, key)
	return nil
}

// foreign says why an object must not be deleted as it is now, in words of its own.
func (s *restless) foreign(u *unstructured.Unstructured) string {
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	switch {
	case labels[api.OwnerName] != owner.Name || labels[api.OwnerNamespace] != owner.Namespace:
		return "is not the owner's"
	case annotations[api.PruneAnnotation] == "disabled", annotations[api.ReconcileAnnotation] == "disabled":
		return "is marked to stay"
	case u.GetKind() == "Namespace" && (u.GetName() == "flux-system" || u.GetName() == "kube-system"),
		u.GetKind() == "ServiceAccount" && u.GetName() == "agent":
		return "is one by which the agent or Kubernetes runs"
	}
	return ""
}

// meddle does something to an object, or makes one of its name.
func (s *restless) meddle(key object.Key) {
	if s.random.IntN(2) == 0 {
		return
	}
	s.counter++
	if s.live[key] == nil || s.random.IntN(3) == 0 {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": key.Kind}}
		u.SetNamespace(key.Namespace)
		u.SetName(key.Name)
		u.SetUID(types.UID(fmt.Sprint("uid-", s.counter)))
		s.live[key] = u
	}
	u := s.live[key]
	u.SetResourceVersion(fmt.Sprint(s.counter))
	u.SetLabels([]map[string]string{
		{api.OwnerName: owner.Name, api.OwnerNamespace: owner.Namespace},
		{api.OwnerName: owner.Name, api.OwnerNamespace: owner.Namespace},
		{api.OwnerName: owner.Name, api.OwnerNamespace: "elsewhere"},
		{api.OwnerName: "another", api.OwnerNamespace: owner.Namespace},
		nil,
	}[s.random.IntN(5)])
	u.SetAnnotations([]map[string]string{nil, nil, nil, {api.PruneAnnotation: "disabled"}, {api.ReconcileAnnotation: "disabled"}}[s.random.IntN(5)])
}

// A23, A50, F03, F05: whatever is on the cluster and whatever somebody does to it between the look and the deletion, what is not the
// owner's, is marked or is protected is not deleted; and everything that was not deleted is accounted for.
func TestA50_F03_PruneSparesTheForeign(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"ConfigMap", "ServiceAccount"} {
		mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: kind}, meta.RESTScopeNamespace)
	}
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, meta.RESTScopeRoot)
	var refs []object.Ref
	for i := range 6 {
		refs = append(refs, object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: fmt.Sprint("c", i)})
	}
	self := object.Ref{Version: "v1", Kind: "ServiceAccount", Namespace: "flux-system", Name: "agent"}
	refs = append(refs, self)
	for _, name := range []string{"flux-system", "kube-system", "tenant"} {
		refs = append(refs, object.Ref{Version: "v1", Kind: "Namespace", Name: name})
	}
	observer := newObserver(Kustomizations(), nil, nil, slog.New(slog.DiscardHandler))
	t.Cleanup(observer.Close)
	deleted := 0
	for range 2000 {
		api := &restless{t: t, random: random, live: map[object.Key]*unstructured.Unstructured{}}
		for _, ref := range refs {
			api.meddle(ref.Key())
		}
		a := &Applier{client: api, mapper: &Mapper{current: mapper}, observer: observer, options: Options{Owner: Kustomizations(), Namespace: "flux-system", Self: []object.Ref{self}}}
		result, _ := a.Prune(t.Context(), owner, refs, PruneOptions{Force: random.IntN(2) == 0}) // an object that never rests is an error
		if len(result) != len(refs) {
			t.Fatalf("%d of %d objects are accounted for", len(result), len(refs))
		}
		if got := len(result.With(Deleted)); got != api.deleted {
			t.Fatalf("%d were deleted, and %d are said to be", api.deleted, got)
		}
		deleted += api.deleted
	}
	if deleted == 0 {
		t.Error("nothing was ever deleted")
	}
}

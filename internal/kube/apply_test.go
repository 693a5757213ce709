package kube

import (
	"context"
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/object"
)

// F48: an API server that cannot answer is not asked again about every object.
func TestF48_IsRefusal(t *testing.T) {
	gr := schema.GroupResource{Resource: "widgets"}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"invalid":     {apierrors.NewInvalid(schema.GroupKind{}, "a", nil), true},
		"forbidden":   {apierrors.NewForbidden(gr, "a", nil), true},
		"schema":      {&apierrors.StatusError{}, true},
		"no kind":     {&meta.NoKindMatchError{}, true},
		"overloaded":  {apierrors.NewTooManyRequests("", 1), false},
		"unavailable": {apierrors.NewServiceUnavailable(""), false},
		"too slow":    {apierrors.NewTimeoutError("", 1), false},
		"away":        {errors.New("connection refused"), false},
		"ended":       {context.Canceled, false},
	} {
		if got := isRefusal(tt.err); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

func TestStages(t *testing.T) {
	var objects []*unstructured.Unstructured
	for _, gvk := range []schema.GroupVersionKind{
		{Version: "v1", Kind: "ConfigMap"},
		{Version: "v1", Kind: "Namespace"},
		{Group: "x.io", Version: "v1", Kind: "Early"},
		{Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass"},
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"},
		{Group: "x.io", Version: "v1", Kind: "Namespace"},
	} {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		objects = append(objects, u)
	}
	var got [][]string
	for _, s := range stages(objects, map[schema.GroupKind]struct{}{{Group: "x.io", Kind: "Early"}: {}}) {
		var kinds []string
		for _, u := range s.objects {
			kinds = append(kinds, u.GetKind())
		}
		got = append(got, kinds)
	}
	want := [][]string{{"Namespace", "CustomResourceDefinition", "ClusterRole"}, {"StorageClass"}, {"Early"}, {"ConfigMap", "Namespace"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

func TestF44_Unclean(t *testing.T) {
	entry := func(manager, operation, subresource string) map[string]any {
		return map[string]any{"manager": manager, "operation": operation, "subresource": subresource}
	}
	for name, tt := range map[string]struct {
		metadata map[string]any
		want     bool
	}{
		"kubectl edit":     {map[string]any{"managedFields": []any{entry("kubectl-edit", "Update", "")}}, true},
		"kubectl apply":    {map[string]any{"managedFields": []any{entry("kubectl", "Apply", "")}}, true},
		"before":           {map[string]any{"managedFields": []any{entry("before-first-apply", "Update", "")}}, true},
		"ours, by update":  {map[string]any{"managedFields": []any{entry("kustomize-controller", "Update", "")}}, true},
		"ours":             {map[string]any{"managedFields": []any{entry("kustomize-controller", "Apply", "")}}, false},
		"kubectl scale":    {map[string]any{"managedFields": []any{entry("kubectl", "Update", "scale")}}, false},
		"a controller":     {map[string]any{"managedFields": []any{entry("deployer", "Update", "")}}, false},
		"last applied":     {map[string]any{"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": "{}"}}, true},
		"kept by ssa mode": {map[string]any{"annotations": map[string]any{"kustomize.toolkit.fluxcd.io/ssa": "merge"}, "managedFields": []any{entry("kubectl-edit", "Update", "")}}, false},
		"nothing":          {nil, false},
	} {
		if got := Kustomizations().unclean(&unstructured.Unstructured{Object: map[string]any{"metadata": tt.metadata}}); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// A23, F03, F05: what is deleted is only what is the owner's, unmarked and not protected.
func TestF05_Judge(t *testing.T) {
	self := object.Ref{Version: "v1", Kind: "ServiceAccount", Namespace: "flux-system", Name: "agent"}
	a := &Applier{options: Options{Owner: Kustomizations(), Namespace: "flux-system", Self: []object.Ref{self}}}
	p := &pruning{Applier: a, owner: owner}
	named := func(gk schema.GroupKind, name string) object.Ref {
		return object.Ref{Group: gk.Group, Version: "v1", Kind: gk.Kind, Name: name}
	}
	marked := func(key string) *unstructured.Unstructured {
		u := configMap(1, "1")
		u.SetAnnotations(map[string]string{key: "Disabled"})
		return u
	}
	foreign := configMap(1, "1")
	foreign.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": owner.Name, "kustomize.toolkit.fluxcd.io/namespace": "other"})
	bare := configMap(1, "1")
	bare.SetLabels(nil)
	ending := configMap(1, "1")
	ending.Object["metadata"].(map[string]any)["deletionTimestamp"] = "2026-11-23T00:00:00Z"
	for name, tt := range map[string]struct {
		ref  object.Ref
		live *unstructured.Unstructured
		want Outcome
	}{
		"ours":              {ref, configMap(1, "1"), Deleted},
		"another's":         {ref, foreign, HandedOver},
		"nobody's":          {ref, bare, HandedOver},
		"not to be pruned":  {ref, marked("kustomize.toolkit.fluxcd.io/prune"), KeptDisabled},
		"not reconciled":    {ref, marked("kustomize.toolkit.fluxcd.io/reconcile"), KeptDisabled},
		"on its way out":    {ref, ending, Terminating},
		"our namespace":     {named(namespaceKind, "flux-system"), configMap(1, "1"), KeptProtected},
		"default":           {named(namespaceKind, "default"), configMap(1, "1"), KeptProtected},
		"kube-system":       {named(namespaceKind, "kube-system"), configMap(1, "1"), KeptProtected},
		"kube-public":       {named(namespaceKind, "kube-public"), configMap(1, "1"), KeptProtected},
		"kube-node-lease":   {named(namespaceKind, "kube-node-lease"), configMap(1, "1"), KeptProtected},
		"the agent itself":  {self, configMap(1, "1"), KeptProtected},
		"another namespace": {named(namespaceKind, "shop"), configMap(1, "1"), Deleted},
		"a CRD of Flux":     {named(crdKind, "kustomizations.kustomize.toolkit.fluxcd.io"), configMap(1, "1"), KeptProtected},
		"an unserved CRD":   {named(crdKind, "widgets.example.com"), configMap(1, "1"), Deleted},
	} {
		got, message, err := p.judge(t.Context(), tt.ref, tt.live)
		if err != nil || got != tt.want {
			t.Errorf("%s: %s (%s), %v; want %s", name, got, message, err, tt.want)
		}
		if (got == Deleted) != (message == "") {
			t.Errorf("%s: %s with the message %q", name, got, message)
		}
	}
}

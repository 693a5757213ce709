package kube

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// F41: only what was refused for what it was before, and for nothing else, may be made anew.
func TestF41_IsImmutable(t *testing.T) {
	invalid := func(list ...*field.Error) error {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Thing"}, "a", list)
	}
	spec := field.NewPath("spec")
	immutable := field.Invalid(spec.Child("selector"), "x", "field is immutable")
	typo := field.Invalid(field.NewPath("metadata", "labels"), "a/b/c", "a valid label key must consist of alphanumeric characters")
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"a Deployment's selector":  {invalid(immutable), true},
		"a StatefulSet":            {invalid(field.Forbidden(spec, "updates to statefulset spec for fields other than 'replicas', 'ordinals' are forbidden")), true},
		"a claim":                  {invalid(field.Forbidden(spec, "spec is immutable after creation except resources.requests")), true},
		"a Service's address":      {invalid(field.Invalid(spec.Child("clusterIPs"), "x", "may not change once set")), true},
		"a RoleBinding's role":     {invalid(field.Invalid(field.NewPath("roleRef"), "x", "cannot change roleRef")), true},
		"a StorageClass":           {invalid(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden.")), true},
		"a typo":                   {invalid(typo), false},
		"a typo beside it":         {invalid(immutable, typo), false},
		"a conflict":               {apierrors.NewConflict(schema.GroupResource{Resource: "things"}, "a", errors.New("the object has been modified")), false},
		"an error that is not one": {errors.New("field is immutable"), false},
	} {
		if got := isImmutable(tt.err); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

// F40: the text about a webhook that cannot be called holds nothing that differs from one time to the next.
func TestF40_WebhookDown(t *testing.T) {
	call := func(text string) error { return apierrors.NewInternalError(errors.New(text)) }
	for _, tt := range []struct {
		err         error
		name, cause string
		ok          bool
	}{
		{call(`failed calling webhook "a.example.com": failed to call webhook: Post "https://10.0.0.1:443/": read tcp 10.0.0.2:51234->10.0.0.1:443: connection refused`), "a.example.com", "connection refused", true},
		{call(`failed calling webhook "a.example.com": failed to call webhook: context deadline exceeded`), "a.example.com", "context deadline exceeded", true},
		{call("etcdserver: request timed out"), "", "", false},
		{apierrors.NewForbidden(schema.GroupResource{}, "a", errors.New(`failed calling webhook "a"`)), "", "", false},
		{nil, "", "", false},
	} {
		if name, cause, ok := webhookDown(tt.err); name != tt.name || cause != tt.cause || ok != tt.ok {
			t.Errorf("%v: %q, %q, %t", tt.err, name, cause, ok)
		}
	}
}

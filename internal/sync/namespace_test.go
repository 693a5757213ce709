package sync

import (
	"errors"
	"strings"
	"testing"

	"github.com/cleat-dev/cleat/internal/api"
)

// TestF05_RenamedNamespace: a Namespace that spec.targetNamespace would rename is refused, whatever file it comes from.
func TestF05_RenamedNamespace(t *testing.T) {
	const (
		shop    = "-- ns.yaml --\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
		other   = "-- other.yaml --\napiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n"
		plain   = "-- cm.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\n"
		lookout = "-- crd.yaml --\napiVersion: example.com/v1\nkind: Namespace\nmetadata: {name: not-ours}\n"
		itself  = "-- kustomization.yaml --\nnamespace: shop\nresources: [other.yaml]\n"
	)
	for _, test := range []struct {
		name, spec, files string
		refused           string // the name that would be lost
	}{
		{"no target", `{path: ./}`, shop + other + plain, ""},
		{"a target without a Namespace", `{path: ./, targetNamespace: shop}`, plain, ""},
		{"the Namespace is the target", `{path: ./, targetNamespace: shop}`, shop + plain, ""},
		{"another Namespace", `{path: ./, targetNamespace: shop}`, other + plain, "flux-system"},
		{"another kind of that name", `{path: ./, targetNamespace: shop}`, lookout, ""},
		{"the repository itself names it so", `{path: ./, targetNamespace: shop}`, itself + other, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := build(t, kustomization(t, test.spec), tree(t, test.files))
			var fault *api.Fault
			if got := errors.As(err, &fault) && fault.Reason == api.NamespaceRenamedReason; got != (test.refused != "") || !got && err != nil {
				t.Fatalf("error = %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%v does not name %s", err, test.refused)
			}
		})
	}
}

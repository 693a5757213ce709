package kube

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/object"
)

// TestObservationsAreSmall: what is kept of an object in the cluster, with whom to tell of it, takes less than 1 KiB.
func TestObservationsAreSmall(t *testing.T) {
	const n = 10_000
	refs := make([]object.Ref, n)
	for i := range refs {
		refs[i] = object.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "shop", Name: fmt.Sprintf("application-number-%d", i)}
	}
	before := heap()
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	defer o.Close()
	o.Watch(owner, refs)
	o.mu.Lock()
	w := o.watches[kindTarget(refs[0])]
	o.mu.Unlock()
	s := &store{observer: o, watch: w}
	for i, ref := range refs {
		if err := s.Update(deployment(t, ref.Name, i)); err != nil {
			t.Fatal(err)
		}
	}
	each := int64(heap()-before) / n
	t.Logf("%d bytes an object", each)
	if _, observations := o.Counts(); observations != n || each > 1024 {
		t.Errorf("%d observations take %d bytes each", observations, each)
	}
	runtime.KeepAlive(refs)
}

// heap returns the bytes that are in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what was interned goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func deployment(t *testing.T, name string, i int) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: shop
  uid: 7b5b1f0e-0000-4000-8000-%012[2]d
  resourceVersion: "%[2]d"
  generation: 1
  labels: {kustomize.toolkit.fluxcd.io/name: %[3]s, kustomize.toolkit.fluxcd.io/namespace: %[4]s}
  managedFields:
  - {manager: kustomize-controller, operation: Apply, apiVersion: apps/v1, fieldsType: FieldsV1, fieldsV1: {"f:metadata": {"f:labels": {"f:kustomize.toolkit.fluxcd.io/name": {}}}, "f:spec": {"f:replicas": {}}}}
spec: {replicas: %[2]d}
status: {observedGeneration: 1, conditions: [{type: Progressing, status: "True", message: "replica %[2]d is on its way, with some words on why that takes a while"}]}
`, name, i, owner.Name, owner.Namespace)
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

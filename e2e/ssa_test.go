package e2e_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// write has somebody else write an object: as kubectl's client-side apply does, or by a server-side apply.
func (e *edge) write(t *testing.T, text, manager string, serverSide bool) {
	t.Helper()
	u := e.parse(t, text)[0]
	u.SetLabels(nil)
	if serverSide {
		if err := e.other.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
		return
	}
	raw, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	u.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": string(raw)})
	if err := e.other.Create(t.Context(), u, client.FieldOwner(manager)); err != nil {
		t.Fatal(err)
	}
}

func (e *edge) data(t *testing.T, name string) any {
	t.Helper()
	return e.get(t, e.configMap(name)).Object["data"]
}

// What kubectl has applied before is taken over: what Git does not hold goes, unless the object is to be merged.
func TestF44_KubeMigratesFromKubectl(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	for _, name := range []string{"plain", "merged"} {
		e.write(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: "+name+", namespace: NS}, data: {theirs: x, both: x}}", "kubectl-client-side-apply", false)
	}
	e.mustApply(t, `
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: NS}
data: {both: ours}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: merged, namespace: NS, annotations: {kustomize.toolkit.fluxcd.io/ssa: Merge}}
data: {both: ours}`)
	if diff := cmp.Diff(map[string]any{"both": "ours"}, e.data(t, "plain")); diff != "" {
		t.Errorf("plain (-want +got):\n%s", diff)
	}
	if _, left := e.get(t, e.configMap("plain")).GetAnnotations()["kubectl.kubernetes.io/last-applied-configuration"]; left {
		t.Error("the annotation of kubectl is still there")
	}
	if diff := cmp.Diff(map[string]any{"both": "ours", "theirs": "x"}, e.data(t, "merged")); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
}

// A field that is ignored is left to whoever applies it, and is ours as long as nobody else does.
func TestF42_KubeIgnoresFieldsOfOthers(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	text := "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {replicas: '1', image: a}}"
	apply := func(text string) kube.ChangeSet {
		t.Helper()
		objects := e.parse(t, text)
		e.Observer.Watch(e.owner, []object.Ref{object.RefOf(objects[0])})
		set, err := e.applier.Apply(t.Context(), e.owner, objects, kube.ApplyOptions{
			WaitTimeout: 30 * time.Second,
			Ignore:      []jsondiff.IgnoreRule{{Paths: []string{"/data/replicas"}, Selector: &jsondiff.Selector{Kind: "ConfigMap", Name: "c"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	apply(text)
	if diff := cmp.Diff(map[string]any{"replicas": "1", "image": "a"}, e.data(t, "c")); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	e.write(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {replicas: '5'}}", "autoscaler", true)
	apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {replicas: '1', image: b}}")
	if diff := cmp.Diff(map[string]any{"replicas": "5", "image": "b"}, e.data(t, "c")); diff != "" {
		t.Errorf("after the autoscaler (-want +got):\n%s", diff)
	}
}

// A custom stage is applied before the bulk, whatever the order of kinds is otherwise.
func TestKubeAppliesCustomStagesFirst(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	objects := e.parse(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: first, namespace: NS}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: second, namespace: NS}`)
	opts := kube.ApplyOptions{CustomStageKinds: map[schema.GroupKind]struct{}{{Kind: "ConfigMap"}: {}}}
	set, err := e.applier.Apply(t.Context(), e.owner, objects, opts)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ConfigMap/" + e.namespace + "/second created", "ServiceAccount/" + e.namespace + "/first created"}, actions(set)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

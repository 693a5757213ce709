package kube

import (
	"context"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// leaveAggregated takes the rules out of a ClusterRole that is made of others: Kubernetes writes them, whatever is applied, and
// charts ship an empty list.
func leaveAggregated(u *unstructured.Unstructured) {
	if u.GetKind() != "ClusterRole" || u.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
		return
	}
	if rule, _, _ := unstructured.NestedMap(u.Object, "aggregationRule"); len(rule) > 0 {
		delete(u.Object, "rules")
	}
}

// horizontalAutoscaler is the field manager by which Kubernetes' own autoscaler sets replicas.
const horizontalAutoscaler = "kube-controller-manager"

// scaler returns who sets the replicas of a live object through its scale subresource, as autoscalers do; empty when nobody
// does. A person with `kubectl scale` is no autoscaler.
func scaler(live *unstructured.Unstructured) string {
	metadata, _ := live.Object["metadata"].(map[string]any)
	entries, _ := metadata["managedFields"].([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		name, _ := entry["manager"].(string)
		if entry["subresource"] != "scale" || strings.HasPrefix(name, "kubectl") {
			continue
		}
		if _, owns, _ := unstructured.NestedFieldNoCopy(entry, "fieldsV1", "f:spec", "f:replicas"); owns {
			return name
		}
	}
	return ""
}

// leaveReplicas takes the replicas out of what is applied over a live object when an autoscaler sets them: each would undo the
// other without end (faults.md F42). They are applied when the object is created, and always when it asks for that.
func (r *recorder) leaveReplicas(ctx context.Context, u *unstructured.Unstructured) {
	wanted, has, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas")
	if !has || object.Marked(u, api.ReplicasAnnotation, api.ReplicasDeclared) {
		return
	}
	r.mu.Lock()
	set, ok := r.scaled[object.RefOf(u).Key()]
	r.mu.Unlock()
	if !ok || reflect.DeepEqual(wanted, set.replicas) || set.by == horizontalAutoscaler && !r.autoscaled(ctx, u) {
		return // There is nothing to undo, or nobody any more who would.
	}
	unstructured.RemoveNestedField(u.Object, "spec", "replicas")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.yielded[object.RefOf(u).Key()] = true
}

func (r *recorder) yields(key object.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.yielded[key]
}

// scaled is what an autoscaler has set.
type scaled struct {
	by       string
	replicas any
}

// autoscaled says whether a HorizontalPodAutoscaler targets an object. When that cannot be told, it is taken to.
func (r *recorder) autoscaled(ctx context.Context, u *unstructured.Unstructured) bool {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscalerList"})
	if err := r.Client.List(ctx, list, client.InNamespace(u.GetNamespace())); err != nil {
		return true
	}
	for i := range list.Items {
		target, _, _ := unstructured.NestedStringMap(list.Items[i].Object, "spec", "scaleTargetRef")
		gv, err := schema.ParseGroupVersion(target["apiVersion"])
		if err == nil && gv.Group == u.GroupVersionKind().Group && target["kind"] == u.GetKind() && target["name"] == u.GetName() {
			return true
		}
	}
	return false
}

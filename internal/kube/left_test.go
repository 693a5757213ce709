package kube

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

func scaledBy(manager, subresource string, replicas int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "web", "namespace": "demo", "managedFields": []any{map[string]any{
			"manager": manager, "operation": "Update", "subresource": subresource,
			"fieldsV1": map[string]any{"f:spec": map[string]any{"f:replicas": map[string]any{}}},
		}}},
		"spec": map[string]any{"replicas": replicas},
	}}
}

// F42: the replicas of an object are left to who sets them through the scale subresource, but not to a person.
func TestF42_LeaveReplicas(t *testing.T) {
	for name, tt := range map[string]struct {
		live  *unstructured.Unstructured
		asked string
		left  bool
	}{
		"not there":               {nil, "", false},
		"KEDA":                    {scaledBy("keda", "scale", 5), "", true},
		"the same":                {scaledBy("keda", "scale", 2), "", false},
		"asks for what Git says":  {scaledBy("keda", "scale", 5), "declared", false},
		"kubectl scale":           {scaledBy("kubectl", "scale", 5), "", false},
		"kubectl edit":            {scaledBy("kubectl-edit", "", 5), "", false},
		"a controller by updates": {scaledBy("deployer", "", 5), "", false},
	} {
		r := newRecorder(nil, nil)
		if tt.live != nil {
			r.look(tt.live)
		}
		u := scaledBy("", "", 2)
		delete(u.Object["metadata"].(map[string]any), "managedFields")
		if tt.asked != "" {
			u.SetAnnotations(map[string]string{"cleat.dev/replicas": tt.asked})
		}
		r.leaveReplicas(t.Context(), u)
		_, has, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "replicas")
		if has == tt.left || r.yields(object.RefOf(u).Key()) != tt.left {
			t.Errorf("%s: applied with replicas: %t", name, has)
		}
	}
}

func TestLeaveAggregated(t *testing.T) {
	role := func(kind string, aggregation map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "aggregationRule": aggregation, "rules": []any{},
		}}
	}
	for name, tt := range map[string]struct {
		u    *unstructured.Unstructured
		left bool
	}{
		"aggregated":  {role("ClusterRole", map[string]any{"clusterRoleSelectors": []any{}}), true},
		"not":         {role("ClusterRole", map[string]any{}), false},
		"other kinds": {role("Role", map[string]any{"clusterRoleSelectors": []any{}}), false},
	} {
		leaveAggregated(tt.u)
		if _, has := tt.u.Object["rules"]; has == tt.left {
			t.Errorf("%s: applied with rules: %t", name, has)
		}
	}
}

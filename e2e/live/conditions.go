package live

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Condition holds for an object that has a condition of that type and status for its present generation and, unless
// reason is empty, of that reason.
func Condition(kind, status, reason string) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool {
		c := conditionOf(obj, kind)
		if c == nil || c["status"] != status || reason != "" && c["reason"] != reason {
			return false
		}
		// Built-in kinds keep no generation in their conditions.
		observed, ok, _ := unstructured.NestedInt64(c, "observedGeneration")
		return !ok || observed == obj.GetGeneration()
	}
}

// Ready holds for an object that is Ready at its present generation and is not being worked on.
func Ready(obj *unstructured.Unstructured) bool {
	if reconciling := conditionOf(obj, "Reconciling"); reconciling != nil && reconciling["status"] == "True" {
		return false
	}
	return Condition("Ready", "True", "")(obj)
}

// Revision is what a source has fetched, or what a Kustomization applied last.
func Revision(obj *unstructured.Unstructured) string {
	if obj == nil {
		return ""
	}
	for _, path := range [][]string{{"status", "artifact", "revision"}, {"status", "lastAppliedRevision"}} {
		if rev, _, _ := unstructured.NestedString(obj.Object, path...); rev != "" {
			return rev
		}
	}
	return ""
}

// ReadyAt holds for an object that is Ready at a commit, given by its full hash.
func ReadyAt(commit string) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool {
		return Ready(obj) && strings.HasSuffix(Revision(obj), commit)
	}
}

// All holds when each of them does.
func All(checks ...func(*unstructured.Unstructured) bool) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool {
		return !slices.ContainsFunc(checks, func(holds func(*unstructured.Unstructured) bool) bool { return !holds(obj) })
	}
}

// Inventory returns the ids in a Kustomization's inventory, sorted.
func Inventory(obj *unstructured.Unstructured) []string {
	if obj == nil {
		return nil
	}
	entries, _, _ := unstructured.NestedSlice(obj.Object, "status", "inventory", "entries")
	var ids []string
	for _, entry := range entries {
		if m, ok := entry.(map[string]any); ok {
			ids = append(ids, fmt.Sprint(m["id"]))
		}
	}
	slices.Sort(ids)
	return ids
}

// Describe is one line about an object's state for the message of a failed test.
func Describe(obj *unstructured.Unstructured) string {
	if obj == nil {
		return "absent"
	}
	out := []string{fmt.Sprintf("generation %d", obj.GetGeneration())}
	if rev := Revision(obj); rev != "" {
		out = append(out, "revision "+rev)
	}
	for _, c := range conditionsOf(obj) {
		out = append(out, fmt.Sprintf("%v=%v %v (generation %v): %v", c["type"], c["status"], c["reason"], c["observedGeneration"], c["message"]))
	}
	if len(out) == 1 {
		out = append(out, "without conditions")
	}
	return strings.Join(out, "; ")
}

func conditionsOf(obj *unstructured.Unstructured) []map[string]any {
	if obj == nil {
		return nil
	}
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	var out []map[string]any
	for _, item := range list {
		if c, ok := item.(map[string]any); ok {
			out = append(out, c)
		}
	}
	return out
}

func conditionOf(obj *unstructured.Unstructured, kind string) map[string]any {
	for _, c := range conditionsOf(obj) {
		if c["type"] == kind {
			return c
		}
	}
	return nil
}

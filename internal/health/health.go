package health

import (
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Status says how far an object is from what its spec asks for. The words are those of kstatus, which Flux shows.
type Status string

const (
	// Current: the object is as its spec asks.
	Current Status = "Current"
	// InProgress: its controller is at work, or has not looked yet.
	InProgress Status = "InProgress"
	// Failed: its controller has given up, or cannot go on by itself.
	Failed Status = "Failed"
	// Terminating: it is being deleted.
	Terminating Status = "Terminating"
	// NotFound: it does not exist. Of never says so, only those who looked for the object.
	NotFound Status = "NotFound"
	// Unknown: its status cannot be understood, or nobody has looked yet.
	Unknown Status = "Unknown"
)

// Result is the health of one object.
type Result struct {
	Status Status
	// Message says why, for people.
	Message string
}

// Of returns the health of an object that exists.
func Of(u *unstructured.Unstructured) Result {
	res, err := status.Compute(u)
	if err != nil {
		return Result{Status: Unknown, Message: err.Error()}
	}
	result := Result{Status: Status(res.Status), Message: res.Message}
	if result.Status != Current {
		return result
	}
	switch gk := u.GroupVersionKind().GroupKind(); {
	case gk == schema.GroupKind{Group: "batch", Kind: "Job"} && !isTrue(u, "Complete"):
		// kstatus calls a Job current as soon as it runs. Flux waits for its end, or nothing could depend on it.
		result.Status = InProgress
	case reportsReady(gk) && !hasCondition(u, "Ready"):
		// An object without any condition is current to kstatus; one of Flux's was not reconciled yet.
		return Result{Status: InProgress, Message: "Ready condition not reported yet"}
	}
	return result
}

// reportsReady says whether the kind is one of Flux's that always ends up with a Ready condition. Alert and Provider
// have had no status since notification.toolkit.fluxcd.io/v1beta3.
func reportsReady(gk schema.GroupKind) bool {
	return strings.HasSuffix(gk.Group, ".toolkit.fluxcd.io") && gk.Kind != "Alert" && gk.Kind != "Provider"
}

func hasCondition(u *unstructured.Unstructured, kind string) bool {
	return conditionStatus(u, kind) != ""
}

func isTrue(u *unstructured.Unstructured, kind string) bool {
	return conditionStatus(u, kind) == "True"
}

func conditionStatus(u *unstructured.Unstructured, kind string) string {
	object, _ := u.Object["status"].(map[string]any)
	conditions, _ := object["conditions"].([]any)
	for _, c := range conditions {
		if condition, ok := c.(map[string]any); ok && condition["type"] == kind {
			s, _ := condition["status"].(string)
			return s
		}
	}
	return ""
}

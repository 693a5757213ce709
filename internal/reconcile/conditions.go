package reconcile

import (
	"cmp"
	"slices"

	"github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
)

// maxConditionMessage is how much of a message a condition keeps, in bytes; the schema allows 32,768.
const maxConditionMessage = 20000

// Success is how a kind words the condition Ready=True.
type Success struct{ Reason, Message string }

// summarize sets the conditions that every kind has. The truth table, with C the step's progress message:
//
//	outcome                Ready                 Reconciling                 Stalled
//	succeeded              True  kind's reason   –                           –
//	waiting                Unknown Progressing   True Progressing C          –
//	fault, never again     False fault's reason  –                           True fault's reason
//	fault, waits for other False fault's reason  –                           –
//	fault, again, C set    False fault's reason  True ProgressingWithRetry C –
func summarize(obj Object, end Outcome, success Success) {
	switch {
	case end.Waiting != nil:
		Progressing(obj, end.Progress)
	case end.Fault == nil:
		SetCondition(obj, meta.ReadyCondition, metav1.ConditionTrue, success.Reason, success.Message)
		RemoveCondition(obj, meta.ReconcilingCondition, meta.StalledCondition)
	case end.Fault.Retry == api.RetryNever:
		SetCondition(obj, meta.ReadyCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
		SetCondition(obj, meta.StalledCondition, metav1.ConditionTrue, end.Fault.Reason, end.Fault.Error())
		RemoveCondition(obj, meta.ReconcilingCondition)
	default:
		SetCondition(obj, meta.ReadyCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
		RemoveCondition(obj, meta.ReconcilingCondition, meta.StalledCondition)
		if end.Progress != "" && !end.waitsForOthers() {
			SetCondition(obj, meta.ReconcilingCondition, metav1.ConditionTrue, meta.ProgressingWithRetryReason, end.Progress)
		}
	}
}

// Progressing marks the object as being worked on.
func Progressing(obj Object, progress string) {
	SetCondition(obj, meta.ReadyCondition, metav1.ConditionUnknown, meta.ProgressingReason, "Reconciliation in progress")
	SetCondition(obj, meta.ReconcilingCondition, metav1.ConditionTrue, meta.ProgressingReason, progress)
	RemoveCondition(obj, meta.StalledCondition)
}

// SetCondition sets one condition for the object's current generation. The time changes only with the status.
func SetCondition(obj Object, kind string, status metav1.ConditionStatus, reason, message string) {
	conditions := slices.Clone(obj.GetConditions())
	apimeta.SetStatusCondition(&conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: cut(message, maxConditionMessage), ObservedGeneration: obj.GetGeneration(),
	})
	slices.SortStableFunc(conditions, func(a, b metav1.Condition) int {
		return cmp.Or(rank(a.Type)-rank(b.Type), cmp.Compare(a.Type, b.Type))
	})
	obj.SetConditions(conditions)
}

// rank orders conditions as Flux does: those that tell of trouble or work first, then Ready, then the rest by name.
func rank(kind string) int {
	switch kind {
	case meta.StalledCondition:
		return 0
	case meta.ReconcilingCondition:
		return 1
	case meta.ReadyCondition:
		return 2
	default:
		return 3
	}
}

// RemoveCondition removes the conditions of the given types.
func RemoveCondition(obj Object, kinds ...string) {
	obj.SetConditions(slices.DeleteFunc(slices.Clone(obj.GetConditions()), func(c metav1.Condition) bool {
		return slices.Contains(kinds, c.Type)
	}))
}

// Condition returns the object's condition of that type, or nil.
func Condition(obj Object, kind string) *metav1.Condition {
	return apimeta.FindStatusCondition(obj.GetConditions(), kind)
}

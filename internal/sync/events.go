package sync

import (
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// Keys of event annotations, as Flux's notification providers look for them.
const (
	revisionKey       = api.OwnerGroup + "/revision"
	originRevisionKey = api.OwnerGroup + "/originRevision"
	commitStatusKey   = api.OwnerGroup + "/commit_status"
)

// appliedEvent lists what an apply has changed, one object a line.
func appliedEvent(changes kube.ChangeSet, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: meta.ProgressingReason, Message: changes.String(), Metadata: metadata,
	}
}

// deletedEvent lists what a prune has deleted, one object a line.
func deletedEvent(refs []object.Ref, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: meta.ProgressingReason, Message: lines(refs, " deleted"), Metadata: metadata,
	}
}

// keptEvent lists what is gone from Git and was not deleted, and why, one object a line.
func keptEvent(kept kube.PruneResult, metadata map[string]string) reconcile.Event {
	text := make([]string, len(kept))
	for i, p := range kept {
		text[i] = p.Ref.String() + " is still there: " + p.Message
	}
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: meta.PruneFailedReason, Message: strings.Join(text, "\n"), Metadata: metadata,
	}
}

// healthyEvent tells that everything that was waited for is healthy.
func healthyEvent(took time.Duration, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: meta.ProgressingReason,
		Message: "Health check passed in " + took.Round(time.Millisecond).String(), Metadata: metadata,
	}
}

// finishedEvent ends a run that brought something new; commit status providers wait for it.
func finishedEvent(took, next time.Duration, metadata map[string]string) reconcile.Event {
	with := map[string]string{commitStatusKey: "update"}
	for key, value := range metadata {
		with[key] = value
	}
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: meta.ReconciliationSucceededReason,
		Message:  "Reconciliation finished in " + took.Round(time.Millisecond).String() + ", next run in " + next.String(),
		Metadata: with,
	}
}

// orphanedReason: a deleted Kustomization has left its objects on the cluster.
const orphanedReason = "Orphaned"

// orphanedEvent tells that an object is deleted whose objects stay on the cluster, and why.
func orphanedEvent(refs []object.Ref, why string, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: orphanedReason, Metadata: metadata,
		Message: why + "; what it has applied stays on the cluster:\n" + lines(refs, ""),
	}
}

// lingeringEvent tells that a deletion was not waited for any longer.
func lingeringEvent(refs []object.Ref, timeout time.Duration, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: meta.PruneFailedReason, Metadata: metadata,
		Message: lines(refs, " is still there after "+timeout.String()),
	}
}

// lostPagesReason: a page of the inventory is gone or was tampered with.
const lostPagesReason = "InventoryPageLost"

// lostPagesEvent tells that objects are tracked no more because what named them is lost.
func lostPagesEvent(lost []string, metadata map[string]string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: lostPagesReason, Metadata: metadata,
		Message: "what only these named is left as it is and tracked no more, unless Git still has it; find it by its owner labels:\n" +
			strings.Join(lost, "\n"),
	}
}

// lines is one line an object.
func lines(refs []object.Ref, suffix string) string {
	text := make([]string, len(refs))
	for i, ref := range refs {
		text[i] = ref.String() + suffix
	}
	return strings.Join(text, "\n")
}

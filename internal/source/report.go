package source

import (
	"fmt"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// newArtifactReason is the reason of the event that tells of new content.
const newArtifactReason = "NewArtifact"

// troubles are the conditions by which a fault is told; each attempt begins without them.
var troubles = []string{sourcev1.FetchFailedCondition, sourcev1.BuildFailedCondition}

// Outcome is what an attempt came to, for Report.
type Outcome struct {
	reconcile.Outcome
	// Artifact is the one to serve after a success.
	Artifact *meta.Artifact
	// Success words Ready=True; by default it is Succeeded with StoredMessage.
	Success reconcile.Success
	// Failed is the condition that a fault sets, by default FetchFailed.
	Failed string
	// Outdated is set when there is newer content than is served, and says which.
	Outdated string
}

// Report fills the conditions of a source as Flux does for the same outcome, and returns the artifact for its status. After
// a fault the artifact that was stored before stays: it is still served, and nobody who uses it has to stop (faults.md F25).
// One that was lost with its volume stays as well, until it has been fetched again: who has applied it is no worse for the
// loss, and who wants to read it waits for it, while without it he would be told that there never was any (faults.md F32).
// The condition ArtifactInStorage says which of the two it is.
func (b Before) Report(o reconcile.Object, end Outcome) (*meta.Artifact, reconcile.Success) {
	reconcile.RemoveCondition(o, append(troubles, sourcev1.StorageOperationFailedCondition, sourcev1.ArtifactOutdatedCondition)...)
	if end.Succeeded() {
		success := end.Success
		if success == (reconcile.Success{}) {
			success = reconcile.Success{Reason: meta.SucceededReason, Message: StoredMessage(end.Artifact)}
		}
		reconcile.SetCondition(o, sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, success.Reason, success.Message)
		return end.Artifact, success
	}
	kept := b.Stored
	if kept == nil {
		kept = b.Named
		reconcile.RemoveCondition(o, sourcev1.ArtifactInStorageCondition)
	}
	if end.Fault == nil {
		return kept, reconcile.Success{} // it waits
	}
	if end.Outdated != "" {
		reconcile.SetCondition(o, sourcev1.ArtifactOutdatedCondition, metav1.ConditionTrue, "NewRevision", end.Outdated)
	}
	failed := end.Failed
	if failed == "" {
		failed = sourcev1.FetchFailedCondition
	}
	reconcile.SetCondition(o, failed, metav1.ConditionTrue, end.Fault.Reason, end.Fault.Error())
	return kept, reconcile.Success{}
}

// Announce tells of news, when the status that holds it has been written; message says what the artifact was stored for. It
// compares with what the status named and not with what is stored: an artifact that was lost with its volume and fetched
// again is no news.
func (b Before) Announce(recorder *reconcile.Recorder, o reconcile.Object, end reconcile.Outcome, a *meta.Artifact, message string) {
	if end.Succeeded() {
		b.AnnounceAs(recorder, o, end, a, reconcile.Success{Reason: newArtifactReason, Message: message},
			reconcile.Success{Reason: meta.SucceededReason, Message: StoredMessage(a)})
	}
}

// AnnounceAs does the same in other words: those for news, and those for a source that works again.
func (b Before) AnnounceAs(recorder *reconcile.Recorder, o reconcile.Object, end reconcile.Outcome, a *meta.Artifact, news, again reconcile.Success) {
	if !end.Succeeded() {
		return // the loop tells of faults
	}
	switch {
	case b.Named == nil || !b.Named.HasDigest(a.Digest) || !b.Named.HasRevision(a.Revision):
		recorder.Record(o, event(news.Reason, news.Message, a))
	case b.Failing:
		recorder.Record(o, event(again.Reason, again.Message, a))
	default:
		// The same content as before, and no trouble in between: nobody needs to know.
	}
}

func event(reason, message string, a *meta.Artifact) reconcile.Event {
	return reconcile.Event{Type: corev1.EventTypeNormal, Reason: reason, Message: message, Metadata: map[string]string{
		sourcev1.GroupVersion.Group + "/revision": a.Revision,
		sourcev1.GroupVersion.Group + "/digest":   a.Digest,
	}}
}

// StoredMessage is what Ready=True says of most kinds.
func StoredMessage(a *meta.Artifact) string {
	return fmt.Sprintf("stored artifact for revision '%s'", a.Revision)
}

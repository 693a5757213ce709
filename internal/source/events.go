package source

import (
	"fmt"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// newArtifactReason is the reason of the event that tells of new content.
const newArtifactReason = "NewArtifact"

// maxSubject is how many characters of a commit's subject an event repeats.
const maxSubject = 50

// artifactEvent tells of new content in Flux's words.
func artifactEvent(c Commit, a *meta.Artifact) reconcile.Event {
	subject := c.Subject
	if runes := []rune(subject); len(runes) > maxSubject {
		subject = string(runes[:maxSubject]) + "..."
	}
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: newArtifactReason,
		Message: fmt.Sprintf("stored artifact for commit '%s'", subject), Metadata: artifactMetadata(a),
	}
}

// recoveredEvent tells that the source works again, with the content that it had.
func recoveredEvent(a *meta.Artifact) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: meta.SucceededReason, Message: storedMessage(a), Metadata: artifactMetadata(a),
	}
}

func storedMessage(a *meta.Artifact) string {
	return fmt.Sprintf("stored artifact for revision '%s'", a.Revision)
}

func artifactMetadata(a *meta.Artifact) map[string]string {
	return map[string]string{
		sourcev1.GroupVersion.Group + "/revision": a.Revision,
		sourcev1.GroupVersion.Group + "/digest":   a.Digest,
	}
}

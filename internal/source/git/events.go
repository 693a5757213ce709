package git

import (
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// maxSubject is how many characters of a commit's subject an event repeats.
const maxSubject = 50

// stored is the message of the event that tells of new content, in Flux's words.
func stored(c Commit) string {
	subject := c.Subject
	if runes := []rune(subject); len(runes) > maxSubject {
		subject = string(runes[:maxSubject]) + "..."
	}
	return fmt.Sprintf("stored artifact for commit '%s'", subject)
}

// tagMovedReason is the reason of the event that tells of a tag that names another commit than before.
const tagMovedReason = "TagMoved"

// moved returns the event of a tag that was moved; ok is false when none was. A tag is taken for what it is now, like any ref,
// but unlike a branch it is not expected to change, and whoever released by it should know (faults.md F28).
func (r Ref) moved(before, now *meta.Artifact) (e reconcile.Event, ok bool) {
	if before == nil || r.Commit != "" || r.Name == "" && r.SemVer == "" && r.Tag == "" || r.Name != "" && !strings.HasPrefix(r.Name, tags) {
		return e, false
	}
	tag, from, _ := strings.Cut(before.Revision, "@sha1:")
	same, to, found := strings.Cut(now.Revision, "@sha1:")
	if !found || tag != same || from == to {
		return e, false
	}
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: tagMovedReason,
		Message:  fmt.Sprintf("tag '%s' was moved from commit %s to %s; to stay with one commit whatever becomes of the tag, set spec.ref.commit", strings.TrimPrefix(tag, tags), from, to),
		Metadata: map[string]string{sourcev1.GroupVersion.Group + "/revision": now.Revision, sourcev1.GroupVersion.Group + "/digest": now.Digest},
	}, true
}

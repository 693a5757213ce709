package helm

import (
	"context"
	"fmt"
	"strings"

	helmrelease "helm.sh/helm/v3/pkg/release"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// unlock marks a pending release as failed whose maker is dead (faults.md F13). The mark says what it was in the middle of, so
// that it is begun again and not undone.
func (j *job) unlock() error {
	rel := *j.newest.Release
	j.more = rel.Info.Status.String()
	info := *rel.Info
	info.Description = unlocked(Status(info.Status))
	info.Status = helmrelease.StatusFailed
	rel.Info = &info
	ledger := &ledger{Driver: j.revisions.Driver(context.WithoutCancel(j.ctx), storage.Operation{Method: j.newest.Method}), job: j}
	return ledger.Update(storage.Key(rel.Name, rel.Version), &rel)
}

const (
	unlockedBefore = "Release unlocked from stale '"
	unlockedAfter  = "' state"
)

// unlocked is the description of a release that was cut off, as Flux writes it. It is also read: the storage has no other place
// for it, and who comes next may be another process.
func unlocked(from Status) string { return fmt.Sprintf("%s%s%s", unlockedBefore, from, unlockedAfter) }

// interruptedIn returns the pending status that a description tells of; empty when it tells of none.
func interruptedIn(description string) Status {
	from, ok := strings.CutPrefix(description, unlockedBefore)
	if !ok {
		return ""
	}
	if from, ok = strings.CutSuffix(from, unlockedAfter); !ok || !Status(from).Pending() {
		return ""
	}
	return Status(from)
}

// pending is the status of a release while the action makes it; empty for actions that make none.
func (k ActionKind) pending() Status {
	switch k {
	case Install:
		return PendingInstall
	case Upgrade:
		return PendingUpgrade
	case Rollback:
		return PendingRollback
	case None, Test, Uninstall, Unlock, Correct, Reset:
		return ""
	}
	panic("no such action: " + k)
}

package helm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// uninstall removes the release, or ends the removal of one (faults.md F14): Helm's own uninstall begins again with what is
// left. What is not there any more is no failure (F16).
func (j *job) uninstall() error {
	spec := j.hr.GetUninstall()
	config, err := j.configure(storage.ClientSide, nil, nil)
	if err != nil {
		return err
	}
	un := action.NewUninstall(config)
	un.Timeout = spec.GetTimeout(j.hr.GetTimeout()).Duration
	un.DisableHooks = spec.DisableHooks
	un.KeepHistory = spec.KeepHistory
	un.Wait = !spec.DisableWait
	un.DeletionPropagation = spec.GetDeletionPropagation()
	_, err = un.Run(j.target.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		err = nil
	}
	if err != nil {
		return j.witness.explain(err)
	}
	if !spec.KeepHistory {
		return j.revisions.RemoveCorrupt(context.WithoutCancel(j.ctx))
	}
	return nil
}

// claimsGoReason: an uninstall takes PersistentVolumeClaims with it. It is our own word.
const claimsGoReason = "PersistentVolumeClaimsGo"

// claimsGoEvent tells of that before it is done.
func claimsGoEvent(a Action) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: claimsGoReason,
		Message: fmt.Sprintf("uninstalling the release (%s) takes with it %s, and maybe the data in them; the annotation helm.sh/resource-policy: keep keeps them",
			a.Why, strings.Join(a.Losing, ", ")),
	}
}

// removed is what the history has of a release that was uninstalled, whose Secret may be gone.
func (j *job) removed() map[int]*v2.Snapshot {
	rel := *j.newest.Release
	info := *rel.Info
	info.Status, info.Deleted = helmrelease.StatusUninstalled, helmtime.Now()
	info.Description = "Uninstallation complete"
	rel.Info = &info
	return map[int]*v2.Snapshot{rel.Version: storage.Snapshot(&rel, j.ociDigestOf(rel.Version), releaseAction(j.action))}
}

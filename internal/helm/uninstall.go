package helm

import (
	"context"
	"errors"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	helmtime "helm.sh/helm/v3/pkg/time"

	"github.com/cleat-dev/cleat/internal/helm/storage"
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

// removed is what the history has of a release that was uninstalled, whose Secret may be gone.
func (j *job) removed() map[int]*v2.Snapshot {
	rel := *j.newest.Release
	info := *rel.Info
	info.Status, info.Deleted = helmrelease.StatusUninstalled, helmtime.Now()
	info.Description = "Uninstallation complete"
	rel.Info = &info
	return map[int]*v2.Snapshot{rel.Version: storage.Snapshot(&rel, j.ociDigestOf(rel.Version), releaseAction(j.action))}
}

package storage

import (
	"time"

	"helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/runtime"
)

// These are the parts of a release that Helm 4 writes otherwise than Helm 3: it leaves out a time that is none, where Helm 3
// writes an empty text. Both read both. Digests in the status of a HelmRelease are of Helm 4's form.

type wireInfo struct {
	FirstDeployed time.Time                   `json:"first_deployed,omitzero"`
	LastDeployed  time.Time                   `json:"last_deployed,omitzero"`
	Deleted       time.Time                   `json:"deleted,omitzero"`
	Description   string                      `json:"description,omitempty"`
	Status        release.Status              `json:"status,omitempty"`
	Notes         string                      `json:"notes,omitempty"`
	Resources     map[string][]runtime.Object `json:"resources,omitempty"`
}

func toWireInfo(info *release.Info) wireInfo {
	if info == nil {
		return wireInfo{}
	}
	return wireInfo{
		FirstDeployed: info.FirstDeployed.Time,
		LastDeployed:  info.LastDeployed.Time,
		Deleted:       info.Deleted.Time,
		Description:   info.Description,
		Status:        info.Status,
		Notes:         info.Notes,
		Resources:     info.Resources,
	}
}

type wireHook struct {
	Name              string                        `json:"name,omitempty"`
	Kind              string                        `json:"kind,omitempty"`
	Path              string                        `json:"path,omitempty"`
	Manifest          string                        `json:"manifest,omitempty"`
	Events            []release.HookEvent           `json:"events,omitempty"`
	LastRun           wireExecution                 `json:"last_run"`
	Weight            int                           `json:"weight,omitempty"`
	DeletePolicies    []release.HookDeletePolicy    `json:"delete_policies,omitempty"`
	OutputLogPolicies []release.HookOutputLogPolicy `json:"output_log_policies,omitempty"`
}

type wireExecution struct {
	StartedAt   time.Time         `json:"started_at,omitzero"`
	CompletedAt time.Time         `json:"completed_at,omitzero"`
	Phase       release.HookPhase `json:"phase"`
}

// toWireHooks returns nil for none: that is `null` in a digest.
func toWireHooks(hooks []*release.Hook) []wireHook {
	var out []wireHook
	for _, h := range hooks {
		if h == nil {
			continue // Nobody's hook; the SDK makes none such.
		}
		out = append(out, wireHook{
			Name:     h.Name,
			Kind:     h.Kind,
			Path:     h.Path,
			Manifest: h.Manifest,
			Events:   h.Events,
			LastRun: wireExecution{
				StartedAt:   h.LastRun.StartedAt.Time,
				CompletedAt: h.LastRun.CompletedAt.Time,
				Phase:       h.LastRun.Phase,
			},
			Weight:            h.Weight,
			DeletePolicies:    h.DeletePolicies,
			OutputLogPolicies: h.OutputLogPolicies,
		})
	}
	return out
}

package helm

import (
	"helm.sh/helm/v3/pkg/action"

	"github.com/cleat-dev/cleat/internal/helm/render"
)

// upgrade makes the next release.
func (j *job) upgrade() error {
	spec, timeout := j.hr.GetUpgrade(), j.hr.GetUpgrade().GetTimeout(j.hr.GetTimeout()).Duration
	next := rendering{version: j.newest.Version + 1, skipSchema: spec.DisableSchemaValidation}
	if spec.PreserveValues {
		next.previous = j.current()
	}
	made, err := j.prepare(j.auto(spec.ServerSideApply), next, spec.CRDs, timeout)
	if err != nil {
		return err
	}
	up := action.NewUpgrade(made.config)
	up.Namespace = j.target.Namespace
	up.Timeout = timeout
	up.Wait, up.WaitForJobs = !spec.DisableWait, !spec.DisableWaitForJobs
	up.DisableHooks = spec.DisableHooks
	up.DisableOpenAPIValidation = spec.DisableOpenAPIValidation
	up.SkipSchemaValidation = true // done when it was rendered, within limits
	up.SkipCRDs = true             // done in prepare, by policy
	up.Force = spec.Force
	up.CleanupOnFail = spec.CleanupOnFail
	up.TakeOwnership = !spec.DisableTakeOwnership
	up.ResetValues = true // what is to be preserved is in the values
	up.MaxHistory = j.hr.GetMaxHistory()
	_, err = up.Run(j.target.Name, made.Literal, made.Values)
	return err
}

// current is the release whose values are preserved: the one that is deployed or, without one, the newest.
func (j *job) current() *render.Previous {
	rel := j.newest
	if deployed, err := j.revisions.Deployed(j.ctx); err == nil {
		rel = deployed
	}
	return &render.Previous{Chart: rel.Chart, Config: rel.Config}
}

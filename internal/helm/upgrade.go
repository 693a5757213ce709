package helm

import (
	"fmt"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
)

// upgrade makes the next release.
func (j *job) upgrade() error {
	spec, timeout := j.hr.GetUpgrade(), j.hr.GetUpgrade().GetTimeout(j.hr.GetTimeout()).Duration
	next := rendering{revision: j.newest.Version + 1, values: j.values}
	if spec.PreserveValues {
		var err error
		if next.values, next.defaults, err = j.preserved(); err != nil {
			return err
		}
	}
	made, err := j.prepare(j.auto(spec.ServerSideApply), next, client.CRDPolicy(spec.CRDs), timeout)
	if err != nil {
		return err
	}
	up := action.NewUpgrade(made.config)
	up.Namespace = j.target.Namespace
	up.Timeout = timeout
	up.Wait, up.WaitForJobs = !spec.DisableWait, !spec.DisableWaitForJobs
	up.DisableHooks = spec.DisableHooks
	up.DisableOpenAPIValidation = spec.DisableOpenAPIValidation
	up.SkipSchemaValidation = true // done in prepare, within limits
	up.SkipCRDs = true             // done in prepare, by policy
	up.Force = spec.Force
	up.CleanupOnFail = spec.CleanupOnFail
	up.TakeOwnership = !spec.DisableTakeOwnership
	up.ResetValues = true // what is to be preserved is in the values
	up.MaxHistory = j.hr.GetMaxHistory()
	_, err = up.Run(j.target.Name, made.literal, charts.CopyValues(made.values))
	return err
}

// preserved returns the values with those of the last deployed release below them, and what takes the place of the chart's
// defaults: those of the chart that the release was made of (spec.upgrade.preserveValues).
func (j *job) preserved() (values, defaults map[string]any, err error) {
	current := j.newest
	if deployed, err := j.revisions.Deployed(j.ctx); err == nil {
		current = deployed
	}
	defaults, err = chartutil.CoalesceValues(current.Chart, charts.CopyValues(current.Config))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the values of release v%d: %w", current.Version, err)
	}
	return chartutil.CoalesceTables(charts.CopyValues(j.values), charts.CopyValues(current.Config)), charts.CopyValues(defaults), nil
}

package helm

import "helm.sh/helm/v3/pkg/action"

// rollback makes the next release of what a good one was. spec.rollback.recreate does nothing, as in Flux: restarting pods is not
// part of what a release says.
func (j *job) rollback() error {
	spec := j.hr.GetRollback()
	config, err := j.configure(j.auto(spec.ServerSideApply), nil, nil)
	if err != nil {
		return err
	}
	back := action.NewRollback(config)
	back.Version = j.action.Version
	back.Timeout = spec.GetTimeout(j.hr.GetTimeout()).Duration
	back.Wait, back.WaitForJobs = !spec.DisableWait, !spec.DisableWaitForJobs
	back.DisableHooks = spec.DisableHooks
	back.Force = spec.Force
	back.CleanupOnFail = spec.CleanupOnFail
	back.MaxHistory = j.hr.GetMaxHistory()
	return back.Run(j.target.Name)
}

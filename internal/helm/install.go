package helm

import (
	"io"

	"helm.sh/helm/v3/pkg/action"
	"k8s.io/utils/ptr"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// install makes the first release.
//
// The SDK is given no context of ours: an install of its own goes on in the background when its context has ended. It is cut off
// by its access to the cluster instead, and then ends by itself.
func (j *job) install() error {
	spec, timeout := j.hr.GetInstall(), j.hr.GetInstall().GetTimeout(j.hr.GetTimeout()).Duration
	method := storage.ClientSide
	if ptr.Deref(spec.ServerSideApply, !j.options.UseHelm3Defaults) {
		method = storage.ServerSide
	}
	policy := spec.CRDs
	if spec.SkipCRDs {
		policy = "Skip" // the deprecated word for it
	}
	made, err := j.prepare(method, rendering{revision: 1, install: true, values: j.values}, client.CRDPolicy(policy), timeout)
	if err != nil {
		return err
	}
	in := action.NewInstall(made.config)
	in.ReleaseName, in.Namespace = j.target.Name, j.target.Namespace
	in.Timeout = timeout
	in.Wait, in.WaitForJobs = !spec.DisableWait, !spec.DisableWaitForJobs
	in.DisableHooks = spec.DisableHooks
	in.DisableOpenAPIValidation = spec.DisableOpenAPIValidation
	in.SkipSchemaValidation = true // done in prepare, within limits
	in.SkipCRDs = true             // done in prepare, by policy
	in.Replace = spec.Replace || j.action.Replace
	in.TakeOwnership = !spec.DisableTakeOwnership
	in.CreateNamespace = spec.CreateNamespace
	_, err = in.Run(made.literal, charts.CopyValues(made.values))
	return err
}

// discardHookOutput drops what hooks print: it may hold secrets, and is in the logs of their pods.
func discardHookOutput(_, _, _ string) io.Writer { return io.Discard }

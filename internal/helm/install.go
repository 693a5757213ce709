package helm

import (
	"io"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	"k8s.io/utils/ptr"

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
		policy = v2.Skip // this is the deprecated word for it
	}
	made, err := j.prepare(method, rendering{version: 1, install: true, skipSchema: spec.DisableSchemaValidation}, policy, timeout)
	if err != nil {
		return err
	}
	in := action.NewInstall(made.config)
	in.ReleaseName, in.Namespace = j.target.Name, j.target.Namespace
	in.Timeout = timeout
	in.Wait, in.WaitForJobs = !spec.DisableWait, !spec.DisableWaitForJobs
	in.DisableHooks = spec.DisableHooks
	in.DisableOpenAPIValidation = spec.DisableOpenAPIValidation
	in.SkipSchemaValidation = true // done when it was rendered, within limits
	in.SkipCRDs = true             // done in prepare, by policy
	in.Replace = spec.Replace || j.action.Replace
	in.TakeOwnership = !spec.DisableTakeOwnership
	in.CreateNamespace = spec.CreateNamespace
	_, err = in.Run(made.Literal, made.Values)
	return err
}

// discardHookOutput drops what hooks print: it may hold secrets, and is in the logs of their pods.
func discardHookOutput(_, _, _ string) io.Writer { return io.Discard }

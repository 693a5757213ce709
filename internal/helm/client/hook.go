package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fluxcd/pkg/apis/kustomize"
	helmkube "helm.sh/helm/v3/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// ErrHookFailed means: a Job or a Pod of a hook has ended, and not well.
var ErrHookFailed = errors.New("failed early due to stalled resources")

// hookJudge judges what runs to its end: kstatus is content with a Pod that is ready.
func hookJudge() (*health.Judge, error) {
	return health.NewJudge([]kustomize.CustomHealthCheck{
		{APIVersion: "batch/v1", Kind: "Job", HealthCheckExpressions: kustomize.HealthCheckExpressions{
			Failed:  "status.conditions.exists(c, c.type == 'Failed' && c.status == 'True')",
			Current: "status.conditions.exists(c, c.type == 'Complete' && c.status == 'True')",
		}},
		{APIVersion: "v1", Kind: "Pod", HealthCheckExpressions: kustomize.HealthCheckExpressions{
			Failed:  "status.phase == 'Failed'",
			Current: "status.phase == 'Succeeded'",
		}},
	})
}

// runs says whether a kind is one that runs to its end.
func runs(ref object.Ref) bool {
	return isJob(ref) || ref.GroupKind() == schema.GroupKind{Kind: "Pod"}
}

// WatchUntilReady returns when the Jobs and Pods of a hook have completed; other kinds are done when they are created. One that is
// deleted meanwhile counts as done, as with Helm: hooks clean up after themselves.
func (c *Client) WatchUntilReady(resources helmkube.ResourceList, timeout time.Duration) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var refs []object.Ref
	for _, info := range resources {
		if runs(refOf(info)) {
			refs = append(refs, refOf(info))
		}
	}
	if len(refs) == 0 {
		return nil
	}
	_, err := c.awaitRuns(refs, timeout)
	return err
}

// awaitRuns waits until Jobs and Pods have come to their end, and says which of them are healthy. The first that fails ends the
// wait.
func (c *Client) awaitRuns(refs []object.Ref, timeout time.Duration) (healthy map[object.Ref]bool, err error) {
	judge, err := hookJudge()
	if err != nil {
		return nil, err
	}
	healthy = map[object.Ref]bool{}
	var failed *object.Ref
	ctx, cancel := c.until(timeout)
	defer cancel()
	err = c.observe(ctx, kube.Wait{Pinned: refs, Judge: judge}, func(ref object.Ref, obs kube.Observation, state kube.State) (bool, error) {
		healthy[ref] = state.Found && obs.Health.Status == health.Current
		if state.Found && obs.Health.Status == health.Failed {
			failed = &ref
			return false, ErrHookFailed
		}
		return healthy[ref] || state.Gone(), nil
	})
	switch {
	case failed != nil:
		return healthy, c.howFailed(*failed)
	case err != nil && errors.Is(context.Cause(ctx), ErrNotHealthy):
		refs = slices.DeleteFunc(refs, func(ref object.Ref) bool { return healthy[ref] })
		return healthy, fmt.Errorf("%w: timeout waiting for %s to complete", ErrNotHealthy, refs[0])
	}
	return healthy, err
}

// howFailed says why a Job or Pod has failed, as it says itself.
func (c *Client) howFailed(ref object.Ref) error {
	live, err := c.read(ref)
	if err != nil || live == nil {
		return ranBadly(ref, "") // That it failed is known; what it would say is only more of it.
	}
	if reason, _, _ := unstructured.NestedString(live.Object, "status", "reason"); reason != "" {
		return ranBadly(ref, reason)
	}
	conditions, _, _ := unstructured.NestedSlice(live.Object, "status", "conditions")
	for _, entry := range conditions {
		condition, _ := entry.(map[string]any)
		if condition["type"] == "Failed" && condition["status"] == "True" {
			return ranBadly(ref, fmt.Sprint(condition["reason"]))
		}
	}
	return ranBadly(ref, "")
}

// ranBadly is in Flux's words, which have no reason.
func ranBadly(ref object.Ref, reason string) error {
	if reason != "" {
		reason = " (" + reason + ")"
	}
	return fmt.Errorf("%w: [%s status: '%s'%s]", ErrHookFailed, ref, health.Failed, reason)
}

// WaitAndGetCompletedPodPhase waits for the end of a Pod of the release's namespace and says how it was.
func (c *Client) WaitAndGetCompletedPodPhase(name string, timeout time.Duration) (corev1.PodPhase, error) {
	ref := object.Ref{Version: "v1", Kind: "Pod", Namespace: c.options.Release.Namespace, Name: name}
	healthy, err := c.awaitRuns([]object.Ref{ref}, timeout)
	switch {
	case errors.Is(err, ErrHookFailed):
		return corev1.PodFailed, nil
	case err != nil:
		return corev1.PodUnknown, err
	case !healthy[ref]:
		return corev1.PodUnknown, fmt.Errorf("%s was deleted before it came to its end", ref)
	}
	return corev1.PodSucceeded, nil
}

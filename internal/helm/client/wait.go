package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// ErrNotHealthy means: what was written is not as it should be, and was not in time or will not be.
var ErrNotHealthy = errors.New("resources are not ready")

// Wait returns when the objects are healthy, Jobs aside.
func (c *Client) Wait(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.await(resources.Filter(func(info *resource.Info) bool { return !isJob(refOf(info)) }), timeout)
}

// WaitWithJobs returns when the objects are healthy, and Jobs have completed.
func (c *Client) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.await(resources, timeout)
}

func isJob(ref object.Ref) bool {
	return ref.GroupKind() == schema.GroupKind{Group: "batch", Kind: "Job"}
}

// defaultWait is for an action that was given no timeout: nothing is waited for without end.
const defaultWait = 5 * time.Minute

// until returns a context for a wait.
func (c *Client) until(timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		timeout = defaultWait
	}
	return context.WithTimeoutCause(c.ctx, timeout, ErrNotHealthy)
}

// observe waits on the Observer. Meanwhile the operation is parked.
func (c *Client) observe(ctx context.Context, wait kube.Wait, ok func(object.Ref, kube.Observation, kube.State) (bool, error)) error {
	wait.Since = c.versions(slices.Concat(wait.Labelled, wait.Pinned))
	resumed := func() {}
	wait.Blocks = func() { resumed = c.options.Parked() }
	defer func() { resumed() }()
	err := c.cluster.Observer.Await(ctx, wait, ok)
	if ended := c.ctx.Err(); ended != nil {
		return ended
	}
	return err
}

// versions returns at which versions the operation has left objects.
func (c *Client) versions(refs []object.Ref) map[object.Key]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[object.Key]string, len(refs))
	for _, ref := range refs {
		if version, ok := c.left[ref.Key()]; ok {
			out[ref.Key()] = version
		}
	}
	return out
}

// await waits for health, as the strategy understands it.
func (c *Client) await(resources helmkube.ResourceList, timeout time.Duration) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	w := &healthWait{strategy: c.options.Wait, expiring: map[object.Key]bool{}, looks: map[object.Ref]look{}}
	wait := kube.Wait{}
	if c.options.Wait == Poller {
		wait.Judge = c.options.Judge
	}
	for _, info := range resources {
		ref := refOf(info)
		u, err := desired(info)
		switch {
		case err != nil:
			return err
		case c.options.Wait == Legacy && !isLegacy(u):
			continue // Helm 3 has no idea of its health.
		case c.isLabelled(u):
			wait.Labelled = append(wait.Labelled, ref)
		default:
			wait.Pinned = append(wait.Pinned, ref)
		}
		_, set, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished")
		w.expiring[ref.Key()] = isJob(ref) && set
	}
	ctx, cancel := c.until(timeout)
	defer cancel()
	err := c.observe(ctx, wait, w.judge)
	if err != nil && errors.Is(context.Cause(ctx), ErrNotHealthy) {
		return w.timedOut()
	}
	return err
}

// isLabelled says whether an object carries the owner labels of this HelmRelease, so that the watch on its kind tells of it.
func (c *Client) isLabelled(u *unstructured.Unstructured) bool {
	return kube.HelmReleases().Labels.Of(u) == c.options.Owner && c.options.Owner != (types.NamespacedName{})
}

// legacyKinds are those whose readiness Helm 3 knows.
var legacyKinds = []schema.GroupKind{
	{Kind: "Pod"}, {Kind: "PersistentVolumeClaim"}, {Kind: "Service"}, {Kind: "ReplicationController"},
	{Group: "batch", Kind: "Job"},
	{Group: "apps", Kind: "Deployment"}, {Group: "apps", Kind: "DaemonSet"}, {Group: "apps", Kind: "StatefulSet"}, {Group: "apps", Kind: "ReplicaSet"},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
}

// isLegacy says whether Helm 3 waits for an object. A Deployment that is paused is as ready as it will be.
func isLegacy(u *unstructured.Unstructured) bool {
	gk := u.GroupVersionKind().GroupKind()
	if paused, _, _ := unstructured.NestedBool(u.Object, "spec", "paused"); paused && gk.Kind == "Deployment" {
		return false
	}
	return slices.Contains(legacyKinds, gk)
}

// healthWait is what is known of the objects of one wait.
type healthWait struct {
	strategy WaitStrategy
	expiring map[object.Key]bool // Jobs that delete themselves when they are done
	looks    map[object.Ref]look
}

// look is the health of an object when it was last looked at, and why nothing is known.
type look struct {
	status health.Status
	why    string
}

// judge says whether an object is as it should be.
func (w *healthWait) judge(ref object.Ref, obs kube.Observation, state kube.State) (bool, error) {
	is := look{status: health.Unknown}
	switch {
	case state.Found && apierrors.IsForbidden(state.Err) && obs.Health.Status != health.Current:
		// It is known from the answer to our own write, and without that right nothing more will ever be.
		is.why = state.Err.Error()
	case state.Found:
		is.status = obs.Health.Status
		if is.status == health.Unknown {
			is.why = obs.Health.Message
		}
	case state.Gone() && w.expiring[ref.Key()]:
		is.status = health.Current
	case state.Gone():
		is.status = health.NotFound
	case state.Err != nil:
		is.why = state.Err.Error()
	}
	w.looks[ref] = is
	if is.status == health.Failed && (w.strategy == Poller || isJob(ref)) {
		return false, fmt.Errorf("%w: failed early due to stalled resources: [%s]", ErrNotHealthy, w.lines(health.Failed))
	}
	return is.status == health.Current, nil
}

// timedOut says what was not healthy in time.
func (w *healthWait) timedOut() error {
	return fmt.Errorf("%w: timeout waiting for: [%s]", ErrNotHealthy,
		w.lines(health.InProgress, health.Failed, health.Terminating, health.NotFound, health.Unknown))
}

// lines returns the objects of these statuses, sorted.
func (w *healthWait) lines(statuses ...health.Status) string {
	var out []string
	for ref, is := range w.looks {
		if !slices.Contains(statuses, is.status) {
			continue
		}
		line := fmt.Sprintf("%s status: '%s'", ref, is.status)
		if is.why != "" {
			line += " (" + is.why + ")"
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// WaitForDelete returns when the objects are gone, or others of their names are there.
func (c *Client) WaitForDelete(resources helmkube.ResourceList, timeout time.Duration) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	var refs []object.Ref
	for _, info := range resources {
		refs = append(refs, refOf(info))
	}
	ctx, cancel := c.until(timeout)
	defer cancel()
	return c.awaitGone(ctx, refs)
}

// awaitGone waits until what was deleted is gone. Each is read first, for most go at once; only the rest is watched.
func (c *Client) awaitGone(ctx context.Context, refs []object.Ref) error {
	var left []object.Ref
	for _, ref := range refs {
		c.mu.Lock()
		uid, known := c.deleted[ref.Key()]
		c.mu.Unlock()
		if known && uid == "" {
			continue // It was not there when it was to be deleted.
		}
		live, err := c.read(ref)
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		if live != nil && (!known || live.GetUID() == uid) {
			left = append(left, ref)
		}
	}
	if len(left) == 0 {
		return nil
	}
	pending := map[object.Ref]string{}
	err := c.observe(ctx, kube.Wait{Pinned: left}, func(ref object.Ref, obs kube.Observation, state kube.State) (bool, error) {
		c.mu.Lock()
		uid, known := c.deleted[ref.Key()]
		c.mu.Unlock()
		if state.Gone() || errors.Is(state.Err, kube.ErrNotServed) || state.Found && known && obs.UID != uid {
			delete(pending, ref)
			return true, nil
		}
		pending[ref] = fmt.Sprintf("%s status: '%s'", ref, health.Terminating)
		return false, nil
	})
	if err != nil && c.ctx.Err() == nil && ctx.Err() != nil {
		var lines []string
		for _, line := range pending {
			lines = append(lines, line)
		}
		slices.Sort(lines)
		return fmt.Errorf("%w: timeout waiting for: [%s]", ErrNotHealthy, strings.Join(lines, ", "))
	}
	return err
}

package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// settle returns when the definitions of a stage are ready for what needs them: CRDs established and their kinds
// discoverable, Namespaces active. In most runs nothing was changed and nothing is waited for.
func (r *run) settle(ctx context.Context, objects []*unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.opts.WaitTimeout, ErrNotSettled)
	defer cancel()
	pending := make(map[object.Ref]health.Status)
	var wanted []object.Ref
	for _, u := range objects {
		ref := object.RefOf(u)
		if r.skipped[ref.Key()] {
			continue // Left alone, so it may well not be there at all.
		}
		if status := r.health(ref); status != health.Current {
			pending[ref] = status
			wanted = append(wanted, ref)
		}
	}
	err := r.observer.Await(ctx, Wait{Labelled: wanted}, func(ref object.Ref, obs Observation, state State) (bool, error) {
		if !state.Found {
			return false, nil
		}
		switch obs.Health.Status {
		case health.Current:
			delete(pending, ref)
			return true, nil
		case health.Terminating:
			return false, fmt.Errorf("%s is being deleted", ref)
		case health.Failed:
			return false, fmt.Errorf("%s failed: %s", ref, obs.Health.Message)
		case health.InProgress, health.NotFound, health.Unknown:
		default:
			return false, fmt.Errorf("%s has the health %q", ref, obs.Health.Status)
		}
		pending[ref] = obs.Health.Status
		return false, nil
	})
	if err != nil {
		return notSettled(ctx, err, pending)
	}
	return r.discover(ctx, objects)
}

// health returns what is known of an object without a request: from this run's answers, or from the watch.
func (r *run) health(ref object.Ref) health.Status {
	if obs, ok := r.recorder.last(ref.Key()); ok {
		return obs.Health.Status
	}
	if obs, state := r.observer.Get(ref); state.Found {
		return obs.Health.Status
	}
	return health.Unknown
}

func notSettled(ctx context.Context, err error, pending map[object.Ref]health.Status) error {
	if !errors.Is(context.Cause(ctx), ErrNotSettled) {
		return err
	}
	var lines []string
	for ref, status := range pending {
		lines = append(lines, fmt.Sprintf("%s status: '%s'", ref, status))
	}
	slices.Sort(lines)
	return fmt.Errorf("timeout waiting for: [%s]: %w", strings.Join(lines, ", "), ErrNotSettled)
}

// discover returns when discovery knows the kinds of the CRDs that this run has written. It lags behind the Established
// condition by some milliseconds, and offers no watch: this is one of the few places that has to ask again.
func (r *run) discover(ctx context.Context, objects []*unstructured.Unstructured) error {
	var kinds []schema.GroupVersionKind
	for _, u := range objects {
		if utils.IsCRD(u) && r.recorder.written[object.RefOf(u).Key()] {
			kinds = append(kinds, kindsOf(u)...)
		}
	}
	if len(kinds) == 0 {
		return nil
	}
	r.mapper.Reset()
	pause := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 2, Steps: 8, Cap: time.Second}
	for _, gvk := range kinds {
		for {
			_, err := r.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err == nil {
				break
			}
			timer := time.NewTimer(pause.Step())
			select {
			case <-ctx.Done():
				timer.Stop()
				return fmt.Errorf("discovering %s: %w: %w", gvk, ErrNotSettled, err)
			case <-timer.C:
			}
		}
	}
	r.mapper.rediscover()
	return nil
}

// kindsOf returns the kind that a CRD defines at each version it serves.
func kindsOf(crd *unstructured.Unstructured) []schema.GroupVersionKind {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var kinds []schema.GroupVersionKind
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		if served, _ := version["served"].(bool); served && name != "" {
			kinds = append(kinds, schema.GroupVersionKind{Group: group, Version: name, Kind: kind})
		}
	}
	return kinds
}

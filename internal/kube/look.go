package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/utils"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// Standing says how an object is observed next to how it was left.
type Standing string

const (
	// StandsAsLeft: nobody has touched what was applied.
	StandsAsLeft Standing = "as left"
	// StandsOtherwise: what was applied was changed, or the object is another one.
	StandsOtherwise Standing = "otherwise"
	// StandsGone: it is not there, or carries our owner label no more.
	StandsGone Standing = "gone"
	// StandsTerminating: it is on its way out.
	StandsTerminating Standing = "terminating"
	// StandsUnseen: nobody can see it now. It means nothing about the object.
	StandsUnseen Standing = "unseen"
	// StandsUntold: it is there, and it is not known how it was left: it was there already, or is not to be changed.
	StandsUntold Standing = "untold"
)

// Standing returns how an object of an owner is observed, without a request.
func (a *Applier) Standing(owner types.NamespacedName, ref object.Ref) Standing {
	a.mu.Lock()
	was, applied := a.applied[owner][ref.Key()]
	a.mu.Unlock()
	is, state := a.observer.Get(ref)
	switch {
	case !state.Synced:
		return StandsUnseen
	case !state.Found:
		return StandsGone
	case !applied:
		return StandsUntold
	case is.Health.Status == health.Terminating:
		return StandsTerminating
	case a.isAs(was, ref):
		return StandsAsLeft
	default:
		return StandsOtherwise
	}
}

// Look is one object as it is on the cluster, and as an Apply would have it.
type Look struct {
	// Live is nil when there is none.
	Live *unstructured.Unstructured
	// Merged is what a dry-run answers; without a Live object it is the desired one. It is nil when an admission webhook keeps
	// the API server from a dry-run.
	Merged *unstructured.Unstructured

	applier *Applier
	owner   types.NamespacedName
	object  *unstructured.Unstructured
	opts    ApplyOptions
	run     *run
}

// Look looks at one object that was applied for owner, as that Apply did. It changes nothing. The error is a *RefusedError when
// the API server refuses what is desired; the Look then still holds the live object.
func (a *Applier) Look(ctx context.Context, owner types.NamespacedName, u *unstructured.Unstructured, opts ApplyOptions) (*Look, error) {
	l := &Look{applier: a, owner: owner, object: u, opts: opts}
	var err error
	if l.run, err = l.newRun(); err != nil {
		return nil, err
	}
	ref := object.RefOf(u)
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(u.GroupVersionKind())
	switch err := l.run.recorder.Get(ctx, client.ObjectKeyFromObject(u), live); {
	case apierrors.IsNotFound(err) && !kindGone(err):
		l.Merged = u
		return l, nil
	case err != nil:
		return nil, object.MaskError(fmt.Errorf("%s query failed: %w", ref, err), u)
	}
	l.Live = live
	tried := u.DeepCopy()
	utils.RemoveCABundleFromCRD(tried)
	err = l.run.recorder.Patch(ctx, tried, client.Apply, client.DryRunAll, client.ForceOwnership, client.FieldOwner(a.options.Owner.Manager.Name)) //nolint:staticcheck // as the ssa library does
	switch {
	case err != nil && isRefusal(err):
		return l, &RefusedError{Failures: []ObjectError{{Ref: ref, Err: object.MaskError(fmt.Errorf("%s dry-run failed: %w", ref, err), u, live), Untouched: true}}}
	case err != nil:
		return nil, object.MaskError(fmt.Errorf("%s dry-run failed: %w", ref, err), u, live)
	case !l.run.recorder.untried[ref.Key()]:
		l.Merged = tried
	}
	return l, nil
}

// newRun is a run for the one object. What was desired of it stays what a run for all has noted: what is kept of an object
// may have been modified by the apply.
func (l *Look) newRun() (*run, error) {
	r, err := l.applier.newRun(l.owner, []*unstructured.Unstructured{l.object}, l.opts)
	if err != nil {
		return nil, err
	}
	key := object.RefOf(l.object).Key()
	l.applier.mu.Lock()
	defer l.applier.mu.Unlock()
	if was, ok := l.applier.applied[l.owner][key]; ok {
		r.desired[key] = was.desired
	}
	return r, nil
}

// Accept notes that the object is fine as it was seen.
func (l *Look) Accept() {
	ref := object.RefOf(l.object)
	l.run.remember(ref.Key(), Change{Ref: ref, Action: Unchanged})
}

// Desired returns the object as it is declared. It is not to be modified.
func (l *Look) Desired() *unstructured.Unstructured { return l.object }

// Wrote notes that the object was made as it is declared by another way than Apply, and how the API server has answered.
func (l *Look) Wrote(live *unstructured.Unstructured) {
	l.run.recorder.note(live, true)
	ref := object.RefOf(l.object)
	l.run.remember(ref.Key(), Change{Ref: ref, Action: Configured})
}

// Apply applies the object as an Apply of all would. Before it is written over, guard is asked about the live object as it is
// then, and what it refuses is left alone.
func (l *Look) Apply(ctx context.Context, guard func(live *unstructured.Unstructured) error) (Change, error) {
	r, err := l.newRun()
	if err != nil {
		return Change{}, err
	}
	r.recorder.guard = guard
	err = r.apply(ctx, []*unstructured.Unstructured{l.object.DeepCopy()})
	if barred := r.recorder.barred[object.RefOf(l.object).Key()]; barred != nil {
		return Change{}, barred
	}
	if err == nil && (utils.IsClusterDefinition(l.object) || utils.IsClassDefinition(l.object)) {
		err = r.settle(ctx, []*unstructured.Unstructured{l.object})
	}
	if err != nil {
		return Change{}, object.MaskError(err, l.object, l.Live)
	}
	return r.done[0], nil
}

// spares says whether an object is left as it is, because nothing else is wanted of it than before.
func (r *run) spares(u *unstructured.Unstructured) bool {
	if r.opts.Spare == nil || !r.opts.Spare(u) {
		return false
	}
	return r.asBefore(object.RefOf(u).Key())
}

// asBefore says whether nothing else is desired of an object than what was applied last.
func (r *run) asBefore(key object.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.applied[r.owner][key]
	if !ok {
		return r.opts.Resumed
	}
	return was.desired == r.desired[key]
}

// spare looks at objects that are not to be put right. Those that are as desired are remembered as such.
func (r *run) spare(ctx context.Context, objects []*unstructured.Unstructured) ([]Change, error) {
	changes := make([]Change, len(objects))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.options.Concurrency)
	for i, u := range objects {
		group.Go(func() (err error) {
			changes[i], err = r.spareOne(ctx, u)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, c := range changes {
		r.skipped[c.Ref.Key()] = c.Action == Skipped
	}
	return changes, nil
}

func (r *run) spareOne(ctx context.Context, u *unstructured.Unstructured) (Change, error) {
	ref := object.RefOf(u)
	opts := r.diffOptions()
	opts.DriftIgnoreRules = r.opts.Ignore
	entry, _, _, err := r.manager.Diff(ctx, u.DeepCopy(), opts)
	switch {
	case err != nil && isRefusal(err):
		r.rememberSpared(ref.Key())
		return Change{Ref: ref, Action: Unchanged}, nil // It cannot be as desired, and is not to be made so either.
	case err != nil:
		return Change{}, err
	case entry.Action == ssa.SkippedAction:
		return Change{Ref: ref, Action: Skipped}, nil
	case entry.Action == ssa.CreatedAction:
		r.rememberSpared(ref.Key())
		return Change{Ref: ref, Action: Skipped}, nil // It is not there, and nobody may wait for it.
	case entry.Action == ssa.UnchangedAction:
		r.remember(ref.Key(), Change{Ref: ref, Action: Unchanged})
	default:
		r.rememberSpared(ref.Key())
	}
	return Change{Ref: ref, Action: Unchanged}, nil
}

// rememberSpared notes what is desired of an object that is otherwise, so that it can be told whether something else is later.
func (r *run) rememberSpared(key object.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.applied[r.owner]
	if m == nil {
		m = make(memory)
		r.applied[r.owner] = m
	}
	if _, ok := m[key]; !ok {
		m[key] = applied{desired: r.desired[key]}
	}
}

// Overridden says whose fields an Apply takes away, beside those that are desired; nil for nobody's.
func (c *Cluster) Overridden() func(manager, operation string) bool {
	if c.options.Owner.Manager.Updates {
		return nil
	}
	managers := c.options.Owner.cleanup(c.options.OverrideManagers).FieldManagers
	return func(manager, operation string) bool {
		return slices.ContainsFunc(managers, func(m ssa.FieldManager) bool {
			return string(m.OperationType) == operation && strings.HasPrefix(manager, m.Name)
		})
	}
}

// Owner returns the kind of owner that the cluster is used by.
func (c *Cluster) Owner() Owner { return c.options.Owner }

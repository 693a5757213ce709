package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/fluxcd/pkg/ssa/utils"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// Applier applies and prunes the objects of owners as one user. It is safe for concurrent use, for one owner at a time.
type Applier struct {
	client   client.Client
	mapper   *Mapper
	observer *Observer
	options  Options

	mu      sync.Mutex
	applied map[types.NamespacedName]memory
}

// memory is what was applied for one owner.
type memory map[object.Key]applied

// applied is what an object was like when an Apply was done with it.
type applied struct {
	desired object.Digest
	uid     types.UID
	owned   object.Digest
	// yielded says that its replicas were left to an autoscaler. Whether that is still there is looked at by each Apply, and is
	// no reason for one.
	yielded bool
}

// ApplyOptions says how one owner's objects are applied.
type ApplyOptions struct {
	// Force recreates an object when an immutable field changed (spec.force). One object asks for that itself by
	// api.ForceAnnotation.
	Force bool
	// BestEffort applies what can be, whatever is refused. The *RefusedError at the end names what was.
	BestEffort bool
	// WaitTimeout bounds the wait for definitions between the stages, a minute when zero.
	WaitTimeout time.Duration
	// Ignore are fields that others may change (spec.ignore).
	Ignore []jsondiff.IgnoreRule
	// CustomStageKinds are applied before the bulk (--custom-apply-stage-kinds).
	CustomStageKinds map[schema.GroupKind]struct{}
	// MigrateAPIVersion rewrites managedFields to the version that is applied (feature gate MigrateAPIVersion).
	MigrateAPIVersion bool
	// Blocks, unless nil, is called before the first wait for definitions, which may take as long as WaitTimeout.
	Blocks func()
	// Spare says of which objects nothing is put right as long as nothing else is wanted of them than before. Nil: of none.
	Spare func(*unstructured.Unstructured) bool
	// Resumed says that nothing else is wanted of any object than before, of which the Applier may not know: it was another process.
	Resumed bool
	// Tried is told what each dry-run would change of an object of which nothing else is wanted than before: the live object, nil
	// when there is none, and what the API server would make of it. It may keep neither, and is called by several goroutines.
	Tried func(live, merged *unstructured.Unstructured)
}

// Apply brings objects, which carry their owner's labels, into the cluster in Flux's stages: definitions, classes, the
// kinds of a custom stage, the rest. Within a stage all are tried in a dry-run before the first is applied.
//
// An object that is wanted as it was applied last and observed as it was left then is unchanged without a request. That
// needs a watch: the caller has declared the objects with Observer.Watch.
//
// The ChangeSet holds what was done also when an error ends it early. A *RefusedError names every object of a stage that
// the API server refused; ErrNotSettled, a definition that was not ready within WaitTimeout. Objects may be modified as
// Flux does: the caBundle of a CRD's conversion webhook is removed if it is invalid.
func (a *Applier) Apply(ctx context.Context, owner types.NamespacedName, objects []*unstructured.Unstructured, opts ApplyOptions) (ChangeSet, error) {
	run, err := a.newRun(owner, objects, opts)
	if err != nil {
		return nil, err
	}
	for _, stage := range stages(objects, opts.CustomStageKinds) {
		if len(stage.objects) == 0 {
			continue
		}
		if err := run.apply(ctx, stage.objects); err != nil {
			return run.done, object.MaskError(err, objects...)
		}
		if !stage.settle {
			continue
		}
		if err := run.settle(ctx, stage.objects); err != nil {
			if !opts.BestEffort || ctx.Err() != nil {
				return run.done, err
			}
			run.refused = append(run.refused, ObjectError{Ref: object.RefOf(stage.objects[0]), Err: err})
		}
	}
	if len(run.refused) > 0 {
		return run.done, &RefusedError{Failures: run.refused}
	}
	return run.done, nil
}

// run is one Apply.
type run struct {
	*Applier
	owner    types.NamespacedName
	opts     ApplyOptions
	recorder *recorder
	manager  *ssa.ResourceManager
	desired  map[object.Key]object.Digest // set by newRun, before anything can modify an object
	skipped  map[object.Key]bool          // grows by stage
	done     ChangeSet                    // grows by stage
	// With BestEffort, growing by stage: what was refused, and the CRDs among it by the kinds they define.
	refused []ObjectError
	lacking map[schema.GroupKind]object.Ref
}

func (a *Applier) newRun(owner types.NamespacedName, objects []*unstructured.Unstructured, opts ApplyOptions) (*run, error) {
	r := &run{
		Applier:  a,
		owner:    owner,
		opts:     opts,
		recorder: newRecorder(a.client, a.observer),
		desired:  make(map[object.Key]object.Digest, len(objects)),
		skipped:  make(map[object.Key]bool),
		lacking:  make(map[schema.GroupKind]object.Ref),
	}
	if r.opts.WaitTimeout == 0 {
		r.opts.WaitTimeout = time.Minute
	}
	if opts.Tried != nil {
		r.recorder.tried = func(live, merged *unstructured.Unstructured) {
			if r.asBefore(object.RefOf(merged).Key()) {
				opts.Tried(live, merged)
			}
		}
	}
	r.manager = ssa.NewResourceManager(r.recorder, nil, ssa.Owner{Field: a.options.Owner.Manager.Name})
	r.manager.SetConcurrency(a.options.Concurrency)

	// What is ignored is part of what is desired: when the rules change, every object is looked at again.
	salt := ""
	if len(opts.Ignore) > 0 {
		text, err := json.Marshal(opts.Ignore)
		if err != nil {
			return nil, fmt.Errorf("encoding the ignore rules: %w", err)
		}
		salt = string(text)
	}
	for _, u := range objects {
		r.recorder.forced[object.RefOf(u).Key()] = object.Marked(u, api.ForceAnnotation, api.Enabled)
		digest := object.DigestOf(u)
		if salt != "" {
			digest = object.DigestOf(&unstructured.Unstructured{Object: map[string]any{"desired": digest.String(), "ignore": salt}})
		}
		r.desired[object.RefOf(u).Key()] = digest
	}
	return r, nil
}

// stage is a part of the objects that is applied together, and whether the next stage needs it to be ready.
type stage struct {
	objects []*unstructured.Unstructured
	settle  bool
}

func stages(objects []*unstructured.Unstructured, custom map[schema.GroupKind]struct{}) []stage {
	s := []stage{{settle: true}, {settle: true}, {}, {}}
	for _, u := range objects {
		i := 3
		switch {
		case utils.IsClusterDefinition(u):
			i = 0
		case utils.IsClassDefinition(u):
			i = 1
		case utils.IsCustomStage(u, custom):
			i = 2
		}
		s[i].objects = append(s[i].objects, u)
	}
	return s
}

// apply applies one stage.
func (r *run) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	var left, spared []*unstructured.Unstructured
	var changes []Change
	for _, u := range objects {
		switch {
		case r.isAsLeft(u):
			changes = append(changes, Change{Ref: object.RefOf(u), Action: Unchanged})
		case r.spares(u):
			spared = append(spared, u)
		default:
			left = append(left, u)
		}
	}
	kept, err := r.spare(ctx, spared)
	if err != nil {
		return err
	}
	changes = append(changes, kept...)
	for {
		applied, err := r.applyAll(ctx, left)
		if err == nil {
			changes = append(changes, applied...)
			break
		}
		err = r.explain(ctx, left, err)
		var refused *RefusedError
		if !r.opts.BestEffort || !errors.As(err, &refused) {
			r.done = append(r.done, r.recorder.changes(left)...)
			return err
		}
		left = r.leaveOut(left, refused) // at least one less each time
	}
	slices.SortStableFunc(changes, inOrderOf(changes))
	r.done = append(r.done, changes...)
	return nil
}

// applyAll applies objects all of which must be taken by the API server in a dry-run before any is applied. They are
// sorted.
func (r *run) applyAll(ctx context.Context, objects []*unstructured.Unstructured) ([]Change, error) {
	opts := r.ssaOptions()
	set, err := r.manager.ApplyAll(ctx, objects, opts)
	if isUndeclared(err) && !opts.MigrateAPIVersion {
		opts.MigrateAPIVersion = true // once: a field that no version has stays refused
		set, err = r.manager.ApplyAll(ctx, objects, opts)
	}
	if err != nil {
		return nil, err
	}
	changes := make([]Change, 0, len(objects))
	for i, e := range set.Entries {
		c, err := changeOf(e)
		if err != nil {
			return nil, err
		}
		// ApplyAll sorts what it is given and answers in that order.
		key := object.RefOf(objects[i]).Key()
		if c.Action != Skipped {
			c = r.recorder.corrected(c)
		}
		changes = append(changes, c)
		r.skipped[key] = c.Action == Skipped
		r.remember(key, c)
	}
	return changes, nil
}

// leaveOut returns the objects that were not refused, and notes those that were.
func (r *run) leaveOut(objects []*unstructured.Unstructured, refused *RefusedError) []*unstructured.Unstructured {
	out := make(map[object.Key]bool, len(refused.Failures))
	for _, failure := range refused.Failures {
		out[failure.Ref.Key()] = true
		r.skipped[failure.Ref.Key()] = true // so that nobody waits for it
	}
	r.refused = append(r.refused, refused.Failures...)
	return slices.DeleteFunc(objects, func(u *unstructured.Unstructured) bool {
		ref := object.RefOf(u)
		if out[ref.Key()] && utils.IsCRD(u) {
			for _, kind := range kindsOf(u) {
				r.lacking[kind.GroupKind()] = ref
			}
		}
		return out[ref.Key()]
	})
}

// inOrderOf returns a comparison by apply order.
func inOrderOf(changes []Change) func(a, b Change) int {
	sorted := ChangeSet(changes).Refs()
	object.Sort(sorted)
	rank := make(map[object.Ref]int, len(sorted))
	for i, ref := range sorted {
		rank[ref] = i
	}
	return func(a, b Change) int { return rank[a.Ref] - rank[b.Ref] }
}

// isAsLeft says whether an object is desired as it was applied last, and observed as it was left then. Anything not
// known for sure is a no.
func (r *run) isAsLeft(u *unstructured.Unstructured) bool {
	ref := object.RefOf(u)
	r.mu.Lock()
	was, ok := r.applied[r.owner][ref.Key()]
	r.mu.Unlock()
	return ok && !was.yielded && was.desired == r.desired[ref.Key()] && r.isAs(was, ref)
}

// isAs says whether an object is observed as it was left.
func (a *Applier) isAs(was applied, ref object.Ref) bool {
	is, state := a.observer.Get(ref)
	return state.Found && state.Synced && is.UID == was.uid && is.Owned == was.owned && !is.Unclean &&
		is.Health.Status != health.Terminating
}

// AsLeft says whether each of refs was applied for owner and is observed as it was left then: if what is desired has not
// changed since, an Apply would make no request. Anything not known for sure is a no.
func (a *Applier) AsLeft(owner types.NamespacedName, refs []object.Ref) bool {
	for _, ref := range refs {
		a.mu.Lock()
		was, ok := a.applied[owner][ref.Key()]
		a.mu.Unlock()
		if !ok || !a.isAs(was, ref) {
			return false
		}
	}
	return true
}

// remember notes how an object was left, so that the next run can spare the look.
func (r *run) remember(key object.Key, c Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.applied[r.owner]
	if m == nil {
		m = make(memory)
		r.applied[r.owner] = m
	}
	obs, ok := r.recorder.last(key)
	if c.Action == Skipped || !ok || obs.Owned == (object.Digest{}) {
		// Whether to skip is decided by the live object too, so it has to be read each time.
		delete(m, key)
		return
	}
	m[key] = applied{desired: r.desired[key], uid: obs.UID, owned: obs.Owned, yielded: r.recorder.yields(key)}
}

func (a *Applier) forget(owner types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.applied, owner)
}

func (r *run) ssaOptions() ssa.ApplyOptions {
	return ssa.ApplyOptions{
		Force:         r.opts.Force,
		ForceSelector: map[string]string{api.ForceAnnotation: api.Enabled},
		// Two keys in one map: either is enough to leave an object alone.
		ExclusionSelector: map[string]string{
			api.ReconcileAnnotation: api.Disabled,
			api.SSAAnnotation:       kustomizev1.IgnoreValue,
		},
		IfNotPresentSelector: map[string]string{api.SSAAnnotation: kustomizev1.IfNotPresentValue},
		// Only a recreated object is waited for by ApplyAll itself, until it is gone.
		WaitInterval:      time.Second,
		WaitTimeout:       r.opts.WaitTimeout,
		Cleanup:           r.options.Owner.cleanup(r.options.OverrideManagers),
		CustomStageKinds:  r.opts.CustomStageKinds,
		MigrateAPIVersion: r.opts.MigrateAPIVersion,
		DriftIgnoreRules:  r.opts.Ignore,
	}
}

// explain turns the error that ended a stage into one about all objects that the API server refuses. ApplyAll stops at
// the first and does not say which of its siblings would have followed, so they are tried again; that costs requests
// only when something is wrong already.
func (r *run) explain(ctx context.Context, objects []*unstructured.Unstructured, err error) error {
	var first *ssaerrors.DryRunErr
	var kept *keptError
	switch {
	case ctx.Err() != nil:
		return err
	case errors.As(err, &kept), errors.As(err, &first) && isRefusal(first.Unwrap()):
		return r.refusals(ctx, objects, err)
	case r.opts.BestEffort:
		return r.failures(objects, err)
	}
	if name, cause, ok := webhookDown(err); ok {
		return fmt.Errorf("admission webhook %q: %s: %w", name, cause, ErrWebhookUnavailable)
	}
	return err
}

// refusals tries all objects of a stage in a dry-run.
func (r *run) refusals(ctx context.Context, objects []*unstructured.Unstructured, err error) error {
	failures := make([]error, len(objects))
	var group errgroup.Group
	group.SetLimit(r.options.Concurrency)
	for i, u := range objects {
		group.Go(func() error {
			if _, _, _, err := r.manager.Diff(ctx, u, r.diffOptions()); err != nil {
				failures[i] = r.refusal(u, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return err // Nothing that was refused now says anything about an object.
	}
	refused := &RefusedError{}
	for i, failure := range failures {
		if failure != nil {
			refused.Failures = append(refused.Failures, ObjectError{
				Ref: object.RefOf(objects[i]), Err: object.MaskError(failure, objects...), Untouched: true,
			})
		}
	}
	var first *ssaerrors.DryRunErr
	if len(refused.Failures) > 0 || !errors.As(err, &first) {
		return refusedOr(refused, err)
	}
	// It has passed since; the next attempt will tell.
	ref := object.RefOf(first.InvolvedObject())
	refused.Failures = []ObjectError{{Ref: ref, Err: object.MaskError(err, objects...), Untouched: true}}
	return refused
}

func refusedOr(refused *RefusedError, err error) error {
	if len(refused.Failures) == 0 {
		return err
	}
	return refused
}

// failures is about the objects that passed the dry-run and were refused then. An API server that does not answer refuses none.
func (r *run) failures(objects []*unstructured.Unstructured, err error) error {
	refused := &RefusedError{}
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	for _, u := range objects {
		ref := object.RefOf(u)
		failure := r.recorder.failed[ref.Key()]
		if failure == nil || !isRefusal(failure) {
			continue
		}
		if name, cause, ok := webhookDown(failure); ok {
			failure = fmt.Errorf("admission webhook %q: %s: %w", name, cause, ErrWebhookUnavailable)
		}
		refused.Failures = append(refused.Failures, ObjectError{
			Ref: ref, Err: object.MaskError(fmt.Errorf("%s apply failed: %w", ref, failure), objects...),
		})
	}
	return refusedOr(refused, err)
}

// diffOptions never forces: whether an object that is refused may be made anew is refusal's to say.
func (r *run) diffOptions() ssa.DiffOptions {
	opts := r.ssaOptions()
	return ssa.DiffOptions{
		Exclusions:           opts.ExclusionSelector,
		IfNotPresentSelector: opts.IfNotPresentSelector,
	}
}

package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// Options are the flags that concern Kustomizations.
type Options struct {
	// NoCrossNamespaceRefs refuses sources of another namespace.
	NoCrossNamespaceRefs bool
	// Sharded: the cache holds one shard only, chosen by label.
	Sharded bool
	// RemoteBases lets a kustomization file name resources by URL.
	RemoteBases bool
	// StrictSubstitution fails a build on a variable that has neither a value nor a default.
	StrictSubstitution bool
	// Dependency is how often one that waits for another object looks again unasked.
	Dependency time.Duration
}

// Reconciler keeps the cluster as Kustomizations ask.
type Reconciler struct {
	// Reader reads our own objects from the cache.
	Reader client.Reader
	// Live reads past the cache.
	Live client.Reader
	// Snapshots hands out what the sources have fetched.
	Snapshots *artifact.Store
	// Cluster is where objects are applied and observed; Applier is how, as the agent itself.
	Cluster  *kube.Cluster
	Applier  *kube.Applier
	Recorder *reconcile.Recorder
	Waker    *reconcile.Waker
	Log      *slog.Logger
	Options  Options
	// ProgressAfter is how long a wait lasts before the status tells of it.
	ProgressAfter time.Duration
	// Lost is told of a source whose snapshot is not in the storage, so that it is fetched again.
	Lost func(schema.GroupVersionKind, types.NamespacedName)

	renderer   renderer
	waits      *waits
	changes    *counters                                 // of variables
	dependants *reconcile.Waitlist[types.NamespacedName] // on the Kustomization depended on
	missing    *reconcile.Waitlist[string]               // on the digest of a snapshot that is not there
}

// New completes a Reconciler whose exported fields are set. variables reads the ConfigMaps and Secrets that builds refer to.
func New(r Reconciler, variables client.Client) *Reconciler {
	r.renderer = renderer{variables: variables, remoteBases: r.Options.RemoteBases, strict: r.Options.StrictSubstitution}
	r.waits = newWaits()
	r.changes = &counters{by: map[types.NamespacedName]uint64{}}
	r.dependants = reconcile.NewWaitlist[types.NamespacedName]()
	r.missing = reconcile.NewWaitlist[string]()
	return &r
}

// attempt is one run for one Kustomization. Each field says what sets it.
type attempt struct {
	ks    *kustomizev1.Kustomization
	run   *reconcile.Run[*kustomizev1.Kustomization]
	key   types.NamespacedName
	began time.Time
	asked asked
	// Begin: the condition Healthy was true before this run.
	wasHealthy bool
	// Begin: the wait that is taken up, or nil to start from the source.
	wait *wait

	artifact  *meta.Artifact     // source
	snapshot  *artifact.Snapshot // fetch
	release   func()             // fetch; called by build
	path      string             // fetch: relative to the snapshot
	attempted bool               // fetch: the revision counts as attempted
	build     *Build             // build
	digest    string             // build, or the wait
	desired   []object.Ref       // build
	tracked   []object.Ref       // plan: the inventory as it was
	plan      Plan               // plan
	recorded  bool               // track: inventory below is to be reported
	inventory []object.Ref       // track, prune
	changed   bool               // apply, prune
	skipped   []object.Ref       // apply: left alone because an annotation says so
	leaving   []object.Ref       // prune: deleted, and not gone yet
	checked   bool               // health: there was something to wait for
}

// Kind describes Kustomizations to the shared controller.
func (r *Reconciler) Kind() reconcile.Kind[*kustomizev1.Kustomization, *attempt] {
	full := []reconcile.Step[*attempt]{
		{Name: "validate", Do: r.validate},
		{Name: "source", Do: r.source},
		{Name: "dependencies", Do: r.dependencies},
		{Name: "fetch", Do: r.fetch, Progress: progress("Fetching manifests")},
		{Name: "build", Do: r.buildObjects, Progress: progress("Building manifests")},
		{Name: "plan", Do: r.makePlan},
		{Name: "track", Do: r.track},
		{Name: "apply", Do: r.apply, Progress: progress("Detecting drift")},
		{Name: "prune", Do: r.prune},
		{Name: "health", Do: r.health, Progress: progress("Running health checks")},
	}
	resumed := full[len(full)-1:]
	return reconcile.Kind[*kustomizev1.Kustomization, *attempt]{
		GVK:           api.KustomizationKind,
		New:           func() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} },
		Suspended:     func(ks *kustomizev1.Kustomization) bool { return ks.Spec.Suspend },
		Interval:      (*kustomizev1.Kustomization).GetRequeueAfter,
		RetryInterval: (*kustomizev1.Kustomization).GetRetryInterval,
		Timeout:       (*kustomizev1.Kustomization).GetTimeout,
		Observed:      func(ks *kustomizev1.Kustomization) *int64 { return &ks.Status.ObservedGeneration },
		Handled: func(ks *kustomizev1.Kustomization) *meta.ReconcileRequestStatus {
			return &ks.Status.ReconcileRequestStatus
		},
		Begin: r.begin,
		Began: func(a *attempt) time.Time { return a.began },
		Steps: func(a *attempt) []reconcile.Step[*attempt] {
			if a.wait != nil {
				return resumed
			}
			return full
		},
		Cleanup:       []reconcile.Step[*attempt]{{Name: "finalize", Do: r.finalize}},
		Report:        r.report,
		After:         r.after,
		EventMetadata: (*attempt).metadata,
		Gone:          r.gone,
	}
}

// begin makes the attempt. It takes up an open wait if that is for what the object and its source ask now, and drops it
// otherwise: what an earlier attempt has left to report must not be reported after a later one has begun.
func (r *Reconciler) begin(ctx context.Context, run *reconcile.Run[*kustomizev1.Kustomization]) *attempt {
	ks := run.Obj
	a := &attempt{
		ks: ks, run: run, key: client.ObjectKeyFromObject(ks), began: time.Now(),
		wasHealthy: apimeta.IsStatusConditionTrue(ks.Status.Conditions, meta.HealthyCondition),
	}
	a.asked = asked{uid: ks.UID, generation: ks.Generation, requestedAt: run.RequestedAt, variables: r.changes.get(a.key)}
	w := r.waits.open(a.key)
	if w == nil {
		return a
	}
	current, err := r.currentArtifact(ctx, ks)
	switch {
	case err != nil: // the run will find out, and not get as far as to change anything
	case w.matches(a.asked, current):
		a.wait, a.artifact, a.began, a.changed = w, &w.artifact, w.began, w.changed
		a.attempted, a.digest, a.recorded, a.inventory = true, w.digest, true, w.inventory
	default:
		r.waits.drop(a.key)
	}
	return a
}

// validate refuses what this version cannot do, and what the flags forbid.
func (r *Reconciler) validate(_ context.Context, a *attempt) error {
	if err := checkSupported(a.ks); err != nil {
		return err
	}
	if source := sourceOf(a.ks); r.Options.NoCrossNamespaceRefs && source.Namespace != a.key.Namespace {
		return api.Faultf(acl.AccessDeniedReason, api.RetryNever,
			"can't access '%s/%s', cross-namespace references have been blocked", a.ks.Spec.SourceRef.Kind, source)
	}
	return nil
}

// source finds the artifact that the source offers now.
func (r *Reconciler) source(ctx context.Context, a *attempt) error {
	current, err := r.currentArtifact(ctx, a.ks)
	switch {
	case apierrors.IsNotFound(err):
		// The watch on sources wakes us when it is created.
		return api.Faultf(meta.ArtifactFailedReason, api.RetryInterval, "source '%s/%s' not found", a.ks.Spec.SourceRef.Kind, sourceOf(a.ks))
	case err != nil:
		return api.Faultf(meta.ArtifactFailedReason, api.RetryBackoff, "reading source '%s/%s': %w", a.ks.Spec.SourceRef.Kind, sourceOf(a.ks), err)
	case current == nil:
		return a.unlessApplied(api.Faultf(meta.ArtifactFailedReason, api.RetryWoken,
			"Source artifact not found, it has not been fetched yet"), r.Options.Dependency)
	}
	a.artifact = current
	return nil
}

// currentArtifact reads the source's artifact from the cache; it is nil while there is none.
func (r *Reconciler) currentArtifact(ctx context.Context, ks *kustomizev1.Kustomization) (*meta.Artifact, error) {
	kind, ok := sourceKind(ks.Spec.SourceRef.Kind)
	if !ok {
		return nil, fmt.Errorf("a Kustomization cannot read the kind %s", ks.Spec.SourceRef.Kind)
	}
	undecoded := api.Undecoded(kind)
	if err := r.read(ctx, sourceOf(ks), undecoded); err != nil {
		return nil, err
	}
	// Only the artifact is of interest, so that a bad field elsewhere does not hide what the source still offers.
	var source struct {
		Status struct {
			Artifact *meta.Artifact `json:"artifact"`
		} `json:"status"`
	}
	if err := api.Decode(undecoded, &source); err != nil {
		return nil, err
	}
	return source.Status.Artifact, nil
}

// unlessApplied is the fault of a source that has nothing to read at the moment, for instance because the storage was lost
// and it is being fetched again. Who has applied something from it before stays as it is: what is on the cluster is no
// worse for it, and the source itself tells of the trouble (faults.md F25, F32).
func (a *attempt) unlessApplied(fault error, until time.Duration) error {
	ready := reconcile.Condition(a.ks, meta.ReadyCondition)
	if ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == a.ks.Generation {
		return &reconcile.Waiting{After: until, Quiet: true}
	}
	return fault
}

func (r *Reconciler) dependencies(ctx context.Context, a *attempt) error {
	return r.checkDependencies(ctx, a.ks, a.artifact.Revision)
}

// fetch takes hold of the snapshot. Nothing is copied: it is a directory that is shared by all who read that revision.
func (r *Reconciler) fetch(_ context.Context, a *attempt) error {
	r.missing.Join(a.key, a.artifact.Digest)
	snapshot, release, err := r.Snapshots.Acquire(a.artifact.Digest)
	if errors.Is(err, artifact.ErrNotFound) {
		if kind, ok := sourceKind(a.ks.Spec.SourceRef.Kind); ok {
			r.Lost(kind, sourceOf(a.ks))
		}
		missing := api.Faultf(meta.ArtifactFailedReason, api.RetryWoken,
			"the artifact of revision %s is not in the storage, waiting for the source to fetch it again", a.artifact.Revision)
		if a.artifact.Revision != a.ks.Status.LastAppliedRevision {
			return missing // it is news that somebody waits for
		}
		return a.unlessApplied(missing, r.Options.Dependency)
	}
	r.missing.Leave(a.key)
	if err != nil {
		return api.Faultf(meta.ArtifactFailedReason, api.RetryBackoff, "opening the artifact of revision %s: %w", a.artifact.Revision, err)
	}
	path, err := checkPath(snapshot.FS(), a.ks.Spec.Path)
	if err != nil {
		release()
		return api.Faultf(meta.ArtifactFailedReason, api.RetryInterval, "%w", err)
	}
	a.snapshot, a.release, a.path, a.attempted = snapshot, release, path, true
	return nil
}

// buildObjects renders what should be on the cluster. The kustomize library knows no deadline, so it is not waited for
// longer than this run may last; the snapshot is held until it has ended.
func (r *Reconciler) buildObjects(ctx context.Context, a *attempt) error {
	type result struct {
		build *Build
		err   error
	}
	done := make(chan result, 1)
	ks := a.ks.DeepCopy()
	go func() {
		defer a.release()
		build, err := r.renderer.build(ctx, ks, a.snapshot.Dir(), a.path)
		done <- result{build, err}
	}()
	var built result
	select {
	case <-ctx.Done():
		return api.Faultf(meta.BuildFailedReason, api.RetryInterval, "the build did not end within %s", a.ks.GetTimeout())
	case built = <-done:
	}
	if built.err != nil {
		return api.AsFault(built.err, meta.BuildFailedReason, api.RetryInterval)
	}
	a.build, a.digest = built.build, built.build.Digest
	for _, u := range a.build.Objects {
		a.desired = append(a.desired, object.RefOf(u))
	}
	return nil
}

// makePlan compares the build with the inventory.
func (r *Reconciler) makePlan(_ context.Context, a *attempt) error {
	tracked, err := object.FromInventory(a.ks.Status.Inventory)
	if err != nil {
		return api.Faultf(meta.ReconciliationFailedReason, api.RetryInterval, "reading status.inventory: %w", err)
	}
	var policies []Policy
	if !a.ks.Spec.Prune {
		policies = append(policies, keepStale)
	}
	a.tracked, a.plan = tracked, makePlan(tracked, a.desired, policies...)
	return guardEmpty(a.plan, a.desired, a.ks.Annotations[api.AllowEmptyAnnotation] == "true")
}

// track puts on record what the next steps may bring about: a crash after it leaves nothing on the cluster that is in no
// inventory. When the set of objects is the same as before it costs nothing.
func (r *Reconciler) track(ctx context.Context, a *attempt) error {
	a.recorded, a.inventory = true, a.plan.Track
	r.Cluster.Observer.Watch(a.key, a.plan.Track)
	if len(a.plan.Track) > 0 {
		if err := a.run.HoldDeletion(ctx); err != nil {
			return untracked(err)
		}
	}
	return untracked(a.run.Save(ctx, func(ks *kustomizev1.Kustomization) { ks.Status.Inventory = object.ToInventory(a.inventory) }))
}

// untracked says what it means that an intent is not on record: nothing may be applied.
func untracked(err error) error {
	if err == nil || errors.Is(err, reconcile.ErrDone) {
		return err
	}
	return api.Faultf(meta.ReconciliationFailedReason, api.RetryBackoff, "recording what is to be applied: %w", err)
}

// apply brings the objects that are not as desired to be so.
func (r *Reconciler) apply(ctx context.Context, a *attempt) error {
	changes, err := r.Applier.Apply(ctx, a.key, a.build.Objects, kube.ApplyOptions{
		Force: a.ks.Spec.Force, WaitTimeout: settleTimeout(ctx),
	})
	if done := changes.Effective(); len(done) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, appliedEvent(done, a.metadata()))
	}
	for _, change := range changes {
		if change.Action == kube.Skipped {
			a.skipped = append(a.skipped, change.Ref)
		}
	}
	if err != nil {
		a.forgetRefused(err)
		return api.AsFault(err, meta.ReconciliationFailedReason, retryOf(err))
	}
	return nil
}

// forgetRefused takes out of the inventory what the API server has refused and what was not tracked before this attempt:
// nothing of it is on the cluster, and it may be something that cannot be, which nobody could ever prune.
func (a *attempt) forgetRefused(err error) {
	var refused *kube.RefusedError
	if !errors.As(err, &refused) {
		return
	}
	var refs []object.Ref
	for _, failure := range refused.Failures {
		refs = append(refs, failure.Ref)
	}
	a.inventory = object.Subtract(a.inventory, object.Subtract(refs, a.tracked))
}

// maxSettle is how long a definition may take to be ready for the objects that need it.
const maxSettle = time.Minute

// settleTimeout leaves at least half of the run's time to what comes after the definitions.
func settleTimeout(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxSettle, time.Until(deadline)/2)
	}
	return maxSettle
}

// retryOf says what makes an apply worth trying again. What the API server refused waits for another commit or for
// somebody to make room for it; anything else is trouble that passes.
func retryOf(err error) api.Retry {
	var refused *kube.RefusedError
	if errors.As(err, &refused) {
		return api.RetryInterval
	}
	return api.RetryBackoff
}

// prune deletes what is gone from Git. What could not be deleted stays tracked and is tried again.
func (r *Reconciler) prune(ctx context.Context, a *attempt) error {
	result, err := r.pruneRefs(ctx, a, a.plan.Prune)
	a.inventory = object.Union(a.desired, result.Remaining())
	a.leaving = result.With(kube.Deleting, kube.Terminating)
	if err != nil {
		return api.AsFault(err, meta.PruneFailedReason, retryOf(err))
	}
	return nil
}

// pruneRefs deletes refs and tells what was deleted, and what was not.
func (r *Reconciler) pruneRefs(ctx context.Context, a *attempt, refs []object.Ref) (kube.PruneResult, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	result, err := r.Applier.Prune(ctx, a.key, refs)
	if deleted := result.With(kube.Deleted, kube.Deleting); len(deleted) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, deletedEvent(deleted, a.metadata()))
	}
	if kept := result.Kept(); len(kept) > 0 {
		r.Recorder.Record(a.ks, keptEvent(kept, a.metadata()))
	}
	return result, err
}

// health waits, without holding a worker, until everything asked for is healthy.
func (r *Reconciler) health(_ context.Context, a *attempt) error {
	if a.wait == nil {
		a.wait = r.newWait(a)
		r.waits.put(a.key, a.wait) // before looking: what changes from here on wakes us
	}
	v := r.waits.judge(a.wait, r.look)
	if len(a.wait.targets) == 0 {
		r.rest(a, v)
		return nil
	}
	a.checked = true
	now := time.Now()
	if err := v.fault(now.After(a.wait.deadline), a.ks.GetTimeout()); err != nil {
		r.waits.end(a.wait)
		return err
	}
	if v.healthy() {
		r.rest(a, v)
		return nil
	}
	if quiet := a.wait.since.Add(r.ProgressAfter).Sub(now); quiet > 0 {
		return &reconcile.Waiting{After: quiet, Quiet: true}
	}
	return &reconcile.Waiting{After: a.wait.deadline.Sub(now) + time.Millisecond}
}

// newWait has everything observed that the attempt has to wait for.
func (r *Reconciler) newWait(a *attempt) *wait {
	now := time.Now()
	return &wait{
		asked: a.asked, artifact: *a.artifact,
		targets: r.targets(a), expiring: expiring(a.build), leaving: a.leaving,
		inventory: a.inventory, digest: a.digest, changed: a.changed,
		began: a.began, since: now, deadline: now.Add(a.ks.GetTimeout()),
	}
}

// rest ends the wait, and keeps it only to be woken when what was deleted has gone, so that the inventory can name it no more.
func (r *Reconciler) rest(a *attempt, v verdict) {
	if len(v.left) > 0 {
		r.waits.end(a.wait)
		return
	}
	r.waits.drop(a.key)
}

// targets returns what the spec wants to be healthy before this Kustomization is Ready, and has it observed. What is not
// among the objects applied carries no owner label of ours, and is observed by name. Neither the Kustomization itself nor what
// an annotation has kept from being applied is waited for.
func (r *Reconciler) targets(a *attempt) []object.Ref {
	self := object.Key{Group: api.OwnerGroup, Kind: kustomizev1.KustomizationKind, Namespace: a.key.Namespace, Name: a.key.Name}
	applied := make(map[object.Key]object.Ref, len(a.desired))
	for _, ref := range object.Subtract(a.desired, a.skipped) {
		applied[ref.Key()] = ref
	}
	wanted := object.Subtract(a.desired, a.skipped)
	if !a.ks.Spec.Wait {
		wanted = nil
		for _, check := range a.ks.Spec.HealthChecks {
			wanted = append(wanted, checkRef(check))
		}
	}
	var targets, foreign []object.Ref
	for _, target := range wanted {
		ours, ok := applied[target.Key()]
		switch {
		case target.Key() == self:
			continue
		case ok:
			target = ours // at the version at which it is observed
		default:
			foreign = append(foreign, target)
		}
		targets = append(targets, target)
	}
	r.Cluster.Observer.Pin(a.key, foreign)
	return targets
}

// expiring returns the Jobs that delete themselves when they are done: one that has gone has completed.
func expiring(build *Build) map[object.Key]bool {
	jobs := map[object.Key]bool{}
	for _, u := range build.Objects {
		if _, set, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished"); set && u.GetKind() == "Job" {
			jobs[object.RefOf(u).Key()] = true
		}
	}
	return jobs
}

// look returns an object's health as last observed.
func (r *Reconciler) look(ref object.Ref) health.Result {
	observation, state := r.Cluster.Observer.Get(ref)
	switch {
	case state.Found:
		return observation.Health
	case state.Gone():
		return health.Result{Status: health.NotFound}
	case state.Err != nil:
		return health.Result{Status: health.Unknown, Message: state.Err.Error()}
	default:
		return health.Result{Status: health.Unknown}
	}
}

// metadata are the annotations of events about the attempt.
func (a *attempt) metadata() map[string]string {
	metadata := map[string]string{revisionKey: a.ks.Status.LastAppliedRevision}
	origin := a.ks.Status.LastAppliedOriginRevision
	if a.artifact != nil {
		metadata[revisionKey], origin = a.artifact.Revision, originOf(a.artifact)
	}
	if origin != "" {
		metadata[originRevisionKey] = origin
	}
	if metadata[revisionKey] == "" {
		delete(metadata, revisionKey)
	}
	return metadata
}

// originAnnotation of an OCI artifact holds the Git revision that it was made from.
const originAnnotation = "org.opencontainers.image.revision"

// originOf returns the revision of what an artifact was made from, if it says so.
func originOf(a *meta.Artifact) string { return a.Metadata[originAnnotation] }

func checkRef(check meta.NamespacedObjectKindReference) object.Ref {
	version := check.APIVersion
	if version == "" {
		version = "apps/v1"
	}
	gv, err := schema.ParseGroupVersion(version)
	if err != nil { // the schema of the API lets anything pass; an unknown kind is then never healthy, and says so
		gv = schema.GroupVersion{Version: version}
	}
	return object.Ref{Group: gv.Group, Version: gv.Version, Kind: check.Kind, Namespace: check.Namespace, Name: check.Name}
}

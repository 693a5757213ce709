package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

	renderer   renderer
	waits      *waits
	dependants *reconcile.Waitlist[types.NamespacedName] // on the Kustomization depended on
	missing    *reconcile.Waitlist[string]               // on the digest of a snapshot that is not there
}

// New completes a Reconciler whose exported fields are set. variables reads the ConfigMaps and Secrets that builds refer to.
func New(r Reconciler, variables client.Client) *Reconciler {
	r.renderer = renderer{variables: variables, remoteBases: r.Options.RemoteBases, strict: r.Options.StrictSubstitution}
	r.waits = newWaits()
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
	// Begin: the Ready condition before this run.
	before *metav1.Condition
	// Begin: the wait that is taken up, or nil to start from the source.
	wait *wait

	artifact  *meta.Artifact     // source
	snapshot  *artifact.Snapshot // fetch
	release   func()             // fetch; called by build
	path      string             // fetch: relative to the snapshot
	attempted bool               // fetch: the revision counts as attempted
	build     *Build             // build
	digest    string             // build, or the wait
	desired   []object.Ref       // plan
	plan      Plan               // plan
	recorded  bool               // track: inventory below is to be reported
	inventory []object.Ref       // track, prune
	changed   bool               // apply, prune
	skipped   []object.Ref       // apply: left alone because an annotation says so
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

// begin makes the attempt. It takes up an open wait if that is for what the object and its source ask now.
func (r *Reconciler) begin(ctx context.Context, run *reconcile.Run[*kustomizev1.Kustomization]) *attempt {
	ks := run.Obj
	a := &attempt{
		ks: ks, run: run, key: client.ObjectKeyFromObject(ks), began: time.Now(),
		before: reconcile.Condition(ks, meta.ReadyCondition).DeepCopy(),
	}
	if w := r.waits.open(a.key); w != nil {
		if current, err := r.currentArtifact(ctx, ks); err == nil && w.matches(ks, run.RequestedAt, current) {
			a.wait, a.artifact, a.began = w, &w.artifact, w.began
			a.attempted, a.digest, a.recorded, a.inventory, a.changed = true, w.digest, true, w.inventory, w.changed
		}
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
	if err := r.Reader.Get(ctx, sourceOf(ks), undecoded); err != nil {
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
	if a.before != nil && a.before.Status == metav1.ConditionTrue && a.before.ObservedGeneration == a.ks.Generation {
		return &reconcile.Waiting{Until: until, Quiet: true}
	}
	return fault
}

func (r *Reconciler) dependencies(ctx context.Context, a *attempt) error {
	return r.checkDependencies(ctx, a.ks, a.artifact.Revision)
}

// fetch takes hold of the snapshot. Nothing is copied: it is a directory that is shared by all who read that revision.
func (r *Reconciler) fetch(_ context.Context, a *attempt) error {
	r.missing.Join(a.artifact.Digest, a.key)
	snapshot, release, err := r.Snapshots.Acquire(a.artifact.Digest)
	if errors.Is(err, artifact.ErrNotFound) {
		missing := api.Faultf(meta.ArtifactFailedReason, api.RetryWoken,
			"the artifact of revision %s is not in the storage, waiting for the source to fetch it again", a.artifact.Revision)
		if a.artifact.Revision != a.ks.Status.LastAppliedRevision {
			return missing // it is news that somebody waits for
		}
		return a.unlessApplied(missing, r.Options.Dependency)
	}
	r.missing.Leave(a.artifact.Digest, a.key)
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

// buildObjects renders what should be on the cluster.
func (r *Reconciler) buildObjects(ctx context.Context, a *attempt) error {
	defer a.release()
	build, err := r.renderer.build(ctx, a.ks, a.snapshot.Dir(), a.path)
	if err != nil {
		return api.AsFault(err, meta.BuildFailedReason, api.RetryInterval)
	}
	a.build, a.digest = build, build.Digest
	for _, u := range build.Objects {
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
	if err := guardEmpty(tracked, a.desired, a.ks.Annotations[api.AllowEmptyAnnotation] == "true"); err != nil {
		return err
	}
	var policies []Policy
	if !a.ks.Spec.Prune {
		policies = append(policies, keepStale)
	}
	a.plan = makePlan(tracked, a.desired, policies...)
	return nil
}

// track puts on record what the next steps may bring about: a crash after it leaves nothing on the cluster that is in no
// inventory. When the set of objects is the same as before it costs nothing.
func (r *Reconciler) track(ctx context.Context, a *attempt) error {
	a.recorded, a.inventory = true, a.plan.Track
	r.Cluster.Observer.Watch(a.key, a.plan.Track)
	if len(a.plan.Track) > 0 {
		if err := a.run.HoldDeletion(ctx); err != nil {
			return api.Faultf(meta.ReconciliationFailedReason, api.RetryBackoff, "%w", err)
		}
	}
	err := a.run.Save(ctx, func(ks *kustomizev1.Kustomization) { ks.Status.Inventory = object.ToInventory(a.inventory) })
	if err != nil {
		return api.Faultf(meta.ReconciliationFailedReason, api.RetryBackoff, "recording the inventory: %w", err)
	}
	return nil
}

// apply brings the objects that are not as desired to be so.
func (r *Reconciler) apply(ctx context.Context, a *attempt) error {
	changes, err := r.Applier.Apply(ctx, a.key, a.build.Objects, kube.ApplyOptions{
		Force: a.ks.Spec.Force, WaitTimeout: a.ks.GetTimeout(),
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
		return api.AsFault(err, meta.ReconciliationFailedReason, retryOf(err))
	}
	return nil
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
	remaining, err := r.pruneRefs(ctx, a, a.plan.Prune)
	a.inventory = object.Union(a.desired, remaining)
	if err != nil {
		return api.AsFault(err, meta.PruneFailedReason, api.RetryInterval)
	}
	return nil
}

// pruneRefs deletes refs and tells what was deleted.
func (r *Reconciler) pruneRefs(ctx context.Context, a *attempt, refs []object.Ref) (remaining []object.Ref, err error) {
	if len(refs) == 0 {
		return nil, nil
	}
	result, err := r.Applier.Prune(ctx, a.key, refs)
	if deleted := result.With(kube.Deleted, kube.Terminating); len(deleted) > 0 {
		a.changed = true
		r.Recorder.Record(a.ks, deletedEvent(deleted, a.metadata()))
	}
	if kept := result.Kept(); len(kept) > 0 {
		r.Recorder.Record(a.ks, keptEvent(kept, a.metadata()))
	}
	return result.Remaining(), err
}

// health waits, without holding a worker, until everything asked for is healthy.
func (r *Reconciler) health(_ context.Context, a *attempt) error {
	if a.wait == nil {
		targets := r.targets(a)
		if len(targets) == 0 {
			r.waits.drop(a.key)
			return nil
		}
		now := time.Now()
		a.wait = &wait{
			generation: a.ks.Generation, requestedAt: a.run.RequestedAt, artifact: *a.artifact,
			targets: targets, expiring: expiring(a.build), inventory: a.inventory, digest: a.digest, changed: a.changed,
			began: a.began, since: now, deadline: now.Add(a.ks.GetTimeout()),
		}
		r.waits.put(a.key, a.wait) // before looking: what changes from here on wakes us
	}
	a.checked = true
	now := time.Now()
	v := a.wait.judge(r.look)
	if err := v.fault(now.After(a.wait.deadline), a.ks.GetTimeout()); err != nil {
		r.waits.end(a.wait)
		return err
	}
	if v.healthy() {
		r.waits.drop(a.key)
		return nil
	}
	if quiet := a.wait.since.Add(r.ProgressAfter).Sub(now); quiet > 0 {
		return &reconcile.Waiting{Until: quiet, Quiet: true}
	}
	return &reconcile.Waiting{Until: a.wait.deadline.Sub(now) + time.Millisecond}
}

// targets returns what the spec wants to be healthy before this Kustomization is Ready, and has it observed. What carries
// no owner label of ours is observed one by one.
func (r *Reconciler) targets(a *attempt) []object.Ref {
	desired := make(map[object.Key]object.Ref, len(a.desired))
	for _, ref := range a.desired {
		desired[ref.Key()] = ref
	}
	var targets []object.Ref
	foreign := a.skipped
	if a.ks.Spec.Wait {
		// It would wait for itself.
		self := object.Key{Group: api.OwnerGroup, Kind: kustomizev1.KustomizationKind, Namespace: a.key.Namespace, Name: a.key.Name}
		targets = slices.DeleteFunc(slices.Clone(a.desired), func(ref object.Ref) bool { return ref.Key() == self })
	} else {
		for _, check := range a.ks.Spec.HealthChecks {
			target := checkRef(check)
			if ours, ok := desired[target.Key()]; ok {
				target = ours // at the version at which it is observed
			} else {
				foreign = append(foreign, target)
			}
			targets = append(targets, target)
		}
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
func (r *Reconciler) look(ref object.Ref) health.Status {
	observation, state := r.Cluster.Observer.Get(ref)
	switch {
	case state.Found:
		return observation.Health.Status
	case state.Gone():
		return health.NotFound
	default:
		return health.Unknown
	}
}

// metadata are the annotations of events about the attempt.
func (a *attempt) metadata() map[string]string {
	if a.artifact == nil {
		return nil
	}
	metadata := map[string]string{revisionKey: a.artifact.Revision}
	if origin := originOf(a.artifact); origin != "" {
		metadata[originRevisionKey] = origin
	}
	return metadata
}

// originOf returns the revision of what an artifact was made from, if it says so.
func originOf(a *meta.Artifact) string { return a.Metadata["org.opencontainers.image.revision"] }

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

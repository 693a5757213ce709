package sync

import (
	"context"
	"log/slog"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
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
	// AdditiveReadyExpr has a dependency with a readyExpr checked by the built-in rule as well.
	AdditiveReadyExpr bool
	// DefaultServiceAccount is whom a Kustomization acts as that names no ServiceAccount; empty for the agent itself.
	DefaultServiceAccount string
	// CustomStageKinds are applied before the bulk of the objects.
	CustomStageKinds map[schema.GroupKind]struct{}
	// MigrateAPIVersion rewrites managedFields to the version that is applied.
	MigrateAPIVersion bool
	// OrphanAfter is how long a deletion that fails is tried again before it lets go.
	OrphanAfter time.Duration
	// PruneLimit is the share of the tracked objects, in percent, that one commit may remove; 0 and 100 are no limit.
	PruneLimit int
	// InventoryLimit is how many bytes of an inventory a status, and each page beside it, may hold; DefaultInventoryLimit
	// when zero.
	InventoryLimit int
	// Decryption reads the keys of Kustomizations.
	Decryption *decrypt.Loader
	// Dependency is how often one that waits for another object looks again unasked.
	Dependency time.Duration
}

// DefaultInventoryLimit leaves half of what etcd takes for one object to conditions, history and managedFields.
const DefaultInventoryLimit = 500_000

// Reconciler keeps the cluster as Kustomizations ask.
type Reconciler struct {
	// Reader reads our own objects from the cache.
	Reader client.Reader
	// Live reads past the cache.
	Live client.Reader
	// Pages reads and writes the pages of inventories, past the cache.
	Pages client.Client
	// Snapshots hands out what the sources have fetched.
	Snapshots *artifact.Store
	// Clusters are where objects are applied and observed.
	Clusters Clusters
	Recorder *reconcile.Recorder
	Waker    *reconcile.Waker
	// Requests are those that this process makes; nil is none.
	Requests *reconcile.Requests
	Log      *slog.Logger
	Options  Options
	// ProgressAfter is how long a wait lasts before the status tells of it.
	ProgressAfter time.Duration
	// Drift looks after what was applied until the next run.
	Drift *drift.Engine
	// Lost is told of a source whose snapshot is not in the storage, so that it is fetched again.
	Lost func(schema.GroupVersionKind, types.NamespacedName)

	renderer   *renderer
	builds     *builds
	waits      *waits
	memory     *pageMemory
	changes    *reconcile.Counters // of variables
	understood *reconcile.Memo[*exprs]
	dependants *depend.Checker
	deletions  reconcile.Deletions
	missing    *reconcile.Waitlist[string] // on the digest of a snapshot that is not there
}

// New completes a Reconciler whose exported fields are set. variables reads the ConfigMaps and Secrets that builds refer to.
func New(r Reconciler, variables client.Client) *Reconciler {
	r.renderer = &renderer{variables: variables, decryption: r.Options.Decryption, remoteBases: r.Options.RemoteBases, strict: r.Options.StrictSubstitution}
	r.builds = newBuilds()
	if r.Drift == nil {
		r.Drift = drift.NewEngine(drift.Options{Log: r.Log})
	}
	r.waits, r.memory = newWaits(), newPageMemory()
	if r.Options.InventoryLimit == 0 {
		r.Options.InventoryLimit = DefaultInventoryLimit
	}
	r.changes = reconcile.NewCounters()
	r.understood = reconcile.NewMemo[*exprs]()
	objects := reconcile.Objects{Cache: r.Reader}
	if r.Options.Sharded {
		objects.Live = r.Live
	}
	r.dependants = &depend.Checker{
		Kind: api.KustomizationKind, Objects: objects, Additive: r.Options.AdditiveReadyExpr, Waiting: reconcile.NewWaitlist[depend.Ref](),
	}
	r.deletions = reconcile.Deletions{Live: r.Live, OrphanAfter: r.Options.OrphanAfter}
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

	exprs     *exprs              // validate
	annotated []depend.Dependency // validate: depended on by annotation
	artifact  *meta.Artifact      // source
	snapshot  *artifact.Snapshot  // fetch
	release   func()              // fetch; called by build
	path      string              // fetch: relative to the snapshot
	attempted bool                // fetch: the revision counts as attempted
	build     *Build              // build
	asLeft    bool                // build: the same as before, and so is all that was applied
	digest    string              // build, or the wait
	desired   []object.Ref        // build
	tracked   []object.Ref        // plan: the inventory as it was
	cluster   *kube.Cluster       // connect: where to act
	applier   *kube.Applier       // connect: as whom
	acting    time.Time           // build, apply, prune: when whom it acts as was last seen to exist
	plan      Plan                // plan
	recorded  bool                // track: inventory below is to be reported
	inventory inventory           // plan, track, apply, prune
	changed   bool                // apply, prune
	skipped   []object.Ref        // apply: left alone because an annotation says so
	leaving   []object.Ref        // prune: deleted, and not gone yet
	pending   []object.Ref        // prune: definitions that go when leaving is gone
	checked   bool                // health: there was something to wait for
	gone      []object.Ref        // finalize: deleted, or not ours to delete
	held      string              // finalize: what holds up the deletion
}

// requested says that somebody has asked for this run by hand.
func (a *attempt) requested() bool {
	return a.run.RequestedAt != a.ks.Status.LastHandledReconcileAt && a.run.RequestedAt != ""
}

// Kind describes Kustomizations to the shared controller.
func (r *Reconciler) Kind() reconcile.Kind[*kustomizev1.Kustomization, *attempt] {
	full := []reconcile.Step[*attempt]{
		{Name: "validate", Do: r.validate},
		{Name: "source", Do: r.source},
		{Name: "dependencies", Do: r.dependencies},
		{Name: "connect", Do: r.connect},
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
		Cleanup:       []reconcile.Step[*attempt]{{Name: "finalize", Do: r.finalize, Progress: (*attempt).deleting}},
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
	a.asked = asked{uid: ks.UID, generation: ks.Generation, requestedAt: run.RequestedAt, variables: r.changes.Get(a.key)}
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
	for _, check := range []func(*kustomizev1.Kustomization) error{checkSourceKind, checkApply, checkDrift} {
		if err := check(a.ks); err != nil {
			return err
		}
	}
	var err error
	if a.exprs, err = r.understand(a.ks); err != nil {
		return err
	}
	if a.annotated, err = depend.Annotated(a.ks, r.Options.NoCrossNamespaceRefs); err != nil {
		return err
	}
	if _, err := ignoreRules(a.ks); err != nil {
		return api.Faultf(api.InvalidSpecReason, api.RetryNever, "spec.ignore: %w", err)
	}
	if source := sourceOf(a.ks); r.Options.NoCrossNamespaceRefs && source.Namespace != a.key.Namespace {
		return api.Faultf(acl.AccessDeniedReason, api.RetryNever,
			"can't access '%s/%s', cross-namespace references have been blocked", a.ks.Spec.SourceRef.Kind, source)
	}
	return nil
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

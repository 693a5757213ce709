package helm

import (
	"context"
	"log/slog"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// Options are the flags and feature gates that concern HelmReleases.
type Options struct {
	// NoCrossNamespaceRefs refuses sources of another namespace.
	NoCrossNamespaceRefs bool
	// Sharded: the cache holds one shard only, chosen by label.
	Sharded bool
	// AdditiveReadyExpr has a dependency with a readyExpr checked by the built-in rule as well.
	AdditiveReadyExpr bool
	// DefaultServiceAccount is whom a HelmRelease acts as that names no ServiceAccount; empty for the agent itself.
	DefaultServiceAccount string
	// AllowDNSLookups lets templates resolve names.
	AllowDNSLookups bool
	// DisableChartDigestTracking leaves the version of a chart from an OCIRepository as the chart has it.
	DisableChartDigestTracking bool
	// UseHelm3Defaults applies by three-way merge and post-renders no hooks where the spec does not say.
	UseHelm3Defaults bool
	// DefaultToRetryOnFailure makes RetryOnFailure the strategy of those that name none.
	DefaultToRetryOnFailure bool
	// OrphanAfter is how long a deletion that fails is tried again before it lets go.
	OrphanAfter time.Duration
	// Dependency is how often one that waits for another object looks again unasked.
	Dependency time.Duration
}

// Clusters are where releases are.
type Clusters interface {
	// Own is the cluster that the agent runs on.
	Own() *kube.Cluster
	// Local is the same, and Remote is that of a kubeConfig in the owner's namespace. Either is the
	// owner's from then on. The errors of Remote are those of kube.Clusters.
	Local(owner types.NamespacedName) *kube.Cluster
	Remote(ctx context.Context, owner types.NamespacedName, ref meta.KubeConfigReference) (*kube.Cluster, error)
	// Of is the owner's cluster now.
	Of(owner types.NamespacedName) *kube.Cluster
	// Forget drops what is kept for an owner who is gone.
	Forget(owner types.NamespacedName)
}

// Reconciler keeps releases as HelmReleases ask.
type Reconciler struct {
	// Reader reads our own objects from the cache.
	Reader client.Reader
	// Live reads past the cache, and writes HelmCharts.
	Live client.Client
	// Snapshots hands out what the sources have fetched.
	Snapshots *artifact.Store
	// Charts are what was made of it.
	Charts *charts.Store
	// Clusters are where releases are made and observed.
	Clusters Clusters
	Recorder *reconcile.Recorder
	Waker    *reconcile.Waker
	// Requests are those that this process makes; nil is none.
	Requests *reconcile.Requests
	Log      *slog.Logger
	Options  Options
	// Drift looks after releases between their runs.
	Drift *drift.Engine
	// ProgressAfter is how long a wait lasts before the status tells of it.
	ProgressAfter time.Duration
	// Lost is told of a source whose snapshot is not in the storage, so that it is fetched again.
	Lost func(schema.GroupVersionKind, types.NamespacedName)

	operations *operations
	watched    *watched
	causes     *causes
	templates  *templates
	understood *reconcile.Memo[understanding]
	dependants *depend.Checker
	deletions  reconcile.Deletions
	missing    *reconcile.Waitlist[string] // on the digest of a snapshot that is not there
	changes    *reconcile.Counters         // of what values come from
}

// New completes a Reconciler whose exported fields are set.
func New(r Reconciler) *Reconciler {
	if r.Drift == nil {
		r.Drift = drift.NewEngine(drift.Options{Log: r.Log})
	}
	r.watched = newWatched(r.Drift)
	r.operations, r.causes = newOperations(r.Waker.Wake, r.Log), newCauses(r.Waker.Wake, r.Log)
	r.templates = newTemplates()
	r.understood = reconcile.NewMemo[understanding]()
	objects := reconcile.Objects{Cache: r.Reader}
	if r.Options.Sharded {
		objects.Live = r.Live
	}
	r.dependants = &depend.Checker{
		Kind: api.HelmReleaseKind, Objects: objects, Additive: r.Options.AdditiveReadyExpr, Waiting: reconcile.NewWaitlist[depend.Ref](),
	}
	r.deletions = reconcile.Deletions{Live: r.Live, OrphanAfter: r.Options.OrphanAfter}
	r.missing = reconcile.NewWaitlist[string]()
	r.changes = reconcile.NewCounters()
	return &r
}

// Kind describes HelmReleases to the shared controller.
func (r *Reconciler) Kind() reconcile.Kind[*v2.HelmRelease, *attempt] {
	full := []reconcile.Step[*attempt]{
		{Name: "validate", Do: r.validate},
		{Name: "template", Do: r.template}, // the HelmChart of spec.chart
		{Name: "dependencies", Do: r.dependencies},
		{Name: "source", Do: r.findSource},
		{Name: "connect", Do: r.connect},
		{Name: "values", Do: r.compose},
		{Name: "load", Do: r.load, Progress: progress("Loading the chart")},
		{Name: "release", Do: r.release, Progress: (*attempt).releasing},
	}
	resumed := []reconcile.Step[*attempt]{
		{Name: "validate", Do: r.validate},
		{Name: "connect", Do: r.connect},
		{Name: "release", Do: r.release, Progress: (*attempt).releasing},
	}
	return reconcile.Kind[*v2.HelmRelease, *attempt]{
		GVK:           api.HelmReleaseKind,
		New:           func() *v2.HelmRelease { return &v2.HelmRelease{} },
		Suspended:     func(hr *v2.HelmRelease) bool { return hr.Spec.Suspend },
		Interval:      func(hr *v2.HelmRelease) time.Duration { return hr.GetRequeueAfter() },
		RetryInterval: func(hr *v2.HelmRelease) time.Duration { return hr.GetRequeueAfter() },
		Timeout:       timeout,
		Observed:      func(hr *v2.HelmRelease) *int64 { return &hr.Status.ObservedGeneration },
		Handled: func(hr *v2.HelmRelease) *meta.ReconcileRequestStatus {
			return &hr.Status.ReconcileRequestStatus
		},
		Begin: r.begin,
		Began: func(a *attempt) time.Time { return a.began },
		Steps: func(a *attempt) []reconcile.Step[*attempt] {
			if a.operation != nil {
				return resumed
			}
			return full
		},
		Cleanup:       []reconcile.Step[*attempt]{{Name: "finalize", Do: r.finalize, Progress: (*attempt).deleting}},
		Report:        r.report,
		Refine:        r.refine,
		After:         r.after,
		Told:          (*attempt).told,
		EventMetadata: (*attempt).metadata,
		Gone:          r.gone,
	}
}

// prerequisites is what a run may take besides the one action that it goes along with.
const prerequisites = time.Minute

// timeout is that of the longest action, and something for what comes before it: an action of its own timeout must not be
// ended by the shorter one of the whole.
func timeout(hr *v2.HelmRelease) time.Duration {
	whole := hr.GetTimeout()
	longest := whole.Duration
	for _, of := range []time.Duration{
		hr.GetInstall().GetTimeout(whole).Duration, hr.GetUpgrade().GetTimeout(whole).Duration, hr.GetTest().GetTimeout(whole).Duration,
		hr.GetRollback().GetTimeout(whole).Duration, hr.GetUninstall().GetTimeout(whole).Duration,
	} {
		longest = max(longest, of)
	}
	return longest + prerequisites
}

// begin makes the attempt. It takes up an open operation if that is for what the object and its source ask now, and cancels
// it otherwise: whoever waits in it would hold up what is asked for since.
func (r *Reconciler) begin(ctx context.Context, run *reconcile.Run[*v2.HelmRelease]) *attempt {
	hr := run.Obj
	a := &attempt{
		hr: hr, run: run, key: client.ObjectKeyFromObject(hr), began: time.Now(), asked: r.askedBy(hr),
		force: byHand(hr, run.RequestedAt, v2.ForceRequestAnnotation, hr.Status.LastHandledForceAt),
		reset: byHand(hr, run.RequestedAt, v2.ResetRequestAnnotation, hr.Status.LastHandledResetAt),
	}
	open := r.operations.open(a.key)
	if open == nil || !hr.DeletionTimestamp.IsZero() {
		return a
	}
	current, _, err := r.currentSource(ctx, hr)
	switch {
	case err != nil: // the run will find out, and not get as far as to change anything
	case open.matches(a.asked, current.artifact):
		a.operation, a.source, a.inputs, a.began = open, current, open.inputs, open.began
	case open.mayMatch(a.asked, current.artifact):
		// Something that values come from has changed. Whether the values have, the run will find out; see takeUp.
	default:
		r.operations.cancel(a.key, errSuperseded)
	}
	return a
}

// askedBy says what the object asks for.
func (r *Reconciler) askedBy(hr *v2.HelmRelease) asked {
	return asked{uid: hr.UID, generation: hr.Generation, values: r.changes.Get(client.ObjectKeyFromObject(hr))}
}

// byHand says whether somebody asks for something, this once: the annotation has the value of the reconcile request, and neither
// has been dealt with.
func byHand(hr *v2.HelmRelease, requestedAt, annotation, handled string) bool {
	value := hr.Annotations[annotation]
	return requestedAt != "" && requestedAt != hr.Status.LastHandledReconcileAt && value == requestedAt && value != handled
}

package helm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/chartfile"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/oci"
)

// Reasons that the API module has no constants for.
const (
	noSourceArtifactReason  = "NoSourceArtifact"
	sourceUnavailableReason = "SourceUnavailable"
	unsupportedSourceReason = "UnsupportedSourceKind"
	chartReferenceReason    = "InvalidChartReference"
	chartPullReason         = "ChartPullError"
	chartPackageReason      = "ChartPackageError"
	dependencyReason        = "DependencyBuildError"
	valuesReason            = "ValuesFilesError"
	metadataReason          = "MetadataPatchError"
)

// Charts is the controller of HelmCharts together with what its watches need.
type Charts struct {
	*reconcile.Controller[*sourcev1.HelmChart, *chartAttempt]
	// Waker is a source of the controller's events.
	Waker *reconcile.Waker

	charts *charts
}

// NewCharts returns the controller of HelmCharts.
func NewCharts(o Options) *Charts {
	c := &charts{
		Options: o, lacking: reconcile.NewWaitlist[string](), waker: &reconcile.Waker{},
	}
	return &Charts{reconcile.NewController(c.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log), c.waker, c}
}

// ArtifactAdded is told when something has come into the storage; it is for artifact.Store.Subscribe.
func (c *Charts) ArtifactAdded(digest string) {
	for _, key := range c.charts.lacking.For(digest) {
		c.Waker.Wake(key)
	}
}

type charts struct {
	Options
	lacking *reconcile.Waitlist[string] // by the digest of a source's artifact that is not in the storage
	waker   *reconcile.Waker
	pulls   pulls
}

// pulls remembers which archives were downloaded, and how.
type pulls struct {
	mu   sync.Mutex
	done map[string]struct{}
}

// maxPulls bounds that; forgetting one costs downloading it once more.
const maxPulls = 4096

func (p *pulls) has(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.done[what]
	return ok
}

func (p *pulls) add(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil || len(p.done) >= maxPulls {
		p.done = map[string]struct{}{}
	}
	p.done[what] = struct{}{}
}

// chartAttempt is one run for one HelmChart.
type chartAttempt struct {
	run *reconcile.Run[*sourcev1.HelmChart]
	obj *sourcev1.HelmChart // its spec, and its status as the run found it

	source.Before

	// Set by find: the source that spec.sourceRef names, and its artifact, which a repository in a registry has none of.
	repository *sourcev1.HelmRepository // nil for other kinds
	from       *meta.Artifact

	built    build          // set by build
	artifact *meta.Artifact // set by build if the stored one is up to date, else by store
}

// build is a chart that is ready to be stored.
type build struct {
	name, version string
	packaged      bool     // it was put together here
	valuesFiles   []string // those that were merged
	archive       []byte
	verified      bool
}

func (c *charts) kind() reconcile.Kind[*sourcev1.HelmChart, *chartAttempt] {
	type obj = *sourcev1.HelmChart
	return reconcile.Kind[obj, *chartAttempt]{
		GVK:           api.HelmChartKind,
		New:           func() obj { return &sourcev1.HelmChart{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		// Every request has the timeout of its repository; this is for all that there may be to download and package.
		Timeout:       func(obj) time.Duration { return source.StoreTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         c.begin,
		Steps:         c.steps,
		Cleanup:       []reconcile.Step[*chartAttempt]{{Name: "remove", Do: c.remove}},
		Report:        c.report,
		After:         c.announce,
		EventMetadata: func(*chartAttempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          func(key types.NamespacedName) { gone(c.Options, sourcev1.HelmChartKind, key) },
	}
}

func (c *charts) steps(*chartAttempt) []reconcile.Step[*chartAttempt] {
	return []reconcile.Step[*chartAttempt]{
		{Name: "find", Do: c.find}, // read the source's object
		{Name: stepBuild, Progress: buildingChart, Do: c.build},
		{Name: stepStore, Progress: storingChart, Do: c.store},
	}
}

const stepBuild = "build"

func buildingChart(*chartAttempt) string { return "reconciliation in progress" }

func storingChart(a *chartAttempt) string { return "building artifact: " + newChart(a) }

func newChart(a *chartAttempt) string { return "new chart: " + a.built.told() }

func (c *charts) begin(_ context.Context, run *reconcile.Run[*sourcev1.HelmChart]) *chartAttempt {
	o := run.Obj.DeepCopy()
	return &chartAttempt{run: run, obj: o, Before: source.Begin(c.Store, sourcev1.HelmChartKind, o)}
}

// find reads the source's object. It is always one of the chart's own namespace.
func (c *charts) find(ctx context.Context, a *chartAttempt) error {
	ref := a.obj.Spec.SourceRef
	if v := a.obj.Spec.Verify; v != nil && ref.Kind != sourcev1.HelmRepositoryKind {
		return api.Faultf(api.UnsupportedReason, api.RetryNever, "spec.verify is for charts of a HelmRepository of type oci; remove it, or verify the %s", ref.Kind)
	}
	switch ref.Kind {
	case sourcev1.HelmRepositoryKind:
		a.repository = &sourcev1.HelmRepository{}
		return c.source(ctx, a, a.repository)
	case sourcev1.GitRepositoryKind:
		return c.source(ctx, a, &sourcev1.GitRepository{})
	case sourcev1.BucketKind:
		return c.source(ctx, a, &sourcev1.Bucket{})
	}
	return api.Faultf(unsupportedSourceReason, api.RetryNever, "spec.sourceRef.kind is %q, use HelmRepository, GitRepository or Bucket", ref.Kind)
}

func (c *charts) source(ctx context.Context, a *chartAttempt, into source.Object) error {
	ref := a.obj.Spec.SourceRef
	key := types.NamespacedName{Namespace: a.obj.Namespace, Name: ref.Name}
	undecoded := api.Undecoded(sourcev1.GroupVersion.WithKind(ref.Kind))
	err := c.Edge.Reader.Get(ctx, key, undecoded)
	if apierrors.IsNotFound(err) {
		return api.Faultf(sourceUnavailableReason, api.RetryWoken, "there is no %s %s, which spec.sourceRef names", ref.Kind, key)
	}
	if err == nil {
		err = api.Decode(undecoded, into)
	}
	if err != nil {
		return api.Faultf(sourceUnavailableReason, api.RetryBackoff, "reading the %s %s of spec.sourceRef: %w", ref.Kind, key, err)
	}
	if a.repository != nil && a.repository.Spec.Type == sourcev1.HelmRepositoryTypeOCI {
		return nil
	}
	if a.from = into.GetArtifact(); a.from == nil {
		return api.Faultf(noSourceArtifactReason, api.RetryWoken, "no artifact available for %s source '%s'", ref.Kind, ref.Name)
	}
	return nil
}

// asked is when the run's request by hand was made, as far as that can be told; zero when there is none.
func (a *chartAttempt) asked() time.Time {
	if a.run.RequestedAt == "" || a.run.RequestedAt == a.obj.Status.GetLastHandledReconcileRequest() {
		return time.Time{}
	}
	now := time.Now()
	if at, err := time.Parse(time.RFC3339Nano, a.run.RequestedAt); err == nil && at.Before(now) {
		return at // many that are asked at once share one answer
	}
	return now
}

// sourceObject names the source: of what the storage holds, the chart may be made of that one's artifacts alone.
func (a *chartAttempt) sourceObject() artifact.Object {
	ref := a.obj.Spec.SourceRef
	return artifact.Object{Kind: ref.Kind, Namespace: a.obj.Namespace, Name: ref.Name}
}

// build finds the chart and, unless the stored artifact is made of it, reads and packages it.
func (c *charts) build(ctx context.Context, a *chartAttempt) error {
	ctx = source.WithBudget(ctx, oci.NewBudget())
	var err error
	switch {
	case a.repository == nil:
		a.built, err = c.fromSnapshot(ctx, a)
	case a.repository.Spec.Type == sourcev1.HelmRepositoryTypeOCI:
		a.built, err = c.fromRegistry(ctx, a)
	default:
		a.built, err = c.fromIndex(ctx, a)
	}
	if a.from == nil || !errors.Is(err, artifact.ErrNotFound) {
		return chartFault(err)
	}
	// The storage was lost, and the source's controller is about to fetch it again. Until then nothing of the status changes.
	key := client.ObjectKeyFromObject(a.obj)
	c.lacking.Join(key, a.from.Digest)
	if f, err := c.Store.OpenFile(a.sourceObject(), a.from.Digest); err == nil {
		c.lacking.Leave(key)
		return errors.Join(f.Close(), &reconcile.Waiting{After: time.Second, Quiet: true}) // it came in between
	}
	return &reconcile.Waiting{After: c.Edge.Timing.Dependency, Quiet: true}
}

// stored reports whether the stored artifact is of the version, and of the spec as it is. As in Flux, a version is taken to
// be the same chart for ever; spec.reconcileStrategy Revision is for those who change a chart without its version.
func (a *chartAttempt) upToDate(name, version string) bool {
	s := &a.obj.Status
	return a.Stored != nil && s.ObservedGeneration == a.obj.Generation && a.Stored.HasRevision(version) && s.ObservedChartName == name
}

// buildMetadata is what the spec wants to be added to the chart's version, so that a change of what it is made of is seen
// by whoever uses it.
func (a *chartAttempt) buildMetadata() string {
	var parts []string
	if a.repository == nil && a.obj.Spec.ReconcileStrategy == sourcev1.ReconcileStrategyRevision {
		parts = append(parts, shortRevision(a.from.Revision))
	}
	if len(a.obj.Spec.ValuesFiles) > 0 {
		parts = append(parts, strconv.FormatInt(a.obj.Generation, 10))
	}
	return strings.Join(parts, ".")
}

// shortRevision is the beginning of the hash of a revision: a version may end up in a label, which has room for 63 characters.
func shortRevision(revision string) string {
	hash := revision[strings.LastIndexAny(revision, ":/@")+1:]
	return hash[:min(12, len(hash))]
}

// chartFault says under which reason an error is reported, and what makes it worth trying again.
func chartFault(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errDependency) {
		return dependencyFault(err)
	}
	if f, ok := errors.AsType[*api.Fault](err); ok {
		return f
	}
	fault := func(reason string) *api.Fault {
		return &api.Fault{Reason: reason, Retry: api.RetryInterval, Err: err}
	}
	switch {
	case errors.Is(err, errValues):
		return fault(valuesReason)
	case errors.Is(err, errMetadata):
		return fault(metadataReason)
	case errors.Is(err, errNoChart):
		return fault(chartReferenceReason)
	case errors.Is(err, chartfile.ErrInvalid), errors.Is(err, chartfile.ErrLimit), errors.Is(err, source.ErrLimit):
		return fault(chartPackageReason)
	}
	return source.FetchFault(err, chartPullReason)
}

// dependencyFault is about another repository than the object's: nothing of that is final for the object but what this
// version cannot do.
func dependencyFault(err error) error {
	cause := source.FetchFault(err, dependencyReason)
	f := &api.Fault{Reason: dependencyReason, Retry: cause.Retry, After: cause.After, Err: err}
	switch {
	case cause.Reason == api.UnsupportedReason:
		f.Reason = cause.Reason
	case cause.Retry == api.RetryNever:
		f.Retry = api.RetryInterval
	}
	return f
}

// store publishes the chart.
func (c *charts) store(_ context.Context, a *chartAttempt) (err error) {
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	file := a.built.name + "-" + a.built.version + ".tgz"
	a.artifact, err = a.PublishFile(c.Store, file, a.built.version, bytes.NewReader(a.built.archive))
	a.built.archive = nil
	return err
}

func (c *charts) remove(_ context.Context, a *chartAttempt) error { return a.Remove(c.Store) }

// told is the sentence about a chart that was built.
func (b build) told() string {
	action := "pulled"
	if b.packaged {
		action = "packaged"
	}
	s := fmt.Sprintf("%s '%s' chart with version '%s'", action, b.name, b.version)
	if len(b.valuesFiles) > 0 {
		s += fmt.Sprintf(" and merged values files %v", b.valuesFiles)
	}
	return s
}

func (b build) success() reconcile.Success {
	reason := sourcev1.ChartPullSucceededReason
	if b.packaged {
		reason = sourcev1.ChartPackageSucceededReason
	}
	return reconcile.Success{Reason: reason, Message: b.told()}
}

func (c *charts) report(a *chartAttempt, end reconcile.Outcome) reconcile.Success {
	outcome := source.Outcome{Outcome: end, Artifact: a.artifact}
	o := a.run.Obj
	switch {
	case end.Succeeded():
		outcome.Success = a.built.success()
		o.Status.ObservedChartName = a.built.name
		o.Status.ObservedValuesFiles = a.built.valuesFiles
		o.Status.ObservedSourceArtifactRevision = ""
		if a.from != nil {
			o.Status.ObservedSourceArtifactRevision = a.from.Revision
		}
		o.Status.URL = c.Store.URL(strings.ToLower(sourcev1.HelmChartKind) + "/" + o.Namespace + "/" + o.Name + "/latest.tar.gz")
	case end.Step == stepStore:
		outcome.Failed, outcome.Outdated = sourcev1.StorageOperationFailedCondition, newChart(a)
	case end.Fault != nil && isBuildReason(end.Fault.Reason):
		outcome.Failed = sourcev1.BuildFailedCondition
	}
	reportVerification(a, end)
	var success reconcile.Success
	o.Status.Artifact, success = a.Report(o, outcome)
	return success
}

func isBuildReason(reason string) bool {
	switch reason {
	case dependencyReason, valuesReason, metadataReason, chartPackageReason:
		return true
	}
	return false
}

// reportVerification sets the condition SourceVerified, which is there only where a signature is asked for.
func reportVerification(a *chartAttempt, end reconcile.Outcome) {
	o := a.run.Obj
	switch {
	case o.Spec.Verify == nil:
		reconcile.RemoveCondition(o, sourcev1.SourceVerifiedCondition)
	case a.built.verified:
		reconcile.SetCondition(o, sourcev1.SourceVerifiedCondition, metav1.ConditionTrue, meta.SucceededReason,
			fmt.Sprintf("verified signature of version %s", a.built.version))
	case end.Fault != nil && end.Fault.Reason == sourcev1.VerificationError:
		reconcile.SetCondition(o, sourcev1.SourceVerifiedCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
	default:
		// Something failed before any signature was looked at: what the last run found still holds of what it stored.
	}
}

// announce tells of a new chart in the words of its condition.
func (c *charts) announce(a *chartAttempt, end reconcile.Outcome) {
	if end.Waiting == nil && a.from != nil {
		c.lacking.Leave(client.ObjectKeyFromObject(a.obj))
	}
	if end.Succeeded() {
		a.AnnounceAs(c.Recorder, a.run.Obj, end, a.artifact, a.built.success(), a.built.success())
	}
}

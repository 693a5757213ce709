package helm

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	helmrelease "helm.sh/helm/v3/pkg/release"
	helmstorage "helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/render"
	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// job is one action with all that it needs. It runs on the goroutine of its operation, and changes nothing that others see but the
// cluster and the storage.
type job struct {
	inputs
	// hr is only read.
	hr       *v2.HelmRelease
	action   Action
	target   Target
	history  v2.Snapshots
	options  Options
	renderer *render.Renderer
	judge    *health.Judge // of spec.healthCheckExprs; nil without any
	cluster  *kube.Cluster
	user     *kube.User
	// revisions are what the storage has; newest is the last of them, nil when there is none.
	revisions *storage.Revisions
	newest    *storage.Release
	drifted   []client.Drifted // of a Correct
	log       *slog.Logger
	park      func() (resumed func())

	// ctx ends when the operation is cut off.
	ctx     context.Context
	logs    tail
	witness *witness

	mu      sync.Mutex
	made    int          // the version that this job has made; 0 when it has made none
	touched map[int]bool // versions that were written
	gone    map[int]bool // versions that were removed
	more    string       // of the message
	hooks   map[string]*v2.TestHookStatus
	objects []string
}

// run performs the action and returns what came of it.
func (j *job) run() step {
	began := time.Now()
	err := j.perform()
	result := step{
		Kind: j.action.Kind, Remedy: j.action.Remedy, Losing: j.action.Losing, Err: err, Took: time.Since(began),
		written: j.written(), gone: j.gone, objects: j.objects,
	}
	switch {
	case j.action.Kind == Test && j.hooks != nil:
		result.written = j.tested()
	case j.action.Kind == Uninstall && err == nil && j.newest != nil:
		result.written = j.removed()
	}
	result.Release = result.written[j.subject(result.written)]
	if err != nil {
		result.Blameless = j.blameless()
		if !result.Blameless && j.witness != nil {
			result.cause = causeOf(j.ctx, append(j.witness.seen(), err), j.cluster)
		}
	}
	err = object.MaskError(err, j.secret())
	result.Err = err
	of := subjectOf(result.Release, j.target, j.chartVersion())
	if err != nil && j.action.Kind.releases() { // what has failed is no release that anybody could ask for
		of = subjectOf(nil, j.target, j.chartVersion())
	}
	if result.Release == nil && j.newest != nil && !j.action.Kind.releases() {
		of = subjectOf(storage.Snapshot(j.newest.Release, "", ""), j.target, "")
	}
	if back := j.wentBackTo(); back != nil { // the message is about what was good
		of = subjectOf(back, j.target, "")
	}
	result.Reason, result.Message = j.action.Kind.words(j.action.Remedy, of, err, j.more)
	result.Manifest, result.inventory = j.consistsOf(result.Release)
	result.Logs = j.logs.text(append(secretsIn(result.Manifest), j.secret()))
	return result
}

// wentBackTo is the release that a rollback was to make anew; nil of other actions.
func (j *job) wentBackTo() *v2.Snapshot {
	if j.action.Kind != Rollback {
		return nil
	}
	for _, s := range j.history {
		if s.Version == j.action.Version {
			return s
		}
	}
	return nil
}

// consistsOf returns the manifest of a release in the storage, and what it consists of; neither when there is none.
func (j *job) consistsOf(of *v2.Snapshot) (manifest string, inventory *v2.ResourceInventory) {
	if of == nil {
		return "", nil
	}
	rel, err := j.revisions.Get(context.WithoutCancel(j.ctx), of.Version)
	if err != nil {
		return "", nil // it was removed
	}
	if j.action.Kind != Install && j.action.Kind != Upgrade && j.action.Kind != Rollback {
		return rel.Manifest, nil // the others make it of nothing else
	}
	if inventory, err = inventoryOf(rel.Release, j.bringsCRDs(), j.cluster.Mapper); err != nil {
		j.logs.printf("listing what the release consists of: %v", err) // the status keeps the list of before
	}
	return rel.Manifest, inventory
}

// bringsCRDs says whether the CustomResourceDefinitions of the chart are the release's.
func (j *job) bringsCRDs() bool {
	if j.action.Kind == Install {
		return j.hr.GetInstall().CRDs != v2.Skip && !j.hr.GetInstall().SkipCRDs
	}
	return j.hr.GetUpgrade().CRDs != v2.Skip
}

// perform does what the action is.
func (j *job) perform() (err error) {
	defer recovered(j.log, &err)
	switch j.action.Kind {
	case Install:
		return j.install()
	case Upgrade:
		return j.upgrade()
	case Test:
		return j.test()
	case Rollback:
		return j.rollback()
	case Uninstall:
		return j.uninstall()
	case Unlock:
		return j.unlock()
	case Correct:
		return j.correct()
	case None, Reset:
		return nil // which change nothing outside the status
	}
	panic("no such action: " + j.action.Kind)
}

// subject is the version that the action is about: the one it has made or, of the others, the newest that it has touched.
func (j *job) subject(written map[int]*v2.Snapshot) int {
	if j.made > 0 || j.action.Kind.releases() {
		return j.made
	}
	newest := 0
	for version := range written {
		newest = max(newest, version)
	}
	return newest
}

func (j *job) chartVersion() string {
	if j.chart == nil {
		return ""
	}
	return j.chart.Metadata().Version
}

// blameless says that nothing is known to be wrong with the release, although the action has failed.
func (j *job) blameless() bool {
	if j.ctx.Err() != nil {
		return true
	}
	return j.witness != nil && slices.ContainsFunc(j.witness.seen(), isUnanswered)
}

// client returns the SDK's access to the cluster, by an apply method.
func (j *job) client(method storage.Method) (*witness, error) {
	c, err := client.New(j.ctx, j.cluster, j.user, client.Options{
		Owner:          types.NamespacedName{Namespace: j.hr.Namespace, Name: j.hr.Name},
		Release:        types.NamespacedName{Namespace: j.target.Namespace, Name: j.target.Name},
		Method:         client.ApplyMethod(method),
		Wait:           j.waitStrategy(),
		Judge:          j.judge,
		SkipValidation: j.skipsValidation(),
		DropUnserved:   j.action.Kind == Uninstall,
		Parked:         j.park,
		Log:            j.logs.printf,
	})
	if err != nil {
		return nil, err
	}
	j.witness = &witness{Client: c}
	return j.witness, nil
}

func (j *job) waitStrategy() client.WaitStrategy {
	if s := j.hr.Spec.WaitStrategy; s != nil && s.Name != "" {
		return client.WaitStrategy(s.Name)
	}
	if j.options.UseHelm3Defaults {
		return client.Legacy
	}
	return client.Poller
}

// skipsValidation reads disableOpenAPIValidation.
func (j *job) skipsValidation() bool {
	switch j.action.Kind {
	case Install:
		return j.hr.GetInstall().DisableOpenAPIValidation
	case Upgrade:
		return j.hr.GetUpgrade().DisableOpenAPIValidation
	default:
		return true // what is rolled back to or tested was taken once
	}
}

// configure returns what Helm's SDK works with. What it stores of the literal chart is the chart that this was made of. The storage
// outlives the operation's context: that it was cut off is to be on record.
func (j *job) configure(method storage.Method, literal, original *chart.Chart) (*action.Configuration, error) {
	access, err := j.client(method)
	if err != nil {
		return nil, err
	}
	capabilities, err := client.Capabilities(j.ctx, j.cluster)
	if err != nil {
		return nil, err
	}
	releases := helmstorage.Init(&ledger{
		Driver: j.revisions.Driver(context.WithoutCancel(j.ctx), storage.Operation{Rendered: literal, Chart: original, Method: method}),
		job:    j,
	})
	releases.MaxHistory = j.hr.GetMaxHistory()
	return &action.Configuration{
		RESTClientGetter: access.Getter(), Releases: releases, KubeClient: access, Capabilities: capabilities,
		Log: j.logs.printf, HookOutputFunc: discardHookOutput,
	}, nil
}

// auto returns the apply method that a spec asks for, the one of the newest release when it leaves that open.
func (j *job) auto(mode v2.ServerSideApplyMode) storage.Method {
	switch {
	case mode == v2.ServerSideApplyEnabled:
		return storage.ServerSide
	case mode == v2.ServerSideApplyDisabled, j.newest == nil:
		return storage.ClientSide
	}
	return j.newest.Method
}

// written returns what the storage has of the versions that the action has written.
func (j *job) written() map[int]*v2.Snapshot {
	out := map[int]*v2.Snapshot{}
	for _, version := range slices.Sorted(maps.Keys(j.touched)) {
		rel, err := j.revisions.Get(context.WithoutCancel(j.ctx), version)
		if err != nil || j.gone[version] {
			continue // It was removed again: a history is no longer than it may be.
		}
		digest, made := j.ociDigestOf(version), v2.ReleaseAction("")
		if version == j.made {
			made = releaseAction(j.action)
		}
		out[version] = storage.Snapshot(rel.Release, digest, made)
	}
	return out
}

// ociDigestOf is that of the artifact that a version's chart came from, which only the history knows.
func (j *job) ociDigestOf(version int) string {
	if version == j.made && j.action.Kind.releases() {
		return j.ociDigest
	}
	if version == j.made { // a rollback: that of what it went back to
		version = j.action.Version
	}
	for _, s := range j.history {
		if s.Version == version {
			return s.OCIDigest
		}
	}
	return ""
}

// releaseAction is Flux's word for what has made a release.
func releaseAction(a Action) v2.ReleaseAction {
	switch {
	case a.Kind == Uninstall && a.Remedy:
		return v2.ReleaseActionUninstallRemediation
	case a.Kind == Install, a.Kind == Upgrade, a.Kind == Rollback, a.Kind == Uninstall:
		return v2.ReleaseAction(a.Kind)
	default:
		return ""
	}
}

// ledger is the storage that the SDK is given. It notes what is written, and has a release that was cut off say so.
type ledger struct {
	*storage.Driver
	job *job
}

var _ driver.Driver = (*ledger)(nil)

// Create stores a new release.
func (l *ledger) Create(key string, rel *helmrelease.Release) error {
	if err := l.Driver.Create(key, rel); err != nil {
		return err
	}
	l.note(rel.Version, true)
	return nil
}

// Update stores a release anew. One that fails because it was cut off is marked as such, so that whoever comes next begins it
// again and undoes nothing.
func (l *ledger) Update(key string, rel *helmrelease.Release) error {
	if rel.Version == l.job.made && rel.Info.Status == helmrelease.StatusFailed && l.job.blameless() {
		rel.Info.Description = unlocked(l.job.action.Kind.pending())
	}
	if err := l.Driver.Update(key, rel); err != nil {
		return err
	}
	l.note(rel.Version, false)
	return nil
}

// Delete removes a release.
func (l *ledger) Delete(key string) (*helmrelease.Release, error) {
	rel, err := l.Driver.Delete(key)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return rel, nil //nolint:nilerr // that it is gone is what is wanted
	}
	if err == nil {
		l.job.mu.Lock()
		l.job.gone[rel.Version] = true
		l.job.mu.Unlock()
	}
	return rel, err
}

func (l *ledger) note(version int, made bool) {
	l.job.mu.Lock()
	defer l.job.mu.Unlock()
	if made {
		l.job.made = version
	}
	l.job.touched[version] = true
	delete(l.job.gone, version)
}

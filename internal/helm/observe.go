package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/helm/values"
	"github.com/cleat-dev/cleat/internal/kube"
)

// view is what was observed of a release, with what it takes to act on it.
type view struct {
	Observed
	spec Spec
	// target is where what was observed is: where the status says, when the release has to move.
	target    Target
	user      *kube.User
	revisions *storage.Revisions
	newest    *storage.Release
	writers   *writers
	drifted   []client.Drifted
	looked    bool // for drift
	fresh     bool // the history was behind the storage, and was brought up
}

// observe looks at what the storage, the status and, when nothing else is to be done, the cluster say.
func (r *Reconciler) observe(ctx context.Context, a *attempt) (*view, error) {
	v := &view{spec: r.specOf(a)}
	var err error
	if v.user, err = a.cluster.User(a.user); err != nil {
		return nil, err
	}
	v.Observed = observedStatus(&a.hr.Status)
	v.target = v.spec.Target
	if v.At != nil && v.spec.moved(v.At) != "" {
		v.target = *v.At
	}
	v.Ended = endedIn(a)
	if err := r.observeStorage(ctx, a, v); err != nil {
		return nil, err
	}
	if c := r.operations.recall(a.key); c != nil {
		v.Cause = c.says
		v.CauseGone, err = c.changed(ctx, a.cluster, v.user.Client)
		switch {
		case apierrors.IsForbidden(err): // whoever may not look learns nothing, and is not to stand still for that
			v.Cause, v.CauseGone = "", false
		case err != nil:
			return nil, fmt.Errorf("looking whether %s: %w", c.says, err)
		}
	}
	if state, _ := stateOf(v.Observed, v.spec); state != InSync || !a.hr.GetDriftDetection().MustDetectChanges() {
		return v, nil // there is more to do than to look for drift, or nobody asks for that
	}
	return v, r.observeDrift(ctx, a, v)
}

// specOf reads what the attempt asks for.
func (r *Reconciler) specOf(a *attempt) Spec {
	install, upgrade := policies(a.hr, r.Options.DefaultToRetryOnFailure)
	spec := Spec{
		Target:       Target{Storage: a.hr.GetStorageNamespace(), Namespace: a.hr.GetReleaseNamespace(), Name: releaseName(a.hr)},
		ConfigDigest: a.configDigest, PostRenderersDigest: postRenderersDigest(a.hr), CommonMetadataDigest: commonMetadataDigest(a.hr),
		RenameInPlace: a.hr.GetUpgrade().GetChartNameChangeStrategy() == v2.ChartNameChangeStrategyInPlaceUpdate,
		Install:       install, Upgrade: upgrade,
		Tests:   a.hr.GetTest().Enable,
		Correct: a.hr.GetDriftDetection().GetMode() == v2.DriftDetectionEnabled,
		Forced:  a.force,
		Grace:   a.hr.GetTimeout().Duration,
	}
	if a.chart != nil { // a deletion has none
		spec.Target.Chart, spec.ChartVersion = a.chart.Name(), a.chart.Metadata().Version
	}
	return spec
}

// observedStatus takes from a status what a decision goes by.
func observedStatus(status *v2.HelmReleaseStatus) Observed {
	o := Observed{
		History:         slices.Clone(status.History),
		InstallFailures: status.InstallFailures, UpgradeFailures: status.UpgradeFailures,
		LastAction:          status.LastAttemptedReleaseAction,
		PostRenderersDigest: status.ObservedPostRenderersDigest, CommonMetadataDigest: status.ObservedCommonMetadataDigest,
	}
	o.History.SortByVersion()
	if len(o.History) == 0 {
		return o
	}
	latest := o.History[0]
	if status.StorageNamespace != "" {
		o.At = &Target{Storage: status.StorageNamespace, Namespace: latest.Namespace, Name: latest.Name, Chart: latest.ChartName}
	}
	if took := status.LastAttemptedReleaseActionDuration; took != nil {
		o.FailedAt = latest.LastDeployed.Add(took.Duration)
	}
	return o
}

// endedIn returns the actions that ended in the attempt, in this run and in those before.
func endedIn(a *attempt) []Ended {
	all := slices.Clone(a.ended)
	for _, s := range a.reported {
		all = append(all, Ended{s.Kind, s.Err != nil})
	}
	return all
}

// observeStorage reads what is stored of the release. What an action of this attempt has written is known without asking.
func (r *Reconciler) observeStorage(ctx context.Context, a *attempt, v *view) error {
	if a.stored == nil || a.stored.at != v.target {
		writers := &writers{Secrets: storage.Namespace{Client: r.operations.secrets(v.user), Name: v.target.Storage}, by: map[string]string{}}
		revisions, err := storage.Observe(ctx, writers, v.target.Name)
		if err != nil {
			return err
		}
		a.stored = &stored{at: v.target, revisions: revisions, writers: writers}
	}
	v.revisions, v.writers = a.stored.revisions, a.stored.writers
	newest, err := v.revisions.Last(ctx)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v.newest = newest
	if err := v.catchUp(ctx, a); err != nil {
		return err
	}
	v.Release = v.release()
	if a.hr.GetUpgrade().PreserveValues {
		// The release holds the values of older ones as well: what would be made of it now is what counts.
		v.spec.ConfigDigest = values.Digest(chartutil.CoalesceTables(charts.CopyValues(a.values), charts.CopyValues(newest.Config)))
	}
	return v.verify(ctx)
}

// stored is what the storage has of a release at one place, for the length of an attempt.
type stored struct {
	at        Target
	revisions *storage.Revisions
	writers   *writers
}

// release describes the newest release.
func (v *view) release() *Release {
	rel := v.newest
	out := &Release{
		Version: rel.Version, Status: Status(rel.Info.Status),
		Foreign: !v.writers.ours(storage.Key(rel.Name, rel.Version)), Since: rel.Info.LastDeployed.Time,
	}
	if out.Status == BeingRemoved || out.Status == Removed {
		out.Since = rel.Info.Deleted.Time
	}
	if out.Status == FailedStatus {
		out.Interrupted = interruptedIn(rel.Info.Description)
	}
	of := storage.Snapshot(rel.Release, "", "")
	out.ChartName, out.ChartVersion, out.ConfigDigest = of.ChartName, of.ChartVersion, of.ConfigDigest
	if len(v.History) > 0 {
		out.Remembered = storage.Verify(v.History[0], rel.Release)
	}
	out.Claims = claimsIn(rel.Manifest, v.target.Namespace)
	return out
}

// catchUp brings the history up to what our own kind has written to the storage since: who was at it has died between an
// effect and its record. The status tells that somebody was at it.
func (v *view) catchUp(ctx context.Context, a *attempt) error {
	if a.hr.Status.LastAttemptedReleaseAction == "" {
		return nil
	}
	known := 0
	if len(v.History) > 0 {
		known = v.History[0].Version
	}
	if v.newest.Version <= known {
		return nil // what differs now is somebody else's doing
	}
	late := map[int]*v2.Snapshot{}
	for _, header := range v.revisions.Headers() {
		// An older one has changed as well, when a newer one has taken its place.
		remembered := slices.ContainsFunc(v.History, func(s *v2.Snapshot) bool { return s.Version == header.Version })
		if header.Version < known && !remembered || !v.writers.ours(storage.Key(v.target.Name, header.Version)) {
			continue
		}
		rel, err := v.revisions.Get(ctx, header.Version)
		var corrupt *storage.CorruptError
		switch {
		case errors.Is(err, driver.ErrReleaseNotFound), errors.As(err, &corrupt):
			continue // it is no release
		case err != nil:
			return err
		case rel.Info.Status == "uninstalled":
			continue
		}
		late[header.Version] = storage.Snapshot(rel.Release, v.digestOf(header.Version, a), "")
	}
	if late[v.newest.Version] == nil {
		return nil
	}
	made := a.hr.Status.LastAttemptedReleaseAction
	if strings.HasPrefix(v.newest.Info.Description, "Rollback to ") { // which is Helm's only word for how it was made
		made = v2.ReleaseActionRollback
	}
	v.History, v.fresh = remember(v.History, late, made), true
	return nil
}

// digestOf is the digest of the artifact that a version's chart came from.
func (v *view) digestOf(version int, a *attempt) string {
	for _, s := range v.History {
		if s.Version == version {
			return s.OCIDigest
		}
	}
	return a.hr.Status.LastAttemptedRevisionDigest
}

// verify finds out which releases can be rolled back to, when that may be asked.
func (v *view) verify(ctx context.Context) error {
	if v.Release.Status != FailedStatus && !v.History.Latest().HasTestInPhase(hookFailed) {
		return nil
	}
	for _, ignoreTests := range []bool{false, true} {
		back := previous(v.History, ignoreTests)
		if back == nil || slices.Contains(v.Good, back.Version) {
			continue
		}
		rel, err := v.revisions.Get(ctx, back.Version)
		var corrupt *storage.CorruptError
		switch {
		case errors.Is(err, driver.ErrReleaseNotFound), errors.As(err, &corrupt):
		case err != nil:
			return err
		case storage.Verify(back, rel.Release):
			v.Good = append(v.Good, back.Version)
		}
	}
	return nil
}

// observeDrift compares the objects of the release with the cluster, by dry-runs. It is done in every attempt that finds nothing
// else to do: at the interval, when asked, and when something has woken the object, which may be that somebody saw one change.
func (r *Reconciler) observeDrift(ctx context.Context, a *attempt, v *view) error {
	job := r.jobOf(a, v, Action{Kind: Correct})
	job.ctx = ctx
	access, err := job.client(v.newest.Method)
	if err != nil {
		return err
	}
	objects, err := objectsIn(v.newest.Manifest)
	if err != nil {
		return fmt.Errorf("reading the manifest of release v%d: %w", v.newest.Version, err)
	}
	v.drifted, err = access.Drift(objects, ignoreRules(a.hr))
	v.looked = err == nil || len(v.drifted) > 0
	for _, d := range v.drifted {
		v.Drift = append(v.Drift, d.String())
	}
	if err != nil && len(v.drifted) == 0 {
		return fmt.Errorf("unable to determine cluster state: %w", err)
	}
	return nil // what is known to have drifted is put right, whatever is not known of the rest
}

// writers are Secrets that remember who has written each last. Helm's encoding does not say.
type writers struct {
	storage.Secrets
	mu sync.Mutex
	by map[string]string
}

// ours says whether an agent of our kind, Flux or this one, has written a Secret last. Of those that act on a cluster there is one
// at a time.
func (w *writers) ours(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.by[name] == api.HelmManager
}

func (w *writers) note(meta metav1.ObjectMeta) {
	var last time.Time
	manager := ""
	for _, entry := range meta.ManagedFields {
		if entry.Time != nil && !entry.Time.Time.Before(last) {
			last, manager = entry.Time.Time, entry.Manager
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by[meta.Name] = manager
}

func (w *writers) List(ctx context.Context, labels map[string]string, limit int) ([]corev1.Secret, bool, error) {
	secrets, more, err := w.Secrets.List(ctx, labels, limit)
	for _, s := range secrets {
		w.note(s.ObjectMeta)
	}
	return secrets, more, err
}

func (w *writers) Headers(ctx context.Context, labels map[string]string) ([]metav1.ObjectMeta, error) {
	headers, err := w.Secrets.Headers(ctx, labels)
	for _, h := range headers {
		w.note(h)
	}
	return headers, err
}

func (w *writers) Create(ctx context.Context, secret *corev1.Secret) error {
	err := w.Secrets.Create(ctx, secret)
	if err == nil {
		w.note(secret.ObjectMeta)
	}
	return err
}

func (w *writers) Update(ctx context.Context, secret *corev1.Secret) error {
	err := w.Secrets.Update(ctx, secret)
	if err == nil {
		w.note(secret.ObjectMeta)
	}
	return err
}

// secrets returns a client for the storage: one that knows Secrets.
func (s *operations) secrets(user *kube.User) ctrlclient.Client {
	c, err := ctrlclient.New(user.Config, ctrlclient.Options{HTTPClient: user.HTTP, Scheme: s.scheme, Mapper: user.Client.RESTMapper()})
	if err != nil {
		return user.Client // which refuses Secrets, in its own words
	}
	return c
}

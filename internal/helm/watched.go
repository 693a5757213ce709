package helm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/storage"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// ownerOf names a HelmRelease to the drift engine.
func ownerOf(key types.NamespacedName) drift.Owner {
	return drift.Owner{Kind: v2.HelmReleaseKind, NamespacedName: key}
}

// watched are the releases that the drift engine looks after, between the runs of their HelmReleases.
type watched struct {
	engine *drift.Engine

	mu     sync.Mutex
	by     map[types.NamespacedName]kept
	paused map[types.NamespacedName]func()
}

// kept is what of a release is looked after. When any of it changes, every object of the release is looked at again.
type kept struct {
	release    string // as the storage calls it, with its version
	generation int64
	cluster    *kube.Cluster
	user       string
}

func newWatched(engine *drift.Engine) *watched {
	return &watched{engine: engine, by: map[types.NamespacedName]kept{}, paused: map[types.NamespacedName]func(){}}
}

// pause keeps the engine off the objects of a release; it ends with resume, however often it was called.
func (w *watched) pause(key types.NamespacedName) {
	w.mu.Lock()
	_, paused := w.paused[key]
	w.mu.Unlock()
	if paused {
		return
	}
	resume := w.engine.Pause(ownerOf(key)) // which waits; nobody else pauses this object, which has one worker
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused[key] = resume
}

func (w *watched) resume(key types.NamespacedName) {
	w.mu.Lock()
	resume := w.paused[key]
	delete(w.paused, key)
	w.mu.Unlock()
	if resume != nil {
		resume()
	}
}

// is says whether just this is looked after.
func (w *watched) is(key types.NamespacedName, what kept) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.by[key] == what
}

// set notes what is looked after. A cluster that the release was on before is not watched for it any more.
func (w *watched) set(key types.NamespacedName, what kept) {
	w.mu.Lock()
	before := w.by[key].cluster
	w.by[key] = what
	w.mu.Unlock()
	if before != nil && before != what.cluster {
		before.Observer.Watch(key, nil)
	}
}

// forget ends all that is done for an object.
func (w *watched) forget(key types.NamespacedName) {
	w.engine.Forget(ownerOf(key))
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by, key)
	delete(w.paused, key)
}

// unwatch ends that a release is looked after whose drift nobody asks to be looked for.
func (r *Reconciler) unwatch(a *attempt) {
	r.watched.forget(a.key)
	if a.cluster != nil {
		a.cluster.Observer.Watch(a.key, nil)
	}
}

// guard keeps the engine off the objects while a run is at the release. An action that goes on by itself goes on being guarded: the
// run that takes notice of its end resumes.
func (r *Reconciler) guard(a *attempt) (done func()) {
	if !a.hr.GetDriftDetection().MustDetectChanges() {
		r.unwatch(a)
		return func() {}
	}
	r.watched.pause(a.key)
	return func() {
		if r.operations.open(a.key) == nil {
			r.watched.resume(a.key)
		}
	}
}

// found is an object that a run has found to have drifted.
type found struct {
	ref     object.Ref
	verdict drift.Verdict
	seen    time.Time
}

// found is what is on record of an object that the comparison has found to have drifted.
func (s *survey) found(d client.Drifted) found {
	v, ok := s.verdicts[d.Ref.Key()]
	if !ok || !v.Drifted() {
		v = drift.Verdict{Op: drift.Apply, Reason: drift.Changed}
	}
	if d.Missing {
		v = drift.Verdict{Op: drift.Create, Reason: drift.Missing}
	}
	return found{ref: d.Ref, verdict: v, seen: time.Now()}
}

// survey is what a run has to look at of a release, and what it has seen.
type survey struct {
	applier *kube.Applier
	policy  drift.Policy
	what    kept
	placed  []*unstructured.Unstructured
	ignore  []jsondiff.IgnoreRule
	// suspects are those that are not known to be as they should be, and what was seen of them.
	suspects []*unstructured.Unstructured
	verdicts map[object.Key]drift.Verdict
}

// survey finds out which objects of a release have to be compared with the cluster. What is watched and as it was left is not
// asked about, and what the engine has in hand is left to it, unless somebody asks by hand. A Secret that is written as plain text is
// always compared: server-side apply owns the field that was written, and not the data that the API server makes of it.
func (r *Reconciler) survey(ctx context.Context, a *attempt, v *view, access *client.Client, objects []*unstructured.Unstructured) (*survey, error) {
	s := &survey{ignore: ignoreRules(a.hr), verdicts: map[object.Key]drift.Verdict{}}
	var err error
	if s.applier, err = a.cluster.Applier(a.user); err != nil {
		return nil, err
	}
	s.placed, s.suspects = access.Placed(objects)
	s.what = kept{release: storage.Key(v.newest.Name, v.newest.Version), generation: a.hr.Generation, cluster: a.cluster, user: a.user}
	s.policy = policyOf(a.hr)
	s.policy.Hide = r.Drift.Hider().With(sensitive(a.secrets, s.placed))
	rules, err := jsondiff.CompileIgnoreRules(s.ignore)
	if err != nil {
		return nil, fmt.Errorf("reading the rules of what is ignored: %w", err)
	}
	refs := make([]object.Ref, 0, len(s.placed))
	for _, u := range s.placed {
		refs = append(refs, object.RefOf(u))
	}
	a.cluster.Observer.Watch(a.key, refs)
	if reconcile.Condition(a.hr, v2.DriftedCondition) != nil {
		if err := r.Drift.Restore(ctx, ownerOf(a.key)); err != nil {
			r.Log.Warn("reading the record of drift", "name", a.key.Name, "namespace", a.key.Namespace, "error", err)
		}
	}
	all := !r.watched.is(a.key, s.what) || a.run.RequestedAt != "" && a.run.RequestedAt != a.hr.Status.LastHandledReconcileAt
	looks := make([]*unstructured.Unstructured, 0, len(s.placed))
	for _, u := range s.placed {
		_, plain := u.Object["stringData"]
		if all || plain || r.unsure(a.key, s.applier, object.RefOf(u)) {
			looks = append(looks, u)
		}
	}
	s.look(ctx, a.key, looks, rules)
	return s, nil
}

// unsure says whether a run has to look at an object itself.
func (r *Reconciler) unsure(key types.NamespacedName, applier *kube.Applier, ref object.Ref) bool {
	switch applier.Standing(key, ref) {
	case kube.StandsAsLeft:
		return false
	case kube.StandsOtherwise, kube.StandsGone, kube.StandsTerminating:
		return !r.Drift.Holds(ownerOf(key), ref.Key())
	case kube.StandsUnseen, kube.StandsUntold:
		return true
	}
	return true
}

// looksAtOnce is how many objects are looked at at a time.
const looksAtOnce = 4

// look looks at objects. Those that are as they should be are noted to be, and not looked at again before they move; the others are
// suspects, whose differences are counted in Flux's way.
func (s *survey) look(ctx context.Context, key types.NamespacedName, objects []*unstructured.Unstructured, rules jsondiff.CompiledIgnoreRules) {
	kept := make([]bool, len(objects))
	verdicts := make([]drift.Verdict, len(objects))
	looks := make([]*kube.Look, len(objects))
	room := make(chan struct{}, looksAtOnce)
	var group sync.WaitGroup
	for i, u := range objects {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			l, err := s.applier.Look(ctx, key, u.DeepCopy(), kube.ApplyOptions{})
			if err != nil || l.Merged == nil { // it is forbidden, refused, or cannot be tried
				verdicts[i] = drift.Verdict{Op: drift.Apply, Reason: drift.Changed}
				return // The comparison that follows says what is wrong, in Flux's words.
			}
			verdicts[i] = drift.Judge(l.Merged, l.Live, s.policy.For(u, rules))
			if kept[i] = verdicts[i].Op == drift.Leave; verdicts[i].Reason == drift.AsDeclared {
				l.Accept()
			}
			looks[i] = l
		})
	}
	group.Wait()
	for i, u := range objects {
		if kept[i] {
			continue
		}
		s.suspects = append(s.suspects, u)
		s.verdicts[object.RefOf(u).Key()] = verdicts[i]
		if looks[i] != nil {
			s.ignore = append(s.ignore, scaledRule(u, looks[i])...)
		}
	}
}

// scaledRule spares the replicas of an object that an autoscaler sets: the dry-run has left them out (faults.md F42).
func scaledRule(desired *unstructured.Unstructured, l *kube.Look) []jsondiff.IgnoreRule {
	if l.Live == nil || l.Merged == nil {
		return nil
	}
	const path = "/spec/replicas"
	wanted, set, _ := unstructured.NestedInt64(desired.Object, "spec", "replicas")
	is, _, _ := unstructured.NestedInt64(l.Live.Object, "spec", "replicas")
	merged, _, _ := unstructured.NestedInt64(l.Merged.Object, "spec", "replicas")
	if !set || merged == wanted || merged != is {
		return nil
	}
	ref := object.RefOf(l.Live)
	return []jsondiff.IgnoreRule{{Paths: []string{path}, Selector: &jsondiff.Selector{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}}}
}

// sensitive holds what no record may show: what Secrets of the release hold, and what its values had from Secrets.
func sensitive(texts []string, objects []*unstructured.Unstructured) *unstructured.Unstructured {
	data, plain := map[string]any{}, map[string]any{}
	for i, text := range texts {
		plain[strconv.Itoa(i)] = text
	}
	for i, u := range objects {
		if u.GetKind() != "Secret" || u.GroupVersionKind().Group != "" {
			continue
		}
		for from, to := range map[string]map[string]any{"data": data, "stringData": plain} {
			values, _, _ := unstructured.NestedMap(u.Object, from)
			for key, value := range values {
				to[strconv.Itoa(i)+"."+key] = value
			}
		}
	}
	if len(data)+len(plain) == 0 {
		return nil
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": data, "stringData": plain}}
}

// policyOf is how the objects of a HelmRelease are judged, as it is now.
func policyOf(hr *v2.HelmRelease) drift.Policy {
	kind := kube.HelmReleases()
	policy := drift.Policy{
		Mode: drift.Off, Owner: types.NamespacedName{Namespace: hr.Namespace, Name: hr.Name}, Labels: kind.Labels, Manager: kind.Manager,
	}
	switch hr.GetDriftDetection().GetMode() {
	case v2.DriftDetectionEnabled:
		policy.Mode = drift.Correct
	case v2.DriftDetectionWarn:
		policy.Mode = drift.Warn
	case v2.DriftDetectionDisabled:
	}
	return policy
}

// attend has the engine look after the objects of a release that is at rest, and notes what the run has found and put right.
func (r *Reconciler) attend(a *attempt, v *view) {
	if v.survey == nil {
		return
	}
	corrected := map[string]bool{}
	for _, s := range a.reported {
		for _, name := range s.objects {
			corrected[name] = s.Kind == Correct
		}
	}
	for _, f := range a.found {
		r.Drift.NoteTold(ownerOf(a.key), f.ref, f.verdict, f.seen, corrected[f.ref.String()])
	}
	a.found = nil
	if r.watched.is(a.key, v.survey.what) {
		return
	}
	kept := make([]*unstructured.Unstructured, 0, len(v.survey.placed))
	for _, u := range v.survey.placed {
		if !client.Expires(u) {
			kept = append(kept, u)
		}
	}
	rules, err := jsondiff.CompileIgnoreRules(ignoreRules(a.hr))
	if err != nil {
		return // validate has refused it
	}
	subject := r.subjectOf(a, v)
	subject.Ignored = rules
	r.Drift.Keep(subject, kept, sensitive(a.secrets, v.survey.placed), nil)
	r.watched.set(a.key, v.survey.what)
	r.Drift.LookOver(ownerOf(a.key))
}

// subjectOf is what the engine goes by until something else is released.
func (r *Reconciler) subjectOf(a *attempt, v *view) drift.Subject {
	key, user, target, rules := a.key, v.user, v.target, ignoreRules(a.hr)
	at := at{
		generation: a.hr.Generation, cluster: a.cluster, user: user, storage: target.Storage,
		name: v.newest.Name, version: v.newest.Version, status: string(v.newest.Info.Status),
	}
	options := client.Options{
		Owner: key, Release: types.NamespacedName{Namespace: target.Namespace, Name: target.Name},
		Method: client.ApplyMethod(v.newest.Method), Wait: client.Poller, SkipValidation: true,
	}
	about := &v2.HelmRelease{TypeMeta: a.hr.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Namespace: a.hr.Namespace, Name: a.hr.Name, UID: a.hr.UID, ResourceVersion: a.hr.ResourceVersion, Annotations: a.hr.Annotations,
	}}
	about.SetGroupVersionKind(api.HelmReleaseKind)
	latest := v.History.Latest()
	account, named := r.account(a.hr)
	return drift.Subject{
		Owner: ownerOf(key), Applier: v.survey.applier,
		Policy: func(ctx context.Context) (drift.Policy, error) { return r.driftPolicy(ctx, key, at) },
		Act: func(ctx context.Context) error {
			if !named {
				return nil
			}
			return at.cluster.Exists(ctx, account)
		},
		Write: func(ctx context.Context, l *kube.Look, guard func(*unstructured.Unstructured) error) error {
			return amend(ctx, at, options, l, append(scaledRule(l.Desired(), l), rules...), guard)
		},
		Words: driftWords(latest.FullReleaseName()),
		Wake:  func() { r.Waker.Wake(key) },
		Tell: func(warning bool, reason, message string) {
			e := reconcile.Event{Type: corev1.EventTypeNormal, Reason: reason, Message: message}
			if warning {
				e.Type = corev1.EventTypeWarning
			}
			if reason == api.DriftCorrectedReason {
				e.Metadata = snapshotMetadata(latest)
			}
			r.Recorder.Record(about, e)
		},
	}
}

// amend makes one object as the release has it, by the way that the release was applied.
func amend(ctx context.Context, at at, options client.Options, l *kube.Look, ignore []jsondiff.IgnoreRule, guard func(*unstructured.Unstructured) error) error {
	access, err := client.New(ctx, at.cluster, at.user, options)
	if err != nil {
		return err
	}
	live, err := access.Amend(l.Desired(), ignore, guard)
	if err != nil || live == nil {
		return err
	}
	l.Wrote(live)
	return nil
}

// at is where a release is, and which of its versions is looked after.
type at struct {
	generation int64
	cluster    *kube.Cluster
	user       *kube.User
	storage    string
	name       string
	version    int
	status     string
}

// newest says whether the version is still the newest, and as it was: somebody with Helm's command may be at the release, and
// what they make of it is not to be undone object by object.
func (a at) newest(ctx context.Context) (bool, error) {
	is, err := a.stored(ctx, a.version)
	if err != nil || is == nil || is.Labels["status"] != a.status {
		return false, err
	}
	next, err := a.stored(ctx, a.version+1)
	return next == nil, err
}

// stored returns what is known of a version without reading it; nil when there is none.
func (a at) stored(ctx context.Context, version int) (*metav1.PartialObjectMetadata, error) {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	name := types.NamespacedName{Namespace: a.storage, Name: storage.Key(a.name, version)}
	switch err := a.user.Client.Get(ctx, name, secret); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking whether release %s v%d is the newest: %w", a.name, a.version, err)
	}
	return secret, nil
}

// driftPolicy is how the objects are judged of a release that was looked after from a generation on, as its HelmRelease is now.
func (r *Reconciler) driftPolicy(ctx context.Context, key types.NamespacedName, at at) (drift.Policy, error) {
	undecoded := api.Undecoded(api.HelmReleaseKind)
	switch err := r.Reader.Get(ctx, key, undecoded); {
	case apierrors.IsNotFound(err):
		return drift.Policy{}, drift.ErrNoOwner
	case err != nil:
		return drift.Policy{}, err
	}
	hr := &v2.HelmRelease{}
	if err := api.Decode(undecoded, hr); err != nil {
		return drift.Policy{}, errors.New("the HelmRelease cannot be decoded") // which its own run says, and why
	}
	policy := policyOf(hr)
	switch {
	case !hr.DeletionTimestamp.IsZero():
		policy.Held = drift.Deleting
	case hr.Spec.Suspend:
		policy.Held = drift.Suspended
	case hr.Generation != at.generation, r.Clusters.Of(key) != at.cluster, r.operations.open(key) != nil:
		policy.Held = drift.Outdated
	}
	if policy.Held != "" || policy.Mode == drift.Off {
		return policy, nil
	}
	newest, err := at.newest(ctx)
	if err == nil && !newest {
		policy.Held = drift.Outdated
	}
	return policy, err
}

// driftWords are Flux's words for drift.
func driftWords(release string) *drift.Words {
	return &drift.Words{
		Head: func(reason string) string {
			switch reason {
			case v2.DriftDetectedReason:
				return driftMessage(release, nil)
			case driftCorrectedReason:
				return "Cluster state of release " + release + " has been corrected:\n"
			default:
				return ""
			}
		},
		Line: driftLine,
	}
}

// driftLine is what Flux says of an object that has drifted or was corrected.
func driftLine(record drift.Record, state drift.State) string {
	missing := record.Reason == drift.Missing
	switch {
	case state == drift.Corrected && missing:
		return record.Object() + " created"
	case state == drift.Corrected:
		return record.Object() + " configured"
	case missing:
		return record.Object() + " removed"
	}
	additions, changes, removals := 0, record.Omitted, 0
	for _, d := range record.Differences {
		switch {
		case d.Live == "":
			additions++
		case d.Declared == "":
			removals++
		default:
			changes++
		}
	}
	return fmt.Sprintf("%s changed (%d additions, %d changes, %d removals)", record.Object(), additions, changes, removals)
}

package sync

import (
	"context"
	"errors"
	"strings"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// ownerOf names a Kustomization to the drift engine.
func ownerOf(key types.NamespacedName) drift.Owner {
	return drift.Owner{Kind: kustomizev1.KustomizationKind, NamespacedName: key}
}

// checkDrift refuses a mode that is not known.
func checkDrift(ks *kustomizev1.Kustomization) error {
	if _, err := drift.ParseMode(ks.Annotations, drift.Correct); err != nil {
		return api.Faultf(api.InvalidAnnotationReason, api.RetryNever, "%w", err)
	}
	return nil
}

// checkModes refuses objects with a mode that is not known: to take it for another could undo what must not be undone.
func checkModes(objects []*unstructured.Unstructured) error {
	var errs []string
	for _, u := range objects {
		if _, err := drift.ParseMode(u.GetAnnotations(), drift.Correct); err != nil {
			errs = append(errs, object.RefOf(u).String()+": "+err.Error())
		}
	}
	if len(errs) > 0 {
		return api.Faultf(api.InvalidAnnotationReason, api.RetryInterval, "%s; nothing was changed on the cluster", strings.Join(errs, "\n"))
	}
	return nil
}

// driftMode is the mode of a Kustomization whose annotation was checked.
func driftMode(ks *kustomizev1.Kustomization) drift.Mode {
	mode, err := drift.ParseMode(ks.Annotations, drift.Correct)
	if err != nil {
		return drift.Off // It has been changed since, and the run that refuses it is on its way.
	}
	return mode
}

// resumed says whether a build is the one that was applied last, in whole, by whichever process.
func (a *attempt) resumed() bool {
	last := a.ks.Status.History.Latest()
	return last != nil && last.Digest == a.digest && last.LastReconciledStatus == meta.ReconciliationSucceededReason &&
		a.ks.Status.ObservedGeneration == a.ks.Generation
}

// drifts are the objects that an apply finds not to be as they were left although nothing else is wanted of them.
type drifts struct {
	policy drift.Policy
	rules  jsondiff.CompiledIgnoreRules

	mu    sync.Mutex
	found map[object.Key]drift.Verdict
}

// tried is told of each dry-run.
func (d *drifts) tried(live, merged *unstructured.Unstructured) {
	v := drift.Judge(merged, live, d.policy.For(merged, d.rules))
	if !v.Drifted() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found[object.RefOf(merged).Key()] = v
}

// spare says of which objects nothing is put right.
func (d *drifts) spare(u *unstructured.Unstructured) bool {
	return d.policy.For(u, nil).Mode != drift.Correct
}

// lookForDrift has an apply tell of what it finds, and leave alone what is to be.
func (r *Reconciler) lookForDrift(ctx context.Context, a *attempt, opts *kube.ApplyOptions) (*drifts, error) {
	rules, err := jsondiff.CompileIgnoreRules(opts.Ignore)
	if err != nil {
		return nil, api.Faultf(api.InvalidSpecReason, api.RetryNever, "spec.ignore: %w", err) // validate has looked before
	}
	if reconcile.Condition(a.ks, api.DriftedCondition) != nil {
		if err := r.Drift.Restore(ctx, ownerOf(a.key)); err != nil {
			r.Log.Warn("reading the record of drift", "name", a.key.Name, "namespace", a.key.Namespace, "error", err)
		}
	}
	d := &drifts{policy: r.policyOf(a.ks, a.cluster), rules: rules, found: map[object.Key]drift.Verdict{}}
	d.policy.Hide = r.Drift.Hider().With(a.build.Sensitive)
	opts.Spare, opts.Resumed, opts.Tried = d.spare, a.resumed(), d.tried
	return d, nil
}

// policyOf is how the objects of a Kustomization are judged, as it is now.
func (r *Reconciler) policyOf(ks *kustomizev1.Kustomization, cluster *kube.Cluster) drift.Policy {
	kind := cluster.Owner()
	return drift.Policy{
		Mode: driftMode(ks), Owner: types.NamespacedName{Namespace: ks.Namespace, Name: ks.Name},
		Labels: kind.Labels, Manager: kind.Manager, Overridden: cluster.Overridden(),
	}
}

// keepForDrift has the engine look after what was applied from now on, and records what the apply has found.
func (r *Reconciler) keepForDrift(a *attempt, d *drifts, opts kube.ApplyOptions, changes kube.ChangeSet, whole bool) {
	opts.Spare, opts.Tried, opts.Resumed = nil, nil, false
	done := make(map[object.Key]bool, len(changes))
	for _, c := range changes {
		done[c.Ref.Key()] = true
		if v, ok := d.found[c.Ref.Key()]; ok {
			r.Drift.Note(ownerOf(a.key), c.Ref, v, c.Action == kube.Configured || c.Action == kube.Created)
		}
	}
	applied := a.build.Objects
	var wanted func(object.Key) bool
	if !whole { // Of what was not applied, what was applied before is what there is to look after.
		applied = nil
		for _, u := range a.build.Objects {
			if done[object.RefOf(u).Key()] {
				applied = append(applied, u)
			}
		}
		tracked := make(map[object.Key]bool, len(a.tracked))
		for _, ref := range object.Subtract(a.tracked, a.plan.Prune) {
			tracked[ref.Key()] = true
		}
		wanted = func(key object.Key) bool { return tracked[key] }
	}
	r.Drift.Keep(r.subjectOf(a, opts, d.rules), applied, a.build.Sensitive, wanted)
}

// subjectOf is what the engine goes by until the next apply.
func (r *Reconciler) subjectOf(a *attempt, opts kube.ApplyOptions, rules jsondiff.CompiledIgnoreRules) drift.Subject {
	key, cluster, generation := a.key, a.cluster, a.ks.Generation
	about := &kustomizev1.Kustomization{TypeMeta: a.ks.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Namespace: a.ks.Namespace, Name: a.ks.Name, UID: a.ks.UID, ResourceVersion: a.ks.ResourceVersion, Annotations: a.ks.Annotations,
	}}
	about.SetGroupVersionKind(api.KustomizationKind)
	metadata := a.metadata()
	account, named := r.account(a.ks)
	return drift.Subject{
		Owner: ownerOf(key), Applier: a.applier, Options: opts, Ignored: rules,
		Policy: func(ctx context.Context) (drift.Policy, error) { return r.driftPolicy(ctx, key, cluster, generation) },
		Act: func(ctx context.Context) error {
			if !named {
				return nil
			}
			return cluster.Exists(ctx, account)
		},
		Wake: func() { r.Waker.Wake(key) },
		Tell: func(warning bool, reason, message string) {
			kind := corev1.EventTypeNormal
			if warning {
				kind = corev1.EventTypeWarning
			}
			r.Recorder.Record(about, reconcile.Event{Type: kind, Reason: reason, Message: message, Metadata: metadata})
		},
	}
}

// driftPolicy is how the objects are judged that a Kustomization has applied at a generation to a cluster, as it is now.
func (r *Reconciler) driftPolicy(ctx context.Context, key types.NamespacedName, cluster *kube.Cluster, generation int64) (drift.Policy, error) {
	undecoded := api.Undecoded(api.KustomizationKind)
	switch err := r.Reader.Get(ctx, key, undecoded); {
	case apierrors.IsNotFound(err):
		return drift.Policy{}, drift.ErrNoOwner
	case err != nil:
		return drift.Policy{}, err
	}
	ks := &kustomizev1.Kustomization{}
	if err := api.Decode(undecoded, ks); err != nil {
		return drift.Policy{}, errors.New("the Kustomization cannot be decoded") // which its own run says, and why
	}
	policy := r.policyOf(ks, cluster)
	switch {
	case !ks.DeletionTimestamp.IsZero():
		policy.Held = drift.Deleting
	case ks.Spec.Suspend:
		policy.Held = drift.Suspended
	case ks.Generation != generation, r.Clusters.Of(key) != cluster:
		policy.Held = drift.Outdated
	}
	return policy, nil
}

// reportDrift sets the condition Drifted, which only a Kustomization has that was seen to drift.
func (r *Reconciler) reportDrift(a *attempt) {
	now := r.Drift.Condition(ownerOf(a.key))
	was := reconcile.Condition(a.ks, api.DriftedCondition)
	switch {
	case now.Reason == "" && was == nil:
	case now.Reason == "" && was.Status != metav1.ConditionTrue:
		// What an earlier process has said still holds.
	case now.Reason == "" && !a.recorded:
		// Nothing was looked at, so that nothing is known.
	case now.Reason == "":
		reconcile.SetCondition(a.ks, api.DriftedCondition, metav1.ConditionFalse, api.NoDriftDetectedReason, "all objects are as they were left")
	case now.Status:
		reconcile.SetCondition(a.ks, api.DriftedCondition, metav1.ConditionTrue, now.Reason, now.Message)
	default:
		reconcile.SetCondition(a.ks, api.DriftedCondition, metav1.ConditionFalse, now.Reason, now.Message)
	}
}

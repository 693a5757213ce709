package helm

import (
	"context"
	"fmt"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// sourceNotReadyReason: the source of the chart has nothing yet that may be used.
const sourceNotReadyReason = "SourceNotReady"

// sourceKinds are the kinds whose artifact is a chart.
var sourceKinds = []schema.GroupVersionKind{api.OCIRepositoryKind, api.HelmChartKind, api.ExternalArtifactKind}

// sourceKind returns the kind of that name.
func sourceKind(name string) (schema.GroupVersionKind, bool) {
	for _, gvk := range sourceKinds {
		if gvk.Kind == name {
			return gvk, true
		}
	}
	return schema.GroupVersionKind{}, false
}

// referenceOf returns what the spec refers to: the source of its HelmChart, or the one whose artifact is the chart.
func referenceOf(hr *v2.HelmRelease) (kind string, key types.NamespacedName) {
	if hr.HasChartTemplate() {
		ref := hr.Spec.Chart.Spec.SourceRef
		return ref.Kind, types.NamespacedName{Namespace: orElse(ref.Namespace, hr.Namespace), Name: ref.Name}
	}
	ref := hr.Spec.ChartRef
	return ref.Kind, types.NamespacedName{Namespace: orElse(ref.Namespace, hr.Namespace), Name: ref.Name}
}

// sourceOf names the object whose artifact is the chart.
func sourceOf(hr *v2.HelmRelease) source {
	if hr.HasChartTemplate() {
		return source{kind: api.HelmChartKind.Kind, key: chartKey(hr)}
	}
	kind, key := referenceOf(hr)
	return source{kind: kind, key: key}
}

// name is how messages name the source.
func (s source) name() string { return fmt.Sprintf("%s '%s'", s.kind, s.key) }

// object names the source as the storage does: only what that one has published may be read by it.
func (s source) object() artifact.Object {
	return artifact.Object{Kind: s.kind, Namespace: s.key.Namespace, Name: s.key.Name}
}

// findSource finds the artifact that the source offers now.
func (r *Reconciler) findSource(ctx context.Context, a *attempt) error {
	found, live, err := r.currentSource(ctx, a.hr)
	switch {
	case apierrors.IsNotFound(err) && a.charted != nil: // the cache has yet to hear of the HelmChart
		return r.notReady(a, found, unreconciled)
	case apierrors.IsNotFound(err):
		return api.Faultf(v2.ArtifactFailedReason, api.RetryWoken, "could not get Source object: %s not found", found.name())
	case err != nil:
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "could not get Source object: %s: %w", found.name(), err)
	case a.charted.newerThan(live):
		return r.notReady(a, found, unreconciled)
	}
	if lacking := lackingOf(live); lacking != "" {
		return r.notReady(a, found, lacking)
	}
	a.source = found
	return nil
}

// newerThan says whether a HelmChart in the cache is not yet the one that was applied: what it offers is for an earlier spec.
func (c *charted) newerThan(live *unstructured.Unstructured) bool {
	return c != nil && (live.GetUID() != c.uid || live.GetGeneration() < c.generation)
}

// notReady is the fault of a source that has nothing to use. Whoever has a release of what was there before, for the spec as it
// is, stays as it is (faults.md F25).
func (r *Reconciler) notReady(a *attempt, s source, lacking string) error {
	fault := api.Faultf(sourceNotReadyReason, api.RetryWoken, "%s is not ready: %s", s.name(), lacking)
	return a.unlessReleased(fault, r.Options.Dependency)
}

// unlessReleased is the fault of a source that has nothing to use at the moment, for instance because the storage was lost and it
// is being fetched again. Who has a release of it for the spec as it is stays Ready: what is on the cluster is no worse for
// it, and the source itself tells of the trouble (faults.md F25, F32).
func (a *attempt) unlessReleased(fault error, until time.Duration) error {
	ready := reconcile.Condition(a.hr, meta.ReadyCondition)
	if ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == a.hr.Generation {
		return &reconcile.Waiting{After: until, Quiet: true}
	}
	return fault
}

// currentSource reads the source from the cache. What it offers is nil while it has nothing to offer.
func (r *Reconciler) currentSource(ctx context.Context, hr *v2.HelmRelease) (source, *unstructured.Unstructured, error) {
	s := sourceOf(hr)
	kind, known := sourceKind(s.kind)
	if !known {
		return s, nil, fmt.Errorf("a HelmRelease cannot read the kind %s", s.kind)
	}
	live := api.Undecoded(kind)
	if err := r.dependants.Objects.Get(ctx, s.key, live); err != nil {
		return s, nil, err
	}
	state, err := readSource(live)
	if err != nil {
		return s, nil, err
	}
	s.artifact = state.Artifact
	return s, live, nil
}

// sourceState is what counts of a source's status. Nothing else of it is decoded, so that a bad field elsewhere hides nothing.
type sourceState struct {
	ObservedGeneration int64              `json:"observedGeneration"`
	Artifact           *meta.Artifact     `json:"artifact"`
	Conditions         []metav1.Condition `json:"conditions"`
}

func readSource(live *unstructured.Unstructured) (sourceState, error) {
	var s struct {
		Status sourceState `json:"status"`
	}
	err := api.Decode(live, &s)
	return s.Status, err
}

// What a source may lack.
const (
	unreconciled = "latest generation of object has not been reconciled"
	noArtifact   = "does not have an artifact"
)

// lackingOf says what a source lacks that its artifact could be used; empty when it can:
//
//	its newest generation was not looked at → what Ready says against it, or just that
//	it is stalled                           → why
//	it has no artifact                      → that
//
// A source that fails just now is used as it is: it has an artifact for the spec that it has.
func lackingOf(live *unstructured.Unstructured) string {
	s, err := readSource(live)
	if err != nil {
		return err.Error()
	}
	ready, stalled := conditionOf(s.Conditions, meta.ReadyCondition), conditionOf(s.Conditions, meta.StalledCondition)
	switch {
	// The makers of ExternalArtifacts need not say which generation they have looked at.
	case s.ObservedGeneration != live.GetGeneration() && live.GetKind() != api.ExternalArtifactKind.Kind:
		if ready != nil && ready.Status == metav1.ConditionFalse {
			return ready.Message
		}
		return unreconciled
	case stalled != nil && stalled.Status == metav1.ConditionTrue:
		return stalled.Message
	case s.Artifact == nil:
		return noArtifact
	}
	return ""
}

func conditionOf(conditions []metav1.Condition, kind string) *metav1.Condition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

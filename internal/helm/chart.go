package helm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// charted is the HelmChart of spec.chart as the API server last had it.
type charted struct {
	uid        types.UID
	generation int64
}

// templates remembers what was last applied as the HelmChart of each HelmRelease, as the API server took it. What the agent has
// not applied since it was started is applied once: the cache does not say which fields are ours and have to go.
type templates struct {
	mu sync.Mutex
	by map[types.NamespacedName]applied
}

type applied struct {
	content string
	charted charted
}

func newTemplates() *templates { return &templates{by: map[types.NamespacedName]applied{}} }

func (t *templates) get(key types.NamespacedName) applied {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[key]
}

func (t *templates) put(key types.NamespacedName, a applied) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by[key] = a
}

func (t *templates) forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, key)
}

// template sees to it that the HelmChart of spec.chart is there, and that one of another place or of an earlier spec is not.
// Which it is stands in the status before it is there.
func (r *Reconciler) template(ctx context.Context, a *attempt) error {
	want := types.NamespacedName{}
	if a.hr.HasChartTemplate() {
		want = chartKey(a.hr)
	}
	if was, named := recordedChart(a.hr); named && was != want {
		if err := r.dropChart(ctx, a, was); err != nil {
			return err
		}
	}
	if a.hr.Status.HelmChart != recordOf(want) {
		if err := r.recordChart(ctx, a, want); err != nil {
			return err
		}
	}
	if !a.hr.HasChartTemplate() {
		return nil
	}
	return r.applyChart(ctx, a)
}

// recordChart puts the name of the HelmChart on record, and a hold on the object's deletion before that.
func (r *Reconciler) recordChart(ctx context.Context, a *attempt, key types.NamespacedName) error {
	if err := a.run.HoldDeletion(ctx); err != nil {
		return err
	}
	return a.run.Save(ctx, func(hr *v2.HelmRelease) { hr.Status.HelmChart = recordOf(key) })
}

// recordOf is how the status names a HelmChart; that of none is empty.
func recordOf(key types.NamespacedName) string {
	if key.Name == "" {
		return ""
	}
	return key.String()
}

// recordedChart is the HelmChart that the status names.
func recordedChart(hr *v2.HelmRelease) (key types.NamespacedName, named bool) {
	namespace, name := hr.Status.GetHelmChart()
	return types.NamespacedName{Namespace: namespace, Name: name}, name != ""
}

// chartKey names the HelmChart of spec.chart. It is in the namespace of its source, since it can have one of its own only.
func chartKey(hr *v2.HelmRelease) types.NamespacedName {
	return types.NamespacedName{Namespace: hr.Spec.Chart.GetNamespace(hr.Namespace), Name: hr.GetHelmChartName()}
}

// applyChart applies the HelmChart unless it is as it was applied.
func (r *Reconciler) applyChart(ctx context.Context, a *attempt) error {
	want := chartOf(a.hr)
	key, name := client.ObjectKeyFromObject(want), "HelmChart/"+client.ObjectKeyFromObject(want).String()
	live := api.Undecoded(api.HelmChartKind)
	err := r.dependants.Objects.Get(ctx, key, live)
	if client.IgnoreNotFound(err) != nil {
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "reading %s: %w", name, err)
	}
	there := err == nil
	if owner := helmOwner(live); there && owner != a.key && owner.Name != "" {
		return api.Faultf(v2.ArtifactFailedReason, api.RetryInterval,
			"%s belongs to the HelmRelease %s: the namespace and name of this one make the same name; rename one of them", name, owner)
	}
	content, err := encode(want)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	before := r.templates.get(a.key)
	if there && before.content == content.text && covers(live, want) {
		a.charted = &charted{live.GetUID(), live.GetGeneration()}
		return nil
	}
	if err := r.Live.Patch(ctx, content.object, client.Apply, client.ForceOwnership, client.FieldOwner(api.HelmManager)); err != nil { //nolint:staticcheck // as internal/kube does
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "applying %s: %w", name, err)
	}
	a.charted = &charted{content.object.GetUID(), content.object.GetGeneration()}
	now := applied{content.text, *a.charted}
	r.templates.put(a.key, now)
	r.tellOfChart(a, live, there, before, now, content.object)
	return nil
}

// tellOfChart sends an event if the apply has changed something. The cache may not yet have what the last apply has brought.
func (r *Reconciler) tellOfChart(a *attempt, live *unstructured.Unstructured, there bool, before, now applied, answer *unstructured.Unstructured) {
	switch {
	case now == before:
		// It was applied so before, and the cache has not heard of it.
	case !there && before.charted.uid != now.charted.uid:
		r.Recorder.Record(a.hr, chartEvent(chartCreated, a.hr))
	case there && live.GetGeneration() == answer.GetGeneration() &&
		maps.Equal(live.GetLabels(), answer.GetLabels()) && maps.Equal(live.GetAnnotations(), answer.GetAnnotations()):
		// It was so before: only that has become known.
	default:
		r.Recorder.Record(a.hr, chartEvent(chartConfigured, a.hr))
	}
}

// encoded is an object as it is applied.
type encoded struct {
	object *unstructured.Unstructured
	text   string
}

// encode leaves out what only the API server sets.
func encode(want *sourcev1.HelmChart) (encoded, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return encoded{}, err
	}
	delete(fields, "status")
	u := &unstructured.Unstructured{Object: fields}
	u.SetGroupVersionKind(api.HelmChartKind)
	unstructured.RemoveNestedField(fields, "metadata", "creationTimestamp")
	text, err := json.Marshal(fields)
	return encoded{u, string(text)}, err
}

// chartOf returns the HelmChart that spec.chart asks for, with what the CRD sets where nothing is said.
func chartOf(hr *v2.HelmRelease) *sourcev1.HelmChart {
	template, key := hr.Spec.Chart, chartKey(hr)
	chart := &sourcev1.HelmChart{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: map[string]string{}},
		Spec: sourcev1.HelmChartSpec{
			Chart: template.Spec.Chart, Version: orElse(template.Spec.Version, "*"),
			SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: template.Spec.SourceRef.Kind, Name: template.Spec.SourceRef.Name},
			Interval:  template.GetInterval(hr.Spec.Interval), ReconcileStrategy: orElse(template.Spec.ReconcileStrategy, sourcev1.ReconcileStrategyChartVersion),
			ValuesFiles: template.Spec.ValuesFiles, IgnoreMissingValuesFiles: template.Spec.IgnoreMissingValuesFiles,
		},
	}
	if verify := template.Spec.Verify; verify != nil {
		chart.Spec.Verify = &sourcev1.HelmChartVerification{Provider: verify.Provider, SecretRef: verify.SecretRef}
	}
	if template.ObjectMeta != nil {
		maps.Copy(chart.Labels, template.ObjectMeta.Labels)
		chart.Annotations = template.ObjectMeta.Annotations
	}
	chart.Labels[api.HelmOwnerName], chart.Labels[api.HelmOwnerNamespace] = hr.Name, hr.Namespace
	return chart
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// covers says whether a live HelmChart is as it is wanted. Somebody may have suspended it, which is none of ours.
func covers(live *unstructured.Unstructured, want *sourcev1.HelmChart) bool {
	is := &sourcev1.HelmChart{}
	if err := api.Decode(live, is); err != nil {
		return false
	}
	is.Spec.Suspend, is.Spec.SourceRef.APIVersion = false, ""
	return is.DeletionTimestamp == nil && equality.Semantic.DeepEqual(is.Spec, want.Spec) && holds(is.Labels, want.Labels) && holds(is.Annotations, want.Annotations)
}

// holds says whether a has all that b has.
func holds(a, b map[string]string) bool {
	for key, value := range b {
		if is, ok := a[key]; !ok || is != value {
			return false
		}
	}
	return true
}

// helmOwner is the HelmRelease that the owner labels of an object name; the zero value when they name none.
func helmOwner(u *unstructured.Unstructured) types.NamespacedName {
	labels := u.GetLabels()
	return types.NamespacedName{Namespace: labels[api.HelmOwnerNamespace], Name: labels[api.HelmOwnerName]}
}

// dropChart deletes a HelmChart that was made for the HelmRelease. One that does not say so, by its labels, is left alone: a
// status is no proof (faults.md A24).
func (r *Reconciler) dropChart(ctx context.Context, a *attempt, key types.NamespacedName) error {
	r.templates.forget(a.key)
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(api.HelmChartKind)
	err := r.Live.Get(ctx, key, live)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "reading HelmChart/%s: %w", key, err)
	}
	if live.Labels[api.HelmOwnerName] != a.key.Name || live.Labels[api.HelmOwnerNamespace] != a.key.Namespace {
		return nil
	}
	err = r.Live.Delete(ctx, live, client.Preconditions{UID: ptr.To(live.UID), ResourceVersion: ptr.To(live.ResourceVersion)})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil: // a conflict among them: it has changed, and is to be judged again
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "deleting HelmChart/%s: %w", key, err)
	}
	r.Recorder.Record(a.hr, chartDeletedEvent(key))
	return nil
}

// progress returns what the condition Reconciling says during a step.
func progress(doing string) func(*attempt) string {
	return func(a *attempt) string {
		return strings.TrimSpace(fmt.Sprintf("%s of %s", doing, a.source.name()))
	}
}

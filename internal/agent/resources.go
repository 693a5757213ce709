package agent

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// resources is the state of our objects as metrics, read from the cache when it is asked for. Flux left these to
// kube-state-metrics in 2.1; the names are those that its dashboards and alerts still ask for.
type resources struct {
	reader client.Reader
	kinds  []schema.GroupVersionKind
	log    *slog.Logger
}

var (
	conditionDesc = prometheus.NewDesc("gotk_reconcile_condition",
		"The current condition status of a GitOps Toolkit resource reconciliation.",
		[]string{"kind", "name", "namespace", "type", "status"}, nil)
	suspendDesc = prometheus.NewDesc("gotk_suspend_status",
		"The current suspend status of a GitOps Toolkit resource.",
		[]string{"kind", "name", "namespace"}, nil)
	infoDesc = prometheus.NewDesc("gotk_resource_info",
		"The current status of a GitOps Toolkit resource.",
		[]string{"customresource_group", "customresource_version", "customresource_kind", "exported_namespace", "name",
			"ready", "suspended", "revision", "source_name", "url",
			"chart_name", "chart_version", "chart_app_version", "chart_ref_name", "chart_source_name"}, nil)
)

func newResources(reader client.Reader, kinds []schema.GroupVersionKind, log *slog.Logger) *resources {
	return &resources{reader: reader, kinds: kinds, log: log}
}

// collectTimeout bounds how long a scrape waits for a cache that is not filled.
const collectTimeout = 2 * time.Second

// Describe implements prometheus.Collector.
func (r *resources) Describe(ch chan<- *prometheus.Desc) {
	ch <- conditionDesc
	ch <- suspendDesc
	ch <- infoDesc
}

// Collect implements prometheus.Collector.
func (r *resources) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	for _, kind := range r.kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := r.reader.List(ctx, list); err != nil {
			r.log.Debug("listing for the metrics", "kind", kind.Kind, "error", err)
			continue // the cache has not started
		}
		for i := range list.Items {
			r.collect(ch, kind, &list.Items[i])
		}
	}
}

func (r *resources) collect(ch chan<- prometheus.Metric, kind schema.GroupVersionKind, u *unstructured.Unstructured) {
	name, namespace := u.GetName(), u.GetNamespace()
	ready := "Unknown"
	for condition, status := range conditions(u) {
		if condition == "Ready" {
			ready = status
		}
		for _, possible := range []string{"True", "False", "Unknown"} {
			ch <- prometheus.MustNewConstMetric(conditionDesc, prometheus.GaugeValue, oneIf(status == possible),
				kind.Kind, name, namespace, condition, possible)
		}
	}
	suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend")
	ch <- prometheus.MustNewConstMetric(suspendDesc, prometheus.GaugeValue, oneIf(suspended), kind.Kind, name, namespace)
	ch <- prometheus.MustNewConstMetric(infoDesc, prometheus.GaugeValue, 1, kind.Group, kind.Version, kind.Kind, namespace, name,
		ready, strconv.FormatBool(suspended), revisionOf(u), text(u, "spec", "sourceRef", "name"), urlOf(u),
		newest(u, "chartName"), newest(u, "chartVersion"), newest(u, "appVersion"),
		text(u, "spec", "chartRef", "name"), text(u, "spec", "chart", "spec", "sourceRef", "name"))
}

// conditions returns type → status of an object that may hold anything.
func conditions(u *unstructured.Unstructured) map[string]string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	found := map[string]string{}
	for _, entry := range list {
		if c, ok := entry.(map[string]any); ok {
			kind, _ := c["type"].(string)
			status, _ := c["status"].(string)
			found[kind] = status
		}
	}
	return found
}

// revisionOf is what a source offers, a Kustomization has applied, or a HelmRelease has released.
func revisionOf(u *unstructured.Unstructured) string {
	return cmp.Or(text(u, "status", "artifact", "revision"), text(u, "status", "lastAppliedRevision"), newest(u, "chartVersion"))
}

// newest is what a HelmRelease says of its newest release.
func newest(u *unstructured.Unstructured, field string) string {
	history, _, _ := unstructured.NestedSlice(u.Object, "status", "history")
	if len(history) == 0 {
		return "" // it has none yet, or is of another kind
	}
	snapshot, _ := history[0].(map[string]any)
	value, _ := snapshot[field].(string)
	return value
}

// urlOf is spec.url without the user and password that it may hold (faults.md A29).
func urlOf(u *unstructured.Unstructured) string {
	parsed, err := url.Parse(text(u, "spec", "url"))
	if err != nil {
		return ""
	}
	parsed.User = nil
	return parsed.String()
}

func text(u *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedString(u.Object, path...)
	return value
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

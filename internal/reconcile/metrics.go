package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// Metrics are the series that the loop itself feeds.
type Metrics struct {
	reconcile *prometheus.HistogramVec
	step      *prometheus.HistogramVec
}

// NewMetrics makes the series and registers them. The name, labels and buckets of gotk_reconcile_duration_seconds are
// Flux's, so that its dashboards keep working.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		reconcile: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "gotk_reconcile_duration_seconds",
			Help:    "The duration in seconds of a GitOps Toolkit resource reconciliation.",
			Buckets: prometheus.ExponentialBucketsRange(0.01, 1800, 10),
		}, []string{"kind", "name", "namespace"}),
		step: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cleat_step_duration_seconds",
			Help:    "How long each named step of a reconciliation took, in seconds.",
			Buckets: prometheus.ExponentialBucketsRange(0.001, 300, 12),
		}, []string{"kind", "step", "result"}),
	}
	registry.MustRegister(m.reconcile, m.step)
	return m
}

func (m *Metrics) attempt(kind string, key types.NamespacedName, took time.Duration) {
	m.reconcile.WithLabelValues(kind, key.Name, key.Namespace).Observe(took.Seconds())
}

func (m *Metrics) stepDone(kind, step, result string, took time.Duration) {
	m.step.WithLabelValues(kind, step, result).Observe(took.Seconds())
}

// forget drops the series of an object that is gone.
func (m *Metrics) forget(kind string, key types.NamespacedName) {
	m.reconcile.DeleteLabelValues(kind, key.Name, key.Namespace)
}

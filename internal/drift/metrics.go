package drift

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the series about drift.
type metrics struct {
	detections  *prometheus.CounterVec
	corrections *prometheus.CounterVec
	open        *prometheus.GaugeVec
	took        *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	labels := []string{"kind", "name", "namespace"}
	m := &metrics{
		detections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cleat_drift_detected_total", Help: "Objects that were seen not to be as they were left, by their owner.",
		}, labels),
		corrections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cleat_drift_corrected_total", Help: "Objects that were put right, by their owner.",
		}, labels),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cleat_drifted_objects", Help: "Objects that are not as they were left now, by their owner.",
		}, labels),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cleat_drift_correction_seconds",
			Help:    "From the observation of a change until the object was put right, in seconds.",
			Buckets: prometheus.ExponentialBucketsRange(0.005, 300, 14),
		}, []string{"kind"}),
	}
	if registry != nil {
		registry.MustRegister(m.detections, m.corrections, m.open, m.took)
	}
	return m
}

func (m *metrics) detected(o Owner) { m.detections.WithLabelValues(o.Kind, o.Name, o.Namespace).Inc() }

func (m *metrics) corrected(o Owner, took time.Duration) {
	m.corrections.WithLabelValues(o.Kind, o.Name, o.Namespace).Inc()
	m.took.WithLabelValues(o.Kind).Observe(took.Seconds())
}

func (m *metrics) drifted(o Owner, n int) {
	m.open.WithLabelValues(o.Kind, o.Name, o.Namespace).Set(float64(n))
}

// forget drops the series of an owner that is gone.
func (m *metrics) forget(o Owner) {
	for _, vec := range []interface{ DeleteLabelValues(...string) bool }{m.detections, m.corrections, m.open} {
		vec.DeleteLabelValues(o.Kind, o.Name, o.Namespace)
	}
}

package webhook

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// meter measures a handler, under the names that Flux's has.
type meter struct {
	next     http.Handler
	duration *prometheus.HistogramVec
	size     *prometheus.HistogramVec
	inflight prometheus.Gauge
}

// Metered returns a handler that is measured, by series that begin with a prefix and are labelled with a path.
func Metered(registry prometheus.Registerer, prefix, path string, next http.Handler) http.Handler {
	fixed := prometheus.Labels{"handler": path, "service": ""}
	m := &meter{
		next: next,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_duration_seconds", Help: "The latency of the HTTP requests.", ConstLabels: fixed, Buckets: prometheus.DefBuckets,
		}, []string{"code", "method"}),
		size: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "response_size_bytes", Help: "The size of the HTTP responses.", ConstLabels: fixed, Buckets: prometheus.ExponentialBuckets(100, 10, 8),
		}, []string{"code", "method"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "requests_inflight", Help: "The number of inflight requests being handled at the same time.", ConstLabels: fixed,
		}),
	}
	registry.MustRegister(m.duration, m.size, m.inflight)
	return m
}

func (m *meter) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	m.inflight.Inc()
	defer m.inflight.Dec()
	began, answer := time.Now(), &answer{ResponseWriter: w, status: http.StatusOK}
	m.next.ServeHTTP(answer, req)
	code, method := strconv.Itoa(answer.status), methodLabel(req.Method)
	m.duration.WithLabelValues(code, method).Observe(time.Since(began).Seconds())
	m.size.WithLabelValues(code, method).Observe(float64(answer.bytes))
}

// methodLabel is the method, of those that there are: a caller may name any (faults.md A43).
func methodLabel(method string) string {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions}, method) {
		return method
	}
	return "other"
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	status, bytes int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	n, err := a.ResponseWriter.Write(p)
	a.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

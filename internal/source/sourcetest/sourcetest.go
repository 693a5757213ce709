package sourcetest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// Client returns a client of an API server that has the objects; those of kinds have a status of their own.
func Client(objects []client.Object, kinds ...client.Object) client.Client {
	return fake.NewClientBuilder().WithScheme(api.NewScheme()).WithObjects(objects...).WithStatusSubresource(kinds...).Build()
}

// Edge returns what a controller knows of the cluster behind c. It retries after a second, and after a minute at most.
func Edge(c client.Client) reconcile.Edge {
	return reconcile.Edge{
		Reader: c, Client: c, Metrics: reconcile.NewMetrics(prometheus.NewRegistry()), Watchdog: reconcile.NewWatchdog(),
		Timing: reconcile.Timing{MinRetry: time.Second, MaxRetry: time.Minute, Dependency: time.Minute},
	}
}

// Events keeps events as "type reason message map[metadata]". It is a record.EventRecorder, and its zero value is ready.
type Events struct {
	mu     sync.Mutex
	events []string
}

// AnnotatedEventf implements record.EventRecorder.
func (e *Events) AnnotatedEventf(_ runtime.Object, metadata map[string]string, kind, reason, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, fmt.Sprintf("%s %s %s %v", kind, reason, fmt.Sprintf(format, args...), metadata))
}

// Event implements record.EventRecorder.
func (e *Events) Event(o runtime.Object, kind, reason, message string) {
	e.AnnotatedEventf(o, nil, kind, reason, "%s", message)
}

// Eventf implements record.EventRecorder.
func (e *Events) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	e.AnnotatedEventf(o, nil, kind, reason, format, args...)
}

// Take returns the events since it was called last.
func (e *Events) Take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := e.events
	e.events = nil
	return events
}

// Words does the same, without the metadata.
func (e *Events) Words() []string {
	events := e.Take()
	for i, event := range events {
		events[i], _, _ = strings.Cut(event, " map[")
	}
	return events
}

package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Severity is how Flux grades events.
type Severity string

const (
	// SeverityInfo is that of Normal events.
	SeverityInfo Severity = "info"
	// SeverityError is that of Warnings.
	SeverityError Severity = "error"
)

func severityOf(eventType string) Severity {
	if eventType == corev1.EventTypeWarning {
		return SeverityError
	}
	return SeverityInfo
}

// News is an event as it is told inside the process. Its JSON is what Flux's controllers send to notification-controller:
// metadata keys are still prefixed, by the kind's API group or by event.toolkit.fluxcd.io.
type News struct {
	InvolvedObject      corev1.ObjectReference `json:"involvedObject"`
	Severity            Severity               `json:"severity"`
	Timestamp           metav1.Time            `json:"timestamp"`
	Message             string                 `json:"message"`
	Reason              string                 `json:"reason"`
	Metadata            map[string]string      `json:"metadata,omitempty"`
	ReportingController string                 `json:"reportingController"`
	ReportingInstance   string                 `json:"reportingInstance,omitempty"`

	// Turn is set on what is no event: it tells that the object's condition Ready has become another, in the words of the condition.
	Turn Turn `json:"-"`
}

// Turn is how an attempt at an object has ended that ended otherwise than the one before. It comes from the condition and not from
// events: there are warnings about objects that are ready, and good news of objects that are not.
type Turn string

const (
	// TurnedBad is Ready=False, after anything else.
	TurnedBad Turn = "bad"
	// TurnedGood is Ready=True after Ready=False.
	TurnedGood Turn = "good"
)

// Bus takes news to whoever in this process has subscribed. Telling never waits for a consumer: each has a bounded queue of
// its own, and one that does not keep up loses its oldest news, which is counted (docs/adr/0037). A nil *Bus tells nobody.
type Bus struct {
	dropped *prometheus.CounterVec
	now     func() time.Time

	mu        sync.Mutex
	consumers map[*Subscription]struct{}
}

// NewBus returns a bus without consumers, and registers the count of what those will lose.
func NewBus(registry prometheus.Registerer) *Bus {
	b := &Bus{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cleat_events_dropped_total",
			Help: "Events that a consumer inside the agent was too slow for.",
		}, []string{"consumer"}),
		now: time.Now, consumers: map[*Subscription]struct{}{},
	}
	registry.MustRegister(b.dropped)
	return b
}

// Subscribe begins to queue all news for a consumer, of which it holds limit at most. The name is a metric label: it is the
// same for every subscription of the same consumer. Close ends it.
func (b *Bus) Subscribe(name string, limit int) *Subscription {
	s := &Subscription{bus: b, ring: make([]News, limit), ready: make(chan struct{}, 1), dropped: b.dropped.WithLabelValues(name)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.consumers[s] = struct{}{}
	return s
}

// tell hands news to every consumer. They share its metadata, and only read it.
func (b *Bus) tell(n News) {
	if b == nil {
		return
	}
	n.Timestamp = metav1.NewTime(b.now())
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.consumers {
		s.add(n)
	}
}

// Subscription is one consumer's queue. It is for one reader.
type Subscription struct {
	bus     *Bus
	dropped prometheus.Counter
	ready   chan struct{} // there may be something in the ring: a level

	mu    sync.Mutex
	ring  []News
	first int // of those that are queued
	count int
}

func (s *Subscription) add(n News) {
	s.mu.Lock()
	if s.count == len(s.ring) {
		s.first = (s.first + 1) % len(s.ring)
		s.count--
		s.dropped.Inc()
	}
	s.ring[(s.first+s.count)%len(s.ring)] = n
	s.count++
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default: // it is set already
	}
}

// Next returns the oldest news that is queued, and waits for some when there is none. It returns ctx's error when that ends.
func (s *Subscription) Next(ctx context.Context) (News, error) {
	for {
		if n, ok := s.take(); ok {
			return n, nil
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return News{}, ctx.Err()
		}
	}
}

func (s *Subscription) take() (News, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return News{}, false
	}
	n := s.ring[s.first]
	s.ring[s.first] = News{} // not kept from the garbage collector
	s.first = (s.first + 1) % len(s.ring)
	s.count--
	return n, true
}

// Close ends the subscription. What is queued can still be taken.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	delete(s.bus.consumers, s)
}

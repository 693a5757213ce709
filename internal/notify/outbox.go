package notify

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// maxQueued is how many messages wait for one Provider. Of more the oldest are lost, and counted.
	maxQueued = 256
	// firstPause is how long an endpoint is left alone after a failure; each one doubles that, to maxPause.
	firstPause = time.Second
	maxPause   = 2 * time.Minute
	// maxAge is how long a message is tried to be delivered: what is older is no news.
	maxAge = time.Hour
)

// outbox holds the messages for each Provider. A Provider with messages has a goroutine, which outbox owns.
type outbox struct {
	deliver func(context.Context, types.NamespacedName, *Message) error
	report  func(*rule, error)
	stands  func(alert types.NamespacedName) bool
	now     func() time.Time
	wait    func(context.Context, time.Duration) // or until ctx ends
	told    *prometheus.CounterVec

	working  context.Context // ends when all is to be delivered or lost
	cancel   context.CancelFunc
	stopping context.Context // ends when nothing is to be waited for
	stop     context.CancelFunc
	workers  sync.WaitGroup

	mu     sync.Mutex
	queues map[types.NamespacedName]*queue
}

// queue are the messages for one Provider.
type queue struct {
	to      types.NamespacedName
	waiting []letter
	working bool
	// failing is what was reported on which Alert; empty while all goes well.
	failing map[types.NamespacedName]*failure
}

type failure struct {
	rule *rule
	text string
}

type letter struct {
	rule    *rule
	message *Message
	at      time.Time
}

func newOutbox(deliver func(context.Context, types.NamespacedName, *Message) error, report func(*rule, error),
	stands func(types.NamespacedName) bool, registry prometheus.Registerer) *outbox {
	o := &outbox{
		deliver: deliver, report: report, stands: stands, now: time.Now, wait: pause, queues: map[types.NamespacedName]*queue{},
		told: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cleat_notifications_total", Help: "Messages to Providers, by what became of them.",
		}, []string{"result"}),
	}
	registry.MustRegister(o.told)
	o.working, o.cancel = context.WithCancel(context.Background())
	o.stopping, o.stop = context.WithCancel(context.Background())
	return o
}

// pause waits for a time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// The values of the label of cleat_notifications_total.
const (
	resultDelivered = "delivered"
	resultFailed    = "failed"
	resultDropped   = "dropped"
)

// add queues a message. It never waits.
func (o *outbox) add(r *rule, m *Message) {
	to := r.provider()
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queues[to]
	if q == nil {
		q = &queue{to: to, failing: map[types.NamespacedName]*failure{}}
		o.queues[to] = q
	}
	if len(q.waiting) >= maxQueued {
		q.waiting = append(q.waiting[:0], q.waiting[1:]...)
		o.told.WithLabelValues(resultDropped).Inc()
	}
	q.waiting = append(q.waiting, letter{r, m, o.now()})
	if !q.working {
		q.working = true
		o.workers.Go(func() { o.work(q) })
	}
}

// work delivers what is queued, until nothing is.
func (o *outbox) work(q *queue) {
	for {
		l, ok := o.next(q)
		if !ok {
			return
		}
		o.send(q, l)
	}
}

// next takes the oldest message. With none left the goroutine ends, and the next message starts another.
func (o *outbox) next(q *queue) (letter, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(q.waiting) == 0 {
		q.working = false
		if len(q.failing) == 0 {
			delete(o.queues, q.to) // there is nothing to remember
		}
		return letter{}, false
	}
	l := q.waiting[0]
	q.waiting[0] = letter{} // not kept from the garbage collector
	q.waiting = q.waiting[1:]
	return l, true
}

// send tries to deliver a message until that works, is known not to work, or is no news any more.
func (o *outbox) send(q *queue, l letter) {
	for delay := firstPause; ; delay = min(2*delay, maxPause) {
		if o.working.Err() != nil || !o.stands(l.rule.key()) {
			o.told.WithLabelValues(resultDropped).Inc()
			return
		}
		err := o.deliver(o.working, q.to, l.message)
		if err == nil {
			o.told.WithLabelValues(resultDelivered).Inc()
			o.recovered(q)
			return
		}
		o.failed(q, l, err)
		if final(err) || o.stopping.Err() != nil || o.now().Sub(l.at) >= maxAge {
			o.told.WithLabelValues(resultFailed).Inc()
			return
		}
		var no *refused
		if errors.As(err, &no) {
			delay = max(delay, no.after)
		}
		o.wait(o.stopping, delay)
	}
}

// failed reports a failure on the Alert, unless it was the last that was reported there.
func (o *outbox) failed(q *queue, l letter, err error) {
	if o.working.Err() != nil {
		return // it was interrupted by us
	}
	key := l.rule.key()
	if !o.stands(key) {
		return // there is nobody to report to
	}
	o.mu.Lock()
	known := q.failing[key]
	q.failing[key] = &failure{l.rule, err.Error()}
	o.mu.Unlock()
	if known == nil || known.text != err.Error() {
		o.report(l.rule, err)
	}
}

// forget drops what was reported on an Alert about Providers other than the one that it has now, so that of Alerts that come and go
// nothing stays.
func (o *outbox) forget(alert, but types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for to, q := range o.queues {
		if to == but {
			continue
		}
		delete(q.failing, alert)
		if !q.working && len(q.failing) == 0 {
			delete(o.queues, to)
		}
	}
}

// recovered reports on every Alert with a failure that it is over.
func (o *outbox) recovered(q *queue) {
	o.mu.Lock()
	over := q.failing
	q.failing = map[types.NamespacedName]*failure{}
	o.mu.Unlock()
	for _, f := range over {
		o.report(f.rule, nil)
	}
}

// close delivers what is queued, each message in one try, and returns when that is done or ctx ends.
func (o *outbox) close(ctx context.Context) {
	o.stop()
	stop := context.AfterFunc(ctx, o.cancel)
	defer stop()
	o.workers.Wait()
	o.cancel()
}

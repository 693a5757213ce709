package drift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

const (
	// correctionTimeout bounds what is asked and done about one object.
	correctionTimeout = 20 * time.Second
	// DefaultBudget is how many bytes of packed objects are kept in memory, of all owners together.
	DefaultBudget = 64 << 20
	// flushTimeout bounds what is told when all ends.
	flushTimeout = 3 * time.Second
	// workers is how many objects are looked at at a time: one that is slow to answer delays few others.
	workers = 8
)

// ErrNoOwner says that an owner does not exist any more.
var ErrNoOwner = errors.New("the owner is gone")

// Options are what an Engine needs.
type Options struct {
	// Budget bounds the packed objects in memory; of owners for whom there is no room the objects are rendered anew.
	Budget int
	// Keeper keeps the record beyond this process; nil keeps it in memory alone.
	Keeper   Keeper
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Engine looks after what owners have applied, between their runs. It is safe for concurrent use.
type Engine struct {
	options Options
	hide    Hider
	metrics *metrics
	queue   workqueue.TypedDelayingInterface[item]

	mu       sync.Mutex
	subjects map[Owner]*subject
	used     int // of the budget
}

// item is work: an object to look at, all of an owner, or what is to be told of it.
type item struct {
	owner Owner
	key   object.Key
	what  work
}

type work string

const (
	lookAt  work = "look"
	scan    work = "scan"
	tellOut work = "tell"
)

// NewEngine returns an Engine that does nothing until it is started.
func NewEngine(options Options) *Engine {
	if options.Budget == 0 {
		options.Budget = DefaultBudget
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		options: options, hide: NewHider(), subjects: map[Owner]*subject{},
		queue: workqueue.NewTypedDelayingQueue[item](),
	}
	e.metrics = newMetrics(options.Registry)
	return e
}

// Start works until ctx ends, and returns when all of it has.
func (e *Engine) Start(ctx context.Context) error {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				next, stop := e.queue.Get()
				if stop {
					return
				}
				e.work(ctx, next)
				e.queue.Done(next)
			}
		})
	}
	<-ctx.Done()
	e.queue.ShutDown()
	group.Wait()
	e.flush(context.WithoutCancel(ctx))
	return nil
}

// flush tells what is still to be told when all ends.
func (e *Engine) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	e.mu.Lock()
	subjects := slices.Collect(maps.Values(e.subjects))
	e.mu.Unlock()
	for _, s := range subjects {
		s.mu.Lock()
		scheduled := s.scheduled
		s.mu.Unlock()
		if scheduled {
			e.tell(ctx, s)
		}
	}
}

// Hider is how values are hidden, the same everywhere: only then do equal ones look equal.
func (e *Engine) Hider() Hider { return e.hide }

// Pause keeps the engine off the objects of an owner, which is about to apply them, until resume is called. What moves
// meanwhile is looked at then.
func (e *Engine) Pause(owner Owner) (resume func()) {
	s := e.subject(owner)
	s.pause()
	return sync.OnceFunc(func() {
		keys, all := s.resume()
		if all {
			e.queue.Add(item{owner: owner, what: scan})
		}
		for _, key := range keys {
			e.queue.Add(item{owner: owner, key: key, what: lookAt})
		}
	})
}

// Keep takes in what an owner has just applied, and how. With whole, that is all that it wants; otherwise what was kept before of
// other objects stays, as far as wanted says so. also is what must not be told, nil when there is nothing.
func (e *Engine) Keep(subject Subject, applied []*unstructured.Unstructured, also *unstructured.Unstructured, wanted func(object.Key) bool) {
	s := e.subject(subject.Owner)
	s.mu.Lock()
	defer s.mu.Unlock()
	if wanted != nil {
		applied, also = s.merge(applied, also, wanted)
	}
	fresh, err := pack(applied, also)
	if err != nil {
		e.options.Log.Error("keeping what was applied", "name", subject.Owner.Name, "namespace", subject.Owner.Namespace, "error", err)
		fresh = &declared{}
	}
	e.charge(s, fresh)
	s.Subject, s.declared = subject, *fresh
	if len(s.events) > 0 {
		e.schedule(s) // What its first run has found could not be told before.
	}
	for key, entry := range s.book.entries {
		if _, ok := fresh.find(key); !ok && !entry.ended() {
			entry.fight, entry.tried, entry.State = fight{}, false, Open // Nobody wants it any more.
			e.resolved(s, key)
		}
	}
}

// merge adds what was kept before of other objects.
func (s *subject) merge(applied []*unstructured.Unstructured, also *unstructured.Unstructured, wanted func(object.Key) bool) ([]*unstructured.Unstructured, *unstructured.Unstructured) {
	before, err := s.declared.all()
	if err != nil {
		return applied, also // They are looked at by the owner's own runs.
	}
	have := make(map[object.Key]bool, len(applied))
	for _, u := range applied {
		have[object.RefOf(u).Key()] = true
	}
	merged := append([]*unstructured.Unstructured(nil), applied...)
	for _, u := range before {
		if key := object.RefOf(u).Key(); !have[key] && wanted(key) {
			merged = append(merged, u)
		}
	}
	return merged, together(also, s.declared.hidden())
}

// together returns an object with all values of both, which are never applied.
func together(a, b *unstructured.Unstructured) *unstructured.Unstructured {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "data": map[string]any{"a": a.Object["data"], "b": b.Object["data"]},
		"stringData": map[string]any{"a": a.Object["stringData"], "b": b.Object["stringData"]},
	}}
}

// charge accounts for what is about to replace what was kept, and lets go of it when there is no room.
func (e *Engine) charge(s *subject, fresh *declared) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used -= s.declared.size()
	if e.used+fresh.size() > e.options.Budget {
		fresh.blocks = nil
	}
	e.used += fresh.size()
}

// Forget drops all that is kept of an owner, who is gone or about to be. It returns when nothing is done for it any more.
func (e *Engine) Forget(owner Owner) {
	e.mu.Lock()
	s := e.subjects[owner]
	delete(e.subjects, owner)
	e.mu.Unlock()
	if s == nil {
		return
	}
	s.pause() // for good
	s.mu.Lock()
	defer s.mu.Unlock()
	e.charge(s, &declared{})
	s.declared = declared{}
	e.metrics.forget(owner)
}

// Moved is told which objects of an owner of a kind look different on the cluster.
func (e *Engine) Moved(kind string, moved kube.Moved) {
	owner := Owner{Kind: kind, NamespacedName: moved.Owner}
	s := e.known(owner)
	if s == nil {
		return // It has applied nothing yet, or nothing any more.
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range moved.Objects {
		if _, ok := s.observed[key]; !ok && s.paused == 0 {
			s.observed[key] = now
		}
	}
	if s.paused > 0 {
		s.all = s.all || moved.All
		for _, key := range moved.Objects {
			s.pending[key] = struct{}{}
		}
		return
	}
	if moved.All {
		e.queue.Add(item{owner: owner, what: scan})
	}
	for _, key := range moved.Objects {
		e.queue.Add(item{owner: owner, key: key, what: lookAt})
	}
}

func (e *Engine) subject(owner Owner) *subject {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.subjects[owner]
	if s == nil {
		s = newSubject(owner)
		e.subjects[owner] = s
	}
	return s
}

func (e *Engine) known(owner Owner) *subject {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.subjects[owner]
}

func (e *Engine) work(ctx context.Context, next item) {
	s := e.known(next.owner)
	if s == nil {
		return
	}
	switch next.what {
	case lookAt:
		e.look(ctx, s, next)
	case scan:
		e.scan(s, next.owner)
	case tellOut:
		e.tell(ctx, s)
	default:
		panic(fmt.Sprintf("unknown work %q", next.what))
	}
}

// scan has every object looked at that is not as it was left, as far as that is known.
func (e *Engine) scan(s *subject, owner Owner) {
	s.mu.Lock()
	refs, applier := s.declared.refs, s.Applier
	open := make([]object.Key, 0)
	for key, entry := range s.book.entries {
		if !entry.ended() {
			open = append(open, key)
		}
	}
	s.mu.Unlock()
	for _, ref := range refs {
		if s := applier.Standing(owner.NamespacedName, ref); s == kube.StandsOtherwise || s == kube.StandsGone {
			e.queue.Add(item{owner: owner, key: ref.Key(), what: lookAt})
		}
	}
	for _, key := range open {
		e.queue.Add(item{owner: owner, key: key, what: lookAt})
	}
}

// Names of an owner for logs.
func (o Owner) attrs() []any {
	return []any{"ownerKind", o.Kind, "name", o.Name, "namespace", o.Namespace}
}

// otherOwner is why an object was left alone at the last moment.
type otherOwner struct{ owner types.NamespacedName }

func (o *otherOwner) Error() string { return "it belongs to " + o.owner.String() + " now" }

package kube

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// ErrNotWatched says that no owner has declared that it needs an object, so nothing is known about it.
var ErrNotWatched = errors.New("not watched")

// State says what an Observation, or the lack of one, is worth.
type State struct {
	// Found says that there is an Observation: from the watch, or from an answer to a write of ours that the watch has
	// not caught up with.
	Found bool
	// Synced says that the watch has seen everything there is and is up to date as far as it knows.
	Synced bool
	// Err says why a watch is not synced, once it has failed: ErrNotServed, a refusal, or the API server not being there.
	Err error
	// seen is the version up to which the watch has come.
	seen string
}

// Gone says that the object does not exist, or carries our owner label no more. A watch that could not list never
// says so.
func (s State) Gone() bool { return s.Synced && !s.Found }

// Observer keeps an Observation of every object that some owner needs to know about. Its watches start when the first
// owner needs them and stop with the last. It is safe for concurrent use.
type Observer struct {
	owner  Owner
	client dynamic.Interface
	kinds  kinds
	log    *slog.Logger

	linger time.Duration   // of watches on kinds, after a wait; see defaultLinger
	ctx    context.Context // of all watches; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// changed wakes dispatch; dirty says for whom.
	changed chan struct{}

	mu          sync.Mutex
	closed      bool
	watches     map[target]*watch
	needs       map[types.NamespacedName]*needs
	interested  map[object.Key][]types.NamespacedName
	dirty       map[types.NamespacedName]struct{}
	subscribers map[int]func(types.NamespacedName)
	// moves is what objectSubscribers are to be told of each owner; see moved.go.
	moves             map[types.NamespacedName]*moves
	objectSubscribers map[int]func(Moved)
	nextID            int
	// divided are the kinds that may not be listed in all namespaces. They are watched in the namespaces of what is tracked;
	// the watch on the whole goes on trying, so that a right that is granted later is made use of.
	divided map[schema.GroupVersionKind]bool
	// moved is closed, and replaced, at every change worth waking for.
	moved chan struct{}
}

// kinds finds the resource of a kind, or says ErrNotServed.
type kinds interface {
	mapping(ctx context.Context, gvk schema.GroupVersionKind) (*meta.RESTMapping, error)
	Reset()
}

// needs is what one owner has declared.
type needs struct {
	tracked  []object.Ref
	pinned   []object.Ref
	referred []object.Ref
	judge    *health.Judge // nil for kstatus
	targets  map[target]struct{}
}

func newObserver(owner Owner, client dynamic.Interface, kinds kinds, log *slog.Logger) *Observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &Observer{
		owner:             owner,
		linger:            defaultLinger,
		client:            client,
		kinds:             kinds,
		log:               log,
		ctx:               ctx,
		cancel:            cancel,
		changed:           make(chan struct{}, 1),
		watches:           make(map[target]*watch),
		needs:             make(map[types.NamespacedName]*needs),
		interested:        make(map[object.Key][]types.NamespacedName),
		dirty:             make(map[types.NamespacedName]struct{}),
		subscribers:       make(map[int]func(types.NamespacedName)),
		moves:             make(map[types.NamespacedName]*moves),
		objectSubscribers: make(map[int]func(Moved)),
		moved:             make(chan struct{}),
		divided:           make(map[schema.GroupVersionKind]bool),
	}
	o.wg.Go(o.dispatch)
	return o
}

// Close ends every watch and returns when all goroutines have ended. Nobody is called after it.
func (o *Observer) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel()
	o.wg.Wait()
}

// Subscribe has changed called with an owner when an object it tracks or pins changed in health, identity or the
// fields we own, appeared or vanished, and when a watch that it needs has become synced. Calls are a level, not a count:
// many changes may make one call. changed runs on one goroutine for all and must return soon; no watch waits for it.
// The function that is returned ends the subscription.
func (o *Observer) Subscribe(changed func(owner types.NamespacedName)) (cancel func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := o.nextID
	o.nextID++
	o.subscribers[id] = changed
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.subscribers, id)
	}
}

// dispatch calls the subscribers, away from the watches and outside the lock.
func (o *Observer) dispatch() {
	for {
		select {
		case <-o.ctx.Done():
			return
		case <-o.changed:
		}
		o.mu.Lock()
		dirty := o.dirty
		o.dirty = make(map[types.NamespacedName]struct{})
		subscribers := make([]func(types.NamespacedName), 0, len(o.subscribers))
		for _, s := range o.subscribers {
			subscribers = append(subscribers, s)
		}
		moved, told := o.gathered()
		o.mu.Unlock()
		for _, m := range moved {
			for _, s := range told {
				s(m)
			}
		}
		for owner := range dirty {
			for _, s := range subscribers {
				s(owner)
			}
		}
	}
}

// Watch declares the objects that an owner tracks, its whole inventory: their kinds are watched from now on, as far as
// objects carry an owner label, and kinds that it tracks no more and nobody else does are not. It does not block. Declare
// what is to be applied before applying it, or the answers are not recorded.
func (o *Observer) Watch(owner types.NamespacedName, refs []object.Ref) {
	o.declare(owner, func(n *needs) *[]object.Ref { return &n.tracked }, refs)
}

// Pin declares the objects that an owner needs to know about one by one, whoever they belong to: its health checks.
// Each is watched by its name. It does not block.
func (o *Observer) Pin(owner types.NamespacedName, refs []object.Ref) {
	o.declare(owner, func(n *needs) *[]object.Ref { return &n.pinned }, refs)
}

// Refer declares the objects whose versions an owner wants to know: what it has read of the cluster to make what it applies.
// Each is watched by its name; the owner is not woken by them. It does not block.
func (o *Observer) Refer(owner types.NamespacedName, refs []object.Ref) {
	o.declare(owner, func(n *needs) *[]object.Ref { return &n.referred }, refs)
}

// Judge declares who judges the health of what an owner tracks and pins, as Health returns it; nil is kstatus. The kinds that
// judge has expressions for are watched once more for it, or once for all owners whose judges are alike. It does not block.
func (o *Observer) Judge(owner types.NamespacedName, judge *health.Judge) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.needs[owner]
	if n == nil {
		n = &needs{}
	}
	if judge.Same(n.judge) {
		return // A reconcile that changed nothing declares the same again.
	}
	n.judge = judge
	o.retarget(owner, n)
}

// Forget ends what an owner has declared.
func (o *Observer) Forget(owner types.NamespacedName) {
	o.Judge(owner, nil)
	o.Watch(owner, nil)
	o.Pin(owner, nil)
	o.Refer(owner, nil)
}

func (o *Observer) declare(owner types.NamespacedName, list func(*needs) *[]object.Ref, refs []object.Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.needs[owner]
	if n == nil {
		n = &needs{}
	}
	if slices.Equal(*list(n), refs) {
		return // A reconcile that changed nothing declares the same again.
	}
	o.index(owner, n, false)
	*list(n) = slices.Clone(refs)
	o.index(owner, n, true)
	o.retarget(owner, n)
}

// retarget notes what an owner needs from now on.
func (o *Observer) retarget(owner types.NamespacedName, n *needs) {
	o.provide(n)
	if len(n.targets) == 0 {
		delete(o.dirty, owner)
		delete(o.moves, owner)
		if n.judge == nil { // What is judged may be declared after who judges it.
			delete(o.needs, owner)
			return
		}
	}
	o.needs[owner] = n
}

// provide starts the watches that an owner needs and has not got, and ends those that it needs no more.
func (o *Observer) provide(n *needs) {
	before := n.targets
	n.targets = n.wanted(o.divided)
	for t := range n.targets {
		if _, ok := before[t]; !ok {
			judge := n.judge
			if t.judge == "" {
				judge = nil
			}
			o.acquire(t, judge)
		}
	}
	for t := range before {
		if _, ok := n.targets[t]; !ok {
			o.release(t)
		}
	}
}

// divide has a kind watched namespace by namespace, or in all of them again.
func (o *Observer) divide(gvk schema.GroupVersionKind, divided bool) {
	if o.divided[gvk] == divided {
		return
	}
	if divided {
		o.divided[gvk] = true
	} else {
		delete(o.divided, gvk)
	}
	for _, n := range o.needs {
		if _, ok := n.targets[whole(gvk)]; ok {
			o.provide(n)
		}
	}
}

func (n *needs) wanted(divided map[schema.GroupVersionKind]bool) map[target]struct{} {
	targets := make(map[target]struct{})
	for _, r := range n.tracked {
		// As kstatus sees it too: that watch is also what an apply goes by.
		targets[kindTarget(r)] = struct{}{}
		targets[kindTarget(r).judged(n.judge)] = struct{}{}
		if divided[r.GroupVersionKind()] && r.Namespace != "" {
			targets[partTarget(r)] = struct{}{}
			targets[partTarget(r).judged(n.judge)] = struct{}{}
		}
	}
	for _, r := range n.pinned {
		targets[pinTarget(r).judged(n.judge)] = struct{}{}
	}
	for _, r := range n.referred {
		targets[pinTarget(r)] = struct{}{}
	}
	return targets
}

// index enters an owner at, or removes it from, each object that it needs.
func (o *Observer) index(owner types.NamespacedName, n *needs, enter bool) {
	for _, refs := range [][]object.Ref{n.tracked, n.pinned} {
		for _, r := range refs {
			key := r.Key()
			owners := slices.DeleteFunc(o.interested[key], func(n types.NamespacedName) bool { return n == owner })
			if enter {
				owners = append(owners, owner)
			}
			if len(owners) == 0 {
				delete(o.interested, key)
				continue
			}
			o.interested[key] = owners
		}
	}
}

// Get returns what is known about an object. Its version must be one that was declared.
func (o *Observer) Get(ref object.Ref) (Observation, State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.get(ref, nil)
}

// Health returns the health of an object as judge sees it; nil is kstatus. An owner must have declared both.
func (o *Observer) Health(ref object.Ref, judge *health.Judge) (health.Result, State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	obs, state := o.get(ref, judge)
	return obs.Health, state
}

func (o *Observer) get(ref object.Ref, judge *health.Judge) (Observation, State) {
	var obs Observation
	state := State{Err: ErrNotWatched}
	// A pin sees the object whatever its labels are, so its word on absence counts most and comes last.
	for _, t := range targetsOf(ref, judge) {
		w := o.watches[t]
		if w == nil || o.stale(t, ref) {
			continue
		}
		seen, found := w.objects[ref.NamespacedName()]
		if !found && state.Found {
			continue // The other watch has it, so this one is only behind or does not select it.
		}
		if found && state.Found && older(seen.ResourceVersion, obs.ResourceVersion) {
			continue
		}
		obs, state = seen, State{Found: found, Synced: w.synced, Err: w.err, seen: w.seen}
	}
	return obs, state
}

// stale says whether a watch on all namespaces is no longer kept up, and one on the namespace of the object is.
func (o *Observer) stale(t target, ref object.Ref) bool {
	part := partTarget(ref)
	part.judge = t.judge
	return t.namespace == "" && t.name == "" && o.divided[ref.GroupVersionKind()] && ref.Namespace != "" && o.watches[part] != nil
}

// Record takes in an object as the API server has just answered it, so that nobody judges by an older event of the
// watch, which may come much later. An answer that the watch has already passed is dropped.
func (o *Observer) Record(u *unstructured.Unstructured) Observation {
	obs := o.owner.observe(u, nil)
	o.recordAs(u, obs, nil)
	for _, judge := range o.judges(u.GroupVersionKind().GroupKind()) {
		o.recordAs(u, o.owner.observe(u, judge), judge)
	}
	return obs
}

// recordAs takes in what judge sees in an object.
func (o *Observer) recordAs(u *unstructured.Unstructured, obs Observation, judge *health.Judge) {
	ref := object.RefOf(u)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range targetsOf(ref, judge) {
		w := o.watches[t]
		if w == nil || t.name == "" && obs.Owner == (types.NamespacedName{}) {
			continue // Without the label, the watch would never tell that the object has gone.
		}
		o.record(w, ref, obs)
	}
}

// judges returns, each once, who judges objects of a kind, besides kstatus.
func (o *Observer) judges(gk schema.GroupKind) []*health.Judge {
	o.mu.Lock()
	defer o.mu.Unlock()
	var judges []*health.Judge
	for _, w := range o.watches {
		known := w.judge.Same
		if w.judge != nil && w.GroupKind() == gk && !slices.ContainsFunc(judges, known) {
			judges = append(judges, w.judge)
		}
	}
	return judges
}

// targetsOf returns what may tell of an object, the more specific the later.
func targetsOf(ref object.Ref, judge *health.Judge) []target {
	if ref.Namespace == "" {
		return []target{kindTarget(ref).judged(judge), pinTarget(ref).judged(judge)}
	}
	return []target{kindTarget(ref).judged(judge), partTarget(ref).judged(judge), pinTarget(ref).judged(judge)}
}

func (o *Observer) record(w *watch, ref object.Ref, obs Observation) {
	_, known := w.objects[ref.NamespacedName()]
	if !known && w.synced && !older(w.seen, obs.ResourceVersion) {
		return // The watch is past this answer and has no such object: it was deleted since.
	}
	o.put(w, ref.NamespacedName(), obs)
}

// rediscover has the watches of kinds that are not served look again at once.
func (o *Observer) rediscover() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.watches {
		select {
		case w.retry <- struct{}{}:
		default: // It is about to look already.
		}
	}
}

// Counts returns the number of watches and of observations kept.
func (o *Observer) Counts() (watches, observations int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.watches {
		observations += len(w.objects)
	}
	return len(o.watches), observations
}

// touch marks everyone who is interested in an object.
func (o *Observer) touch(key object.Key) {
	for _, owner := range o.interested[key] {
		o.dirty[owner] = struct{}{}
		o.gather(owner, &key)
	}
	o.wake()
}

// touchUsers marks everyone who needs a watch.
func (o *Observer) touchUsers(t target) {
	for owner, n := range o.needs {
		if _, ok := n.targets[t]; ok {
			o.dirty[owner] = struct{}{}
			o.gather(owner, nil)
		}
	}
	o.wake()
}

func (o *Observer) wake() {
	close(o.moved)
	o.moved = make(chan struct{})
	select {
	case o.changed <- struct{}{}:
	default: // A wake-up is waiting already, and will find this owner too.
	}
}

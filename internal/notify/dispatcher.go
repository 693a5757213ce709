package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/git"
)

const (
	// maxHeard is how many events of this process wait to be matched.
	maxHeard = 4096
	// maxForeign is how many events of others do.
	maxForeign = 1024
	// readTimeout bounds each look at an object.
	readTimeout = 5 * time.Second
	// drainTime is how long messages that are queued are tried to be delivered when the agent stops.
	drainTime = 5 * time.Second
)

// Reasons of the events on Alerts, as Flux has them, and one of ours.
const (
	dispatchFailedReason  = "NotificationDispatchFailed"
	dispatchResumedReason = "NotificationDispatchResumed"
	invalidConfigReason   = "InvalidConfig"
	sourceFetchReason     = "SourceFetchFailed"
	metadataReason        = "MetadataAppendFailed"
)

// Options are what the dispatcher works with.
type Options struct {
	// Watched holds Alerts and Providers. It is the dispatcher's own and not the controllers': events of others are told by
	// an agent that waits for its lease, too.
	Watched cache.Cache
	// Secrets reads Secrets.
	Secrets client.Reader
	// Objects returns where objects of a kind are read, for their labels.
	Objects func(schema.GroupVersionKind) client.Reader
	// News are the events of this process.
	News *reconcile.Bus
	// Recorder records on Alerts. It tells nobody on the bus: an Alert about Alerts would never end.
	Recorder *reconcile.Recorder
	Network  source.Network
	// Identities gets tokens of clouds.
	Identities       source.Identities
	NoCrossNamespace bool
	// RateLimit is how long the same event is not told again; 0 is not at all.
	RateLimit time.Duration
	Registry  prometheus.Registerer
	Log       *slog.Logger

	clouds clouds
}

// Dispatcher tells Providers what their Alerts want to know.
type Dispatcher struct {
	options Options
	heard   *reconcile.Subscription
	foreign chan incoming
	limit   *limiter
	turns   *turns
	groups  *groups
	outbox  *outbox
	shares  *shares

	mu    sync.Mutex
	rules map[types.NamespacedName]*rule
}

// New returns a dispatcher. It hears the news from now on, and tells them once Run has it know the Alerts.
func New(o Options) *Dispatcher {
	if o.clouds == nil {
		o.clouds = &identities{of: o.Identities, apps: git.NewApps(o.Network)}
	}
	d := &Dispatcher{
		options: o, heard: o.News.Subscribe("notify", maxHeard), foreign: make(chan incoming, maxForeign),
		limit: newLimiter(o.RateLimit), turns: newTurns(), groups: newGroups(), shares: newShares(), rules: map[types.NamespacedName]*rule{},
	}
	d.outbox = newOutbox(d.deliver, d.report, d.stands, o.Registry)
	return d
}

// Run follows the Alerts and tells what happens until ctx ends; what is queued by then is delivered if it can be in a moment.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer d.heard.Close()
	// The cache outlives ctx: the last messages still want to know their Providers.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return d.options.Watched.Start(watching) })
	err := d.work(ctx, watching)
	stop()
	return errors.Join(err, group.Wait())
}

// work tells what happens.
func (d *Dispatcher) work(ctx, watching context.Context) error {
	synced, err := d.follow(watching)
	if err != nil {
		return err
	}
	select {
	case <-synced:
	case <-ctx.Done():
		select {
		case <-synced:
		default:
			return nil // nobody knows yet who would be told
		}
	}
	news, pumped := make(chan incoming), make(chan []incoming, 1)
	go func() { pumped <- d.pump(ctx, news) }() // ends with ctx; work waits for it
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case n := <-news:
			d.take(ctx, n)
		case n := <-d.foreign:
			d.take(ctx, n)
		case now := <-ticker.C:
			d.flush(now)
		case <-ctx.Done():
		}
	}
	d.drain(watching, <-pumped)
	return nil
}

// pump takes the news off the bus one by one, and returns what nobody has taken when ctx ends.
func (d *Dispatcher) pump(ctx context.Context, to chan<- incoming) []incoming {
	for {
		n, err := d.heard.Next(ctx)
		if err != nil {
			return nil // told to stop
		}
		in := d.notice(n)
		select {
		case to <- in:
		case <-ctx.Done():
			return []incoming{in}
		}
	}
}

// notice takes in news of this process. Only events can be repeated: a turn is a turn each time.
func (d *Dispatcher) notice(n reconcile.News) incoming {
	in := incoming{News: n}
	in.repeated = n.Turn == "" && d.limit.repeated(in.key())
	return in
}

// drain delivers what is there: what was taken off the bus already, and the rest.
func (d *Dispatcher) drain(ctx context.Context, taken []incoming) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	for _, in := range taken {
		d.take(ctx, in)
	}
	done, gone := context.WithCancel(ctx)
	gone() // so that nothing is waited for
	for {
		n, err := d.heard.Next(done)
		if err != nil {
			break
		}
		d.take(ctx, d.notice(n))
	}
	for len(d.foreign) > 0 {
		d.take(ctx, <-d.foreign)
	}
	d.flush(time.Now().Add(maxGroupAge))
	d.outbox.close(ctx)
}

// follow keeps the rules as the Alerts are. The channel is closed when all that there were are known.
func (d *Dispatcher) follow(ctx context.Context) (<-chan struct{}, error) {
	if _, err := d.options.Watched.GetInformer(ctx, api.Undecoded(api.ProviderKind), cache.BlockUntilSynced(false)); err != nil {
		return nil, fmt.Errorf("watching Providers: %w", err)
	}
	informer, err := d.options.Watched.GetInformer(ctx, api.Undecoded(api.AlertKind), cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watching Alerts: %w", err)
	}
	handled, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    d.know,
		UpdateFunc: func(_, o any) { d.know(o) },
		DeleteFunc: d.unknow,
	})
	if err != nil {
		return nil, fmt.Errorf("watching Alerts: %w", err)
	}
	return handled.HasSyncedChecker().Done(), nil
}

func (d *Dispatcher) know(o any) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return // the cache holds nothing else
	}
	r := newRule(u.DeepCopy(), d.options.NoCrossNamespace)
	d.mu.Lock()
	d.rules[client.ObjectKeyFromObject(u)] = r
	d.mu.Unlock()
	d.outbox.forget(r.key(), r.provider()) // it may have had another Provider
}

func (d *Dispatcher) unknow(o any) {
	if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return // the cache holds nothing else
	}
	key := client.ObjectKeyFromObject(u)
	d.mu.Lock()
	delete(d.rules, key)
	d.mu.Unlock()
	d.outbox.forget(key, types.NamespacedName{})
}

// stands says whether there is still an Alert of the name.
func (d *Dispatcher) stands(alert types.NamespacedName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rules[alert] != nil
}

// current returns the rules by name.
func (d *Dispatcher) current() []*rule {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*rule, 0, len(d.rules))
	for _, r := range d.rules {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *rule) int { return strings.Compare(a.key().String(), b.key().String()) })
	return out
}

// take tells every Provider what an Alert wants it to know of an event.
func (d *Dispatcher) take(ctx context.Context, n incoming) {
	if n.Severity != reconcile.SeverityInfo && n.Severity != reconcile.SeverityError {
		return // trace is for the log of who sent it
	}
	of := d.labels(n)
	for _, r := range d.current() {
		if !r.alert.Spec.Suspend {
			d.offer(ctx, r, n, of)
		}
	}
}

// labels returns the labels of the object, which are read once.
func (d *Dispatcher) labels(n incoming) labeled {
	var (
		done bool
		set  labels.Set
		err  error
	)
	return func(ctx context.Context) (labels.Set, error) {
		if done {
			return set, err
		}
		done = true
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		o := n.InvolvedObject
		u := api.Undecoded(schema.FromAPIVersionAndKind(o.APIVersion, o.Kind))
		err = d.options.Objects(u.GroupVersionKind()).Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, u)
		if err == nil {
			set = labels.Merge(nil, u.GetLabels())
		}
		err = client.IgnoreNotFound(err) // what has gone has no labels
		return set, err
	}
}

// offer tells a Provider of an event if the Alert wants it.
func (d *Dispatcher) offer(ctx context.Context, r *rule, n incoming, of labeled) {
	if r.invalid != nil {
		r.told.Do(func() { d.record(r, corev1.EventTypeWarning, invalidConfigReason, r.invalid.Error()) })
		return
	}
	about, err := r.about(ctx, n, of)
	if err != nil && !about {
		d.record(r, corev1.EventTypeWarning, sourceFetchReason, source.Steady(err).Error())
		return
	}
	if !about {
		return
	}
	kind := d.kindOf(ctx, r)
	turns := r.transitions && !keepsStatus(kind)
	if !n.foreign && turns != (n.Turn != "") {
		return // an event, for who wants to know only of turns, or the other way round
	}
	m := d.message(r, n)
	grouped := r.grouped && m.revision() != "" && !keepsStatus(kind) && !commentsOn(kind)
	// The status of a commit is set whenever an object of ours is another: that it was the same five minutes ago, and something
	// else between, is no reason to leave it wrong. So it is with what a group has last heard of an object.
	current := keepsStatus(kind) && !n.foreign || grouped && d.groups.has(r, m)
	stale := n.repeated && !current
	switch {
	case turns && !d.turns.turn(r, m, n.foreign, func() bool { return d.lists(r, n.Message) }):
		return
	case !turns && (stale || !r.severe(n.Severity) || !d.lists(r, n.Message)):
		return
	case !wants(kind, m):
		return
	case grouped:
		d.groups.add(r, m, time.Now())
	default:
		d.outbox.add(r, m)
	}
}

// lists says whether the Alert's patterns let a message pass, as long as those of its namespace do not take more time than is theirs.
func (d *Dispatcher) lists(r *rule, message string) bool {
	if len(r.include)+len(r.exclude) == 0 {
		return true
	}
	passes := false
	if !d.shares.spend(r.alert.Namespace, func() { passes = r.lists(message) }) {
		d.outbox.told.WithLabelValues(resultDropped).Inc()
		r.slow.Do(func() { d.record(r, corev1.EventTypeWarning, invalidConfigReason, errShare.Error()) })
	}
	return passes
}

// kindOf is the type of the Alert's Provider; empty when there is no such Provider, which the delivery will tell.
func (d *Dispatcher) kindOf(ctx context.Context, r *rule) string {
	u := api.Undecoded(api.ProviderKind)
	if d.options.Watched.Get(ctx, r.provider(), u) != nil {
		return ""
	}
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "type")
	return kind
}

// message is the event as the Alert has it told.
func (d *Dispatcher) message(r *rule, n incoming) *Message {
	m := &Message{News: n.News, alert: r.alert, pending: r.pending}
	var conflicts []string
	m.Metadata, conflicts = n.metadata(r.alert.Spec.EventMetadata, r.alert.Spec.Summary)
	if len(conflicts) > 0 {
		d.record(r, corev1.EventTypeWarning, metadataReason,
			"the event, the object's annotations and the Alert give different values to these metadata, those of the controller count most and those of the object least: "+strings.Join(conflicts, ", "))
	}
	return m
}

// flush queues the groups that are complete.
func (d *Dispatcher) flush(now time.Time) {
	for _, g := range d.groups.complete(now) {
		d.outbox.add(g.rule, g.message())
	}
}

func (d *Dispatcher) record(r *rule, kind, reason, message string) {
	d.options.Recorder.Record(r.alert, reconcile.Event{Type: kind, Reason: reason, Message: message})
}

// deliver tells a Provider one message, once.
func (d *Dispatcher) deliver(ctx context.Context, to types.NamespacedName, m *Message) error {
	resolving, cancel := context.WithTimeout(ctx, readTimeout)
	t, err := d.resolve(resolving, to)
	cancel()
	defer t.close()
	if errors.Is(err, errSuspended) {
		return nil
	}
	if err != nil {
		return err
	}
	tell := teller(t.spec.Type)
	if tell == nil {
		return configf("there is no type %q", t.spec.Type)
	}
	ctx, cancel = context.WithTimeout(ctx, t.timeout())
	defer cancel()
	return t.masked(tell(ctx, t, m))
}

// report tells of a Provider that fails, and that it does no more.
func (d *Dispatcher) report(r *rule, err error) {
	to := r.provider()
	if err == nil {
		d.record(r, corev1.EventTypeNormal, dispatchResumedReason, "the Provider "+to.Name+" is told again")
		d.options.Log.Info("provider is told again", "provider", to.String())
		return
	}
	d.record(r, corev1.EventTypeWarning, cmp.Or(reasonOf(err), dispatchFailedReason), "telling the Provider "+to.Name+": "+err.Error())
	d.options.Log.Error("telling a provider", "provider", to.String(), "error", err)
}

// reasonOf is the reason of an error that lies in the Provider.
func reasonOf(err error) string {
	if errors.Is(err, errConfig) {
		return invalidConfigReason
	}
	return ""
}

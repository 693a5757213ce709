package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// callTimeout bounds each call that is made for a hook: to the API server, or to an issuer of tokens.
	callTimeout = 5 * time.Second
	// bodyTimeout is how long a body may take to come. Senders give an answer ten seconds.
	bodyTimeout = 10 * time.Second
	// actTimeout bounds what is done for one hook after it was answered.
	actTimeout = time.Minute
	// actors is how many hooks are acted on at a time.
	actors = 4
)

// Options are what the server works with.
type Options struct {
	// Receivers is the watch on Receivers. It is the server's own and not the controllers': hooks are taken by an agent that
	// waits for its lease, too.
	Receivers cache.Cache
	// Client reads Secrets, and writes requests on objects.
	Client client.Client
	// Objects returns where objects of a kind are read: a cache, if there is one that has all of them.
	Objects func(schema.GroupVersionKind) client.Reader
	// Requests wakes the objects that this process works on.
	Requests *reconcile.Requests
	Recorder *reconcile.Recorder
	// Issuers is the way to those who issue tokens.
	Issuers          http.RoundTripper
	NoCrossNamespace bool
	Registry         prometheus.Registerer
	Log              *slog.Logger
}

// Server takes hooks. It answers when it is sure that a hook is genuine, and acts afterwards.
type Server struct {
	options  Options
	index    *index
	secrets  *secrets
	issuers  *issuers
	triggers *triggers
	metered  http.Handler

	synced   atomic.Bool
	held     *semaphore.Weighted // bytes of payloads in memory
	jobs     chan job
	overall  *rate.Limiter
	hooks    *buckets
	failures *buckets
	misses   *buckets
	grumble  *rate.Limiter // of the log, about hooks that are refused
	waiting  chan struct{} // one for each caller that does penance
	// strangers is the pace of misses of all callers together: beyond it they do penance, too.
	strangers *rate.Limiter
	replays   *replays
}

// job is a hook that was answered and is to be acted on.
type job struct {
	hook *hook
	look look
	done func() // gives back what the payload holds of the memory
	// payload names what was sent, if it was signed.
	payload string
}

// NewServer returns a server that knows no Receiver yet; Run has it know them.
func NewServer(o Options) *Server {
	p := defaultPaces()
	s := &Server{
		options: o, index: newIndex(), issuers: newIssuers(o.Issuers), triggers: newTriggers(o),
		secrets: &secrets{reader: o.Client, now: time.Now, read: map[wanted]*reading{}},
		held:    semaphore.NewWeighted(maxHeld), jobs: make(chan job, maxJobs),
		overall: rate.NewLimiter(p.overall.rate, p.overall.burst), hooks: newBuckets(p.hook), failures: newBuckets(p.failure), misses: newBuckets(p.miss),
		grumble: rate.NewLimiter(1, 20), waiting: make(chan struct{}, maxPenance),
		strangers: rate.NewLimiter(p.strangers.rate, p.strangers.burst), replays: newReplays(),
	}
	s.metered = Metered(o.Registry, "gotk_receiver_http_", "/hook/", http.HandlerFunc(s.serve))
	return s
}

// Run follows the Receivers and acts on what was taken, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	informer, err := s.options.Receivers.GetInformer(ctx, api.Undecoded(api.ReceiverKind), cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watching Receivers: %w", err)
	}
	handled, err := informer.AddEventHandler(s.follow())
	if err != nil {
		return fmt.Errorf("watching Receivers: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.options.Receivers.Start(ctx) })
	group.Go(func() error {
		select {
		case <-handled.HasSyncedChecker().Done():
			s.synced.Store(true)
		case <-ctx.Done():
		}
		return nil
	})
	group.Go(func() error { return s.triggers.run(ctx) })
	for range actors {
		group.Go(func() error { return s.act(ctx) })
	}
	return group.Wait()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) { s.metered.ServeHTTP(w, req) }

// refusal is any answer but 200.
type refusal struct {
	status int
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }

func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, err error) error { return &refusal{status: status, err: err} }

// What is refused before anybody has looked closely.
var (
	errNoSuchPath = errors.New("there is no Receiver with this path")
	errStarting   = errors.New("the Receivers are not known yet")
	errTooMany    = errors.New("too many requests")
	errMethod     = errors.New("hooks come by POST")
	errTooLarge   = fmt.Errorf("the payload has more than %d bytes", maxBody)
	errEncoding   = errors.New("payloads are taken as they are, without a Content-Encoding")
	errCutOff     = errors.New("the payload did not come to its end in time")
	errReplayed   = fmt.Errorf("this payload was taken already; delivered again, it is taken %s after that", replayApart)
	errEvent      = errors.New("spec.events does not list this event")
)

func (s *Server) serve(w http.ResponseWriter, req *http.Request) {
	h, err := s.find(w, req)
	if err == nil {
		err = s.take(w, req, h)
	}
	if err == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	var no *refusal
	if !errors.As(err, &no) {
		no = &refusal{status: http.StatusInternalServerError, err: err}
	}
	if no.status == http.StatusTooManyRequests || no.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
	}
	leaveBody(w, req)
	http.Error(w, no.Error(), no.status)
	if h != nil && s.grumble.Allow() {
		s.options.Log.Info("hook refused", append(h.describe(), "status", no.status, "error", err)...)
	}
}

// leaveBody keeps the HTTP server from reading a body that nobody wants, unless it is so small that a connection which can be
// used again is worth it: a proxy has few, and shares them among all callers.
func leaveBody(w http.ResponseWriter, req *http.Request) {
	if req.ContentLength >= 0 && req.ContentLength <= smallBody {
		return
	}
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // a test's ResponseWriter reads nothing anyway
}

// find returns the hook of a path. This is all that is done for most of what the internet sends.
func (s *Server) find(w http.ResponseWriter, req *http.Request) (*hook, error) {
	h := s.index.find(req.URL.Path)
	switch {
	case h != nil:
		return h, nil
	case !s.synced.Load():
		return nil, refuse(http.StatusServiceUnavailable, errStarting)
	case !s.misses.take(caller(req.RemoteAddr)), !s.strangers.Allow():
		s.delay(w, req)
		return nil, refuse(http.StatusTooManyRequests, errTooMany)
	}
	return nil, refuse(http.StatusNotFound, errNoSuchPath)
}

// delay has a caller wait who asks for nothing again and again. When too many wait, his connection is closed instead: a new one
// is let in at a pace.
func (s *Server) delay(w http.ResponseWriter, req *http.Request) {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		w.Header().Set("Connection", "close")
		return
	}
	enough := time.NewTimer(penance)
	defer enough.Stop()
	select {
	case <-enough.C:
	case <-req.Context().Done():
	}
}

// take judges a request to a path that is known and, if it is genuine, hands it on to be acted on.
func (s *Server) take(w http.ResponseWriter, req *http.Request, h *hook) error {
	who := caller(req.RemoteAddr) + " " + h.path
	switch {
	case h.closed != nil:
		return refuse(http.StatusServiceUnavailable, h.closed)
	case req.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, errMethod)
	case !s.failures.has(who):
		return refuse(http.StatusTooManyRequests, errTooMany)
	case !s.overall.Allow():
		return refuse(http.StatusServiceUnavailable, errTooMany)
	}
	j, err := s.judge(w, req, h)
	if errors.Is(err, errForged) || errors.Is(err, errPayload) {
		s.failures.take(who)
		return refuse(http.StatusBadRequest, err)
	}
	if errors.Is(err, errReplayed) {
		s.failures.take(who)
		return refuse(http.StatusConflict, err)
	}
	if err != nil || j.hook == nil {
		return err // with no hook there is nothing to do: somebody has tried whether we are there
	}
	select {
	case s.jobs <- j:
		if h.sender.delivered(req.Header) {
			s.replays.remember(j.payload)
		}
		s.options.Log.Info("hook taken", append(h.describe(), "event", cut(req.Header.Get(h.sender.event)))...)
		return nil
	default:
		j.done()
		return refuse(http.StatusServiceUnavailable, errTooMany)
	}
}

// judge says whether a request is genuine and asks for something.
func (s *Server) judge(w http.ResponseWriter, req *http.Request, h *hook) (_ job, err error) {
	data, err := s.secrets.of(req.Context(), h)
	if err != nil {
		return job{}, refuse(http.StatusServiceUnavailable, errNotReady)
	}
	if !same([]byte(h.receiver.GetWebhookPath(string(data.token))), []byte(h.path)) {
		// The token is another than the path was made of: who knows the old one is told nothing by it any more.
		s.options.Requests.Waker(api.ReceiverKind).Wake(h.key)
		return job{}, refuse(http.StatusNotFound, errNoSuchPath)
	}
	j := job{hook: h}
	if h.sender.knock != nil {
		if j.look.claims, err = h.sender.knock(req.Context(), s.issuers, h, req.Header, data); err != nil {
			return job{}, err
		}
	}
	body, done, err := s.read(w, req)
	if err != nil {
		return job{}, err
	}
	defer func() {
		if err != nil || j.hook == nil || !h.filtered {
			done()
		}
	}()
	j.done = done
	if h.sender.seal != nil {
		sum, err := h.sender.seal(req.Header, body, data.token)
		if err != nil {
			return job{}, err
		}
		j.payload = h.path + string(sum)
		if s.replays.seen(j.payload) {
			return job{}, errReplayed
		}
	}
	if !s.hooks.take(h.path) {
		return job{}, refuse(http.StatusTooManyRequests, errTooMany)
	}
	switch asked, err := h.asks(req.Header); {
	case err != nil:
		return job{}, refuse(http.StatusBadRequest, err)
	case !asked:
		j.hook = nil
		return j, nil
	}
	if j.look.payload, err = h.unwrap(req.Header, body); err != nil {
		return job{}, err
	}
	if !h.filtered {
		j.done, j.look = func() {}, look{} // nobody will look at it
	}
	return j, nil
}

// asks says whether spec.events has the event. One by which the sender only tries the hook asks for nothing unless it is there.
func (h *hook) asks(header http.Header) (bool, error) {
	if h.sender.event == "" || len(h.events) == 0 {
		return true, nil
	}
	event := header.Get(h.sender.event)
	if slices.ContainsFunc(h.events, func(e string) bool { return strings.EqualFold(e, event) }) {
		return true, nil
	}
	if h.sender.ping != "" && strings.EqualFold(event, h.sender.ping) {
		return false, nil
	}
	return false, errEvent
}

// unwrap returns what filters see of the body, and refuses one that is not what the sender sends.
func (h *hook) unwrap(header http.Header, body []byte) (map[string]any, error) {
	if h.sender.payload != nil {
		if fields, err := h.sender.payload(body); err != nil || fields != nil {
			return fields, err
		}
	}
	if !h.filtered || !isJSON(header.Get("Content-Type")) {
		return nil, nil
	}
	return object(body)
}

// read reads the body into memory, of which there is so much for all.
func (s *Server) read(w http.ResponseWriter, req *http.Request) (body []byte, done func(), err error) {
	size := req.ContentLength
	switch {
	case size > maxBody:
		return nil, nil, refuse(http.StatusRequestEntityTooLarge, errTooLarge)
	case size < 0:
		size = maxBody
	}
	if encoding := req.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, nil, refuse(http.StatusUnsupportedMediaType, errEncoding)
	}
	if !s.held.TryAcquire(size) {
		return nil, nil, refuse(http.StatusServiceUnavailable, errTooMany)
	}
	done = func() { s.held.Release(size) }
	// A test's ResponseWriter has no deadlines, and whoever serves this has one for all of a request.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err = io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err == nil {
		return body, done, nil
	}
	done()
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, nil, refuse(http.StatusRequestEntityTooLarge, errTooLarge)
	}
	return nil, nil, refuse(http.StatusBadRequest, errCutOff)
}

// act acts on hooks until ctx ends.
func (s *Server) act(ctx context.Context) error {
	for {
		select {
		case j := <-s.jobs:
			s.actOn(ctx, j)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) actOn(ctx context.Context, j job) {
	defer j.done()
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	for i := range j.hook.rules {
		if err := s.follows(ctx, j, &j.hook.rules[i]); err != nil && ctx.Err() == nil {
			s.triggers.complain(j.hook, err)
		}
	}
}

// follows has the objects looked at again that a rule chooses.
func (s *Server) follows(ctx context.Context, j job, r *rule) error {
	if one, ok := r.named(); ok {
		s.triggers.want(one, j.hook)
		return nil
	}
	objects, err := s.objects(ctx, r)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range objects {
		yes, err := r.chooses(o.fields, j.look)
		if err != nil {
			errs = append(errs, fmt.Errorf("evaluating the filter for %s: %w", o.target, err))
			continue
		}
		if yes {
			s.triggers.want(o.target, j.hook)
		}
	}
	return errors.Join(errs...)
}

// cut keeps a caller's word for the log short.
func cut(word string) string {
	if len(word) > 64 {
		return strings.ToValidUTF8(word[:64], "")
	}
	return word
}

package notify

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// maxBody is how large an event may be, in bytes: a message has 39,000 at most.
	maxBody = 256 << 10
	// bodyTimeout is how long one may take to come.
	bodyTimeout = 10 * time.Second
	// perSecond and atOnce are how many events others may send.
	perSecond, atOnce = 100, 1000
)

// Server takes the events of third parties, as Flux's notification-controller does.
type Server struct {
	dispatcher *Dispatcher
	pace       *rate.Limiter
}

// Events returns what takes events by HTTP.
func (d *Dispatcher) Events() *Server {
	return &Server{dispatcher: d, pace: rate.NewLimiter(perSecond, atOnce)}
}

// ServeHTTP implements http.Handler: 202 when the event is taken, 429 when the same was taken not long ago or there are too
// many, and 400 when it is none.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	status := s.take(w, req)
	switch status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "10")
	}
	w.WriteHeader(status)
}

func (s *Server) take(w http.ResponseWriter, req *http.Request) int {
	switch {
	case req.URL.Path != "/":
		return http.StatusNotFound
	case req.Method != http.MethodPost:
		return http.StatusMethodNotAllowed
	case req.ContentLength > maxBody:
		return http.StatusRequestEntityTooLarge
	case !s.pace.Allow():
		return http.StatusTooManyRequests
	}
	// A test's ResponseWriter has no deadlines, and whoever serves this has one for all of a request.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return http.StatusRequestEntityTooLarge
	}
	if err != nil {
		return http.StatusBadRequest
	}
	n, err := parseNews(body)
	if err != nil {
		return http.StatusBadRequest
	}
	in := incoming{News: n, foreign: true}
	in.repeated = s.dispatcher.limit.repeated(in.key())
	select {
	case s.dispatcher.foreign <- in:
	default:
		return http.StatusServiceUnavailable
	}
	if in.repeated {
		return http.StatusTooManyRequests
	}
	return http.StatusAccepted
}

var errNews = errors.New("this is no event about an object")

// parseNews understands an event as Flux's controllers send it.
func parseNews(body []byte) (reconcile.News, error) {
	var n reconcile.News
	if err := json.Unmarshal(body, &n); err != nil {
		return n, err
	}
	o := n.InvolvedObject
	if o.Kind == "" || o.Name == "" || o.Namespace == "" || n.Severity == "" || n.Message == "" {
		return n, errNews
	}
	return n, nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cleat-dev/cleat/internal/webhook"
)

// shutdownGrace is how long a server may take to finish the requests it has when the agent stops.
const shutdownGrace = 5 * time.Second

// server listens on one address. The address is taken when the server is made, so that a port in use is an error before
// anything else has begun.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
}

func listen(ctx context.Context, name, address string, handler http.Handler) (*server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", name, err)
	}
	return &server{name: name, listener: listener, http: &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}}, nil
}

// listenForHooks listens where anybody may call: every connection has little time and little room.
func listenForHooks(ctx context.Context, address string, hooks http.Handler) (*server, error) {
	s, err := listen(ctx, "hooks", address, hooks)
	if err != nil {
		return nil, err
	}
	s.listener = webhook.Guard(s.listener)
	s.http.ReadHeaderTimeout = 5 * time.Second
	s.http.ReadTimeout = 15 * time.Second
	s.http.WriteTimeout = 30 * time.Second
	s.http.IdleTimeout = 30 * time.Second
	s.http.MaxHeaderBytes = 16 << 10
	return s, nil
}

// serve answers until ctx ends.
func (s *server) serve(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			s.http.Close()
		}
	}()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", s.name, err)
	}
	<-stopped
	return nil
}

// metricsHandler serves /metrics out of several registries.
func metricsHandler(gatherers ...prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers(gatherers), promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}

// probe is a check that a kubelet asks for.
type probe func(*http.Request) error

// healthHandler serves /healthz and /readyz.
func healthHandler(live, ready probe) http.Handler {
	answer := func(check probe) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			if err := check(req); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", answer(live))
	mux.Handle("GET /readyz", answer(ready))
	return mux
}

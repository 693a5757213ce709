package testenv

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Sink is an endpoint for the events of Providers of type generic.
type Sink struct {
	URL  string
	told chan string

	mu sync.Mutex
	up chan struct{} // closed while it answers
}

// NewSink starts an endpoint on loopback that ends with the test.
func NewSink(t testing.TB) *Sink {
	t.Helper()
	s := &Sink{told: make(chan string, 1000), up: make(chan struct{})}
	close(s.up)
	server := httptest.NewServer(s)
	s.URL = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

// Hang has it answer nothing until Resume is called.
func (s *Sink) Hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = make(chan struct{})
}

// Resume has it answer again.
func (s *Sink) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.up)
}

// Told returns the events that it has answered, each once, as "severity reason message" with the first line of the message.
func (s *Sink) Told() <-chan string { return s.told }

// ServeHTTP implements http.Handler.
func (s *Sink) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var event struct{ Severity, Reason, Message string }
	if err := json.NewDecoder(req.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	up := s.up
	s.mu.Unlock()
	select {
	case <-up:
		line, _, _ := strings.Cut(event.Message, "\n")
		s.told <- fmt.Sprintf("%s %s %s", event.Severity, event.Reason, line)
	case <-req.Context().Done():
		return // the caller has given up
	}
}

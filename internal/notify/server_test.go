package notify

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// post sends a body to the endpoint for events, and returns the status.
func (w *world) post(s *Server, method, path string, body io.Reader) int {
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequest(method, path, body))
	return answer.Code
}

// TestEvents holds what the endpoint answers, and that an event of somebody else is told.
func TestEvents(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	s := w.Events()
	event, err := json.Marshal(failureNews())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, method, path string
		body               io.Reader
		want               int
	}{
		{"an event", http.MethodPost, "/", strings.NewReader(string(event)), http.StatusAccepted},
		{"the same", http.MethodPost, "/", strings.NewReader(string(event)), http.StatusTooManyRequests},
		{"a GET", http.MethodGet, "/", nil, http.StatusMethodNotAllowed},
		{"another path", http.MethodPost, "/hook/", strings.NewReader(string(event)), http.StatusNotFound},
		{"no JSON", http.MethodPost, "/", strings.NewReader("{"), http.StatusBadRequest},
		{"no event", http.MethodPost, "/", strings.NewReader("{}"), http.StatusBadRequest},
		{"an array", http.MethodPost, "/", strings.NewReader("[]"), http.StatusBadRequest},
		{"too long", http.MethodPost, "/", strings.NewReader(strings.Repeat(" ", maxBody+1)), http.StatusRequestEntityTooLarge},
		{"too long, in chunks", http.MethodPost, "/", io.MultiReader(strings.NewReader(strings.Repeat(" ", maxBody+1))), http.StatusRequestEntityTooLarge},
		{"endless", http.MethodPost, "/", endless{}, http.StatusRequestEntityTooLarge},
		{"trace", http.MethodPost, "/", strings.NewReader(strings.Replace(string(event), `"severity":"error"`, `"severity":"trace"`, 1)), http.StatusTooManyRequests},
	} {
		if got := w.post(s, tt.method, tt.path, tt.body); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	for len(w.foreign) > 0 {
		w.take(context.Background(), <-w.foreign)
	}
	w.settle()
	if got := sink.take(); len(got) != 1 || got[0].json(t)["reason"] != "BuildFailed" {
		t.Errorf("%v", got)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestEventsAreBounded holds that a flood of events is refused, and costs a queue that has an end.
func TestEventsAreBounded(t *testing.T) {
	w := newWorld(t, "", func(o *Options) { o.RateLimit = 0 })
	s := w.Events()
	event, err := json.Marshal(failureNews())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]int{}
	for range 2 * atOnce {
		seen[w.post(s, http.MethodPost, "/", strings.NewReader(string(event)))]++
	}
	if seen[http.StatusAccepted] < atOnce || seen[http.StatusAccepted] > maxForeign || seen[http.StatusTooManyRequests] == 0 {
		t.Errorf("%v", seen)
	}
}

// FuzzEvents looks for bodies that the endpoint does not survive, or that make an event without an object.
func FuzzEvents(f *testing.F) {
	event, err := json.Marshal(failureNews())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(event)
	f.Add([]byte(`{"involvedObject":{"kind":"a","name":"b","namespace":"c"},"severity":"info","message":"m","metadata":{"/":"","a/b/c":"d"}}`))
	r := &rule{}
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseNews(body)
		if err != nil {
			return
		}
		in := incoming{News: n, foreign: true}
		again := incoming{News: n, foreign: true}
		if in.key() != again.key() || n.InvolvedObject.Name == "" {
			t.Errorf("%q", body)
		}
		m := &Message{News: n, alert: r.alert}
		m.Metadata, _ = in.metadata(map[string]string{"a": "b"}, "")
		if m.title() == "" || len(m.fields()) != len(m.Metadata) {
			t.Errorf("%q", body)
		}
		if _, err := m.json(); err != nil {
			t.Errorf("%q: %v", body, err)
		}
		if c := m.commit(); c != "" && len(c) != 40 {
			t.Errorf("%q", c)
		}
	})
}

// FuzzPattern looks for patterns that are taken and are slow.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"^Dependencies do not meet", "(a+)+$", `(\w+\s?){10}`, "(?i)failed|error"} {
		f.Add(p, "message")
	}
	f.Fuzz(func(t *testing.T, p, message string) {
		compiled, size, err := patterns("spec.exclusionList", []string{p})
		if err != nil {
			return
		}
		r := &rule{exclude: compiled, size: size}
		if r.lists(message) == compiled[0].MatchString(message) {
			t.Errorf("%q", p)
		}
	})
}

// FuzzAddress looks for addresses from which a target outside the web is made.
func FuzzAddress(f *testing.F) {
	for _, a := range []string{"https://x.example.com/a", "ssh://git@github.com/a/b", "Endpoint=sb://x/;SharedAccessKey=k;EntityPath=e", "file:///etc/passwd", "http://[::1]:80/%zz"} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, address string) {
		for _, kind := range []string{"github", "bitbucketserver", "azuredevops"} {
			target := &target{address: address, token: "x"}
			target.spec.Type = kind
			if r, err := target.repository(); err == nil && (r.server.Scheme != "http" && r.server.Scheme != "https" || r.server.Host == "") {
				t.Errorf("%q: %v", address, r)
			}
			_, _ = target.host(context.Background())
		}
		hub := &target{address: address, token: "x", channel: "hub"}
		if to, _, err := hub.eventHub(context.Background()); err == nil && (to.Scheme != "https" || to.Host == "") {
			t.Errorf("%q: %v", address, to)
		}
	})
}

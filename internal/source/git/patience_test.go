package git

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// throttled sends so much at a time and then rests.
type throttled struct {
	http.ResponseWriter
	req  *http.Request
	rest time.Duration
}

func (t throttled) Write(p []byte) (int, error) {
	const most = 4 << 10
	sent := 0
	for len(p) > 0 {
		n, err := t.ResponseWriter.Write(p[:min(most, len(p))])
		if sent += n; err != nil {
			return sent, err
		}
		p = p[n:]
		if err := http.NewResponseController(t.ResponseWriter).Flush(); err != nil {
			return sent, err
		}
		rest := time.NewTimer(t.rest)
		select {
		case <-rest.C:
		case <-t.req.Context().Done():
			rest.Stop()
			return sent, t.req.Context().Err()
		}
	}
	return sent, nil
}

// replay keeps a real server's answers, so that how long a process takes to start is no part of a test about time.
type replay struct {
	mu    sync.Mutex
	known map[string]*httptest.ResponseRecorder
}

func (a *replay) serve(w http.ResponseWriter, req *http.Request, from http.Handler, state string) {
	a.mu.Lock()
	key := req.URL.String() + state
	known, ok := a.known[key]
	if !ok {
		body, _ := io.ReadAll(req.Body) // all of it, whether or not the client waits for the answer
		whole := req.WithContext(context.WithoutCancel(req.Context()))
		whole.Body = io.NopCloser(bytes.NewReader(body))
		known = httptest.NewRecorder()
		from.ServeHTTP(known, whole)
		a.known[key] = known
	}
	a.mu.Unlock()
	for name, values := range known.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(known.Code)
	_, _ = w.Write(known.Body.Bytes())
}

// TestF37_ASlowFetchIsGivenMoreTime fetches over a line for which spec.timeout is too short by far.
func TestF37_ASlowFetchIsGivenMoreTime(t *testing.T) {
	r := newRepo(t)
	noise := make([]byte, 300<<10) // random, so that it is as long when it is compressed
	_, _ = rand.Read(noise)
	r.commit("c", map[string]string{"noise": hex.EncodeToString(noise)})
	var stuck atomic.Bool
	answers := &replay{known: map[string]*httptest.ResponseRecorder{}}
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case !strings.HasSuffix(req.URL.Path, uploadPack):
				answers.serve(w, req, next, r.git("rev-parse", "HEAD"))
			case stuck.Load():
				_, _ = io.Copy(io.Discard, req.Body) // until then nobody notices that the client has gone
				<-req.Context().Done()
			default:
				answers.serve(throttled{w, req, 20 * time.Millisecond}, req, next, "") // at least one and a half seconds in all
			}
		})
	})
	w := newWorld(t, gitRepository(server.url, func(s *sourcev1.GitRepositorySpec) { s.Timeout = &metav1.Duration{Duration: time.Second} }))
	var messages []string
	for attempt := 1; ; attempt++ {
		o, _ := w.reconcile()
		ready := reconcile.Condition(o, "Ready")
		if ready.Status == metav1.ConditionTrue {
			break
		}
		if messages = append(messages, ready.Message); attempt > 3*maxDoublings {
			t.Fatalf("it never came through: %q", messages)
		}
	}
	if !slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(m, "still sending") }) {
		t.Errorf("messages are %q", messages)
	}
	if left := w.repositories.patience(shop, time.Second); left != time.Second {
		t.Errorf("after a success the next fetch has %v for each second", left)
	}
	// A server that is stuck gets no more time, however often it is.
	stuck.Store(true)
	r.commit("d", map[string]string{"n": "1"})
	for range 2 {
		o, _ := w.reconcile()
		if m := reconcile.Condition(o, "Ready").Message; !strings.Contains(m, "spec.timeout") || strings.Contains(m, "still sending") {
			t.Errorf("message is %q", m)
		}
	}
	if left := w.repositories.patience(shop, time.Second); left != time.Second {
		t.Errorf("after silence the next fetch has %v for each second", left)
	}
}

func TestPatienceHasAnEnd(t *testing.T) {
	g := &repositories{slow: map[types.NamespacedName]int{}}
	var got []time.Duration
	for range maxDoublings + 2 {
		got = append(got, g.patience(shop, time.Minute))
		g.learn(shop, errSlow)
	}
	if want := []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 8 * time.Minute}; !cmp.Equal(want, got) {
		t.Errorf("an attempt has %v", got)
	}
}

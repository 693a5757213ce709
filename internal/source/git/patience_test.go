package git

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
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

// TestF37_ASlowFetchIsGivenMoreTime fetches over a line for which spec.timeout is too short by far.
func TestF37_ASlowFetchIsGivenMoreTime(t *testing.T) {
	r := newRepo(t)
	noise := make([]byte, 60<<10) // random, so that it is as long when it is compressed
	_, _ = rand.Read(noise)
	r.commit("c", map[string]string{"noise": hex.EncodeToString(noise)})
	var stuck atomic.Bool
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case !strings.HasSuffix(req.URL.Path, uploadPack):
				next.ServeHTTP(w, req)
			case stuck.Load():
				_, _ = io.Copy(io.Discard, req.Body) // until then nobody notices that the client has gone
				<-req.Context().Done()
			default:
				next.ServeHTTP(throttled{w, req, 100 * time.Millisecond}, req) // about two seconds in all
			}
		})
	})
	w := newWorld(t, gitRepository(server.url, func(s *sourcev1.GitRepositorySpec) { s.Timeout = &metav1.Duration{Duration: 500 * time.Millisecond} }))
	var messages []string
	for attempt := 1; ; attempt++ {
		o, _ := w.reconcile()
		ready := reconcile.Condition(o, "Ready")
		if ready.Status == metav1.ConditionTrue {
			break
		}
		if messages = append(messages, ready.Message); attempt > maxDoublings {
			t.Fatalf("never came through: %q", messages)
		}
	}
	if len(messages) == 0 || !strings.Contains(messages[0], "still sending") || messages[0] != messages[len(messages)-1] {
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

package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// TestTenure: a tenure lasts as long as each of its leases, counted from the request that has renewed it.
func TestTenure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := newTenure(10 * time.Second)
		require := func(what string, want bool) {
			t.Helper()
			if got := held.over(time.Now()); got != want {
				t.Fatalf("%s: over is %t", what, got)
			}
		}
		require("before there is a lease", false)
		held.renew("one", time.Now())
		time.Sleep(6 * time.Second)
		held.renew("two", time.Now())
		time.Sleep(4 * time.Second)
		require("the first has run out, the second has not", true)
		held.renew("one", time.Now().Add(-time.Second))
		require("the first is renewed", false)
		time.Sleep(9 * time.Second)
		require("nine seconds after the answer, ten after the request", true)

		held.renew("one", time.Now())
		held.renew("two", time.Now())
		require("both are renewed", false)
		if !held.end("two") || held.end("two") || held.end("three") {
			t.Error("end does not tell whether the lease was held")
		}
		held.renew("two", time.Now())
		require("what was lost comes not back", true)
	})
}

// TestTenureByTheWallClock: a machine that has slept has a monotonic clock which does not tell.
func TestTenureByTheWallClock(t *testing.T) {
	held := newTenure(10 * time.Second)
	now := time.Now()
	held.renew("one", now)
	if held.over(now.Add(9 * time.Second)) {
		t.Error("over after nine seconds")
	}
	if !held.over(now.Round(0).Add(11 * time.Second)) {
		t.Error("not over after eleven seconds by the wall clock")
	}
}

// TestNoWritesAfterTenure: reads pass, and so does everything under a lease; what would change something is refused after it.
func TestNoWritesAfterTenure(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = append(seen, r.Method) }))
	defer server.Close()
	held := newTenure(time.Hour)
	client, err := rest.HTTPClientFor(held.guard(&rest.Config{Host: server.URL}))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	methods := []string{http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut, http.MethodDelete}
	held.renew("one", time.Now())
	for _, method := range methods {
		if err := ask(method); err != nil {
			t.Errorf("%s under the lease: %v", method, err)
		}
	}
	held.end("one")
	for _, method := range methods {
		if err := ask(method); (method == http.MethodGet) != (err == nil) || err != nil && !errors.Is(err, errNoTenure) {
			t.Errorf("%s after the lease: %v", method, err)
		}
	}
	if got, want := strings.Join(seen, " "), "GET PATCH POST PUT DELETE GET"; got != want {
		t.Errorf("the server has seen %s, want %s", got, want)
	}
	if config := (&rest.Config{}); (*tenure)(nil).guard(config) != config {
		t.Error("without leases something is put before the transport")
	}
}

// stored is a lease at rest.
type stored struct {
	resourcelock.Interface
	record resourcelock.LeaderElectionRecord
}

func (s *stored) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record := s.record
	return &record, nil, nil
}

func (s *stored) Update(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	s.record = record
	return nil
}

// TestLeaseOfAnother: who sees another hold what was its own has lost it at once, and does not give up the other's lease.
func TestLeaseOfAnother(t *testing.T) {
	turn := make(chan struct{})
	close(turn)
	at := &stored{}
	told := 0
	l := lease{Interface: at, name: "one", identity: "me", turn: turn, held: newTenure(time.Hour), lost: func() { told++ }}
	get := func() {
		t.Helper()
		if _, _, err := l.Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	at.record.HolderIdentity = "other"
	get()
	if told != 0 {
		t.Fatal("who waits for a lease has not lost it")
	}
	if err := l.Update(t.Context(), resourcelock.LeaderElectionRecord{HolderIdentity: "me"}); err != nil {
		t.Fatal(err)
	}
	get()
	if told != 0 || l.held.over(time.Now()) {
		t.Fatal("what is held counts as lost")
	}
	at.record.HolderIdentity = "other"
	get()
	if told != 1 || !l.held.over(time.Now()) {
		t.Fatal("what another holds does not count as lost")
	}
	if err := l.Update(t.Context(), resourcelock.LeaderElectionRecord{}); !errors.Is(err, errLeadershipLost) || at.record.HolderIdentity != "other" {
		t.Errorf("the other's lease was given up: %v, %v", err, at.record)
	}
}

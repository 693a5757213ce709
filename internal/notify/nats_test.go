package notify

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// newNATS starts a NATS server on loopback that wants a user and a password.
func newNATS(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, Username: "cleat", Password: canary, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	return s
}

// TestNATS holds that a real NATS server gets the event, and what is told when it refuses or is away.
func TestNATS(t *testing.T) {
	s := newNATS(t)
	listener, err := nats.Connect(s.ClientURL(), nats.UserInfo("cleat", canary))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	got, err := listener.SubscribeSync("flux.events")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Flush(); err != nil {
		t.Fatal(err)
	}
	spec := newProvider(`{type: nats, address: "` + s.ClientURL() + `", channel: flux.events, secretRef: {name: sink}}`)
	w := newWorld(t, spec+newSecret(`{username: cleat, password: canary-s3cret}`)+newAlert(everything))
	w.hear(failureNews())
	m, err := got.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatalf("%v, events: %q", err, w.events.Words())
	}
	want, err := w.messageOf(w.current()[0], "error").json()
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Data) != string(want) {
		t.Errorf("%s", m.Data)
	}

	for name, secret := range map[string]string{"wrong password": `{username: cleat, password: canary-s3cret-2}`, "none": `{}`} {
		w := newWorld(t, spec+newSecret(secret)+newAlert(everything))
		err := w.tellOf(newEndpoint(t, nil), w.messageOf(w.current()[0], "error"))
		if err == nil || !strings.HasPrefix(err.Error(), "connecting to the NATS server: ") || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Shutdown()
	err = w.tellOf(newEndpoint(t, nil), w.messageOf(w.current()[0], "error"))
	if err == nil || !strings.Contains(err.Error(), "NATS server") || final(err) {
		t.Errorf("away: %v", err)
	}
}

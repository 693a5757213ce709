package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// newAlertmanager starts an Alertmanager on loopback, if this machine has one (Debian's package prometheus-alertmanager).
func newAlertmanager(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		t.Skip("there is no prometheus-alertmanager on this machine; what it would be sent is in testdata/providers/alertmanager")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	config := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(config, []byte("route: {receiver: none}\nreceivers: [{name: none}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--config.file="+config, "--storage.path="+t.TempDir(), "--web.listen-address="+address, "--cluster.listen-address=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it is killed, which is an error
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		res, err := http.Get("http://" + address + "/-/ready")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return "http://" + address
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not get ready")
		}
	}
}

// TestAlertmanager holds that a real one takes the alert, with its labels.
func TestAlertmanager(t *testing.T) {
	server := newAlertmanager(t)
	w := newWorld(t, newProvider(`{type: alertmanager, address: "`+server+`/api/v2/alerts"}`)+
		newAlert(`{providerRef: {name: sink}, summary: brief, eventMetadata: {"1.odd-key": x}, eventSources: [{kind: Kustomization, name: "*"}]}`))
	n := failureNews()
	n.Timestamp.Time = time.Now() // of an older one it says that it is resolved
	w.hear(n)
	if events := w.events.Words(); len(events) > 0 {
		t.Fatalf("%q", events)
	}
	res, err := http.Get(server + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var alerts []struct{ Labels, Annotations map[string]string }
	if err := json.NewDecoder(res.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	if len(alerts) != 1 {
		t.Fatalf("%v", alerts)
	}
	for key, want := range map[string]string{"alertname": "FluxKustomizationBuildFailed", "severity": "error", "name": "shop", "_1_odd_key": "x", "team": "shop"} {
		if alerts[0].Labels[key] != want {
			t.Errorf("%s: %v", key, alerts[0].Labels)
		}
	}
	if got := fmt.Sprint(alerts[0].Annotations["summary"]); got != "brief" {
		t.Errorf("%v", alerts[0].Annotations)
	}
}

package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/cleat-dev/cleat/internal/api"
)

// TestNewsIsFluxs: the JSON of news is what Flux 2.9's source-controller sends for the same event. testdata/event.json is what
// its provider `generic` was sent, without what the Alert had added.
func TestNewsIsFluxs(t *testing.T) {
	bus := NewBus(prometheus.NewRegistry())
	bus.now = func() time.Time { return time.Date(2026, time.November, 23, 11, 58, 13, 0, time.UTC) }
	heard := bus.Subscribe("test", 4)
	kubernetes := record.NewFakeRecorder(4)
	recorder := NewRecorder(kubernetes).Telling(bus, Reporter{Scheme: api.NewScheme(), Controller: api.SourceManager, Instance: "vm"})
	repository := &sourcev1.GitRepository{
		TypeMeta: metav1.TypeMeta{APIVersion: "source.toolkit.fluxcd.io/v1", Kind: "GitRepository"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "shop", UID: "eb3a7e76-1140-4cb8-970c-4a7eb886da9f", ResourceVersion: "285",
			Annotations: map[string]string{"event.toolkit.fluxcd.io/team": "shop", "other": "untold"}},
	}
	recorder.Record(repository, Event{Type: corev1.EventTypeNormal, Reason: "NewArtifact", Message: "stored artifact for commit 'first: shop and web'",
		Metadata: map[string]string{"source.toolkit.fluxcd.io/revision": "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae"}})
	if len(kubernetes.Events) != 1 {
		t.Errorf("%d Kubernetes events", len(kubernetes.Events))
	}
	news, err := heard.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(news)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/event.json")
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal(golden, &want)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("news (-Flux's +ours):\n%s", diff)
	}
}

// TestBusNeverWaits: a consumer that does not read loses its oldest news, counted, and nobody else does.
func TestBusNeverWaits(t *testing.T) {
	bus := NewBus(prometheus.NewRegistry())
	slow, quick := bus.Subscribe("slow", 2), bus.Subscribe("quick", 8)
	for i := range 5 {
		bus.tell(News{Message: fmt.Sprint(i)})
	}
	for _, want := range []struct {
		of      *Subscription
		name    string
		dropped float64
		heard   []string
	}{{slow, "slow", 3, []string{"3", "4"}}, {quick, "quick", 0, []string{"0", "1", "2", "3", "4"}}} {
		if got := testutil.ToFloat64(bus.dropped.WithLabelValues(want.name)); got != want.dropped {
			t.Errorf("%s: %v dropped, want %v", want.name, got, want.dropped)
		}
		var heard []string
		for n, ok := want.of.take(); ok; n, ok = want.of.take() {
			heard = append(heard, n.Message)
		}
		if diff := cmp.Diff(want.heard, heard); diff != "" {
			t.Errorf("%s heard (-want +got):\n%s", want.name, diff)
		}
	}
	slow.Close()
	bus.tell(News{})
	if _, ok := slow.take(); ok {
		t.Error("a closed subscription still hears")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	quick.take()
	if _, err := quick.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with nothing to hear and no time: %v", err)
	}
}

// TestBusWakesWhoWaits: of many who tell at once nothing is lost to one who reads along.
func TestBusWakesWhoWaits(t *testing.T) {
	bus := NewBus(prometheus.NewRegistry())
	const tellers, each = 8, 50
	heard := bus.Subscribe("test", tellers*each)
	var wg sync.WaitGroup
	for range tellers {
		wg.Go(func() {
			for range each {
				bus.tell(News{})
			}
		})
	}
	for range tellers * each {
		if _, err := heard.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

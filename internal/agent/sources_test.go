package agent

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// TestF25_ALostSourceIsNotWokenAllTheTime: however many readers miss an artifact, its server is not asked for it all the time.
func TestF25_ALostSourceIsNotWokenAllTheTime(t *testing.T) {
	r, now := newRefetch(reconcile.NewRequests()), time.Now()
	shop := lostSource{api.GitRepositoryKind, types.NamespacedName{Namespace: "demo", Name: "shop"}}
	web := lostSource{api.BucketKind, shop.key}
	if !r.due(shop, now) || r.due(shop, now.Add(wakeEvery/2)) || !r.due(web, now) || !r.due(shop, now.Add(wakeEvery)) {
		t.Error("a source is woken at once, and then not more often than that")
	}
	if r.due(web, now.Add(2*wakeEvery)); len(r.woken) != 1 {
		t.Errorf("%d sources are remembered", len(r.woken))
	}
}

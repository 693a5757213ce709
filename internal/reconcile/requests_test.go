package reconcile

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/cleat-dev/cleat/internal/api"
)

// TestF36_RequestDuringRun: a request that is made while another is being answered is answered by a run of its own, and none
// is kept for objects that nobody here works on (faults.md F36).
func TestF36_RequestDuringRun(t *testing.T) {
	kind, shop := api.GitRepositoryKind, types.NamespacedName{Namespace: "demo", Name: "shop"}
	requests := NewRequests()
	requests.Make(kind, shop, "early")
	if got := requests.of(kind, shop, "annotated"); got != "annotated" {
		t.Errorf("before there is a controller a run answers %q", got)
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	defer queue.ShutDown()
	if err := requests.Waker(kind).Start(context.Background(), queue); err != nil {
		t.Fatal(err)
	}
	requests.Make(api.HelmReleaseKind, shop, "nobody's")
	requests.Make(kind, shop, "one")
	running, _ := queue.Get()
	if got := requests.of(kind, shop, "annotated"); got != "one" {
		t.Errorf("a run answers %q", got)
	}
	requests.Make(kind, shop, "two")
	requests.answered(kind, shop, "one")
	queue.Done(running)
	if queue.Len() != 1 {
		t.Errorf("%d objects are queued", queue.Len())
	}
	if got := requests.of(kind, shop, "one"); got != "two" {
		t.Errorf("the next run answers %q", got)
	}
	requests.answered(kind, shop, "two")
	if got := requests.of(kind, shop, "two"); got != "two" {
		t.Errorf("when all is answered a run answers %q", got)
	}
	for annotation, want := range map[string]bool{"two": false, "one": true, "a user's": true, "": true} {
		if got := requests.Asked().Update(event.UpdateEvent{ObjectOld: annotated(kind, "before"), ObjectNew: annotated(kind, annotation)}); got != want {
			t.Errorf("the annotation %q asks for a run: %t", annotation, got)
		}
	}
	forced := annotated(kind, "two")
	forced.SetAnnotations(map[string]string{"reconcile.fluxcd.io/requestedAt": "two", "reconcile.fluxcd.io/forceAt": "two"})
	if !requests.Asked().Update(event.UpdateEvent{ObjectOld: annotated(kind, "before"), ObjectNew: forced}) {
		t.Error("what else is asked for at the same time is not heard")
	}
	requests.Make(kind, shop, "three")
	requests.forget(kind, shop)
	if len(requests.made)+len(requests.own) != 0 {
		t.Errorf("kept: %v", requests.made)
	}
}

func annotated(kind schema.GroupVersionKind, request string) *unstructured.Unstructured {
	u := api.Undecoded(kind)
	u.SetNamespace("demo")
	u.SetName("shop")
	u.SetAnnotations(map[string]string{"reconcile.fluxcd.io/requestedAt": request})
	return u
}

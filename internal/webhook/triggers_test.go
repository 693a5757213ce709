package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"

	"github.com/cleat-dev/cleat/internal/api"
)

// TestRequest: a hook wakes the object in this process, and writes Flux's annotation under the manager that Flux writes it.
func TestRequest(t *testing.T) {
	w := newWorld(t, repository("demo", "shop", nil))
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	defer queue.ShutDown()
	if err := w.options.Requests.Waker(api.GitRepositoryKind).Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.do(post(w.add(newReceiver("generic")), nil, nil)); status != http.StatusOK {
		t.Fatal(status)
	}
	w.wrote(1)
	woken, _ := queue.Get()
	if woken.String() != "demo/shop" {
		t.Errorf("woken: %s", woken)
	}
	var shop sourcev1.GitRepository
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "demo", Name: "shop"}, &shop); err != nil {
		t.Fatal(err)
	}
	if at := shop.Annotations[meta.ReconcileRequestAnnotation]; !strings.Contains(at, " +0000 UTC") && !strings.Contains(at, " m=+") {
		t.Errorf("requested at %q, which is not how Flux writes it", at)
	}
}

// TestBurst: of 200 hooks in a second that mean 50 sources, each source is requested twice at most: at once, and when the
// second is over, for those that came in between.
func TestBurst(t *testing.T) {
	const sources, hooks = 50, 200
	var objects []client.Object
	r := newReceiver("generic")
	r.Spec.Resources = nil
	for i := range sources {
		name := fmt.Sprintf("source-%d", i)
		objects = append(objects, repository("demo", name, nil))
		r.Spec.Resources = append(r.Spec.Resources, resource("GitRepository", name))
	}
	w := newWorld(t, objects...)
	path := w.add(r)
	pace, began := time.NewTicker(3*time.Millisecond), time.Now() // not all before the first is acted on
	defer pace.Stop()
	for i := range hooks {
		<-pace.C
		if status, text := w.do(post(path, nil, nil)); status != http.StatusOK {
			t.Fatalf("hook %d: %d %s", i, status, text)
		}
	}
	most := 2 + int(time.Since(began)/apart) // on a machine that takes more than a second for them
	counts := map[string]int{}
	for _, o := range w.wrote(sources) {
		counts[o]++
	}
	quiet := time.NewTimer(3 * apart) // then the second for each has come
	defer quiet.Stop()
	for over := false; !over; {
		select {
		case o := <-w.written:
			counts[o]++
		case <-quiet.C:
			over = true
		}
	}
	if len(counts) != sources {
		t.Errorf("%d sources were requested", len(counts))
	}
	for o, n := range counts {
		if n > most {
			t.Errorf("%s was requested %d times", o, n)
		}
	}
}

// TestRules: names, labels, filters and namespaces choose what is looked at again.
func TestRules(t *testing.T) {
	prod, test := map[string]string{"env": "prod"}, map[string]string{"env": "test"}
	objects := []client.Object{repository("demo", "shop", prod), repository("demo", "web", prod), repository("demo", "lab", test), repository("other", "shop", prod)}
	labelled := resource("GitRepository", "*")
	labelled.MatchLabels = prod
	elsewhere := resource("GitRepository", "shop")
	elsewhere.Namespace, elsewhere.APIVersion = "other", "source.toolkit.fluxcd.io/v1"
	filtered := labelled
	filtered.Filter = "res.metadata.name.startsWith(req.image.split('/')[2])"
	for name, c := range map[string]struct {
		resources []notificationv1.ReceiverResource
		filter    string
		want      []string
	}{
		"a name":                      {resources: []notificationv1.ReceiverResource{resource("GitRepository", "shop")}, want: []string{"demo/shop"}},
		"labels":                      {resources: []notificationv1.ReceiverResource{labelled}, want: []string{"demo/shop", "demo/web"}},
		"another namespace":           {resources: []notificationv1.ReceiverResource{elsewhere}, want: []string{"other/shop"}},
		"one named twice":             {resources: []notificationv1.ReceiverResource{labelled, resource("GitRepository", "shop")}, want: []string{"demo/shop", "demo/web"}},
		"a filter on labels":          {resources: []notificationv1.ReceiverResource{labelled}, filter: "res.metadata.name != 'web' && res.kind == 'GitRepository'", want: []string{"demo/shop"}},
		"a filter on the payload":     {resources: []notificationv1.ReceiverResource{labelled}, filter: "req.tag.startsWith('6.') && req.image.endsWith(res.metadata.name)", want: []string{"demo/shop"}},
		"a filter of one entry":       {resources: []notificationv1.ReceiverResource{filtered, resource("GitRepository", "lab")}, want: []string{"demo/lab", "demo/shop"}},
		"both filters must hold":      {resources: []notificationv1.ReceiverResource{filtered}, filter: "res.metadata.name == 'web'"},
		"a filter that cannot be run": {resources: []notificationv1.ReceiverResource{labelled}, filter: "res.metadata.annotations.x == 'y'"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newIdleWorld(t, objects...)
			r := newReceiver("generic")
			r.Spec.Resources, r.Spec.ResourceFilter = c.resources, c.filter
			if status, text := w.do(post(w.add(r), payload(t, "generic.json"), map[string]string{"Content-Type": jsonType})); status != http.StatusOK {
				t.Fatalf("%d: %s", status, text)
			}
			w.actOn(context.Background(), <-w.jobs)
			var got []string
			for w.triggers.queue.Len() > 0 {
				o, _ := w.triggers.queue.Get()
				got = append(got, o.key.String())
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("requested (-want +got):\n%s", diff)
			}
			if told := len(w.events.Take()); (told > 0) != (name == "a filter that cannot be run") {
				t.Errorf("%d events", told)
			}
		})
	}
}

// TestFormPayload: filters see nothing of a payload that is not sent as JSON.
func TestFormPayload(t *testing.T) {
	w := newIdleWorld(t, repository("demo", "shop", nil))
	r := newReceiver("generic")
	r.Spec.ResourceFilter = "!has(req.image)"
	if status, text := w.do(post(w.add(r), []byte("image=shop"), map[string]string{"Content-Type": "text/plain"})); status != http.StatusOK {
		t.Fatalf("%d: %s", status, text)
	}
	w.actOn(context.Background(), <-w.jobs)
	if w.triggers.queue.Len() != 1 {
		t.Error("the filter has seen something")
	}
}

// TestMissingObject: a Receiver that names what there is not says so in an event, and the others are looked at all the same.
func TestMissingObject(t *testing.T) {
	w := newWorld(t, repository("demo", "shop", nil))
	r := newReceiver("generic")
	r.Spec.Resources = []notificationv1.ReceiverResource{resource("GitRepository", "nowhere"), resource("GitRepository", "shop")}
	if status, _ := w.do(post(w.add(r), nil, nil)); status != http.StatusOK {
		t.Fatal(status)
	}
	wrote := w.wrote(2)
	slices.Sort(wrote)
	if diff := cmp.Diff([]string{"GitRepository/demo/nowhere", "GitRepository/demo/shop"}, wrote); diff != "" {
		t.Errorf("requested (-want +got):\n%s", diff)
	}
	for range 1000 { // the event follows the write
		if events := w.events.Words(); len(events) > 0 {
			if !strings.Contains(events[0], "GitRepository/demo/nowhere") {
				t.Errorf("events: %v", events)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("no event")
}

// TestRetry: an annotation that the API server does not take at first is written later, and the object, which was woken when the hook
// came, is not woken again for that: it would be fetched with each attempt.
func TestRetry(t *testing.T) {
	w := newIdleWorld(t, repository("demo", "shop", nil))
	refusals := 2
	w.triggers.client = interceptor.NewClient(w.client.(client.WithWatch), interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			if refusals > 0 {
				refusals--
				return errors.New("out of order")
			}
			return c.Patch(ctx, o, p, opts...)
		},
	})
	woken := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	defer woken.ShutDown()
	if err := w.options.Requests.Waker(api.GitRepositoryKind).Start(t.Context(), woken); err != nil {
		t.Fatal(err)
	}
	o := target{api.GitRepositoryKind, types.NamespacedName{Namespace: "demo", Name: "shop"}}
	w.triggers.want(o, nil)
	for refusals > 0 {
		got, _ := w.triggers.queue.Get()
		w.triggers.make(t.Context(), got)
		w.triggers.queue.Done(got)
		if woken.Len() > 0 {
			one, _ := woken.Get()
			woken.Done(one)
			if refusals != 1 {
				t.Error("woken once more for a second attempt")
			}
		}
	}
	w.triggers.want(o, nil) // another hook meanwhile is a wish of its own
	got, _ := w.triggers.queue.Get()
	w.triggers.make(t.Context(), got)
	w.triggers.queue.Done(got)
	if woken.Len() != 1 || w.triggers.queue.NumRequeues(o) != 0 {
		t.Errorf("%d woken for another hook, %d attempts", woken.Len(), w.triggers.queue.NumRequeues(o))
	}
	w.wrote(1)
	w.triggers.make(t.Context(), o) // queued twice
	if len(w.written) != 0 {
		t.Error("written for no hook")
	}
}

// TestLevel: an object that is wanted while a request for it is being made is requested once more.
func TestLevel(t *testing.T) {
	w := newIdleWorld(t, repository("demo", "shop", nil))
	o := target{api.GitRepositoryKind, types.NamespacedName{Namespace: "demo", Name: "shop"}}
	w.triggers.want(o, nil)
	got, _ := w.triggers.queue.Get()
	w.triggers.take(got)
	w.triggers.want(o, nil)
	w.triggers.queue.Done(got)
	next := make(chan target, 1)
	go func() {
		again, _ := w.triggers.queue.Get() // waits until a second is over
		next <- again
	}()
	select {
	case again := <-next:
		if again != o {
			t.Errorf("requested: %v", again)
		}
	case <-time.After(time.Minute):
		w.triggers.queue.ShutDown()
		t.Error("never")
	}
}

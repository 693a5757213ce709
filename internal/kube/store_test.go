package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// noKinds is a cluster without any kind, so that no watch gets anywhere and the test is the one to fill the stores.
type noKinds struct{}

func (noKinds) mapping(context.Context, schema.GroupVersionKind) (*meta.RESTMapping, error) {
	return nil, ErrNotServed
}

func (noKinds) Reset() {}

var (
	owner = types.NamespacedName{Namespace: "flux-system", Name: "apps"}
	ref   = object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "n", Name: "a"}
)

// filled returns an Observer in which the owner tracks ref, and the store of its watch, once that has failed as it must.
func filled(t *testing.T) (*Observer, *store) {
	t.Helper()
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	t.Cleanup(o.Close)
	failed := make(chan struct{}, 1)
	cancel := o.Subscribe(func(types.NamespacedName) { failed <- struct{}{} })
	o.Watch(owner, []object.Ref{ref})
	<-failed
	cancel()
	if _, state := o.Get(ref); !errors.Is(state.Err, ErrNotServed) || state.Gone() {
		t.Fatalf("before anything came in: %+v", state)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o, &store{observer: o, watch: o.watches[kindTarget(ref)]}
}

func configMap(version int, uid string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	u.SetNamespace(ref.Namespace)
	u.SetName(ref.Name)
	u.SetUID(types.UID(uid))
	u.SetResourceVersion(fmt.Sprint(version))
	object.SetOwner(u, owner)
	return u
}

// Whatever order answers and events come in, what is known of the object is the newest of it.
func TestStoreKeepsTheNewest(t *testing.T) {
	type step func(t *testing.T, o *Observer, s *store)
	check := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	record := func(version int, uid string) step {
		return func(_ *testing.T, o *Observer, _ *store) { o.Record(configMap(version, uid)) }
	}
	update := func(version int, uid string) step {
		return func(t *testing.T, _ *Observer, s *store) { check(t, s.Update(configMap(version, uid))) }
	}
	remove := func(version int) step {
		return func(t *testing.T, _ *Observer, s *store) { check(t, s.Delete(configMap(version, "1"))) }
	}
	list := func(version int, items ...any) step {
		return func(t *testing.T, _ *Observer, s *store) { check(t, s.Replace(items, fmt.Sprint(version))) }
	}
	for name, tt := range map[string]struct {
		steps []step
		// want is the resourceVersion that is known; empty when the object is gone.
		want   string
		synced bool
	}{
		"an answer before the list":               {[]step{record(10, "1")}, "10", false},
		"an older list":                           {[]step{record(10, "1"), list(9, configMap(8, "1"))}, "10", true},
		"an older list without it":                {[]step{record(10, "1"), list(9)}, "10", true},
		"a newer list without it":                 {[]step{record(10, "1"), list(11)}, "", true},
		"a newer list":                            {[]step{record(10, "1"), list(12, configMap(11, "1"))}, "11", true},
		"an event older than the answer":          {[]step{list(5, configMap(4, "1")), record(10, "1"), update(7, "1")}, "10", true},
		"an event newer than the answer":          {[]step{list(5, configMap(4, "1")), record(10, "1"), update(12, "1")}, "12", true},
		"a deletion":                              {[]step{list(5, configMap(4, "1")), remove(6)}, "", true},
		"the end of one that was replaced":        {[]step{list(5, configMap(4, "1")), record(10, "2"), remove(8)}, "10", true},
		"an answer that the watch has overtaken":  {[]step{list(5, configMap(4, "1")), remove(12), record(10, "1")}, "", true},
		"an answer ahead of the watch":            {[]step{list(5), record(10, "1")}, "10", true},
		"an answer that a bookmark has overtaken": {[]step{list(5), func(t *testing.T, _ *Observer, s *store) { check(t, s.Bookmark("12")) }, record(10, "1")}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			o, s := filled(t)
			for _, do := range tt.steps {
				do(t, o, s)
			}
			obs, state := o.Get(ref)
			if obs.ResourceVersion != tt.want || state.Found != (tt.want != "") || state.Synced != tt.synced {
				t.Errorf("known: version %q, %+v; want version %q, synced %t", obs.ResourceVersion, state, tt.want, tt.synced)
			}
		})
	}
}

// The owner is woken by what matters to it and by nothing else.
func TestObserverWakesForWhatMatters(t *testing.T) {
	managed := func(u *unstructured.Unstructured, data string) *unstructured.Unstructured {
		u.Object["data"] = map[string]any{"x": data}
		u.Object["metadata"].(map[string]any)["managedFields"] = []any{map[string]any{
			"manager": "kustomize-controller", "operation": "Apply",
			"fieldsV1": map[string]any{"f:data": map[string]any{"f:x": map[string]any{}}},
		}}
		return u
	}
	for name, tt := range map[string]struct {
		change func(s *store) error
		wakes  bool
	}{
		"status churn": {func(s *store) error { return s.Update(managed(configMap(6, "1"), "a")) }, false},
		"the same list again": {func(s *store) error {
			return s.Replace([]any{managed(configMap(4, "1"), "a")}, "9")
		}, false},
		"our field":  {func(s *store) error { return s.Update(managed(configMap(6, "1"), "b")) }, true},
		"a new UID":  {func(s *store) error { return s.Update(managed(configMap(6, "2"), "a")) }, true},
		"a deletion": {func(s *store) error { return s.Delete(configMap(6, "1")) }, true},
		"someone else's object": {func(s *store) error {
			u := managed(configMap(6, "3"), "b")
			u.SetName("stranger")
			return s.Update(u)
		}, false},
		"the end of health": {func(s *store) error {
			u := managed(configMap(6, "1"), "a")
			u.Object["metadata"].(map[string]any)["deletionTimestamp"] = "2026-11-23T00:00:00Z"
			return s.Update(u)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			o, s := filled(t)
			if err := s.Replace([]any{managed(configMap(4, "1"), "a")}, "5"); err != nil {
				t.Fatal(err)
			}
			wakes := newWakes(o)
			wakes.take()
			if err := tt.change(s); err != nil {
				t.Fatal(err)
			}
			if woken := wakes.take(); woken != tt.wakes {
				t.Errorf("woken: %t, want %t", woken, tt.wakes)
			}
		})
	}
}

// wakes tells whether the owner was woken.
type wakes struct {
	observer *Observer
	seen     chan types.NamespacedName
}

func newWakes(o *Observer) *wakes {
	w := &wakes{observer: o, seen: make(chan types.NamespacedName, 100)}
	o.Subscribe(func(n types.NamespacedName) { w.seen <- n })
	return w
}

// take says whether the owner was woken since the last time. It sends two marks after whatever there was: calls of one
// batch come in any order, but the second mark is in a batch after the first.
func (w *wakes) take() (woken bool) {
	for _, name := range []string{"first", "second"} {
		mark := types.NamespacedName{Name: name}
		w.observer.mu.Lock()
		w.observer.dirty[mark] = struct{}{}
		w.observer.wake()
		w.observer.mu.Unlock()
		for n := range w.seen {
			if n == mark {
				break
			}
			woken = woken || n == owner
		}
	}
	return woken
}

func TestF53_ObservationIsSmall(t *testing.T) {
	u := configMap(1, strings.Repeat("u", 36))
	u.Object["kind"] = "Widget"
	u.Object["status"] = map[string]any{"conditions": []any{map[string]any{
		"type": "Ready", "status": "False", "message": strings.Repeat("é", 5000),
	}}}
	obs := Kustomizations().observe(u, nil)
	if n := len(obs.Health.Message); n > maxMessage+len("…") || n == 0 {
		t.Errorf("a message of %d bytes", n)
	}
	if strings.ContainsRune(obs.Health.Message, '\uFFFD') {
		t.Error("a letter was cut in two")
	}
}

func TestWatchesAreCounted(t *testing.T) {
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	defer o.Close()
	other := types.NamespacedName{Namespace: "x", Name: "y"}
	second := object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "n", Name: "b"}
	count := func(want int) {
		t.Helper()
		if got, _ := o.Counts(); got != want {
			t.Errorf("%d watches, want %d", got, want)
		}
	}
	o.Watch(owner, []object.Ref{ref, second})
	count(1)
	o.Watch(other, []object.Ref{second})
	o.Pin(other, []object.Ref{second})
	count(2)
	o.Watch(owner, nil)
	count(2)
	o.Forget(other)
	count(0)
	if len(o.needs) != 0 || len(o.interested) != 0 {
		t.Errorf("left behind: %v, %v", o.needs, o.interested)
	}
}

// A wait ends with its context, with the Observer, or when it is told.
func TestAwait(t *testing.T) {
	never := func(object.Ref, Observation, State) (bool, error) { return false, nil }
	o, s := filled(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Await(ctx, Wait{Labelled: []object.Ref{ref}}, never); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	done := make(chan error, 1)
	go func() {
		done <- o.Await(t.Context(), Wait{Labelled: []object.Ref{ref}}, func(_ object.Ref, obs Observation, s State) (bool, error) {
			return s.Found && obs.Health.Status == health.Current, nil
		})
	}()
	if err := s.Update(configMap(3, "1")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the wait did not end")
	}
}

func TestKindGone(t *testing.T) {
	gr := schema.GroupResource{Resource: "widgets"}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"one object":        {apierrors.NewNotFound(gr, "a"), false},
		"the path":          {apierrors.NewGenericServerResponse(404, "GET", gr, "", "404 page not found", 0, true), true},
		"not listable":      {apierrors.NewMethodNotSupported(gr, "list"), true},
		"server not ready":  {apierrors.NewGenericServerResponse(503, "GET", gr, "", "starting", 0, true), false},
		"nobody there":      {errors.New("connection refused"), false},
		"may not be listed": {apierrors.NewForbidden(gr, "", nil), false},
	} {
		if got := kindGone(tt.err); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

func TestOutcomeTracked(t *testing.T) {
	for o, want := range map[Outcome]bool{
		Deleted: false, Gone: false, HandedOver: false, KeptDisabled: false, KeptProtected: false,
		Terminating: true, InUse: true, Failed: true, Outcome("new"): true,
	} {
		if got := o.Tracked(); got != want {
			t.Errorf("%s: tracked %t, want %t", o, got, want)
		}
	}
}

// Where a kind may not be listed in all namespaces it is watched in those of what is tracked, and what the watch on the whole
// has seen before counts no more; when the right is granted, the whole is watched again.
func TestObserverDividesWhatItMayNotList(t *testing.T) {
	o, s := filled(t)
	if err := s.Replace([]any{configMap(5, "u1")}, "5"); err != nil {
		t.Fatal(err)
	}
	o.failed(s.watch, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("not in all namespaces")))
	o.mu.Lock()
	part := o.watches[partTarget(ref)]
	o.mu.Unlock()
	if part == nil {
		t.Fatal("the namespace is not watched")
	}
	if _, state := o.Get(ref); state.Synced || state.Gone() {
		t.Errorf("before the namespace was listed: %+v", state)
	}
	if err := (&store{observer: o, watch: part}).Replace(nil, "9"); err != nil {
		t.Fatal(err)
	}
	if _, state := o.Get(ref); !state.Gone() {
		t.Errorf("deleted, and the watch on the whole is not kept up: %+v", state)
	}
	if err := s.Replace([]any{configMap(10, "u2")}, "10"); err != nil {
		t.Fatal(err)
	}
	if obs, state := o.Get(ref); !state.Found || obs.UID != "u2" {
		t.Errorf("with the right: %+v, %+v", obs, state)
	}
	o.Forget(owner)
	if watches, _ := o.Counts(); watches != 0 {
		t.Errorf("%d watches are left", watches)
	}
}

// What was seen of an object before it was written is not what a wait is for.
func TestAwaitOnlyNews(t *testing.T) {
	o, s := filled(t)
	if err := s.Replace([]any{configMap(5, "1")}, "5"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan State, 10)
	done := make(chan error, 1)
	wait := Wait{Labelled: []object.Ref{ref}, Since: map[object.Key]string{ref.Key(): "7"}}
	go func() {
		done <- o.Await(t.Context(), wait, func(_ object.Ref, obs Observation, state State) (bool, error) {
			seen <- state
			return state.Found && obs.ResourceVersion == "7", nil
		})
	}()
	if state := <-seen; state.Found || state.Gone() {
		t.Errorf("of the object as it was: %+v", state)
	}
	if err := s.Update(configMap(7, "1")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A watch that began from before an object was made does not say that it has gone.
func TestAwaitTakesNothingNewForGone(t *testing.T) {
	o, s := filled(t)
	if err := s.Replace(nil, "5"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan State, 10)
	done := make(chan error, 1)
	wait := Wait{Labelled: []object.Ref{ref}, Since: map[object.Key]string{ref.Key(): "7"}}
	go func() {
		done <- o.Await(t.Context(), wait, func(_ object.Ref, _ Observation, state State) (bool, error) {
			seen <- state
			return state.Gone(), nil
		})
	}()
	if state := <-seen; state.Gone() {
		t.Fatal("it is taken for gone")
	}
	if err := s.Update(configMap(7, "1")); err != nil {
		t.Fatal(err)
	}
	if state := <-seen; !state.Found {
		t.Errorf("once it was seen: %+v", state)
	}
	if err := s.Delete(configMap(9, "1")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A wait brings its own watches, and where a kind may not be listed as a whole, those of the namespaces too.
func TestAwaitWatchesWhatIsNotWatched(t *testing.T) {
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	defer o.Close()
	o.linger = 0
	pinned := object.Ref{Version: "v1", Kind: "Pod", Namespace: "n", Name: "hook"}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	step := make(chan struct{}, 10)
	go func() {
		done <- o.Await(ctx, Wait{Labelled: []object.Ref{ref}, Pinned: []object.Ref{pinned}}, func(object.Ref, Observation, State) (bool, error) {
			step <- struct{}{}
			return false, nil
		})
	}()
	<-step
	o.mu.Lock()
	whole, pin := o.watches[kindTarget(ref)], o.watches[pinTarget(pinned)]
	o.mu.Unlock()
	if whole == nil || pin == nil {
		t.Fatal("not all is watched")
	}
	o.failed(whole, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("not in all namespaces")))
	o.mu.Lock()
	o.wake()
	o.mu.Unlock()
	for deadline := time.After(10 * time.Second); ; {
		o.mu.Lock()
		part := o.watches[partTarget(ref)]
		o.mu.Unlock()
		if part != nil {
			break
		}
		select {
		case <-step:
		case <-deadline:
			t.Fatal("the namespace is not watched")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if watches, _ := o.Counts(); watches != 0 {
		t.Errorf("%d watches are left", watches)
	}
}

// TestWatchesOnKindsLinger: the next wait for a kind finds the watch of the last, and one for a single object has its own.
func TestWatchesOnKindsLinger(t *testing.T) {
	o := newObserver(Kustomizations(), nil, noKinds{}, slog.New(slog.DiscardHandler))
	defer o.Close()
	await := func() *watch {
		pinned := object.Ref{Version: "v1", Kind: "Pod", Namespace: "n", Name: "hook"}
		if err := o.Await(t.Context(), Wait{Labelled: []object.Ref{ref}, Pinned: []object.Ref{pinned}}, func(object.Ref, Observation, State) (bool, error) {
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.watches[kindTarget(ref)]
	}
	first := await()
	if watches, _ := o.Counts(); watches != 1 || first == nil {
		t.Fatalf("%d watches are left, want that on the kind", watches)
	}
	if await() != first {
		t.Error("the kind is watched anew")
	}
}

package helm

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/kube"
)

func newTestOperations() *operations {
	return newOperations(func(types.NamespacedName) {}, slog.New(slog.DiscardHandler))
}

// TestPanicEndsOneAction: an action runs on a goroutine of its own, where nobody else would keep a panic from ending the process.
func TestPanicEndsOneAction(t *testing.T) {
	s, key := newTestOperations(), types.NamespacedName{Namespace: "demo", Name: "web"}
	o := &operation{action: Action{Kind: Upgrade}}
	if err := s.begin(key, o, func(context.Context, *operation) step { panic("gave up") }); err != nil {
		t.Fatal(err)
	}
	<-o.done
	result, _ := o.ended()
	if !errors.Is(result.Err, errPanic) || result.Kind != Upgrade || result.Reason != v2.UpgradeFailedReason || !strings.HasSuffix(result.Message, "panic: gave up") {
		t.Errorf("it ended as %+v", result)
	}
	if len(s.room) != 0 {
		t.Error("it goes on to take room")
	}
	j := &job{action: Action{Kind: "dance"}, log: slog.New(slog.DiscardHandler)}
	if err := j.perform(); !errors.Is(err, errPanic) {
		t.Errorf("performing ended as %v", err)
	}
}

// TestGoneWhileUnderWay: an object that is gone, and made anew, does not begin an operation beside the one that is coming to its end.
func TestGoneWhileUnderWay(t *testing.T) {
	s, key := newTestOperations(), types.NamespacedName{Namespace: "demo", Name: "web"}
	o, end := &operation{}, make(chan struct{})
	err := s.begin(key, o, func(ctx context.Context, _ *operation) step {
		<-ctx.Done()
		<-end // it has still to mark its release as failed
		return step{}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.forget(key)
	if s.open(key) != o {
		t.Error("it is forgotten while it is under way")
	}
	close(end)
	s.wg.Wait()
	if s.open(key) != nil {
		t.Error("it is kept for nobody")
	}
}

// TestTwoAtOneRelease: two HelmReleases of the same release take turns.
func TestTwoAtOneRelease(t *testing.T) {
	s := newTestOperations()
	one, other := types.NamespacedName{Namespace: "demo", Name: "web"}, types.NamespacedName{Namespace: "demo", Name: "other"}
	at, end := place{&kube.Cluster{}, "demo", "web"}, make(chan struct{})
	do := func(context.Context, *operation) step { <-end; return step{} }
	first := &operation{place: at}
	if err := s.begin(one, first, do); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(other, &operation{place: at}, do); !errors.Is(err, errOccupied) || !strings.HasSuffix(err.Error(), "HelmRelease demo/web") {
		t.Errorf("the other begins with %v", err)
	}
	if err := s.free(one, at); err != nil {
		t.Errorf("it is in its own way: %v", err)
	}
	if err := s.free(other, place{at.cluster, "demo", "else"}); err != nil {
		t.Errorf("it is in the way of another release: %v", err)
	}
	close(end)
	<-first.done
	if err := s.begin(other, &operation{place: at}, do); err != nil {
		t.Errorf("the other does not begin after it: %v", err)
	}
	s.wg.Wait()
}

// TestAdopt: an action goes on although something that values come from has changed, if the values have not.
func TestAdopt(t *testing.T) {
	artifact := meta.Artifact{Digest: "sha256:1", Revision: "1.0.0"}
	for name, tt := range map[string]struct {
		change func(*attempt)
		want   bool
	}{
		"the same":        {func(*attempt) {}, true},
		"other values":    {func(a *attempt) { a.configDigest = "sha256:other" }, false},
		"another spec":    {func(a *attempt) { a.asked.generation++ }, false},
		"another object":  {func(a *attempt) { a.asked.uid = "b" }, false},
		"another chart":   {func(a *attempt) { a.source.artifact = &meta.Artifact{Digest: "sha256:2", Revision: "1.0.0"} }, false},
		"nothing offered": {func(a *attempt) { a.source.artifact = nil }, false},
	} {
		o := &operation{asked: asked{uid: "a", generation: 1, values: 1}, artifact: artifact, inputs: inputs{configDigest: "sha256:v"}}
		a := &attempt{asked: asked{uid: "a", generation: 1, values: 2}, source: source{artifact: &artifact}, inputs: inputs{configDigest: "sha256:v"}}
		tt.change(a)
		if o.matches(a.asked, a.source.artifact) {
			t.Errorf("%s: it is taken for what was asked for, unseen", name)
		}
		if got := o.adopt(a); got != tt.want || got != (a.operation == o) || got != (o.asked.values == 2) {
			t.Errorf("%s: adopted: %t", name, got)
		}
	}
}

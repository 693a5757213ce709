package drift

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/object"
)

var (
	start   = time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	changed = Verdict{Op: Apply, Reason: Changed, Differences: []Difference{{Path: "data.a", Declared: `"1"`, Live: `"2"`, By: []Author{{Manager: "kubectl-edit"}}}}}
)

func nth(i int) object.Ref {
	return object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "demo", Name: fmt.Sprintf("c-%d", i)}
}

// TestBook follows one object: an incident ends when it is put right, and the next is another.
func TestBook(t *testing.T) {
	b := newBook()
	e, fresh := b.seen(nth(0), changed, start)
	if !fresh || e.State != Open || e.Times != 1 || !e.Seen.Equal(start) {
		t.Errorf("seen first: %+v", e.Record)
	}
	if _, fresh := b.seen(nth(0), changed, start.Add(time.Second)); fresh || e.Times != 1 {
		t.Errorf("seen again: %+v", e.Record)
	}
	b.corrected(e, start.Add(2*time.Second))
	if e.State != Corrected || e.Corrections != 1 || e.Ended == nil {
		t.Errorf("corrected: %+v", e.Record)
	}
	if changed, _ := b.resolved(nth(0).Key(), start.Add(3*time.Second)); changed {
		t.Error("what was put right is resolved once more")
	}
	if _, fresh := b.seen(nth(0), changed, start.Add(time.Hour)); !fresh || e.Times != 2 || e.State != Open || e.Ended != nil {
		t.Errorf("the next incident: %+v", e.Record)
	}
	if is, ours := b.resolved(nth(0).Key(), start.Add(2*time.Hour)); !is || ours || e.State != Resolved || e.Corrections != 1 {
		t.Errorf("others put it right: %+v", e.Record)
	}
}

// An answer that was lost: what was applied and is as declared next was put right by us.
func TestBookOfLostAnswers(t *testing.T) {
	b := newBook()
	e, _ := b.seen(nth(0), changed, start)
	e.tried = true
	b.failed(e, "connection reset", start)
	if is, ours := b.resolved(nth(0).Key(), start.Add(time.Second)); !is || !ours || e.State != Corrected || e.Corrections != 1 || e.Error != "" {
		t.Errorf("%+v", e.Record)
	}
}

// TestF19_BookOfFights: what is undone each time becomes contested, stays so as long as the other side may come back, and is over then.
func TestF19_BookOfFights(t *testing.T) {
	b, now := newBook(), start
	var e *entry
	for range contestedAfter {
		e, _ = b.seen(nth(0), changed, now)
		b.corrected(e, now)
		now = e.fight.due()
	}
	if e.State != Contested || e.ended() {
		t.Fatalf("after %d rounds: %+v", contestedAfter, e.Record)
	}
	if is, _ := b.resolved(nth(0).Key(), now.Add(time.Second)); is {
		t.Error("over before the other side has had its turn")
	}
	s := newSubject(Owner{Kind: "Kustomization", NamespacedName: shop})
	s.book = b
	condition := s.now()
	if !condition.Status || condition.Reason != "Contested" || !strings.Contains(condition.Message, "kubectl-edit keeps changing ConfigMap/demo/c-0: data.a") {
		t.Errorf("condition %+v", condition)
	}
	if is, _ := b.resolved(nth(0).Key(), e.fight.ends().Add(time.Second)); !is || e.State != Corrected {
		t.Errorf("after the quiet: %+v", e.Record)
	}
}

// What is kept is bounded, and what is open outlives what is over.
func TestBookIsBounded(t *testing.T) {
	b := newBook()
	long := changed
	for range maxDifferences - 1 {
		long.Differences = append(long.Differences, Difference{Path: strings.Repeat("p", maxValue), Live: strings.Repeat("v", maxValue)})
	}
	b.seen(nth(0), changed, start) // the oldest, and open
	for i := 1; i < 2*maxRecords; i++ {
		e, _ := b.seen(nth(i), long, start.Add(time.Duration(i)*time.Second))
		b.corrected(e, start.Add(time.Duration(i)*time.Second))
	}
	text, err := json.Marshal(b.records())
	if err != nil {
		t.Fatal(err)
	}
	if len(b.entries) > maxRecords || b.bytes > maxRecordBytes || len(text) > maxRecordBytes+maxRecords {
		t.Errorf("%d records of %d bytes, %d encoded", len(b.entries), b.bytes, len(text))
	}
	if b.entries[nth(0).Key()] == nil {
		t.Error("what is open was dropped")
	}
	if records := b.records(); records[0].Name != "c-0" || records[1].Name != fmt.Sprintf("c-%d", 2*maxRecords-1) {
		t.Errorf("what is open and what is newest do not come first: %s, %s", records[0].Name, records[1].Name)
	}
}

// A condition and an event are the same for the same, whatever came first.
func TestConditionIsStable(t *testing.T) {
	s, r := newSubject(Owner{Kind: "Kustomization", NamespacedName: shop}), newSubject(Owner{Kind: "Kustomization", NamespacedName: shop})
	for i := range 3 * maxLines {
		s.book.seen(nth(i), changed, start.Add(time.Duration(i)))
		r.book.seen(nth(3*maxLines-1-i), changed, start.Add(time.Duration(i)))
	}
	if s.now() != r.now() || !strings.HasSuffix(s.now().Message, fmt.Sprintf("and %d more", 2*maxLines)) {
		t.Errorf("%+v\n%+v", s.now(), r.now())
	}
}

// TestA23_A24_OnlyWhatWasBuilt: an object that was not applied by its owner is not looked at, whatever it claims.
func TestA23_A24_OnlyWhatWasBuilt(t *testing.T) {
	e := NewEngine(Options{})
	owner := Owner{Kind: "Kustomization", NamespacedName: shop}
	e.Keep(Subject{Owner: owner}, many(t, 3), nil, nil)
	if _, _, ok := e.worth(e.known(owner), item{owner: owner, key: nth(0).Key(), what: lookAt}); ok {
		t.Error("it is looked at")
	}
}

// A run of the owner waits for no correction, and none begins until it is done.
func TestPause(t *testing.T) {
	e := NewEngine(Options{})
	owner := Owner{Kind: "Kustomization", NamespacedName: shop}
	s := e.subject(owner)
	ctx, end, ok := s.begin(t.Context(), nth(0).Key())
	if !ok {
		t.Fatal("nothing may begin")
	}
	ended := make(chan struct{})
	go func() {
		<-ctx.Done() // the correction is told to give up
		end()
		close(ended)
	}()
	resume := e.Pause(owner)
	select {
	case <-ended:
	default:
		t.Error("paused while a correction was under way")
	}
	if _, _, ok := s.begin(t.Context(), nth(1).Key()); ok {
		t.Error("a correction has begun beside the owner's run")
	}
	resume()
	resume()
	if e.queue.Len() != 1 {
		t.Errorf("%d objects are looked at after it, want the one that was put off", e.queue.Len())
	}
	if _, _, ok := s.begin(t.Context(), nth(1).Key()); !ok {
		t.Error("nothing may begin after it")
	}
}

// For what there is no room it is woken, and nothing is lost of the accounts.
func TestBudget(t *testing.T) {
	e := NewEngine(Options{Budget: 1})
	owner := Owner{Kind: "Kustomization", NamespacedName: shop}
	e.Keep(Subject{Owner: owner}, many(t, 3), nil, nil)
	if s := e.known(owner); len(s.declared.blocks) != 0 || len(s.declared.refs) != 3 || e.used != 0 {
		t.Errorf("%d blocks, %d objects, %d bytes used", len(s.declared.blocks), len(s.declared.refs), e.used)
	}
	e.options.Budget = DefaultBudget
	e.Keep(Subject{Owner: owner}, many(t, 3), nil, nil)
	e.Keep(Subject{Owner: owner}, many(t, 2)[:1], nil, func(key object.Key) bool { return key.Name == "web-1" })
	if s := e.known(owner); len(s.declared.refs) != 2 {
		t.Errorf("%v are kept of an apply that ended early", s.declared.refs)
	}
	e.Forget(owner)
	if e.used != 0 || e.known(owner) != nil {
		t.Errorf("%d bytes used", e.used)
	}
}

func TestRecordsComeBack(t *testing.T) {
	b := newBook()
	e, _ := b.seen(object.Ref{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "demo", Name: "web"}, changed, start)
	b.corrected(e, start)
	b.seen(nth(0), changed, start)
	text, err := json.Marshal(b.records())
	if err != nil {
		t.Fatal(err)
	}
	kept := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Labels: map[string]string{RecordLabel: "drift"}},
		Data:       map[string]string{"owner": "Kustomization/demo/shop", "records": string(text)},
	}
	owner, records, err := ReadRecords(kept)
	if err != nil || owner != "Kustomization/demo/shop" {
		t.Fatalf("%s, %v", owner, err)
	}
	again := newBook()
	again.restore(records)
	if diff := cmp.Diff(b.records(), again.records()); diff != "" {
		t.Errorf("(-kept +read):\n%s", diff)
	}
	if _, fresh := again.seen(nth(0), changed, start.Add(time.Hour)); fresh {
		t.Error("what was open before is a new incident")
	}
	for name, spoil := range map[string]func(){
		"another namespace": func() { kept.Data["owner"] = "Kustomization/other/shop" },
		"no JSON":           func() { kept.Data["records"] = "{" },
		"not ours":          func() { kept.Labels = nil },
	} {
		spoil()
		if _, _, err := ReadRecords(kept); err == nil {
			t.Errorf("%s: it is believed", name)
		}
	}
}

func TestRecordName(t *testing.T) {
	for _, name := range []string{"shop", strings.Repeat("a", 253), strings.Repeat("a.", 126)} {
		got := recordName(Owner{Kind: "Kustomization", NamespacedName: types.NamespacedName{Namespace: "demo", Name: name}})
		if len(got) > 253 || !strings.HasSuffix(got, "-drift") {
			t.Errorf("%q for %q", got, name)
		}
	}
}

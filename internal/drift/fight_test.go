package drift

import (
	"slices"
	"testing"
	"time"
)

// TestF19_Fight: whoever rewrites an object in a loop gets it put right less and less often, and never waits longer than five
// minutes.
func TestF19_Fight(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	start := now
	var f fight
	var at []time.Duration
	for now.Sub(start) < time.Hour {
		f = f.again(now) // it differs, always
		if due := f.due(); due.After(now) {
			now = due
			continue
		}
		f = f.corrected(now)
		at = append(at, now.Sub(start))
		now = now.Add(time.Millisecond)
	}
	want := []time.Duration{0, 2 * time.Second, 8 * time.Second, 26 * time.Second, 326 * time.Second}
	if !slices.Equal(at[:len(want)], want) {
		t.Errorf("rounds at %v, want %v", at[:len(want)], want)
	}
	if len(at) > 20 || !f.contested() {
		t.Errorf("%d rounds in an hour, contested: %t", len(at), f.contested())
	}
}

// What stays true is corrected at once the next time.
func TestFightIsOver(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	var f fight
	for range contestedAfter {
		f = f.corrected(now)
	}
	if f.over(now.Add(longestPause)) || !f.contested() {
		t.Error("a fight is over before the other side has had its turn")
	}
	later := f.ends().Add(time.Nanosecond)
	if !f.over(later) || f.again(later) != (fight{}) || f.again(later).due().After(later) {
		t.Errorf("%+v goes on at %s", f, later)
	}
	if once := (fight{}).corrected(now); once.over(now.Add(leastQuiet)) || !once.over(now.Add(leastQuiet+1)) {
		t.Error("one correction is over at another time")
	}
}

// Nobody contests what cannot be put right; it is tried less and less often all the same.
func TestFightInVain(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	var f fight
	for range 10 {
		f = f.tried(now)
		now = f.due()
	}
	if f.contested() || f.pause() != longestPause {
		t.Errorf("%+v: contested %t, next after %s", f, f.contested(), f.pause())
	}
}

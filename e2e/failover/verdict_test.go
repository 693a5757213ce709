package failover

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestJudgeRelease: one more revision, deployed, is an upgrade; so are two of which the first was cut off; nothing else is.
func TestJudgeRelease(t *testing.T) {
	for name, test := range map[string]struct {
		revisions map[int]string
		want      string
	}{
		"upgraded":         {map[int]string{3: "superseded", 4: "deployed"}, "lost [], twice [], stuck [], 0 upgrades done anew, 0 repeated"},
		"done anew":        {map[int]string{3: "superseded", 4: "failed", 5: "deployed"}, "lost [], twice [], stuck [], 1 upgrades done anew, 0 repeated"},
		"not upgraded":     {map[int]string{3: "deployed"}, "lost [release app], twice [], stuck [], 0 upgrades done anew, 0 repeated"},
		"repeated":         {map[int]string{4: "superseded", 5: "deployed"}, "lost [], twice [], stuck [], 0 upgrades done anew, 1 repeated"},
		"three times":      {map[int]string{4: "failed", 5: "failed", 6: "deployed"}, "lost [], twice [release app (3 times: map[4:failed 5:failed 6:deployed])], stuck [], 0 upgrades done anew, 0 repeated"},
		"failed":           {map[int]string{3: "deployed", 4: "failed"}, "lost [], twice [], stuck [release app (the newest revision, 4, is failed)], 0 upgrades done anew, 0 repeated"},
		"one left pending": {map[int]string{3: "pending-upgrade", 4: "deployed"}, "lost [], twice [], stuck [release app (revision 3 is pending-upgrade)], 0 upgrades done anew, 0 repeated"},
	} {
		t.Run(name, func(t *testing.T) {
			var v Verdict
			v.judgeRelease("app", 3, test.revisions)
			if v.String() != test.want {
				t.Errorf("%s, want %s", v, test.want)
			}
		})
	}
}

// TestSeen: each resourceVersion counts once, and an object that was deleted and made again twice; others do not count.
func TestSeen(t *testing.T) {
	w := newWork(nil, "ns", nil, Size{Kustomizations: 1, Objects: 2})
	see := func(name, uid, version string) {
		obj := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name, "uid": uid, "resourceVersion": version}}}
		w.seen(obj)
	}
	reached := make(chan struct{})
	w.enough, w.reached = 2, reached
	see("k0-0", "a", "1")
	see("k0-0", "a", "1")
	see("other", "b", "2")
	if w.changes["k0-0"] != 1 || len(w.changes) != 1 {
		t.Fatalf("counted %v", w.changes)
	}
	see("k0-0", "a", "3")
	see("k0-1", "c", "4")
	see("k0-1", "d", "5")
	if w.changes["k0-0"] != 2 || w.changes["k0-1"] != 3 {
		t.Fatalf("counted %v", w.changes)
	}
	select {
	case <-reached:
	default:
		t.Error("two of two have changed, and it does not say so")
	}
}

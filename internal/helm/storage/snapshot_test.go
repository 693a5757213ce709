package storage_test

import (
	"cmp"
	"slices"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/release"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// TestSnapshot_FluxMade: what we would write into the status about each release that Flux has stored is what Flux wrote, to
// the last byte of its digests, and each verifies against its own and no other.
func TestSnapshot_FluxMade(t *testing.T) {
	for _, state := range []string{"1", "2"} {
		items, history := fluxMade(t, state)
		s := newSecrets(items...)
		if len(history) != len(items) {
			t.Fatalf("%d snapshots of %d Secrets", len(history), len(items))
		}
		for _, want := range history {
			t.Run(state+"/"+want.FullReleaseName(), func(t *testing.T) {
				rel, err := observe(t, s, want.Name).Get(t.Context(), want.Version)
				if err != nil {
					t.Fatal(err)
				}
				got := storage.Snapshot(rel.Release, want.OCIDigest, want.Action)
				if want.TestHooks != nil {
					got.SetTestHooks(storage.TestHooks(rel.Release))
				}
				if diff := gocmp.Diff(inSeconds(want), inSeconds(got)); diff != "" {
					t.Errorf("snapshot (-Flux +ours):\n%s", diff)
				}
				for _, other := range history {
					if storage.Verify(other, rel.Release) != (other == want) {
						t.Errorf("verified against %s: %t", other.FullReleaseName(), other != want)
					}
				}
			})
		}
	}
}

// inSeconds returns a snapshot with its times as a status holds them.
func inSeconds(s *v2.Snapshot) *v2.Snapshot {
	s = s.DeepCopy()
	s.FirstDeployed = s.FirstDeployed.Rfc3339Copy()
	s.LastDeployed = s.LastDeployed.Rfc3339Copy()
	for _, hook := range s.GetTestHooks() {
		hook.LastStarted = hook.LastStarted.Rfc3339Copy()
		hook.LastCompleted = hook.LastCompleted.Rfc3339Copy()
	}
	return s
}

// TestSnapshot_FluxMadeMethod: the recording has releases of both methods.
func TestSnapshot_FluxMadeMethod(t *testing.T) {
	items, _ := fluxMade(t, "1")
	s := newSecrets(items...)
	for name, want := range map[string]storage.Method{
		"web": storage.ServerSide, "web-failing-test": storage.ServerSide, "web-oci-web-oci": storage.ServerSide, "web-git": storage.ClientSide,
	} {
		rel, err := observe(t, s, name).Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rel.Method != want {
			t.Errorf("%s: %s, want %s", name, rel.Method, want)
		}
	}
}

// TestDigest_Changes: everything that tells one release from another changes its digest, a test that ran does not.
func TestDigest_Changes(t *testing.T) {
	before := storage.Digest(made("web", 1, release.StatusDeployed), "")
	for name, change := range map[string]func(*release.Release){
		"status":   func(r *release.Release) { r.Info.Status = release.StatusFailed },
		"note":     func(r *release.Release) { r.Info.Notes = "<&>" },
		"deleted":  func(r *release.Release) { r.Info.Deleted = r.Info.LastDeployed },
		"values":   func(r *release.Release) { r.Config["replicas"] = float64(7) },
		"manifest": func(r *release.Release) { r.Manifest += "\n" },
		"hook":     func(r *release.Release) { r.Hooks[0].LastRun.Phase = release.HookPhaseSucceeded },
		"version":  func(r *release.Release) { r.Version++ },
		"chart":    func(r *release.Release) { r.Chart.Metadata.Version = "2.0.0" },
	} {
		rel := made("web", 1, release.StatusDeployed)
		change(rel)
		if storage.Digest(rel, "") == before {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if storage.Digest(made("web", 1, release.StatusDeployed), "sha256:aa") == before {
		t.Error("the artifact's digest does not change the digest")
	}
	rel := made("web", 1, release.StatusDeployed)
	rel.Hooks[1].LastRun.Phase = release.HookPhaseFailed
	rel.Chart.Files = nil
	rel.Labels = nil
	if storage.Digest(rel, "") != before {
		t.Error("a test that ran, a file of the chart or a label changes the digest")
	}
}

// TestVerify_OlderAPI: the digests of snapshots that an older Flux wrote have another form; what they say otherwise counts.
func TestVerify_OlderAPI(t *testing.T) {
	rel := made("web", 1, release.StatusDeployed)
	snapshot := storage.Snapshot(rel, "", v2.ReleaseActionInstall)
	snapshot.APIVersion, snapshot.Digest = "", "sha256:of-another-form"
	if !storage.Verify(snapshot, rel) {
		t.Error("not verified")
	}
	rel.Info.Status = release.StatusFailed
	if storage.Verify(snapshot, rel) {
		t.Error("verified with another status")
	}
}

// TestRemember: a history has one snapshot of each revision, newest first; the one it takes the place of leaves it its tests.
func TestRemember(t *testing.T) {
	tested := map[string]*v2.TestHookStatus{"check": {Phase: "Succeeded"}}
	var history v2.Snapshots
	for version := 1; version <= 7; version++ {
		history = storage.Remember(history, storage.Snapshot(made("web", version, release.StatusFailed), "", v2.ReleaseActionUpgrade))
	}
	old := history[5]
	if old.Version != 2 {
		t.Fatalf("version %d is in the place of 2", old.Version)
	}
	old.SetTestHooks(tested)
	old.OCIDigest = "sha256:aa"
	history = storage.Refresh(history, made("web", 2, release.StatusSuperseded))
	if len(history) != 7 || !slices.IsSortedFunc(history, func(a, b *v2.Snapshot) int { return cmp.Compare(b.Version, a.Version) }) {
		t.Errorf("not 7 revisions, newest first: %v", history)
	}
	if got := history[5]; got.Version != 2 || got.Status != "superseded" || gocmp.Diff(tested, got.GetTestHooks()) != "" {
		t.Errorf("remembered %+v", got)
	}
	if !storage.Verify(history[5], made("web", 2, release.StatusSuperseded)) || history[5].OCIDigest != "sha256:aa" {
		t.Errorf("%+v does not verify", history[5])
	}
	if got := storage.Refresh(history, made("web", 9, release.StatusFailed)); len(got) != 7 {
		t.Errorf("%d, want no revision that was not in the history", len(got))
	}
	history.Truncate(false)
	if len(history) != 6 {
		t.Errorf("%d kept, want all up to the one that was deployed", len(history))
	}
}

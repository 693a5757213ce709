package storage

import (
	"encoding/json"
	"slices"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

// observation is what the digest of a release is of, in the form and order of Flux: by it a HelmRelease knows whether what
// is stored is still what it once recorded. Hooks that are tests do not count, anybody may run `helm test`.
type observation struct {
	Name          string         `json:"name"`
	Version       int            `json:"version"`
	Info          wireInfo       `json:"info"`
	ChartMetadata chart.Metadata `json:"chartMetadata"`
	Config        map[string]any `json:"config"`
	Manifest      string         `json:"manifest"`
	Hooks         []wireHook     `json:"hooks"`
	Namespace     string         `json:"namespace"`
	OCIDigest     string         `json:"ociDigest,omitempty"`
}

// Digest returns the digest of a release as Flux writes it into status.history[].digest, `sha256:…`. ociDigest is the digest
// of the artifact the chart came from, empty unless that is an OCIRepository.
func Digest(rel *release.Release, ociDigest string) string {
	seen := observation{
		Name:      rel.Name,
		Version:   rel.Version,
		Info:      toWireInfo(rel.Info),
		Manifest:  rel.Manifest,
		Hooks:     toWireHooks(slices.DeleteFunc(slices.Clone(rel.Hooks), isTest)),
		Namespace: rel.Namespace,
		OCIDigest: ociDigest,
	}
	if rel.Chart != nil && rel.Chart.Metadata != nil {
		seen.ChartMetadata = *rel.Chart.Metadata
	}
	if len(rel.Config) > 0 {
		seen.Config = values.AsStored(rel.Config)
	}
	digester := digest.SHA256.Digester()
	if err := json.NewEncoder(digester.Hash()).Encode(seen); err != nil {
		// A release is JSON; if one is not, a digest that is none differs from all that are recorded, which is the safe side.
		return ""
	}
	return digester.Digest().String()
}

func isTest(hook *release.Hook) bool {
	return hook != nil && slices.Contains(hook.Events, release.HookTest)
}

// Snapshot returns what the status of a HelmRelease keeps of a release. An action is given for the revision that it has
// made. Results of tests are set apart, by TestHooks.
func Snapshot(rel *release.Release, ociDigest string, action v2.ReleaseAction) *v2.Snapshot {
	snapshot := &v2.Snapshot{
		APIVersion:   v2.CurrentSnapshotAPIVersion,
		Digest:       Digest(rel, ociDigest),
		Name:         rel.Name,
		Namespace:    rel.Namespace,
		Version:      rel.Version,
		Action:       action,
		ConfigDigest: values.Digest(rel.Config),
		OCIDigest:    ociDigest,
	}
	if rel.Chart != nil && rel.Chart.Metadata != nil {
		snapshot.ChartName = rel.Chart.Metadata.Name
		snapshot.ChartVersion = rel.Chart.Metadata.Version
		snapshot.AppVersion = rel.Chart.Metadata.AppVersion
	}
	if rel.Info != nil {
		snapshot.Status = rel.Info.Status.String()
		snapshot.FirstDeployed = metav1.NewTime(rel.Info.FirstDeployed.Time)
		snapshot.LastDeployed = metav1.NewTime(rel.Info.LastDeployed.Time)
		snapshot.Deleted = metav1.NewTime(rel.Info.Deleted.Time)
	}
	return snapshot
}

// Verify says whether a release is the one that a snapshot was taken of, unchanged since. A snapshot of another
// version of the API has a digest of another form: then what both tell is compared.
func Verify(snapshot *v2.Snapshot, rel *release.Release) bool {
	if snapshot == nil || rel == nil || !snapshot.Targets(rel.Name, rel.Namespace, rel.Version) {
		return false
	}
	if snapshot.APIVersion == v2.CurrentSnapshotAPIVersion {
		return snapshot.Digest == Digest(rel, snapshot.OCIDigest)
	}
	now := Snapshot(rel, snapshot.OCIDigest, snapshot.Action)
	return snapshot.Status == now.Status && snapshot.ConfigDigest == now.ConfigDigest && snapshot.ChartName == now.ChartName &&
		snapshot.ChartVersion == now.ChartVersion && sameSecond(snapshot.LastDeployed, now.LastDeployed)
}

// sameSecond compares times as a status can hold them.
func sameSecond(a, b metav1.Time) bool { return a.Unix() == b.Unix() }

// TestHooks returns what is known of a release's tests, by the names of their hooks. It is not nil: a release without tests
// counts as tested.
func TestHooks(rel *release.Release) map[string]*v2.TestHookStatus {
	tests := map[string]*v2.TestHookStatus{}
	for _, hook := range rel.Hooks {
		if !isTest(hook) {
			continue
		}
		tests[hook.Name] = &v2.TestHookStatus{
			LastStarted:   metav1.NewTime(hook.LastRun.StartedAt.Time),
			LastCompleted: metav1.NewTime(hook.LastRun.CompletedAt.Time),
			Phase:         hook.LastRun.Phase.String(),
		}
	}
	return tests
}

// Remember returns a history, newest first, with a snapshot in it, in the place of an older one of the same revision. The
// results of tests, which a release does not tell on its own, are taken over from that. Shorten a history by its own
// Truncate, when a release has come out well.
func Remember(history v2.Snapshots, snapshot *v2.Snapshot) v2.Snapshots {
	out := make(v2.Snapshots, 0, len(history)+1)
	for _, old := range history {
		if !old.Targets(snapshot.Name, snapshot.Namespace, snapshot.Version) {
			out = append(out, old)
			continue
		}
		if snapshot.TestHooks == nil {
			snapshot.TestHooks = old.TestHooks
		}
	}
	out = append(out, snapshot)
	out.SortByVersion()
	return out
}

// Refresh returns a history in which the snapshot of this revision, if it has one, tells what has become of it: an upgrade
// supersedes the revision before it. As under Flux it then names no action.
func Refresh(history v2.Snapshots, rel *release.Release) v2.Snapshots {
	for _, old := range history {
		if old.Targets(rel.Name, rel.Namespace, rel.Version) {
			return Remember(history, Snapshot(rel, old.OCIDigest, ""))
		}
	}
	return history // What is not in the history was not made for this HelmRelease, or has been forgotten on purpose.
}

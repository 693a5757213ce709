package helm

import (
	"fmt"
	"slices"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// State is the state of a release in one word.
type State string

// The nine states. A release is in the first of them that applies, in this order.
const (
	// Locked: the newest release in the storage is pending, because somebody is at it or died of it.
	Locked State = "Locked"
	// Uninstalling: an uninstall has begun, and has not come to its end.
	Uninstalling State = "Uninstalling"
	// Absent: the storage has no release of that name, or one that is uninstalled.
	Absent State = "Absent"
	// Unmanaged: the newest release is not the one that the status remembers: Helm, or somebody's hand, has made it.
	Unmanaged State = "Unmanaged"
	// Failed: what made the release has failed, or its test has.
	Failed State = "Failed"
	// OutOfSync: chart, values, post-renderers or metadata are not those that the release was made with, or it is not where it
	// is asked for.
	OutOfSync State = "OutOfSync"
	// Untested: the release is what is asked for, tests are on, and it has not been tested.
	Untested State = "Untested"
	// Drifted: an object in the cluster is not as the release has it.
	Drifted State = "Drifted"
	// InSync: nothing is to be done.
	InSync State = "InSync"
)

// Status is Helm's word for how a release is.
type Status string

// The words.
const (
	Deployed        Status = "deployed"
	Superseded      Status = "superseded"
	FailedStatus    Status = "failed"
	PendingInstall  Status = "pending-install"
	PendingUpgrade  Status = "pending-upgrade"
	PendingRollback Status = "pending-rollback"
	BeingRemoved    Status = "uninstalling"
	Removed         Status = "uninstalled"
)

// Pending says that an action on the release has begun and has not ended.
func (s Status) Pending() bool {
	return s == PendingInstall || s == PendingUpgrade || s == PendingRollback
}

// Release is what is known of the newest release in the storage.
type Release struct {
	Version int
	Status  Status
	// ChartName, ChartVersion and ConfigDigest are what it was made of.
	ChartName, ChartVersion, ConfigDigest string
	// Remembered: it is what the newest entry of the history says, to the digest.
	Remembered bool
	// Interrupted is the pending status in which the release was when who made it was stopped or died, or lost the API server.
	// Nothing is known to be wrong with it. Empty for every other release.
	Interrupted Status
	// Foreign: it was written by somebody else, who may be at work on it in this moment.
	Foreign bool
	// Since is when who made it, or has begun to remove it, began.
	Since time.Time
	// Claims are the PersistentVolumeClaims that go when it is uninstalled.
	Claims []string
}

// Target is where a release is: names that cannot be changed without making another one.
type Target struct{ Storage, Namespace, Name, Chart string }

// Observed is all that a decision goes by, besides what is asked for. It holds values only.
type Observed struct {
	// Release is nil when the storage has none. When the release has to move, it is the one to be moved.
	Release *Release
	// At is where the status says that the release is; nil when it says nothing.
	At *Target
	// Of the status. History is sorted, the newest first.
	History                                   v2.Snapshots
	InstallFailures, UpgradeFailures          int64
	LastAction                                v2.ReleaseAction
	PostRenderersDigest, CommonMetadataDigest string
	// FailedAt is when the last action ended, if it failed.
	FailedAt time.Time
	// Good are the versions of the history that the storage holds as they are remembered.
	Good []int
	// Drift names objects that are not as the release has them; empty when there are none, or nobody has looked.
	Drift []string
	// Cause is what the last action failed of, if that is known to be a thing outside the release: a namespace, a kind or a
	// quota. It reads as in "it is tried again when ... ". CauseGone: the cluster is not like that any more.
	Cause     string
	CauseGone bool
	// Ended are the actions of this attempt, in order.
	Ended []Ended
}

// Ended is what came of an action.
type Ended struct {
	Kind   ActionKind
	Failed bool
}

// stateOf names the state of what is observed, and says why it is not InSync.
func stateOf(o Observed, s Spec) (State, string) {
	r := o.Release
	switch {
	case r == nil:
		return Absent, "no release in storage for object"
	case r.Status.Pending():
		return Locked, fmt.Sprintf("release with status '%s'", r.Status)
	case r.Status == BeingRemoved:
		return Uninstalling, "an uninstall has not come to its end"
	case r.Status == Removed:
		return Absent, "found uninstalled release in storage"
	}
	if why := s.moved(o.At); why != "" {
		return OutOfSync, why
	}
	switch {
	case len(o.History) == 0:
		return Unmanaged, "found existing release in storage"
	case !r.Remembered:
		return Unmanaged, "the release in storage is not the one that was last observed"
	case r.Status == FailedStatus:
		return Failed, "the last action on it has failed"
	}
	if why := s.outdated(o); why != "" {
		return OutOfSync, why
	}
	latest := o.History[0]
	switch {
	case s.Tests && !latest.HasBeenTested():
		return Untested, "the release has not been tested"
	case s.Tests && latest.HasTestInPhase(hookFailed) && o.LastAction != "" && !s.of(o.LastAction).IgnoreTests:
		return Failed, "release has test in failed phase"
	case len(o.Drift) > 0:
		return Drifted, "objects in the cluster are not as the release has them"
	}
	return InSync, ""
}

// hookFailed is Helm's word for a hook that has failed.
const hookFailed = "Failed"

// moved says which of the names that make a release is not the one asked for. A release that the status knows nothing of is
// nowhere yet.
func (s Spec) moved(at *Target) string {
	switch {
	case at == nil:
		return ""
	case at.Storage != s.Target.Storage:
		return "the storage namespace has changed"
	case at.Namespace != s.Target.Namespace:
		return "the target namespace has changed"
	case at.Name != s.Target.Name:
		return "the release name has changed"
	case at.Chart != s.Target.Chart && !s.RenameInPlace:
		return "the name of the chart has changed"
	}
	return ""
}

// outdated says in what a deployed release differs from what is asked for.
func (s Spec) outdated(o Observed) string {
	switch r := o.Release; {
	case r.Status != Deployed:
		return fmt.Sprintf("the newest release has the status '%s'", r.Status)
	case r.ChartName != s.Target.Chart, r.ChartVersion != s.ChartVersion:
		return "release chart changed"
	case r.ConfigDigest != s.ConfigDigest:
		return "release config values changed"
	case o.PostRenderersDigest != s.PostRenderersDigest:
		return "postrenderers digest has changed"
	case o.CommonMetadataDigest != s.CommonMetadataDigest:
		return "common metadata digest has changed"
	}
	return ""
}

// previous returns the newest entry before the last that can be rolled back to; nil when the history has none.
func previous(history v2.Snapshots, ignoreTests bool) *v2.Snapshot {
	return slices.Clone(history).Previous(ignoreTests)
}

// failures counts those of the action that was tried last.
func (o Observed) failures() int64 {
	switch o.LastAction {
	case v2.ReleaseActionInstall:
		return o.InstallFailures
	case v2.ReleaseActionUpgrade:
		return o.UpgradeFailures
	default:
		return 0 // none was tried
	}
}

package helm

import (
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// ReleaseState is the state of a release in one word.
type ReleaseState string

// The nine states. A release is in the first of them that applies, in this order.
const (
	// Locked: the newest release in the storage is pending, because somebody is at it or died of it.
	Locked ReleaseState = "Locked"
	// Uninstalling: an uninstall has begun, and has not come to its end.
	Uninstalling ReleaseState = "Uninstalling"
	// Absent: the storage has no release of that name, or one that is uninstalled.
	Absent ReleaseState = "Absent"
	// Unmanaged: the newest release is not the one that the status remembers: Helm, or somebody's hand, has made it.
	Unmanaged ReleaseState = "Unmanaged"
	// OutOfSync: chart, values, post-renderers or metadata are not those that the release was made with.
	OutOfSync ReleaseState = "OutOfSync"
	// Failed: the release is what is asked for, and what made it has failed, or its test has.
	Failed ReleaseState = "Failed"
	// Untested: the release is what is asked for, tests are on, and it has not been tested.
	Untested ReleaseState = "Untested"
	// Drifted: an object in the cluster is not as the release has it.
	Drifted ReleaseState = "Drifted"
	// InSync: nothing is to be done.
	InSync ReleaseState = "InSync"
)

// Release is what is known of the newest release in the storage.
type Release struct {
	Name, Namespace string
	Version         int
	// Status is Helm's word for it: deployed, failed, pending-install and so on.
	Status string
	// ChartName and ChartVersion are those of its chart.
	ChartName, ChartVersion string
	ConfigDigest            string
	// Digest is what a snapshot of it would have; see the storage package.
	Digest string
	// TestHooks says that it has hooks for tests.
	TestHooks bool
}

// Observed is all that a decision goes by, besides what is asked for. It holds values only.
type Observed struct {
	// Release is nil when the storage has none.
	Release *Release
	// Corrupt names Secrets of the storage that cannot be read.
	Corrupt []string
	// Held: an action on the release is under way in a process that lives; see Locked.
	Held bool
	// Target is where the status says that the release is, for noticing that the spec wants it elsewhere.
	Target Target
	// Of the status.
	History                                   v2.Snapshots
	Failures, InstallFailures                 int64
	UpgradeFailures                           int64
	LastAction                                v2.ReleaseAction
	LastGeneration                            int64
	LastRevision, LastConfigDigest            string
	PostRenderersDigest, CommonMetadataDigest string
	// Drift tells of objects that are not as the release has them; nil when none is known of or nobody has looked.
	Drift []string
	// Ended is what came of the last action if this process has performed it since it looked last; nil otherwise.
	Ended *Ended
}

// Target is where a release is: three names that cannot be changed without making another one.
type Target struct {
	Storage, Namespace, Name, Chart string
}

// Ended is what came of an action.
type Ended struct {
	Action ActionKind
	// Failed, with why.
	Failed bool
	// Blameless: it failed because it was cancelled, or because of requests of ours that got no answer. Nothing is counted,
	// and nothing is undone for it (faults.md F17).
	Blameless bool
	// Cause identifies what it failed of, as far as a change of that may help: a missing kind, namespace or quota.
	Cause string
	At    time.Time
}

package helm

import (
	"slices"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// remember returns a history with what an action has written to the storage: releases that it has are replaced, with what only
// the history knows of them; others are added. The newest is the action's. The given history is not changed.
func remember(history v2.Snapshots, written map[int]*v2.Snapshot, action v2.ReleaseAction) v2.Snapshots {
	out := slices.Clone(history)
	newest := 0
	for version, snapshot := range written {
		snapshot = snapshot.DeepCopy()
		newest = max(newest, version)
		at := slices.IndexFunc(out, func(s *v2.Snapshot) bool { return s.Targets(snapshot.Name, snapshot.Namespace, version) })
		if at < 0 {
			out = append(out, snapshot)
			continue
		}
		if snapshot.TestHooks == nil {
			snapshot.TestHooks = out[at].TestHooks
		}
		if snapshot.OCIDigest == "" {
			snapshot.OCIDigest = out[at].OCIDigest
		}
		if out[at].Status == string(FailedStatus) && snapshot.Status == string(Superseded) {
			// A rollback that fails marks the release which it was to undo as superseded, as if it had once been good.
			snapshot.Status = out[at].Status
		}
		out[at] = snapshot
	}
	for _, s := range out {
		if s.Version == newest && written[newest] != nil && action != "" {
			s.Action = action
		}
	}
	out.SortByVersion()
	return out
}

// settled returns a history without what is of no use any more: what is older than the last good release before the newest. A
// release that is tried again without being rolled back needs none of it, and keeps a few for people to read.
func settled(history v2.Snapshots, policy Policy) v2.Snapshots {
	out := slices.Clone(history)
	if policy.Retry {
		out.TruncateIgnoringPreviousSnapshots()
		return out
	}
	out.Truncate(policy.IgnoreTests)
	return out
}

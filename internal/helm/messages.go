package helm

import (
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// subject is the release and the chart that a message is about.
type subject struct {
	// release is `ns/name`, or `ns/name.vN` when there is one; chart is `name@version`.
	release, chart string
}

// subjectOf names what became of an action or, before there is anything, what was to become.
func subjectOf(snapshot *v2.Snapshot, target Target, chartVersion string) subject {
	if snapshot == nil {
		return subject{target.Namespace + "/" + target.Name, target.Chart + "@" + chartVersion}
	}
	return subject{snapshot.FullReleaseName(), snapshot.VersionedChartName()}
}

// words are Flux's reason and message for an action that has ended. Dashboards and people look for them.
func (k ActionKind) words(remedy bool, of subject, err error, more string) (reason, message string) {
	if k == Uninstall && remedy {
		if err != nil {
			return v2.UninstallFailedReason, fmt.Sprintf("Helm uninstall remediation for release %s with chart %s failed: %s", of.release, of.chart, trim(err))
		}
		return v2.UninstallSucceededReason, fmt.Sprintf("Helm uninstall remediation for release %s with chart %s succeeded", of.release, of.chart)
	}
	switch k {
	case Install:
		return plain("install", v2.InstallSucceededReason, v2.InstallFailedReason, of, err)
	case Upgrade:
		return plain("upgrade", v2.UpgradeSucceededReason, v2.UpgradeFailedReason, of, err)
	case Uninstall:
		return plain("uninstall", v2.UninstallSucceededReason, v2.UninstallFailedReason, of, err)
	case Test:
		reason, message = plain("test", v2.TestSucceededReason, v2.TestFailedReason, of, err)
		if err == nil {
			message += ": " + more
		}
		return reason, message
	case Rollback:
		if err != nil {
			return v2.RollbackFailedReason, fmt.Sprintf("Helm rollback to previous release %s with chart %s failed: %s", of.release, of.chart, trim(err))
		}
		return v2.RollbackSucceededReason, fmt.Sprintf("Helm rollback to previous release %s with chart %s succeeded", of.release, of.chart)
	case Unlock:
		if err != nil {
			return pendingReleaseReason, fmt.Sprintf("Failed to unlock Helm release %s with chart %s in %s state: %s", of.release, of.chart, more, trim(err))
		}
		return pendingReleaseReason, fmt.Sprintf("Unlocked Helm release %s with chart %s in %s state", of.release, of.chart, more)
	case Correct:
		if err != nil {
			return driftCorrectionFailedReason, fmt.Sprintf("Failed to correct cluster state of release %s:\n%s", of.release, trim(err))
		}
		return driftCorrectedReason, fmt.Sprintf("Cluster state of release %s has been corrected:\n%s", of.release, more)
	case None, Reset:
		return "", "" // nobody is told of these
	}
	panic("no such action: " + k)
}

// Reasons of events about drift, as Flux words them.
const (
	driftCorrectedReason        = "DriftCorrected"
	driftCorrectionFailedReason = "DriftCorrectionFailed"
)

func plain(verb, succeeded, failed string, of subject, err error) (reason, message string) {
	if err != nil {
		return failed, fmt.Sprintf("Helm %s failed for release %s with chart %s: %s", verb, of.release, of.chart, trim(err))
	}
	return succeeded, fmt.Sprintf("Helm %s succeeded for release %s with chart %s", verb, of.release, of.chart)
}

func trim(err error) string { return strings.TrimSpace(err.Error()) }

// hooksRun says how many hooks of a test have ended well.
func hooksRun(n int) string {
	switch n {
	case 0:
		return "no test hooks"
	case 1:
		return "1 test hook completed successfully"
	default:
		return fmt.Sprintf("%d test hooks completed successfully", n)
	}
}

package helm

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// awaitingTestsReason: the release is there, and its tests have yet to run.
const awaitingTestsReason = "AwaitingTests"

// tally puts what came of the actions that ended, and is not on record, into the conditions. It is called with what else is
// saved of an action, and at the end of a run.
func (a *attempt) tally(hr *v2.HelmRelease) {
	for ; a.tallied < len(a.reported); a.tallied++ {
		record(hr, a.reported[a.tallied])
	}
}

// record turns what came of an action into conditions of the HelmRelease:
//
//	action               Released               TestSuccess            Remediated             Drifted
//	install, upgrade     True/False             Unknown if to be run,  –                      –
//	                                            else –
//	test                                        True/False
//	rollback                                                           True/False
//	uninstall, a remedy                                                True/False
//	uninstall            False                  –                      –                      –
//	unlock               False
//	correct                                                                                   False if it was done
func record(hr *v2.HelmRelease, s step) {
	status := metav1.ConditionFalse
	if s.Err == nil {
		status = metav1.ConditionTrue
	}
	switch s.Kind {
	case Install, Upgrade:
		reconcile.RemoveCondition(hr, v2.TestSuccessCondition, v2.RemediatedCondition, v2.DriftedCondition)
		reconcile.SetCondition(hr, v2.ReleasedCondition, status, s.Reason, s.Message)
		if s.Err == nil && hr.GetTest().Enable {
			reconcile.SetCondition(hr, v2.TestSuccessCondition, metav1.ConditionUnknown, awaitingTestsReason, fmt.Sprintf("Release %s with chart %s is awaiting tests", s.Release.FullReleaseName(), s.Release.VersionedChartName()))
		}
	case Test:
		reconcile.SetCondition(hr, v2.TestSuccessCondition, status, s.Reason, s.Message)
	case Rollback:
		reconcile.SetCondition(hr, v2.RemediatedCondition, status, s.Reason, s.Message)
	case Uninstall:
		if s.Remedy {
			reconcile.SetCondition(hr, v2.RemediatedCondition, status, s.Reason, s.Message)
			return
		}
		reconcile.RemoveCondition(hr, v2.TestSuccessCondition, v2.RemediatedCondition, v2.DriftedCondition)
		reconcile.SetCondition(hr, v2.ReleasedCondition, metav1.ConditionFalse, s.Reason, s.Message)
	case Unlock:
		reconcile.SetCondition(hr, v2.ReleasedCondition, metav1.ConditionFalse, s.Reason, s.Message)
	case Correct:
		if s.Err == nil {
			reconcile.SetCondition(hr, v2.DriftedCondition, metav1.ConditionFalse, v2.NoDriftDetectedReason, noDrift)
		}
	case None, Reset: // neither says anything of the release itself
	}
}

// noDrift is what the condition Drifted says when there is none.
const noDrift = "No drift detected against the cluster state"

// verdict is what the conditions about a release say of it as a whole: what was last done about it counts. One that had to be
// remedied is not what was asked for, however well the remedy went. It is nil when nothing was done yet.
func verdict(hr *v2.HelmRelease) *metav1.Condition {
	deciding := []string{v2.RemediatedCondition, v2.ReleasedCondition}
	if test := hr.GetTest(); test.Enable && !test.IgnoreFailures {
		deciding = []string{v2.RemediatedCondition, v2.TestSuccessCondition, v2.ReleasedCondition}
	}
	for _, kind := range deciding {
		if c := reconcile.Condition(hr, kind); c != nil {
			of := *c
			of.Type = meta.ReadyCondition
			if kind == v2.RemediatedCondition {
				of.Status = metav1.ConditionFalse
			}
			return &of
		}
	}
	return nil
}

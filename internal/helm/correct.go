package helm

import (
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// correct puts right the objects that have drifted, and no others (faults.md F19).
func (j *job) correct() error {
	access, err := j.client(j.newest.Method)
	if err != nil {
		return err
	}
	done, err := access.Correct(j.drifted)
	lines := make([]string, 0, len(done))
	for _, c := range done {
		lines = append(lines, c.String())
		j.objects = append(j.objects, c.Ref.String())
	}
	j.more = strings.Join(lines, "\n")
	return access.note(err)
}

// drift is what of a release is not as the release has it in the cluster: as it was found, and as it is now.
type drift struct {
	release    string
	found, now []string
}

// noteDrift keeps what was found out about drift. Nothing is, when nobody has looked.
func (a *attempt) noteDrift(v *view) {
	switch {
	case !v.looked:
		return
	case a.drift == nil:
		a.drift = &drift{release: v.History.Latest().FullReleaseName(), found: v.Drift}
	}
	a.drift.now = v.Drift
}

// driftMessage says what has drifted, as Flux words it.
func driftMessage(release string, lines []string) string {
	return fmt.Sprintf("Cluster state of release %s has drifted from the desired state:\n%s", release, strings.Join(lines, "\n"))
}

// reportDrift sets the condition Drifted, which only a release has whose drift is looked for.
func (a *attempt) reportDrift(hr *v2.HelmRelease) {
	switch {
	case !hr.GetDriftDetection().MustDetectChanges():
		reconcile.RemoveCondition(hr, v2.DriftedCondition)
	case a.drift == nil: // it is as it was when somebody last looked
	case len(a.drift.now) > 0:
		reconcile.SetCondition(hr, v2.DriftedCondition, metav1.ConditionTrue, v2.DriftDetectedReason, driftMessage(a.drift.release, a.drift.now))
	default:
		reconcile.SetCondition(hr, v2.DriftedCondition, metav1.ConditionFalse, v2.NoDriftDetectedReason, noDrift)
	}
}

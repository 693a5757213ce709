package helm

import (
	"fmt"
	"slices"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/drift"
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

// drifting is what of a release is not as the release has it in the cluster: as it was found, and as it is now.
type drifting struct {
	release    string
	found, now []string
}

// noteDrift keeps what was found out about drift. Nothing is, when nobody has looked.
func (a *attempt) noteDrift(v *view) {
	switch {
	case !v.looked:
		return
	case a.drift == nil:
		a.drift = &drifting{release: v.History.Latest().FullReleaseName(), found: v.Drift}
	}
	a.drift.now = v.Drift
}

// driftMessage says what has drifted, as Flux words it.
func driftMessage(release string, lines []string) string {
	return fmt.Sprintf("Cluster state of release %s has drifted from the desired state:\n%s", release, strings.Join(lines, "\n"))
}

// reportDrift sets the condition Drifted, which only a release has whose drift is looked for. What the run has seen counts, and
// what the drift engine has seen since.
func (r *Reconciler) reportDrift(a *attempt) {
	if !a.hr.GetDriftDetection().MustDetectChanges() {
		reconcile.RemoveCondition(a.hr, v2.DriftedCondition)
		return
	}
	records := r.Drift.Records(ownerOf(a.key))
	latest := a.hr.Status.History.Latest()
	if a.drift == nil && (len(records) == 0 || latest == nil) {
		return // it is as it was when somebody last looked
	}
	release := ""
	if latest != nil {
		release = latest.FullReleaseName()
	}
	var lines, contested []string
	if a.drift != nil {
		lines = append(lines, a.drift.now...)
	}
	for _, record := range records {
		switch {
		case record.State == drift.Contested:
			contested = append(contested, fmt.Sprintf("%s keeps changing %s: %s", record.Contester(), record.Object(), record.Summary()))
		case record.Over(), slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, record.Object()+" ") }):
			// It is over, or was counted.
		case record.Error != "":
			lines = append(lines, driftLine(record, record.State)+"; it cannot be put right: "+record.Error)
		default:
			lines = append(lines, driftLine(record, record.State))
		}
	}
	slices.Sort(contested)
	slices.Sort(lines)
	switch {
	case len(contested) > 0:
		message := strings.Join(contested, "\n")
		if len(lines) > 0 {
			message += "\n" + driftMessage(release, lines)
		}
		reconcile.SetCondition(a.hr, v2.DriftedCondition, metav1.ConditionTrue, api.ContestedReason, message)
	case len(lines) > 0:
		reconcile.SetCondition(a.hr, v2.DriftedCondition, metav1.ConditionTrue, v2.DriftDetectedReason, driftMessage(release, lines))
	default:
		reconcile.SetCondition(a.hr, v2.DriftedCondition, metav1.ConditionFalse, v2.NoDriftDetectedReason, noDrift)
	}
}

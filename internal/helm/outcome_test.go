package helm

import (
	"context"
	"errors"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// TestOutcomes: what comes of actions, and of what ended the attempt, as conditions and events.
func TestOutcomes(t *testing.T) {
	release := &v2.Snapshot{Name: "web", Namespace: "demo", Version: 2, ChartName: "web", ChartVersion: "1.0.0"}
	broken := errors.New("it is broken")
	exceeded := api.Faultf(retriesExceededReason, api.RetryNever, "Failed to upgrade after 1 attempt(s)")
	type row = map[string]string
	for name, tt := range map[string]struct {
		spec   string
		before []step
		steps  []step
		err    error
		want   row
		events []string
	}{
		"an upgrade fails and is rolled back": {
			steps: []step{ended(Upgrade, false, release, "", broken), ended(Rollback, false, release, "", nil)}, err: exceeded,
			want: row{
				"Ready":      "False RollbackSucceeded: Helm rollback to previous release demo/web.v2 with chart web@1.0.0 succeeded",
				"Released":   "False UpgradeFailed: Helm upgrade failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Remediated": "True RollbackSucceeded: Helm rollback to previous release demo/web.v2 with chart web@1.0.0 succeeded",
				"Stalled":    "True RetriesExceeded: Failed to upgrade after 1 attempt(s)",
			},
			events: []string{
				"Warning UpgradeFailed Helm upgrade failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Normal RollbackSucceeded Helm rollback to previous release demo/web.v2 with chart web@1.0.0 succeeded",
			},
		},
		"an install fails before there is anything": {
			steps: []step{ended(Install, false, nil, "", broken)},
			err:   api.Faultf(v2.InstallFailedReason, api.RetryBackoff, "Helm install failed for release demo/web with chart web@1.0.0: it is broken"),
			want: row{
				"Ready":       "False InstallFailed: Helm install failed for release demo/web with chart web@1.0.0: it is broken",
				"Released":    "False InstallFailed: Helm install failed for release demo/web with chart web@1.0.0: it is broken",
				"Reconciling": "True ProgressingWithRetry: Fulfilling prerequisites",
			},
			events: []string{"Warning InstallFailed Helm install failed for release demo/web with chart web@1.0.0: it is broken"},
		},
		"it is tried again when something outside changes": {
			steps: []step{ended(Install, false, release, "", broken)},
			err:   api.Faultf(retriesExceededReason, api.RetryInterval, "Failed to install after 1 attempt(s); it is tried again when Namespace/x exists"),
			want: row{
				"Ready": "False InstallFailed: Helm install failed for release demo/web.v2 with chart web@1.0.0: it is broken; " +
					"Failed to install after 1 attempt(s); it is tried again when Namespace/x exists",
				"Released":    "False InstallFailed: Helm install failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Reconciling": "True ProgressingWithRetry: Fulfilling prerequisites",
			},
			events: []string{"Warning InstallFailed Helm install failed for release demo/web.v2 with chart web@1.0.0: it is broken"},
		},
		"an upgrade forgets what was remedied and tested": {
			spec: `test: {enable: true}`, before: []step{ended(Upgrade, false, release, "", broken), ended(Rollback, false, release, "", nil)},
			steps: []step{ended(Upgrade, false, release, "", nil)}, err: &reconcile.Waiting{},
			want: row{
				"Ready":       "Unknown Progressing: Reconciliation in progress",
				"Reconciling": "True Progressing: Fulfilling prerequisites",
				"Released":    "True UpgradeSucceeded: Helm upgrade succeeded for release demo/web.v2 with chart web@1.0.0",
				"TestSuccess": "Unknown AwaitingTests: Release demo/web.v2 with chart web@1.0.0 is awaiting tests",
			},
			events: []string{"Normal UpgradeSucceeded Helm upgrade succeeded for release demo/web.v2 with chart web@1.0.0"},
		},
		"a test that fails and does not count": {
			spec:  `test: {enable: true, ignoreFailures: true}`,
			steps: []step{ended(Upgrade, false, release, "", nil), ended(Test, false, release, "", broken)},
			want: row{
				"Ready":       "True UpgradeSucceeded: Helm upgrade succeeded for release demo/web.v2 with chart web@1.0.0",
				"Released":    "True UpgradeSucceeded: Helm upgrade succeeded for release demo/web.v2 with chart web@1.0.0",
				"TestSuccess": "False TestFailed: Helm test failed for release demo/web.v2 with chart web@1.0.0: it is broken",
			},
			events: []string{
				"Normal UpgradeSucceeded Helm upgrade succeeded for release demo/web.v2 with chart web@1.0.0",
				"Warning TestFailed Helm test failed for release demo/web.v2 with chart web@1.0.0: it is broken",
			},
		},
		"a test that fails and is not remedied": {
			spec:  `test: {enable: true}, install: {remediation: {ignoreTestFailures: true}}`,
			steps: []step{ended(Install, false, release, "", nil), ended(Test, false, release, "", broken)},
			want: row{
				"Ready":       "False TestFailed: Helm test failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Released":    "True InstallSucceeded: Helm install succeeded for release demo/web.v2 with chart web@1.0.0",
				"TestSuccess": "False TestFailed: Helm test failed for release demo/web.v2 with chart web@1.0.0: it is broken",
			},
			events: []string{
				"Normal InstallSucceeded Helm install succeeded for release demo/web.v2 with chart web@1.0.0",
				"Warning TestFailed Helm test failed for release demo/web.v2 with chart web@1.0.0: it is broken",
			},
		},
		"an install is undone": {
			steps: []step{ended(Install, false, release, "", broken), ended(Uninstall, true, release, "", nil)},
			err:   api.Faultf(v2.InstallFailedReason, api.RetryBackoff, "x"),
			want: row{
				"Ready":       "False UninstallSucceeded: Helm uninstall remediation for release demo/web.v2 with chart web@1.0.0 succeeded",
				"Released":    "False InstallFailed: Helm install failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Remediated":  "True UninstallSucceeded: Helm uninstall remediation for release demo/web.v2 with chart web@1.0.0 succeeded",
				"Reconciling": "True ProgressingWithRetry: Fulfilling prerequisites",
			},
			events: []string{
				"Warning InstallFailed Helm install failed for release demo/web.v2 with chart web@1.0.0: it is broken",
				"Normal UninstallSucceeded Helm uninstall remediation for release demo/web.v2 with chart web@1.0.0 succeeded",
			},
		},
		"one is unlocked, and somebody else is at it": {
			steps: []step{ended(Unlock, false, release, "pending-upgrade", nil)},
			err:   api.Faultf(pendingReleaseReason, api.RetryWoken, "somebody is at it"),
			want: row{
				"Ready":    "False PendingRelease: somebody is at it",
				"Released": "False PendingRelease: Unlocked Helm release demo/web.v2 with chart web@1.0.0 in pending-upgrade state",
			},
			events: []string{"Normal PendingRelease Unlocked Helm release demo/web.v2 with chart web@1.0.0 in pending-upgrade state"},
		},
		"tests are switched off, and all is well": {
			before: []step{ended(Install, false, release, "", nil), ended(Test, false, release, "", broken), ended(Rollback, false, release, "", nil)},
			want: row{
				"Ready":    "True InstallSucceeded: Helm install succeeded for release demo/web.v2 with chart web@1.0.0",
				"Released": "True InstallSucceeded: Helm install succeeded for release demo/web.v2 with chart web@1.0.0",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(ociRelease, "interval: 10m,", "interval: 10m, "+tt.spec+strings.Repeat(",", min(len(tt.spec), 1)), 1)
			w := newWorld(t, Options{}, read(t, []byte(text))...)
			w.publish("OCIRepository", "web", ociFirst)
			w.act = func(ctx context.Context, a *attempt) error {
				a.reported = append(a.reported, tt.before...)
				return a.run.Save(ctx, func(hr *v2.HelmRelease) { hr.Status.History = v2.Snapshots{release} })
			}
			w.reconcile("web")
			w.events.Take()
			w.act = func(_ context.Context, a *attempt) error {
				a.reported = append(a.reported, tt.steps...)
				return tt.err
			}
			hr := w.reconcile("web")
			got := row{}
			for _, c := range hr.Status.Conditions {
				got[c.Type] = told(hr, c.Type)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.events, w.events.Words()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAdoptedReleaseSaysSo: a release that is as it is asked for without an action of ours has a condition that says how it came.
func TestAdoptedReleaseSaysSo(t *testing.T) {
	w := newWorld(t, Options{}, read(t, []byte(ociRelease))...)
	w.publish("OCIRepository", "web", ociFirst)
	w.act = func(ctx context.Context, a *attempt) error {
		return a.run.Save(ctx, func(hr *v2.HelmRelease) {
			hr.Status.History = v2.Snapshots{{Name: "web", Namespace: "demo", Version: 1, ChartName: "web", ChartVersion: "1.0.0", Action: v2.ReleaseActionInstall}}
		})
	}
	if got := ready(w.reconcile("web")); got != "True InstallSucceeded: Helm install succeeded for release demo/web.v1 with chart web@1.0.0" {
		t.Errorf("%s", got)
	}
}

// TestLogsAreTold: an event about a failure has the last that Helm has said, and the condition has not.
func TestLogsAreTold(t *testing.T) {
	s := ended(Install, false, nil, "", errors.New("it is broken"))
	s.Logs = "creating 1 resource(s)"
	e := (&attempt{}).stepEvent(s)
	if e.Message != s.Message+"\n\nLast Helm logs:\n\ncreating 1 resource(s)" || e.Type != "Warning" {
		t.Errorf("%+v", e)
	}
}

package helm

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func snapshot(version int, status string) *v2.Snapshot {
	return &v2.Snapshot{Name: "web", Namespace: "ns", Version: version, Status: status}
}

func TestRememberKeepsWhatOnlyTheHistoryKnows(t *testing.T) {
	was := v2.Snapshots{snapshot(1, "deployed")}
	was[0].Action, was[0].OCIDigest = "install", "sha256:oci"
	was[0].TestHooks = &map[string]*v2.TestHookStatus{"check": {Phase: "Succeeded"}}
	before := was[0].DeepCopy()
	got := remember(was, map[int]*v2.Snapshot{1: snapshot(1, "superseded"), 2: snapshot(2, "deployed")}, "upgrade")
	want := v2.Snapshots{snapshot(2, "deployed"), snapshot(1, "superseded")}
	want[0].Action = "upgrade"
	want[1].OCIDigest, want[1].TestHooks = "sha256:oci", before.TestHooks
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the history (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, was[0]); diff != "" {
		t.Errorf("what was given has changed:\n%s", diff)
	}
}

// What a test does to the history is no other action than the one that made the release.
func TestRememberKeepsTheActionThatWasTested(t *testing.T) {
	tested := snapshot(1, "deployed")
	tested.Action = "install"
	if got := remember(v2.Snapshots{snapshot(1, "deployed")}, map[int]*v2.Snapshot{1: tested}, releaseAction(Action{Kind: Test})); got[0].Action != "install" {
		t.Errorf("its action is %q", got[0].Action)
	}
}

// A rollback that fails calls the release which it was to undo superseded; to go back to that would be no remedy.
func TestRememberGoesOnCallingAFailureOne(t *testing.T) {
	was := v2.Snapshots{snapshot(2, "failed"), snapshot(1, "deployed")}
	got := remember(was, map[int]*v2.Snapshot{2: snapshot(2, "superseded"), 3: snapshot(3, "failed")}, "rollback")
	if back := previous(got, false); back == nil || back.Version != 1 {
		t.Errorf("it would be rolled back to %v", back)
	}
}

func TestUnlockedIsReadAsItWasWritten(t *testing.T) {
	for _, status := range []Status{PendingInstall, PendingUpgrade, PendingRollback} {
		if got := interruptedIn(unlocked(status)); got != status {
			t.Errorf("%q is read as %q", unlocked(status), got)
		}
	}
	for _, other := range []string{"", "Upgrade \"web\" failed: x", unlocked(Deployed), "Release unlocked from stale 'pending-upgrade' state, or not"} {
		if got := interruptedIn(other); got != "" {
			t.Errorf("%q is read as %q", other, got)
		}
	}
}

func TestClaimsThatGo(t *testing.T) {
	manifest := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept, annotations: {helm.sh/resource-policy: keep}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: other}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
`
	want := []string{"PersistentVolumeClaim/ns/data", "PersistentVolumeClaim/other/data"}
	if got := claimsIn(manifest, "ns"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestF17_WhoIsToBlame: what got no answer says nothing about the release.
func TestF17_WhoIsToBlame(t *testing.T) {
	status := func(code int32) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code, Reason: metav1.StatusReasonUnknown}}
	}
	for _, c := range []struct {
		err        error
		unanswered bool
	}{
		{&url.Error{Op: "Patch", Err: errors.New("connection refused")}, true},
		{status(http.StatusTooManyRequests), true},
		{status(http.StatusServiceUnavailable), true},
		{status(http.StatusGatewayTimeout), true},
		{status(http.StatusForbidden), false},
		{status(http.StatusInternalServerError), true},
		{errors.New("timeout waiting for: [Deployment/ns/web status: 'InProgress']"), false},
	} {
		if got := isUnanswered(c.err); got != c.unanswered {
			t.Errorf("%v: unanswered is %v", c.err, got)
		}
	}
}

func TestCauses(t *testing.T) {
	namespaces := schema.GroupResource{Resource: "namespaces"}
	for _, c := range []struct {
		err  error
		says string
	}{
		{apierrors.NewNotFound(namespaces, "late"), "Namespace/late exists"},
		{&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "example.com", Kind: "Widget"}, SearchedVersions: []string{"v1"}}, "the cluster knows the kind Widget of example.com/v1"},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, "x"), ""},
		{errors.New("something else"), ""},
	} {
		says := ""
		if found := causeOf(t.Context(), []error{errors.New("first"), c.err}, nil); found != nil {
			says = found.says
			for _, regularly := range []string{"", "every 5m0s", "after a longer while each time"} {
				if again := causeIn("Helm install failed: it is tried again when; " + says + nextTry(regularly, says)); again == nil || again.says != says {
					t.Errorf("%q is not found again in a message: %v", says, again)
				}
			}
		}
		if says != c.says {
			t.Errorf("%v: %q, want %q", c.err, says, c.says)
		}
	}
}

// TestCauseIn: what a message says of a cause, and no other words, is what is waited for.
func TestCauseIn(t *testing.T) {
	for message, says := range map[string]string{
		"x; it is tried again when a ResourceQuota of the namespace demo changes": "a ResourceQuota of the namespace demo changes",
		"x; it is tried again when Namespace/late exists; and more":               "",
		"x; it is tried again every 5m0s":                                         "",
		"x; it is tried again when the moon is full":                              "",
		"Namespace/late exists":                                                   "", "": "",
	} {
		got := ""
		if c := causeIn(message); c != nil {
			got = c.says
		}
		if got != says {
			t.Errorf("%q: %q, want %q", message, got, says)
		}
	}
}

func TestLogsAreBoundedAndMasked(t *testing.T) {
	var logs tail
	for range 30 {
		logs.printf("again")
	}
	for i := range 30 {
		logs.printf("line %d %s", i, strings.Repeat("x", 2000))
	}
	logs.printf("the password is hunter2hunter2")
	text := logs.text(secretsIn("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2hunter2}\n"))
	if lines := strings.Split(text, "\n"); len(lines) != keptLines || len(text) > keptLines*(keptLine+10) {
		t.Errorf("%d lines of %d bytes are kept", len(lines), len(text))
	}
	if strings.Contains(text, "hunter2") {
		t.Error("the log shows a secret")
	}
}

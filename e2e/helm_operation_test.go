package e2e_test

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/helm"
)

// slowChart has a Deployment and a hook that do not become ready for as long as the values say so.
const slowChart = `
-- templates/config.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {answer: {{ .Values.answer | default 1 | quote }}}
-- templates/deployment.yaml --
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}, annotations: {cleat.dev/unready: {{ .Values.unready | default false | quote }}}}
    spec: {containers: [{name: app, image: example.com/app:1}]}
-- templates/claim.yaml --
{{ if .Values.hook }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: {{ .Release.Name }}}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
{{ end }}
-- templates/hook.yaml --
{{ if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata: {name: {{ .Release.Name }}, annotations: {helm.sh/hook: pre-install}}
spec:
  template:
    metadata: {annotations: {cleat.dev/unready: "true"}}
    spec: {restartPolicy: Never, containers: [{name: app, image: example.com/app:1}]}
{{ end }}
`

// newSlowWorld has a release "slow" that is being installed, and the agent that waits for it.
func newSlowWorld(t *testing.T, spec string) (*helmWorld, *helmAgent) {
	t.Helper()
	w := newHelmWorld(t)
	w.publish("slow", "1.0.0", slowChart)
	w.release("slow", spec)
	a := w.agent("slow", helm.Options{})
	w.until("slow", "in the middle of its install", func(*v2.HelmRelease) bool {
		return fmt.Sprint(w.stored("slow")) == "[v1 pending-install]" && len(w.pods()) > 0
	})
	return w, a
}

func (w *helmWorld) pods() []corev1.Pod {
	w.Helper()
	list := &unstructured.UnstructuredList{}
	list.SetAPIVersion("v1")
	list.SetKind("PodList")
	if err := w.other.List(w.Context(), list, client.InNamespace(w.namespace)); err != nil {
		w.Fatal(err)
	}
	pods := make([]corev1.Pod, len(list.Items))
	for i := range list.Items {
		if err := api.Decode(&list.Items[i], &pods[i]); err != nil {
			w.Fatal(err)
		}
	}
	return pods
}

// heal lets all pods become ready.
func (w *helmWorld) heal() {
	w.Helper()
	for _, pod := range w.pods() {
		w.patch(api.Undecoded(corev1.SchemeGroupVersion.WithKind("Pod")), pod.Name, `{"metadata":{"annotations":{"cleat.dev/unready":null}}}`)
	}
}

// annotate sets annotations of a HelmRelease.
func (w *helmWorld) annotate(name string, pairs ...string) {
	w.Helper()
	var set []string
	for i := 0; i < len(pairs); i += 2 {
		set = append(set, fmt.Sprintf("%q:%q", pairs[i], pairs[i+1]))
	}
	w.patch(api.Undecoded(api.HelmReleaseKind), name, `{"metadata":{"annotations":{`+strings.Join(set, ",")+`}}}`)
}

func (w *helmWorld) patch(u *unstructured.Unstructured, name, patch string) {
	w.Helper()
	u.SetNamespace(w.namespace)
	u.SetName(name)
	if err := w.other.Patch(w.Context(), u, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		w.Fatal(err)
	}
}

// TestF18_ASlowReleaseHoldsNoWorker: the one worker goes on with others while a release waits, and after one has failed.
func TestF18_ASlowReleaseHoldsNoWorker(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {unready: true}")
	w.publish("bad", "1.0.0", plainChart)
	w.release("bad", "values: {bad: true}")
	a.wake("bad")
	w.until("bad", "stalled", saysStalled)
	w.publish("app", "1.0.0", plainChart)
	w.release("app", "values: {answer: 1}")
	a.wake("app")
	w.until("app", "ready", saysReady("True"))
	w.wantStored("slow", "v1 pending-install")
	w.heal()
	w.until("slow", "ready", saysReady("True"))
	w.wantStored("slow", "v1 deployed")
}

// TestSpecChangesDuringAnInstall: of fifty specs in a second the last is what comes about, and none counts as a failure.
func TestSpecChangesDuringAnInstall(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {unready: true}")
	for i := range 50 {
		w.release("slow", fmt.Sprintf("timeout: 5m, values: {answer: %d, unready: %v}", i, i < 49))
		a.wake("slow")
	}
	hr := w.until("slow", "ready", saysReady("True"))
	if got := w.data("slow")["answer"]; got != "49" {
		t.Errorf("the answer is %s", got)
	}
	if hr.Status.InstallFailures+hr.Status.UpgradeFailures+hr.Status.Failures != 0 {
		t.Errorf("failures are counted: %+v", hr.Status)
	}
	for _, stored := range w.stored("slow") {
		if strings.Contains(stored, "pending") {
			t.Errorf("the storage has %s", stored)
		}
	}
	if got := a.events.Words(); strings.Contains(strings.Join(got, "\n"), "Failed") {
		t.Errorf("what was cut off is told of: %v", got)
	}
}

// TestDeletedInTheMiddleOfAHook: the deletion cuts the install off and uninstalls what there is, and says which claims go.
func TestDeletedInTheMiddleOfAHook(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {hook: true}")
	if err := w.other.Delete(t.Context(), w.get("slow")); err != nil {
		t.Fatal(err)
	}
	a.wake("slow")
	w.until("slow", "gone", isGone)
	w.wantStored("slow")
	if w.data("slow") != nil {
		t.Error("an object of the release is still there")
	}
	if got := strings.Join(a.events.Words(), "\n"); !strings.Contains(got, "Warning PersistentVolumeClaimsGo") || !strings.Contains(got, "PersistentVolumeClaim/"+w.namespace+"/slow") {
		t.Errorf("nobody was told of the claim:\n%s", got)
	}
}

// TestSuspendedInTheMiddleOfAnInstall: nothing is begun while it is suspended, and afterwards it goes on.
func TestSuspendedInTheMiddleOfAnInstall(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {unready: true}")
	w.release("slow", "timeout: 5m, suspend: true, values: {unready: true}")
	a.wake("slow")
	w.heal()
	w.until("slow", "installed all the same", func(*v2.HelmRelease) bool { return fmt.Sprint(w.stored("slow")) == "[v1 deployed]" })
	w.release("slow", "timeout: 5m, suspend: false, values: {answer: 2}")
	a.wake("slow")
	hr := w.until("slow", "ready", saysReady("True"))
	if w.data("slow")["answer"] != "2" || hr.Status.Failures != 0 {
		t.Errorf("%v, with %d failures", w.data("slow"), hr.Status.Failures)
	}
}

// TestAskedTwiceDuringAnInstall: a request to look begins nothing anew, and the last one counts as handled.
func TestAskedTwiceDuringAnInstall(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {unready: true}")
	for _, at := range []string{"one", "two"} {
		w.annotate("slow", meta.ReconcileRequestAnnotation, at)
		a.wake("slow")
	}
	w.heal()
	w.until("slow", "ready", func(hr *v2.HelmRelease) bool {
		return saysReady("True")(hr) && hr.Status.LastHandledReconcileAt == "two"
	})
	w.wantStored("slow", "v1 deployed")
}

// TestF13_StoppedInTheMiddle: an agent that is stopped leaves no lock and no goroutine, and the next goes on with what it had begun,
// for which nothing is counted.
func TestF13_StoppedInTheMiddle(t *testing.T) {
	w, a := newSlowWorld(t, "timeout: 5m, values: {unready: true}")
	a.kill()
	a.stopped.Wait()
	w.wantStored("slow", "v1 failed")
	if left := goroutinesIn("cleat/internal/helm."); left != "" {
		t.Errorf("goroutines of the agent are left:\n%s", left)
	}
	w.agent("slow", helm.Options{})
	w.until("slow", "taken up", func(*v2.HelmRelease) bool { return fmt.Sprint(w.stored("slow")) != "[v1 failed]" })
	w.heal()
	hr := w.until("slow", "ready", saysReady("True"))
	if hr.Status.InstallFailures+hr.Status.UpgradeFailures+hr.Status.Failures != 0 {
		t.Errorf("failures are counted: %+v", hr.Status)
	}
}

// goroutinesIn returns the stacks that are in a package. Connections that are kept open are of none of ours.
func goroutinesIn(pkg string) string {
	deadline := time.Now().Add(5 * time.Second)
	for {
		var all bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&all, 1) // to memory
		var left []string
		for stack := range strings.SplitSeq(all.String(), "\n\n") {
			if strings.Contains(stack, pkg) {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		time.Sleep(20 * time.Millisecond) // the test watches from outside
	}
}

// TestAskedByHandWithoutRetries: with none left, a request to look changes nothing; one to forget the failures, or to force an
// upgrade, gives one more try.
func TestAskedByHandWithoutRetries(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	w.release("app", "values: {bad: true}")
	a := w.agent("app", helm.Options{})
	w.until("app", "stalled", saysStalled)
	for _, ask := range []struct {
		at, annotation string
		stored         []string
	}{
		{"one", "", []string{"v1 failed"}},
		{"two", v2.ResetRequestAnnotation, []string{"v1 failed", "v2 failed"}},
		{"three", v2.ForceRequestAnnotation, []string{"v1 failed", "v2 failed", "v3 failed"}},
		{"four", "", []string{"v1 failed", "v2 failed", "v3 failed"}},
	} {
		pairs := []string{meta.ReconcileRequestAnnotation, ask.at}
		if ask.annotation != "" {
			pairs = append(pairs, ask.annotation, ask.at)
		}
		w.annotate("app", pairs...)
		a.wake("app")
		hr := w.until("app", "stalled", func(hr *v2.HelmRelease) bool {
			return saysStalled(hr) && hr.Status.LastHandledReconcileAt == ask.at
		})
		w.wantStored("app", ask.stored...)
		switch ask.annotation {
		case v2.ResetRequestAnnotation:
			want(t, "lastHandledResetAt", hr.Status.LastHandledResetAt, ask.at)
		case v2.ForceRequestAnnotation:
			want(t, "lastHandledForceAt", hr.Status.LastHandledForceAt, ask.at)
		}
	}
}

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/helm"
)

// crash is a change of a release during which the agent dies.
type crash struct {
	name string
	// before brings the release to where the change begins; change is what is asked for then.
	before, change func(*helmWorld)
	// done says that it has come about; check looks at what there is then.
	done  func(*v2.HelmRelease) bool
	check func(*testing.T, *helmWorld)
}

var crashes = []crash{
	{
		name: "install", before: func(*helmWorld) {},
		change: func(w *helmWorld) { w.release("app", "values: {answer: 2}") },
		done:   saysReady("True"),
		check: func(t *testing.T, w *helmWorld) {
			if w.data("app-pre-install") == nil || w.data("app-post-install") == nil {
				t.Error("a hook of the install has not run")
			}
			wantAnswer(t, w, "2")
		},
	},
	{
		name: "upgrade", before: installed,
		change: func(w *helmWorld) { w.release("app", "values: {answer: 2}") },
		done:   saysReady("True"),
		check: func(t *testing.T, w *helmWorld) {
			if w.data("app-pre-upgrade") == nil || w.data("app-post-upgrade") == nil {
				t.Error("a hook of the upgrade has not run")
			}
			wantAnswer(t, w, "2")
		},
	},
	{
		name: "rollback", before: installed,
		change: func(w *helmWorld) {
			w.release("app", "values: {answer: 2, bad: true}, upgrade: {remediation: {remediateLastFailure: true}}")
		},
		done: func(hr *v2.HelmRelease) bool {
			return saysStalled(hr) && hr.Status.History.Latest().Status == "deployed"
		},
		check: func(t *testing.T, w *helmWorld) {
			wantAnswer(t, w, "1")
		},
	},
	{
		name: "uninstall", before: installed,
		change: func(w *helmWorld) {
			if err := w.other.Delete(w.Context(), w.get("app")); err != nil {
				w.Fatal(err)
			}
		},
		done: isGone,
		check: func(t *testing.T, w *helmWorld) {
			w.wantStored("app")
			if w.data("app") != nil {
				t.Error("an object of the release is still there")
			}
		},
	},
}

func installed(w *helmWorld) {
	w.release("app", "values: {answer: 1}")
	a := w.agent("app", helm.Options{})
	w.until("app", "ready", saysReady("True"))
	a.kill()
	a.stopped.Wait()
}

func wantAnswer(t *testing.T, w *helmWorld, want string) {
	t.Helper()
	if got := w.data("app")["answer"]; got != want {
		t.Errorf("the answer is %q, want %q", got, want)
	}
	stored := w.stored("app")
	if len(stored) == 0 || !strings.HasSuffix(stored[len(stored)-1], " deployed") {
		t.Errorf("the storage has %v; want the newest deployed", stored)
	}
	for _, s := range stored {
		if strings.Contains(s, "pending") || strings.Contains(s, "uninstalling") {
			t.Errorf("the storage has %v", stored)
		}
	}
}

// TestF13_F14_KilledAtEveryWrite: an agent that dies at any write, whether the API server has seen it or not, leaves nothing that
// the next one does not bring to its end by itself.
func TestF13_F14_KilledAtEveryWrite(t *testing.T) {
	for _, c := range crashes {
		for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
			t.Run(fmt.Sprintf("%s/%s", c.name, when), func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					if !crashAt(t, c, n, when) {
						t.Logf("%d writes", n-1)
						return
					}
				}
			})
		}
	}
}

// crashAt says whether the change has come as far as to the nth write.
func crashAt(t *testing.T, c crash, n int, when testenv.FailPoint) (crashed bool) {
	t.Helper()
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	c.before(w)
	c.change(w)
	killed := make(chan struct{})
	tripped := w.proxy.Arm(n, when, func() { close(killed) })
	a := w.agent("app", helm.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !c.done(w.get("app")) {
			select {
			case <-killed:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	<-done
	select {
	case <-killed:
		<-tripped
		crashed = true
	default:
	}
	a.kill()
	a.stopped.Wait()
	writes, _ := w.proxy.Disarm()
	if crashed {
		w.agent("app", helm.Options{})
	}
	w.until("app", fmt.Sprintf("what is asked for after it was killed %s %s", when, writes[len(writes)-1]), c.done)
	c.check(t, w)
	if t.Failed() {
		t.Logf("killed %s write %d of %s", when, n, strings.Join(writes, "\n"))
	}
	return crashed && !t.Failed()
}

// TestF13_HelmAtWork: what a helm by hand has begun is left alone while it may be at it, and is unlocked after that.
func TestF13_HelmAtWork(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	installed(w)
	rel, err := w.secrets.Get("sh.helm.release.v1.app.v1")
	if err != nil {
		t.Fatal(err)
	}
	pending := *rel
	pending.Version = 2
	info := *rel.Info
	info.Status, info.LastDeployed.Time = "pending-upgrade", time.Now()
	pending.Info = &info
	if err := w.secrets.Create("sh.helm.release.v1.app.v2", &pending); err != nil { // its field manager is this test's binary
		t.Fatal(err)
	}
	w.release("app", "timeout: 4s, values: {answer: 2}")
	w.agent("app", helm.Options{})
	w.until("app", "held", func(hr *v2.HelmRelease) bool { return strings.Contains(said(hr, "Ready"), "PendingRelease") })
	w.wantStored("app", "v1 deployed", "v2 pending-upgrade")
	w.until("app", "unlocked and upgraded", saysReady("True"))
	wantAnswer(t, w, "2")
}

// TestF16_StorageLost: a release whose storage was deleted is installed over, and what it has made is taken over.
func TestF16_StorageLost(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	installed(w)
	before := w.uid("app")
	if _, err := w.secrets.Delete("sh.helm.release.v1.app.v1"); err != nil {
		t.Fatal(err)
	}
	a := w.agent("app", helm.Options{})
	w.until("app", "installed again", func(hr *v2.HelmRelease) bool { return saysReady("True")(hr) && len(w.stored("app")) == 1 })
	if w.uid("app") != before {
		t.Error("the object was made anew")
	}
	t.Run("edited", func(t *testing.T) {
		w.edit("sh.helm.release.v1.app.v1", `{"data":{"release":"bm90IGEgcmVsZWFzZQ=="}}`)
		w.release("app", "values: {answer: 5}")
		a.wake("app")
		w.until("app", "ready again", func(hr *v2.HelmRelease) bool { return saysReady("True")(hr) && w.data("app")["answer"] == "5" })
		wantAnswer(t, w, "5")
	})
	t.Run("deleted before the HelmRelease is", func(t *testing.T) {
		for _, s := range w.stored("app") {
			if _, err := w.secrets.Delete("sh.helm.release.v1.app." + s[:2]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.other.Delete(t.Context(), w.get("app")); err != nil {
			t.Fatal(err)
		}
		a.wake("app")
		w.until("app", "gone", isGone)
	})
}

func (w *helmWorld) uid(configMap string) types.UID {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	if err := w.other.Get(w.Context(), types.NamespacedName{Namespace: w.namespace, Name: configMap}, u); err != nil {
		w.Fatal(err)
	}
	return u.GetUID()
}

// edit patches a Secret as somebody with a kubectl does.
func (w *helmWorld) edit(secret, patch string) {
	w.Helper()
	u := &metav1.PartialObjectMetadata{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Secret"})
	u.SetNamespace(w.namespace)
	u.SetName(secret)
	if err := w.other.Patch(w.Context(), u, client.RawPatch(types.MergePatchType, []byte(patch)), client.FieldOwner("kubectl-edit")); err != nil {
		w.Fatal(err)
	}
}

// TestF15_TooLargeIsRefusedBeforeAnythingIsChanged: a release that no Secret can hold makes nothing and runs no hook.
func TestF15_TooLargeIsRefusedBeforeAnythingIsChanged(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart+"\n-- templates/large.yaml --\n"+`
{{ range $i := until 300 }}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: large-{{ $i }}}
data: {noise: {{ randAlphaNum 6000 | quote }}}
{{ end }}
`)
	w.release("app", "values: {answer: 1}")
	a := w.agent("app", helm.Options{})
	hr := w.until("app", "refused", saysReady("False"))
	if !strings.Contains(said(hr, "Ready"), "KiB in its storage Secret") {
		t.Errorf("Ready is %s", said(hr, "Ready"))
	}
	w.wantStored("app")
	if w.data("app-pre-install") != nil || w.data("large-0") != nil {
		t.Error("something was made all the same")
	}
	if hr.Status.InstallFailures != 0 {
		t.Errorf("%d failures are counted of what has not begun", hr.Status.InstallFailures)
	}
	w.publish("app", "1.0.1", plainChart)
	a.wake("app")
	w.until("app", "ready with a smaller chart", saysReady("True"))
}

// TestF17_NothingIsUninstalledForAnOutage: an install that fails because the API server is away is begun again, and not undone
// although retries would.
func TestF17_NothingIsUninstalledForAnOutage(t *testing.T) {
	w := newHelmWorld(t)
	w.publish("app", "1.0.0", plainChart)
	w.release("app", "values: {answer: 1}, install: {remediation: {retries: 3, remediateLastFailure: true}}")
	tripped := w.proxy.Arm(8, testenv.BeforeWrite, func() {})
	a := w.agent("app", helm.Options{})
	<-tripped
	time.Sleep(300 * time.Millisecond) // the API server is away for that long, and the agent goes on
	writes, _ := w.proxy.Disarm()
	if !slices.ContainsFunc(writes, func(s string) bool { return strings.HasSuffix(s, "/secrets") }) {
		t.Fatalf("the outage has begun too early: %v", writes)
	}
	w.until("app", "ready", saysReady("True"))
	for _, event := range a.events.Words() {
		if strings.Contains(event, "Uninstall") || strings.Contains(event, "uninstall") {
			t.Errorf("it was undone: %s", event)
		}
	}
	if hr := w.get("app"); hr.Status.InstallFailures != 0 {
		t.Errorf("%d failures are counted", hr.Status.InstallFailures)
	}
	wantAnswer(t, w, "1")
}

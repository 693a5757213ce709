package webhook

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source/sourcetest"
)

// reconciled returns a Receiver after one run, and how long until the next.
func reconciled(t *testing.T, r *notificationv1.Receiver, lockedDown bool, objects ...client.Object) (*notificationv1.Receiver, ctrl.Result, []string) {
	t.Helper()
	c := sourcetest.Client(append(objects, r), &notificationv1.Receiver{})
	events := &sourcetest.Events{}
	do := &Receivers{Secrets: c, Edge: sourcetest.Edge(c), Recorder: reconcile.NewRecorder(events), NoCrossNamespace: lockedDown, Log: slog.New(slog.DiscardHandler)}
	controller := reconcile.NewController(do.kind(), do.Edge, api.NotificationManager, do.Recorder, do.Log)
	key := client.ObjectKeyFromObject(r)
	result, err := controller.Reconcile(context.Background(), ctrl.Request{NamespacedName: key})
	if err != nil {
		t.Fatal(err)
	}
	after := &notificationv1.Receiver{}
	if err := c.Get(t.Context(), key, after); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return after, result, events.Words()
}

// TestStatusIsFluxs: status and path are what Flux 2.9 wrote for the same Receiver with the same token (recorded once, in a
// cluster with its own controllers). Our event says once where the hook is; Flux's says when it will look again.
func TestStatusIsFluxs(t *testing.T) {
	r := &notificationv1.Receiver{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "push", Generation: 1, Finalizers: []string{api.Finalizer}},
		Spec: notificationv1.ReceiverSpec{Type: "generic-hmac", SecretRef: &meta.LocalObjectReference{Name: "hook-token"},
			Resources: []notificationv1.ReceiverResource{resource("GitRepository", "shop")}},
	}
	const path = "/hook/581d1219e6cc85f1c39564777a60ed1ec20cf7985792ef10a73cf32fede1202a"
	got, result, events := reconciled(t, r, false, secretOf("hook-token", map[string]string{"token": "0123456789abcdef"}))
	want := notificationv1.ReceiverStatus{
		Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Succeeded", ObservedGeneration: 1,
			Message: "Receiver initialized for path: " + path}},
		WebhookPath: path, ObservedGeneration: 1,
	}
	if diff := cmp.Diff(want, got.Status, cmpopts.IgnoreFields(metav1.Condition{}, "LastTransitionTime")); diff != "" {
		t.Errorf("status (-Flux's +ours):\n%s", diff)
	}
	if result.RequeueAfter != r.GetInterval() {
		t.Errorf("the next look is in %s", result.RequeueAfter)
	}
	if diff := cmp.Diff([]string{"Normal Succeeded Receiver initialized for path: " + path}, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestF52_NoNews: a run that finds everything as it was writes nothing and tells nobody (faults.md F52).
func TestF52_NoNews(t *testing.T) {
	token := secretOf("token", map[string]string{"token": token})
	first, _, _ := reconciled(t, newReceiver("github"), false, token)
	before := first.ResourceVersion
	again, _, events := reconciled(t, first.DeepCopy(), false, token)
	if diff := cmp.Diff(first.Status, again.Status); diff != "" || again.ResourceVersion != before || len(events) != 0 {
		t.Errorf("version %s after %s, events %v, status (-before +after):\n%s", again.ResourceVersion, before, events, diff)
	}
}

// TestFaults: what is wrong is said where, and is waited for as long as it takes.
func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*notificationv1.Receiver)
		secrets []client.Object
		locked  bool
		reason  string
		says    string
		stalled bool
	}{
		"no Secret": {reason: "TokenNotFound", says: "reading the Secret demo/token"},
		"no token":  {secrets: []client.Object{secretOf("token", map[string]string{"password": "x"})}, reason: "TokenNotFound", says: `"token"`},
		"an empty token": {secrets: []client.Object{secretOf("token", map[string]string{"token": ""})},
			reason: "TokenNotFound", says: `"token"`},
		"no account for gcr": {change: func(r *notificationv1.Receiver) { r.Spec.Type = "gcr" }, secrets: []client.Object{secretOf("token", map[string]string{"token": "x"})},
			reason: "TokenNotFound", says: `"email"`},
		"no secretRef":       {change: func(r *notificationv1.Receiver) { r.Spec.SecretRef = nil }, reason: "ValidationFailed", says: "spec.secretRef", stalled: true},
		"a bad filter":       {change: func(r *notificationv1.Receiver) { r.Spec.ResourceFilter = "res." }, reason: "InvalidCELExpression", says: "spec.resourceFilter", stalled: true},
		"a filter of no use": {change: func(r *notificationv1.Receiver) { r.Spec.ResourceFilter = "res.metadata.name" }, reason: "InvalidCELExpression", says: "true or false", stalled: true},
		"a filter that needs a token": {change: func(r *notificationv1.Receiver) { r.Spec.Resources[0].Filter = "claims.x == 1" },
			reason: "InvalidCELExpression", says: "spec.resources[0].filter", stalled: true},
		"everything":                   {change: func(r *notificationv1.Receiver) { r.Spec.Resources[0].Name = "*" }, reason: "ValidationFailed", says: "matchLabels", stalled: true},
		"a kind without its version":   {change: func(r *notificationv1.Receiver) { r.Spec.Resources[0].Kind = "HelmRelease" }, reason: "ValidationFailed", says: "apiVersion", stalled: true},
		"another namespace, locked":    {change: func(r *notificationv1.Receiver) { r.Spec.Resources[0].Namespace = "other" }, locked: true, reason: "AccessDenied", says: "other", stalled: true},
		"generic-oidc without issuers": {change: func(r *notificationv1.Receiver) { r.Spec.Type = "generic-oidc" }, reason: "ValidationFailed", says: "spec.oidcProviders", stalled: true},
		"an issuer without validations": {change: func(r *notificationv1.Receiver) {
			r.Spec.Type, r.Spec.OIDCProviders = "generic-oidc", []notificationv1.OIDCProvider{{IssuerURL: "https://issuer.example.com"}}
		}, reason: "ValidationFailed", says: "validations", stalled: true},
		"a bad validation": {change: func(r *notificationv1.Receiver) {
			r.Spec.Type = "generic-oidc"
			r.Spec.OIDCProviders = []notificationv1.OIDCProvider{{IssuerURL: "https://issuer.example.com", Validations: []notificationv1.OIDCValidation{{Expression: "res.x == 1"}}}}
		}, reason: "InvalidCELExpression", says: "spec.oidcProviders[0].validations[0]", stalled: true},
		"a bad variable": {change: func(r *notificationv1.Receiver) {
			r.Spec.Type = "generic-oidc"
			r.Spec.OIDCProviders = []notificationv1.OIDCProvider{{IssuerURL: "https://issuer.example.com",
				Variables: []notificationv1.OIDCVariable{{Name: "x", Expression: "("}}, Validations: []notificationv1.OIDCValidation{{Expression: "true"}}}}
		}, reason: "InvalidCELExpression", says: "spec.oidcProviders[0].variables[0]", stalled: true},
	} {
		r := newReceiver("github")
		r.Status = notificationv1.ReceiverStatus{WebhookPath: "/hook/before"}
		if test.change != nil {
			test.change(r)
		}
		got, result, _ := reconciled(t, r, test.locked, test.secrets...)
		ready, stalled := reconcile.Condition(got, meta.ReadyCondition), reconcile.Condition(got, meta.StalledCondition)
		if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != test.reason || !strings.Contains(ready.Message, test.says) {
			t.Errorf("%s: Ready is %+v", name, ready)
		}
		if (stalled != nil) != test.stalled || (result.RequeueAfter == 0) != test.stalled {
			t.Errorf("%s: Stalled is %+v, and the next look in %s", name, stalled, result.RequeueAfter)
		}
		w := newIdleWorld(t)
		if status, _ := w.do(post(w.add(got), []byte("{}"), nil)); status != http.StatusServiceUnavailable {
			t.Errorf("%s: its path answers %d", name, status)
		}
	}
}

// TestDeletion: the finalizer that Flux has put on a Receiver is taken off, with nothing to clean up.
func TestDeletion(t *testing.T) {
	r := newReceiver("github")
	now := metav1.Now()
	r.Finalizers, r.DeletionTimestamp = []string{api.Finalizer}, &now
	if got, _, _ := reconciled(t, r, false); got.Name != "" {
		t.Errorf("it is still there: %v", got)
	}
}

// TestClosed: what a Receiver that takes nothing answers, and what others cannot make of it.
func TestClosed(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*notificationv1.Receiver)
		status int
	}{
		"suspended":   {func(r *notificationv1.Receiver) { r.Spec.Suspend = true }, 503},
		"not ready":   {func(r *notificationv1.Receiver) { r.Status.Conditions = nil }, 503},
		"gone":        {func(r *notificationv1.Receiver) { r.DeletionTimestamp = &metav1.Time{Time: r.CreationTimestamp.Time} }, 503},
		"no path yet": {func(r *notificationv1.Receiver) { r.Status.WebhookPath = "" }, 404},
	} {
		w, r := newIdleWorld(t), newReceiver("generic")
		path := r.Status.WebhookPath
		test.change(r)
		if r.DeletionTimestamp != nil {
			now := metav1.Now()
			r.DeletionTimestamp = &now
		}
		w.add(r)
		if status, text := w.do(post(path, []byte("{}"), nil)); status != test.status || len(w.jobs) != 0 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	w := newIdleWorld(t)
	path := w.add(newReceiver("generic"))
	for _, method := range []string{http.MethodGet, http.MethodPut, "HOOK"} {
		if status, _ := w.do(call{method: method, path: path}); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	w.follow().OnDelete(w.index.find(path).receiverObject(t))
	if status, _ := w.do(post(path, nil, nil)); status != http.StatusNotFound {
		t.Errorf("deleted: %d", status)
	}
	w.synced.Store(false)
	if status, _ := w.do(post("/hook/x", nil, nil)); status != http.StatusServiceUnavailable {
		t.Errorf("before the Receivers are known: %d", status)
	}
}

func (h *hook) receiverObject(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	u := api.Undecoded(api.ReceiverKind)
	u.SetNamespace(h.key.Namespace)
	u.SetName(h.key.Name)
	return u
}

// TestRotatedToken: when the token is another, the path that was made of the old one leads nowhere, and the Receiver is woken
// to get a new one. The Secret is read once for many hooks.
func TestRotatedToken(t *testing.T) {
	w := newIdleWorld(t)
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	defer queue.ShutDown()
	if err := w.options.Requests.Waker(api.ReceiverKind).Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	path := w.add(newReceiver("generic"))
	if status, _ := w.do(post(path, nil, nil)); status != http.StatusOK {
		t.Fatalf("%d", status)
	}
	var object corev1.Secret
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "demo", Name: "token"}, &object); err != nil {
		t.Fatal(err)
	}
	object.Data["token"] = []byte("new")
	if err := w.client.Update(t.Context(), &object); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.do(post(path, nil, nil)); status != http.StatusOK {
		t.Errorf("a moment later: %d", status)
	}
	now := w.secrets.now
	w.secrets.now = func() time.Time { return now().Add(secretLife) }
	if status, _ := w.do(post(path, nil, nil)); status != http.StatusNotFound {
		t.Errorf("later: %d", status)
	}
	if queue.Len() != 1 {
		t.Errorf("%d Receivers were woken", queue.Len())
	}
	w.secrets.now = now
	r := newReceiver("generic")
	r.Status.WebhookPath = r.GetWebhookPath("new")
	if status, _ := w.do(post(w.add(r), nil, nil)); status != http.StatusOK {
		t.Errorf("the new path: %d", status)
	}
}

package webhook

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// timeout bounds one run: it reads one Secret.
const timeout = 30 * time.Second

// Receivers is the controller of Receivers. It gives each its path; Server takes what is sent there.
type Receivers struct {
	// Secrets reads the Secrets with the tokens.
	Secrets          client.Reader
	Edge             reconcile.Edge
	Recorder         *reconcile.Recorder
	NoCrossNamespace bool
	Log              *slog.Logger
}

// attempt is one run for one Receiver.
type attempt struct {
	run   *reconcile.Run[*notificationv1.Receiver]
	obj   *notificationv1.Receiver // as the run found it
	token string                   // set by token; stays empty for a type that needs none
	path  string                   // set by path
}

func (r *Receivers) kind() reconcile.Kind[*notificationv1.Receiver, *attempt] {
	type obj = *notificationv1.Receiver
	return reconcile.Kind[obj, *attempt]{
		GVK:           api.ReceiverKind,
		New:           func() obj { return &notificationv1.Receiver{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.GetInterval() },
		RetryInterval: func(o obj) time.Duration { return o.GetInterval() },
		Timeout:       func(obj) time.Duration { return timeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin: func(_ context.Context, run *reconcile.Run[obj]) *attempt {
			return &attempt{run: run, obj: run.Obj.DeepCopy()}
		},
		Steps: func(*attempt) []reconcile.Step[*attempt] {
			return []reconcile.Step[*attempt]{
				{Name: "check", Do: r.check}, // refuse what cannot be meant
				{Name: "token", Do: r.token}, // read the Secret
				{Name: "path", Do: path},     // which the token makes a secret, too
			}
		},
		Cleanup:       nil, // nothing is left of a Receiver; Flux's finalizer is taken off
		Report:        report,
		After:         r.announce,
		EventMetadata: func(*attempt) map[string]string { return nil },
		Gone:          func(types.NamespacedName) {}, // the server has a watch of its own
	}
}

// check refuses what only another spec can mend.
func (r *Receivers) check(_ context.Context, a *attempt) error {
	if _, err := rulesOf(a.obj, r.NoCrossNamespace); err != nil {
		return err
	}
	if _, err := trusts(a.obj); err != nil {
		return err
	}
	if _, err := senderOf(a.obj.Spec.Type); err != nil {
		return invalid("%w", err)
	}
	if a.obj.Spec.Type != notificationv1.GenericOIDCReceiver && a.obj.Spec.SecretRef == nil {
		return invalid("spec.secretRef is missing: it names the Secret with the token")
	}
	return nil
}

func (r *Receivers) token(ctx context.Context, a *attempt) error {
	if a.obj.Spec.Type == notificationv1.GenericOIDCReceiver {
		return nil // its path is no secret, whoever calls shows a token of his own
	}
	data, err := readSecret(ctx, r.Secrets, types.NamespacedName{Namespace: a.obj.Namespace, Name: a.obj.Spec.SecretRef.Name}, a.obj.Spec.Type)
	if err != nil {
		return &api.Fault{Reason: notificationv1.TokenNotFoundReason, Retry: api.RetryBackoff, Err: err}
	}
	a.token = string(data.token)
	return nil
}

func path(_ context.Context, a *attempt) error {
	a.path = a.obj.GetWebhookPath(a.token)
	return nil
}

func report(a *attempt, end reconcile.Outcome) reconcile.Success {
	if !end.Succeeded() {
		return reconcile.Success{} // the path stays; Ready=False closes it
	}
	a.run.Obj.Status.WebhookPath = a.path
	return reconcile.Success{Reason: meta.SucceededReason, Message: "Receiver initialized for path: " + a.path}
}

// announce tells when there is a path to be entered at the sender.
func (r *Receivers) announce(a *attempt, end reconcile.Outcome) {
	if end.Succeeded() && a.path != a.obj.Status.WebhookPath {
		r.Recorder.Record(a.run.Obj, reconcile.Event{
			Type: corev1.EventTypeNormal, Reason: meta.SucceededReason, Message: "Receiver initialized for path: " + a.path,
		})
	}
}

// secretIndex finds the Receivers of a Secret.
const secretIndex = "secret"

func secretKeys(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	name, found, _ := unstructured.NestedString(u.Object, "spec", "secretRef", "name")
	if !found {
		return nil
	}
	return []string{u.GetNamespace() + "/" + name}
}

// Setup starts what wakes Receivers: their own spec, their Secret if it has the label of --watch-configs-label-selector, and
// the server that has found the token to be another.
func (r *Receivers) Setup(ctx context.Context, mgr ctrl.Manager, options controller.Options) error {
	if err := mgr.GetFieldIndexer().IndexField(ctx, api.Undecoded(api.ReceiverKind), secretIndex, secretKeys); err != nil {
		return fmt.Errorf("indexing Receivers by Secret: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).Named(strings.ToLower(api.ReceiverKind.Kind)).WithOptions(options).
		For(api.Undecoded(api.ReceiverKind), builder.WithPredicates(r.Edge.Requests.Asked())).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		WatchesRawSource(r.Edge.Requests.Waker(api.ReceiverKind)).
		Complete(reconcile.NewController(r.kind(), r.Edge, api.NotificationManager, r.Recorder, r.Log))
}

// ofSecret returns the Receivers whose token a Secret holds.
func (r *Receivers) ofSecret(ctx context.Context, o client.Object) []ctrl.Request {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(api.ReceiverKind.GroupVersion().WithKind(api.ReceiverKind.Kind + "List"))
	if err := r.Edge.Reader.List(ctx, list, client.MatchingFields{secretIndex: o.GetNamespace() + "/" + o.GetName()}); err != nil {
		r.Log.Error("looking up whom to wake", "index", secretIndex, "key", o.GetNamespace()+"/"+o.GetName(), "error", err)
		return nil
	}
	requests := make([]ctrl.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return slices.Clip(requests)
}

package agent

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/notify"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/webhook"
)

// setupNotify returns what tells Providers what Alerts want; nil when the cluster does not know these kinds. It works whether
// or not this agent leads: the events of others reach any agent that the Service leads to.
func setupNotify(config *rest.Config, mgr ctrl.Manager, edge reconcile.Edge, bus *reconcile.Bus, kinds []schema.GroupVersionKind,
	registry prometheus.Registerer, flags Flags, log *slog.Logger) (*notify.Dispatcher, error) {
	known, err := knows(mgr.GetRESTMapper(), api.AlertKind, api.ProviderKind)
	if err != nil {
		return nil, err
	}
	if !known {
		log.Info("the cluster does not know Alert and Provider of notification.toolkit.fluxcd.io/v1beta3, nobody is told of events until the CRDs are installed and the agent is started again")
		return nil, nil
	}
	watched, err := standingCache(config, mgr, flags)
	if err != nil {
		return nil, err
	}
	return notify.New(notify.Options{
		Watched: watched, Secrets: edge.Client, Objects: flags.objects(mgr, edge, kinds), News: bus,
		// Not told on the bus: an Alert about Alerts would never end.
		Recorder:   reconcile.NewRecorder(mgr.GetEventRecorderFor(api.NotificationManager)),
		Network:    source.Network{AllowLinkLocal: flags.AllowLinkLocal},
		Identities: source.Identities{Client: edge.Client, Tokens: flags.tokens}, NoCrossNamespace: flags.NoCrossNamespace,
		RateLimit: flags.RateLimit, Registry: registry, Log: log.With("controller", "alert", "controllerKind", api.AlertKind.Kind),
	}), nil
}

// eventsHandler takes the events of others.
func eventsHandler(d *notify.Dispatcher, registry prometheus.Registerer) http.Handler {
	return webhook.Metered(registry, "gotk_event_http_", "/", d.Events())
}

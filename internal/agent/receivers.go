package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/webhook"
)

// setupReceivers starts what reconciles Receivers, and returns what takes their hooks; nil when the cluster does not know
// the kind. Hooks are taken whether or not this agent leads: one that does not writes the requests that wake the one that
// does, since most senders try once (docs/adr/0035).
func setupReceivers(ctx context.Context, config *rest.Config, mgr ctrl.Manager, edge reconcile.Edge, bus *reconcile.Bus,
	kinds []schema.GroupVersionKind, registry prometheus.Registerer, flags Flags, log *slog.Logger) (*webhook.Server, error) {
	if !slices.Contains(kinds, api.ReceiverKind) {
		return nil, nil
	}
	log = log.With("controller", "receiver")
	recorder := recorderOf(mgr, bus, api.NotificationManager)
	controllers := &webhook.Receivers{
		Secrets: edge.Client, Edge: edge, Recorder: recorder, NoCrossNamespace: flags.NoCrossNamespace,
		Log: log.With("controllerKind", api.ReceiverKind.Kind),
	}
	if err := controllers.Setup(ctx, mgr, controller.Options{MaxConcurrentReconciles: flags.Concurrent}); err != nil {
		return nil, err
	}
	receivers, err := standingCache(config, mgr, flags)
	if err != nil {
		return nil, err
	}
	issuers, err := source.Network{AllowLinkLocal: flags.AllowLinkLocal}.Transport(source.TLS{}, nil)
	if err != nil {
		return nil, fmt.Errorf("preparing for issuers of tokens: %w", err)
	}
	return webhook.NewServer(webhook.Options{
		Receivers: receivers, Client: edge.Client, Objects: flags.objects(mgr, edge, kinds), Requests: edge.Requests, Recorder: recorder,
		Issuers: issuers, NoCrossNamespace: flags.NoCrossNamespace, Registry: registry, Log: log,
	}), nil
}

// standingCache returns a watch on objects that this agent serves whether or not it leads: it runs from the start, while those
// of the manager wait for the lease.
func standingCache(config *rest.Config, mgr ctrl.Manager, flags Flags) (cache.Cache, error) {
	options := cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), DefaultTransform: cache.TransformStripManagedFields(), NewInformer: newInformer,
		DefaultLabelSelector: flags.watched,
	}
	if !flags.WatchAll {
		options.DefaultNamespaces = map[string]cache.Config{flags.Namespace: {}}
	}
	objects, err := cache.New(config, options)
	if err != nil {
		return nil, fmt.Errorf("making a cache: %w", err)
	}
	return objects, nil
}

// objects returns where hooks read objects of a kind: the manager's cache where it is filled and holds all of them, and
// otherwise the API server.
func (f *Flags) objects(mgr ctrl.Manager, edge reconcile.Edge, kinds []schema.GroupVersionKind) func(schema.GroupVersionKind) client.Reader {
	everything := f.WatchAll && f.WatchSelector == ""
	return func(kind schema.GroupVersionKind) client.Reader {
		if everything && closed(mgr.Elected()) && slices.Contains(kinds, kind) {
			return edge.Reader
		}
		return edge.Client
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// recorderOf returns what records events in the name of one of Flux's controllers.
func recorderOf(mgr ctrl.Manager, bus *reconcile.Bus, name string) *reconcile.Recorder {
	host, err := os.Hostname()
	if err != nil {
		host = "cleat" // it only says which of several agents has told
	}
	return reconcile.NewRecorder(mgr.GetEventRecorderFor(name)).
		Telling(bus, reconcile.Reporter{Scheme: mgr.GetScheme(), Controller: name, Instance: host})
}

// tally counts events by kind and severity.
func tally(registry prometheus.Registerer, bus *reconcile.Bus) manager.Runnable {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cleat_events_total", Help: "Events that were recorded, by the kind of object and their severity.",
	}, []string{"kind", "severity"})
	registry.MustRegister(events)
	heard := bus.Subscribe("metrics", 1024)
	return manager.RunnableFunc(func(ctx context.Context) error {
		defer heard.Close()
		for {
			news, err := heard.Next(ctx)
			if err != nil {
				return nil //nolint:nilerr // told to stop
			}
			if news.Turn != "" {
				continue // no event: what has become of the object is told by others, too
			}
			events.WithLabelValues(news.InvolvedObject.Kind, string(news.Severity)).Inc()
		}
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/fluxcd/pkg/auth"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	runtimeconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	runtimemetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/notify"
	"github.com/cleat-dev/cleat/internal/reconcile"
	appsync "github.com/cleat-dev/cleat/internal/sync"
	"github.com/cleat-dev/cleat/internal/webhook"
)

// progressAfter is how long a step or a wait lasts before the status tells of it.
const progressAfter = time.Second

// run is the agent: it starts everything, waits for ctx to end, and stops everything.
func run(ctx context.Context, flags Flags, log *slog.Logger) error {
	if flags.gates[workloadIdentity] {
		auth.EnableObjectLevelWorkloadIdentity() // the library keeps it in a variable, so it holds for the whole process
	}
	config, err := connect(ctx, flags)
	if err != nil {
		return err
	}
	forLeases, config := config, flags.tenure.guard(config)
	store, err := artifact.Open(artifact.Options{
		Dir: flags.StoragePath, Address: flags.StorageAdvAddr,
		RetentionTTL: flags.RetentionTTL, RetentionRecords: flags.RetentionRecords, Limits: flags.limits(),
	})
	if err != nil {
		return err
	}
	direct, err := client.New(config, client.Options{Scheme: api.NewScheme()})
	if err != nil {
		return fmt.Errorf("making the client: %w", err)
	}
	treatment := flags.treatment(log)
	treatment.Self = findSelf(ctx, direct, log)
	cluster, err := kube.Connect(config, treatment)
	if err != nil {
		return err
	}
	defer cluster.Close()
	kinds, err := servedKinds(cluster.Mapper, log)
	if err != nil {
		return err
	}
	mgr, err := newManager(config, cluster.Mapper, kinds, flags, log)
	if err != nil {
		return err
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(newResources(mgr.GetCache(), kinds, log), store.Usage()) // Go's own series are in controller-runtime's registry
	watchdog := reconcile.NewWatchdog()
	bus := reconcile.NewBus(registry)
	if err := mgr.Add(tally(registry, bus)); err != nil {
		return fmt.Errorf("counting events: %w", err)
	}
	edge := reconcile.Edge{
		Reader: mgr.GetCache(), Metrics: reconcile.NewMetrics(registry), Watchdog: watchdog, Requests: reconcile.NewRequests(),
		ProgressAfter: progressAfter,
		Timing: reconcile.Timing{
			MinRetry: flags.MinRetryDelay, MaxRetry: flags.MaxRetryDelay,
			Dependency: flags.RequeueDependency, JitterPercent: flags.JitterPercent,
		},
	}
	if edge.Client, err = client.New(config, client.Options{Scheme: mgr.GetScheme(), Mapper: cluster.Mapper}); err != nil {
		return fmt.Errorf("making the client: %w", err)
	}
	refetch := newRefetch(edge.Requests)
	if err := setupSources(ctx, mgr, edge, bus, store, kinds, refetch, flags, log); err != nil {
		return err
	}
	clusters := flags.clusters(cluster, kube.Kustomizations(), edge.Client, log)
	defer clusters.Close()
	engine, err := newDrift(mgr, edge, registry, log)
	if err != nil {
		return err
	}
	if err := setupSync(ctx, mgr, edge, bus, store, clusters, engine, kinds, refetch.wake, flags, log); err != nil {
		return err
	}
	forReleases := cluster.For(kube.HelmReleases())
	defer forReleases.Close()
	releases := flags.clusters(forReleases, kube.HelmReleases(), edge.Client, log)
	defer releases.Close()
	if err := setupHelm(ctx, mgr, edge, bus, store, releases, engine, kinds, refetch.wake, flags, log); err != nil {
		return err
	}
	hooks, err := setupReceivers(ctx, config, mgr, edge, bus, kinds, registry, flags, log)
	if err != nil {
		return err
	}
	alerts, err := setupNotify(config, mgr, edge, bus, kinds, registry, flags, log)
	if err != nil {
		return err
	}
	return serve(ctx, flags, forLeases, mgr, kinds, store, hooks, alerts, registry, watchdog, log)
}

// newManager returns controller-runtime's manager. It caches our own kinds, undecoded, and the metadata of what wakes
// them; leases, metrics and probes are ours.
func newManager(config *rest.Config, mapper meta.RESTMapper, kinds []schema.GroupVersionKind, flags Flags, log *slog.Logger) (ctrl.Manager, error) {
	options := cache.Options{DefaultTransform: cache.TransformStripManagedFields(), Mapper: mapper, NewInformer: newInformer}
	if !flags.WatchAll {
		options.DefaultNamespaces = map[string]cache.Config{flags.Namespace: {}}
	}
	options.ByObject = map[client.Object]cache.ByObject{
		// Of these only the metadata is watched, to be woken by.
		&corev1.ConfigMap{}: {Label: flags.configs},
		&corev1.Secret{}:    {Label: flags.configs},
	}
	for _, kind := range kinds {
		options.ByObject[api.Undecoded(kind)] = cache.ByObject{Label: flags.watched}
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:         api.NewScheme(),
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper, nil },
		Cache:          options,
		Metrics:        metricsserver.Options{BindAddress: "0"},
		Logger:         logr.FromSlogHandler(log.Handler()),
		// An agent may be started twice in one process by tests, under the same controller names.
		Controller: runtimeconfig.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// setupSync starts what reconciles Kustomizations. refetch wakes a source whose snapshot is not in the store.
func setupSync(ctx context.Context, mgr ctrl.Manager, edge reconcile.Edge, bus *reconcile.Bus, store *artifact.Store, clusters *kube.Clusters, engine *drift.Engine,
	kinds []schema.GroupVersionKind, refetch func(schema.GroupVersionKind, types.NamespacedName), flags Flags, log *slog.Logger) error {
	log = log.With("controllerKind", api.KustomizationKind.Kind, "controller", "kustomization")
	recorder := recorderOf(mgr, bus, api.ApplyManager)
	r := appsync.New(appsync.Reconciler{
		Reader: edge.Reader, Live: edge.Client, Pages: edge.Client, Snapshots: store, Clusters: clusters,
		Recorder: recorder, Waker: edge.Requests.Waker(api.KustomizationKind), Requests: edge.Requests, Log: log, ProgressAfter: edge.ProgressAfter,
		Lost: refetch, Drift: engine,
		Options: appsync.Options{
			Sharded:              flags.WatchSelector != "",
			NoCrossNamespaceRefs: flags.NoCrossNamespace, RemoteBases: !flags.NoRemoteBases, StrictSubstitution: flags.gates[strictSubstitution],
			AdditiveReadyExpr: flags.gates[additiveReadyExpr], Dependency: flags.RequeueDependency,
			DefaultServiceAccount: flags.Tenancy.DefaultServiceAccount, OrphanAfter: flags.Tenancy.OrphanAfter,
			CustomStageKinds: flags.Tenancy.stages, MigrateAPIVersion: flags.gates[migrateAPIVersion],
			PruneLimit: flags.PruneLimit, InventoryLimit: flags.InventoryMax,
			Decryption: decrypt.NewLoader(edge.Client, flags.decryption()),
		},
	}, edge.Client)
	clusters.Subscribe(r.ObservationChanged)
	clusters.SubscribeObjects(func(moved kube.Moved) { engine.Moved(api.KustomizationKind.Kind, moved) })
	store.Subscribe(r.SnapshotAdded)
	do := reconcile.NewController(r.Kind(), edge, api.SyncStatusManager, recorder, log)
	return r.Setup(ctx, mgr, kinds, do, controller.Options{MaxConcurrentReconciles: flags.Concurrent})
}

// newDrift returns what looks after what was applied. It works for as long as the controllers do.
func newDrift(mgr ctrl.Manager, edge reconcile.Edge, registry *prometheus.Registry, log *slog.Logger) (*drift.Engine, error) {
	kinds := map[string]schema.GroupVersionKind{}
	for _, kind := range []schema.GroupVersionKind{api.KustomizationKind, api.HelmReleaseKind} {
		kinds[kind.Kind] = kind
	}
	engine := drift.NewEngine(drift.Options{Registry: registry, Log: log, Keeper: drift.ConfigMaps{
		Client: edge.Client, Kinds: kinds,
		UID: func(ctx context.Context, owner drift.Owner) (types.UID, error) {
			undecoded := api.Undecoded(kinds[owner.Kind])
			err := edge.Reader.Get(ctx, owner.NamespacedName, undecoded)
			return undecoded.GetUID(), err
		},
	}})
	if err := mgr.Add(engine); err != nil {
		return nil, fmt.Errorf("adding the drift engine: %w", err)
	}
	return engine, nil
}

// serve runs the servers and, while the leases are held, the controllers, until ctx ends or one of them fails. forLeases is how the
// leases are reached.
func serve(ctx context.Context, flags Flags, forLeases *rest.Config, mgr ctrl.Manager, kinds []schema.GroupVersionKind, store *artifact.Store,
	hooks *webhook.Server, alerts *notify.Dispatcher, registry *prometheus.Registry, watchdog *reconcile.Watchdog, log *slog.Logger) error {
	var working atomic.Bool
	ready := func(*http.Request) error {
		if !working.Load() && !flags.LeaderElection {
			return errors.New("the caches are not filled yet")
		}
		return nil
	}
	servers := make([]*server, 0, 5)
	for _, s := range []struct {
		name, address string
		handler       http.Handler
	}{
		{"artifacts", flags.StorageAddr, store.Handler()},
		{"metrics", flags.MetricsAddr, metricsHandler(registry, runtimemetrics.Registry)},
		{"health", flags.HealthAddr, healthHandler(watchdog.Check, ready)},
	} {
		listening, err := listen(ctx, s.name, s.address, s.handler)
		if err != nil {
			return err
		}
		defer listening.listener.Close()
		servers = append(servers, listening)
	}
	if hooks != nil {
		listening, err := listenForHooks(ctx, flags.ReceiverAddr, hooks)
		if err != nil {
			return err
		}
		defer listening.listener.Close()
		servers = append(servers, listening)
	}
	if alerts != nil && flags.EventsAddr != "" {
		// Anybody in the cluster may call, as with hooks.
		listening, err := listenForHooks(ctx, flags.EventsAddr, eventsHandler(alerts, registry))
		if err != nil {
			return err
		}
		defer listening.listener.Close()
		servers = append(servers, listening)
	}

	group, ctx := errgroup.WithContext(ctx)
	if alerts != nil {
		group.Go(func() error { return alerts.Run(ctx) })
	}
	if hooks != nil {
		group.Go(func() error { return hooks.Run(ctx) })
	}
	for _, s := range servers {
		group.Go(func() error { return s.serve(ctx) })
	}
	act := func(ctx context.Context) error {
		group.Go(func() error {
			if err := filled(ctx, mgr.GetCache(), kinds); err != nil {
				return err
			}
			working.Store(true)
			log.Info("agent is running", "version", Version)
			return nil
		})
		return mgr.Start(ctx)
	}
	group.Go(func() error {
		if flags.LeaderElection {
			return lead(ctx, forLeases, flags, log, act)
		}
		return act(ctx)
	})
	err := group.Wait()
	log.Info("agent has stopped")
	return err
}

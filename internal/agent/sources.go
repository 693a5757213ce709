package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/auth"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/bucket"
	"github.com/cleat-dev/cleat/internal/source/external"
	"github.com/cleat-dev/cleat/internal/source/git"
	"github.com/cleat-dev/cleat/internal/source/helm"
	"github.com/cleat-dev/cleat/internal/source/oci"
)

// sourceKinds are the kinds that the agent fetches.
var sourceKinds = []schema.GroupVersionKind{
	api.GitRepositoryKind, api.OCIRepositoryKind, api.HelmRepositoryKind, api.HelmChartKind, api.BucketKind, api.ExternalArtifactKind,
}

// refetch wakes the sources whose artifact a reader has found missing.
type refetch struct {
	wakers map[schema.GroupVersionKind]*reconcile.Waker

	mu    sync.Mutex
	woken map[lostSource]time.Time
}

type lostSource struct {
	kind schema.GroupVersionKind
	key  types.NamespacedName
}

// wakeEvery is how often one source is woken at most: while its server is down a hundred readers of it would otherwise have
// that asked a hundred times as often as the source's own back-off allows.
const wakeEvery = 10 * time.Second

func newRefetch(requests *reconcile.Requests) *refetch {
	r := &refetch{wakers: map[schema.GroupVersionKind]*reconcile.Waker{}, woken: map[lostSource]time.Time{}}
	for _, kind := range sourceKinds {
		r.wakers[kind] = requests.Waker(kind)
	}
	return r
}

func (r *refetch) wake(kind schema.GroupVersionKind, key types.NamespacedName) {
	if waker, ok := r.wakers[kind]; ok && r.due(lostSource{kind, key}, time.Now()) {
		waker.Wake(key)
	}
}

// due reports whether it is time to wake the source, and notes that it is woken.
func (r *refetch) due(s lostSource, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.woken, func(_ lostSource, at time.Time) bool { return now.Sub(at) >= wakeEvery })
	if _, lately := r.woken[s]; lately {
		return false
	}
	r.woken[s] = now
	return true
}

// sources is what the controllers of all kinds of sources are made from.
type sources struct {
	mgr      ctrl.Manager
	edge     reconcile.Edge
	store    *artifact.Store
	network  source.Network
	recorder *reconcile.Recorder
	kinds    []schema.GroupVersionKind // that the cluster knows
	refetch  *refetch
	// identities are for the kinds whose spec.provider is a cloud.
	identities source.Identities
	flags      Flags
	log        *slog.Logger
}

// setupSources starts what fetches sources.
func setupSources(ctx context.Context, mgr ctrl.Manager, edge reconcile.Edge, bus *reconcile.Bus, store *artifact.Store, kinds []schema.GroupVersionKind,
	refetch *refetch, flags Flags, log *slog.Logger) error {
	s := &sources{
		mgr: mgr, edge: edge, store: store, kinds: kinds, refetch: refetch, network: source.Network{AllowLinkLocal: flags.AllowLinkLocal}, flags: flags, log: log,
		recorder:   recorderOf(mgr, bus, api.SourceManager),
		identities: source.Identities{Client: edge.Client, Tokens: flags.tokens},
	}
	if err := s.keepHouse(store); err != nil {
		return err
	}
	for _, part := range []struct {
		needs schema.GroupVersionKind
		setup func(context.Context) error
	}{
		{api.GitRepositoryKind, s.git},
		{api.OCIRepositoryKind, s.oci},
		{api.HelmRepositoryKind, s.helm},
		{api.BucketKind, s.buckets},
		{api.ExternalArtifactKind, s.external},
	} {
		if !slices.Contains(kinds, part.needs) {
			continue // servedKinds has said so
		}
		if err := part.setup(ctx); err != nil {
			return err
		}
	}
	return nil
}

// keepHouse runs what cleans up while the agent runs, and waits for what still runs when it stops.
func (s *sources) keepHouse(housekeeping ...manager.Runnable) error {
	for _, r := range housekeeping {
		if err := s.mgr.Add(housekeeper(r, s.log)); err != nil {
			return fmt.Errorf("adding housekeeping: %w", err)
		}
	}
	return nil
}

// controller begins the controller of a kind: it is woken by what its objects ask for, and by what the storage has of
// objects that may be gone.
func (s *sources) controller(kind schema.GroupVersionKind) *ctrl.Builder {
	return ctrl.NewControllerManagedBy(s.mgr).Named(strings.ToLower(kind.Kind)).
		WithOptions(controller.Options{MaxConcurrentReconciles: s.flags.Concurrent}).
		For(api.Undecoded(kind), builder.WithPredicates(s.edge.Requests.Asked())).
		WatchesRawSource(source.Stored(s.store, kind.Kind)).
		WatchesRawSource(s.refetch.wakers[kind])
}

func (s *sources) logger(kind schema.GroupVersionKind) *slog.Logger {
	return s.log.With("controllerKind", kind.Kind, "controller", strings.ToLower(kind.Kind))
}

func (s *sources) git(ctx context.Context) error {
	err := s.mgr.GetFieldIndexer().IndexField(ctx, api.Undecoded(api.GitRepositoryKind), git.IncludeIndex, git.Included)
	if err != nil {
		return fmt.Errorf("indexing GitRepositories by what they include: %w", err)
	}
	fetcher, err := git.NewFetcher(s.store, s.network, git.Limits{})
	if err != nil {
		return err
	}
	if err := s.keepHouse(fetcher); err != nil {
		return err
	}
	including := handler.EnqueueRequestsFromMapFunc(git.Including(s.edge.Reader))
	do := s.controller(api.GitRepositoryKind).
		Watches(api.Undecoded(api.GitRepositoryKind), including, builder.WithPredicates(reconcile.ArtifactChanged()))
	return do.Complete(git.NewRepositories(git.Options{
		Store: s.store, Fetcher: fetcher, Secrets: s.edge.Client, Identities: s.identities, Edge: s.edge, Waker: s.refetch.wakers[api.GitRepositoryKind],
		Recorder: s.recorder, Log: s.logger(api.GitRepositoryKind),
	}))
}

func (s *sources) oci(context.Context) error {
	waker := &reconcile.Waker{}
	return s.controller(api.OCIRepositoryKind).WatchesRawSource(waker).Complete(oci.NewRepositories(oci.Options{
		Store: s.store, Secrets: s.edge.Client, Network: s.network, Edge: s.edge, Waker: waker, Recorder: s.recorder, Log: s.logger(api.OCIRepositoryKind),
		ObjectIdentity: auth.IsObjectLevelWorkloadIdentityEnabled(),
	}))
}

// helm starts both kinds of Helm's, which share what is known of repositories.
func (s *sources) helm(ctx context.Context) error {
	limits := helm.Limits{Index: s.flags.HelmIndexMax, Chart: s.flags.HelmChartMax, File: s.flags.HelmFileMax}
	options := helm.Options{
		Store: s.store, Fetcher: helm.NewFetcher(s.network, limits), Indexes: helm.NewIndexes(s.store),
		Registry: oci.NewCharts(oci.Options{Secrets: s.edge.Client, Network: s.network}),
		Secrets:  s.edge.Client, Edge: s.edge, Recorder: s.recorder, Log: s.logger(api.HelmRepositoryKind),
	}
	if err := s.controller(api.HelmRepositoryKind).Complete(helm.NewRepositories(options)); err != nil {
		return err
	}
	if !slices.Contains(s.kinds, api.HelmChartKind) {
		return nil
	}
	err := s.mgr.GetFieldIndexer().IndexField(ctx, api.Undecoded(api.HelmChartKind), helm.SourceIndex, helm.SourceKeys)
	if err != nil {
		return fmt.Errorf("indexing HelmCharts by source: %w", err)
	}
	options.Log = s.logger(api.HelmChartKind)
	charts := helm.NewCharts(options)
	s.store.Subscribe(charts.ArtifactAdded)
	do := s.controller(api.HelmChartKind).WatchesRawSource(charts.Waker)
	for _, kind := range []schema.GroupVersionKind{api.HelmRepositoryKind, api.GitRepositoryKind, api.BucketKind} {
		if !slices.Contains(s.kinds, kind) {
			continue
		}
		do = do.Watches(api.Undecoded(kind), handler.EnqueueRequestsFromMapFunc(helm.ChartsOf(s.edge.Reader, options.Log)),
			builder.WithPredicates(helm.SourceChanged()))
	}
	return do.Complete(charts)
}

func (s *sources) buckets(context.Context) error {
	fetcher, err := bucket.NewFetcher(s.store, s.network, bucket.Limits{})
	if err != nil {
		return err
	}
	if err := s.keepHouse(fetcher); err != nil {
		return err
	}
	return s.controller(api.BucketKind).Complete(bucket.New(bucket.Options{
		Store: s.store, Buckets: fetcher, Secrets: s.edge.Client, Identities: s.identities, Edge: s.edge, Recorder: s.recorder, Log: s.logger(api.BucketKind),
	}))
}

// external is woken by every change, since what it looks at is the status.
func (s *sources) external(context.Context) error {
	fetcher := external.NewFetcher(s.store, s.network)
	if err := s.keepHouse(fetcher); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(s.mgr).Named("externalartifact").
		WithOptions(controller.Options{MaxConcurrentReconciles: s.flags.Concurrent}).
		For(api.Undecoded(api.ExternalArtifactKind)).
		WatchesRawSource(source.Stored(s.store, api.ExternalArtifactKind.Kind)).
		WatchesRawSource(s.refetch.wakers[api.ExternalArtifactKind]).
		Complete(external.New(external.Options{
			Store: s.store, Artifacts: fetcher, Reader: s.edge.Reader, Recorder: s.recorder, Timing: s.edge.Timing, Log: s.logger(api.ExternalArtifactKind),
		}))
}

// housekeeper runs what collects garbage. That it could not is no reason for the agent to end.
func housekeeper(r manager.Runnable, log *slog.Logger) manager.Runnable {
	return manager.RunnableFunc(func(ctx context.Context) error {
		if err := r.Start(ctx); err != nil {
			log.Error("collecting garbage", "error", err)
		}
		return nil
	})
}

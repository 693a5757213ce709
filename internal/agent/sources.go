package agent

import (
	"context"
	"fmt"
	"log/slog"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/git"
)

// setupSources starts what fetches sources. waker wakes those whose artifact a reader has missed.
func setupSources(mgr ctrl.Manager, edge reconcile.Edge, store *artifact.Store, waker *reconcile.Waker, flags Flags, log *slog.Logger) error {
	fetcher, err := git.NewFetcher(store, source.Network{}, git.Limits{})
	if err != nil {
		return err
	}
	for _, housekeeping := range []manager.Runnable{store, fetcher} {
		if err := mgr.Add(housekeeper(housekeeping, log)); err != nil {
			return fmt.Errorf("adding housekeeping: %w", err)
		}
	}
	log = log.With("controllerKind", api.GitRepositoryKind.Kind, "controller", "gitrepository")
	do := git.NewRepositories(git.Options{
		Store: store, Fetcher: fetcher, Secrets: edge.Client, Edge: edge, Log: log,
		Recorder: reconcile.NewRecorder(mgr.GetEventRecorderFor(api.SourceManager)),
	})
	return ctrl.NewControllerManagedBy(mgr).Named("gitrepository").
		WithOptions(controller.Options{MaxConcurrentReconciles: flags.Concurrent}).
		For(api.Undecoded(api.GitRepositoryKind), builder.WithPredicates(reconcile.Asked())).
		WatchesRawSource(source.Stored(store, api.GitRepositoryKind.Kind)).
		WatchesRawSource(waker).
		Complete(do)
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

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/chartfile"
	"github.com/cleat-dev/cleat/internal/drift"
	apphelm "github.com/cleat-dev/cleat/internal/helm"
	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// setupHelm starts what reconciles HelmReleases, if the cluster knows them. clusters are Helm's own view of them: what a
// HelmRelease and a Kustomization of the same name need to see is not the same. refetch wakes a source whose snapshot is not in
// the store.
func setupHelm(ctx context.Context, mgr ctrl.Manager, edge reconcile.Edge, bus *reconcile.Bus, store *artifact.Store, clusters *kube.Clusters, engine *drift.Engine,
	kinds []schema.GroupVersionKind, refetch func(schema.GroupVersionKind, types.NamespacedName), flags Flags, log *slog.Logger) error {
	if !slices.Contains(kinds, api.HelmReleaseKind) {
		return nil // servedKinds has said so
	}
	log = log.With("controllerKind", api.HelmReleaseKind.Kind, "controller", "helmrelease")
	recorder := recorderOf(mgr, bus, api.HelmManager)
	r := apphelm.New(apphelm.Reconciler{
		Reader: edge.Reader, Live: edge.Client, Snapshots: store, Clusters: clusters,
		Charts:   charts.New(charts.Limits{Chart: chartfile.Limits{Archive: flags.HelmChartMax, File: flags.HelmFileMax}}),
		Recorder: recorder, Waker: edge.Requests.Waker(api.HelmReleaseKind), Requests: edge.Requests, Log: log, ProgressAfter: edge.ProgressAfter,
		Lost: refetch, Drift: engine,
		Options: flags.releases(),
	})
	clusters.SubscribeObjects(func(moved kube.Moved) { engine.Moved(api.HelmReleaseKind.Kind, moved) })
	store.Subscribe(r.SnapshotAdded)
	if err := mgr.Add(manager.RunnableFunc(r.Start)); err != nil {
		return fmt.Errorf("adding what ends the actions on releases: %w", err)
	}
	do := reconcile.NewController(r.Kind(), edge, api.HelmManager, recorder, log)
	return r.Setup(ctx, mgr, kinds, do, controller.Options{MaxConcurrentReconciles: flags.Concurrent})
}

// releases are the flags and gates that concern HelmReleases.
func (f *Flags) releases() apphelm.Options {
	return apphelm.Options{
		Sharded: f.WatchSelector != "", NoCrossNamespaceRefs: f.NoCrossNamespace, AdditiveReadyExpr: f.gates[additiveReadyExpr],
		DefaultServiceAccount: f.Tenancy.DefaultServiceAccount, OrphanAfter: f.Tenancy.OrphanAfter, Dependency: f.RequeueDependency,
		AllowDNSLookups: f.gates[allowDNSLookups], DisableChartDigestTracking: f.gates[disableChartDigests],
		UseHelm3Defaults: f.gates[helm3Defaults], DefaultToRetryOnFailure: f.gates[retryOnFailure],
	}
}

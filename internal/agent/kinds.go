package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
)

// required are the kinds without which there is nothing to do.
var required = []schema.GroupVersionKind{api.GitRepositoryKind, api.KustomizationKind}

// servedKinds returns those of our kinds that the API server knows. A cluster that comes from an older Flux lacks some, and
// is served all the same; what is missing is said in the log.
func servedKinds(mapper meta.RESTMapper, log *slog.Logger) ([]schema.GroupVersionKind, error) {
	var served []schema.GroupVersionKind
	for _, kind := range append(slices.Clone(sourceKinds), api.KustomizationKind, api.HelmReleaseKind, api.ReceiverKind) {
		_, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		switch {
		case err == nil:
			served = append(served, kind)
		case !meta.IsNoMatchError(err):
			return nil, fmt.Errorf("looking for the kind %s: %w", kind, err)
		case slices.Contains(required, kind):
			return nil, fmt.Errorf("the cluster does not know the kind %s: install the CRDs with `cleat install` or `kubectl apply --server-side -k manifests/crds`", kind)
		default:
			log.Info("the cluster does not know this kind, its objects are not looked at until the CRD is installed and the agent is started again",
				"missing", kind.String())
		}
	}
	return served, nil
}

// knows says whether the API server knows all of the kinds.
func knows(mapper meta.RESTMapper, kinds ...schema.GroupVersionKind) (bool, error) {
	for _, kind := range kinds {
		_, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("looking for the kind %s: %w", kind, err)
		}
	}
	return true, nil
}

// filled returns when the caches of the kinds are filled, or ctx has ended.
func filled(ctx context.Context, objects cache.Cache, kinds []schema.GroupVersionKind) error {
	for _, kind := range kinds {
		informer, err := objects.GetInformer(ctx, api.Undecoded(kind))
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop; nothing is to be said about the caches
		}
		if err != nil {
			return fmt.Errorf("filling the cache of %s: %w", kind.Kind, err)
		}
		toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced)
	}
	return nil
}

// newInformer makes the informers of the manager's cache.
func newInformer(source toolscache.ListerWatcher, example runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	return toolscache.NewSharedIndexInformer(kube.ListFirst(source), example, resync, indexers)
}

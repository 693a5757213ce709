package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
)

// Clusters are where Kustomizations apply.
type Clusters interface {
	// Own is the cluster that the agent runs on.
	Own() *kube.Cluster
	// Local is the same, and Remote is that of a kubeConfig in the owner's namespace. Either is the
	// owner's from then on. The errors of Remote are those of kube.Clusters.
	Local(owner types.NamespacedName) *kube.Cluster
	Remote(ctx context.Context, owner types.NamespacedName, ref meta.KubeConfigReference) (*kube.Cluster, error)
	// Of is the owner's cluster now.
	Of(owner types.NamespacedName) *kube.Cluster
	// Forget drops what is kept for an owner who is gone.
	Forget(owner types.NamespacedName)
}

// connect finds out where the attempt acts and as whom. It comes when nothing is waited for any more and before
// anything is built: whether a build can be spared depends on it. The watches, whose answers are shared, are the agent's own on its cluster, and those of the
// kubeConfig's user on another.
func (r *Reconciler) connect(ctx context.Context, a *attempt) error {
	err := r.reach(ctx, a)
	if err == nil {
		return nil
	}
	return api.AsFault(err, meta.ReconciliationFailedReason, retryOfConnect(err))
}

// reach sets the attempt's cluster and applier.
func (r *Reconciler) reach(ctx context.Context, a *attempt) error {
	cluster, err := r.clusterOf(ctx, a.ks)
	if err != nil {
		return err
	}
	a.cluster = cluster
	return r.act(ctx, a)
}

func (r *Reconciler) clusterOf(ctx context.Context, ks *kustomizev1.Kustomization) (*kube.Cluster, error) {
	key := client.ObjectKeyFromObject(ks)
	if ks.Spec.KubeConfig == nil {
		return r.Clusters.Local(key), nil
	}
	cluster, err := r.Clusters.Remote(ctx, key, *ks.Spec.KubeConfig)
	if err != nil {
		return nil, fmt.Errorf("spec.kubeConfig: %w", err)
	}
	return cluster, nil
}

// act sets whom the attempt acts as. Whoever was named, or is the default for those who name nobody, has to exist: nothing
// is ever done with the agent's own rights instead (faults.md A21).
func (r *Reconciler) act(ctx context.Context, a *attempt) (err error) {
	a.acting = time.Now()
	account := a.ks.Spec.ServiceAccountName
	if account == "" {
		account = r.Options.DefaultServiceAccount
	}
	if account == "" {
		a.applier, err = a.cluster.Applier("")
		return err
	}
	a.applier, err = a.cluster.As(ctx, types.NamespacedName{Namespace: a.key.Namespace, Name: account})
	return err
}

// actAgain is how long it counts that somebody was seen to exist.
const actAgain = 5 * time.Second

// actStill looks again whether whom the attempt acts as still exists, when the steps since have taken their time (A21).
func (r *Reconciler) actStill(ctx context.Context, a *attempt) error {
	if time.Since(a.acting) < actAgain {
		return nil
	}
	return r.act(ctx, a)
}

// retryOfConnect says what makes it worth trying again: somebody has to change something, or something has to pass.
func retryOfConnect(err error) api.Retry {
	switch {
	case errors.Is(err, kube.ErrFeatureGate):
		return api.RetryNever
	case isWithdrawn(err), apierrors.IsForbidden(err):
		return api.RetryInterval
	}
	return api.RetryBackoff
}

// isWithdrawn says whether an error means that the rights or the way to the cluster are not there any more, rather than that
// they cannot be used just now.
func isWithdrawn(err error) bool {
	return apierrors.IsNotFound(err) || errors.Is(err, kube.ErrIdentity) || errors.Is(err, kube.ErrKubeconfig) || errors.Is(err, kube.ErrFeatureGate)
}

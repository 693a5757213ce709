package sync

import (
	"context"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
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
// anything is built: whether a build can be spared depends on it. Whether there still is somebody of that name is asked when
// there is something to do; see act. The watches, whose answers are shared, are the agent's own on its cluster, and those of
// the kubeConfig's user on another.
func (r *Reconciler) connect(ctx context.Context, a *attempt) error {
	err := r.reach(ctx, a)
	if err == nil {
		return nil
	}
	return api.AsFault(err, meta.ReconciliationFailedReason, kube.RetryOf(err))
}

// reach sets the attempt's cluster and applier.
func (r *Reconciler) reach(ctx context.Context, a *attempt) error {
	cluster, err := r.clusterOf(ctx, a.ks)
	if err != nil {
		return err
	}
	a.cluster = cluster
	if account, named := r.account(a.ks); named {
		a.applier, err = cluster.As(account)
		return err
	}
	a.applier, err = cluster.Applier("")
	return err
}

// account is whom a Kustomization acts as; named is false for the agent itself.
func (r *Reconciler) account(ks *kustomizev1.Kustomization) (account types.NamespacedName, named bool) {
	name := ks.Spec.ServiceAccountName
	if name == "" {
		name = r.Options.DefaultServiceAccount
	}
	return types.NamespacedName{Namespace: ks.Namespace, Name: name}, name != ""
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

// actAgain is how long it counts that somebody was seen to exist.
const actAgain = 5 * time.Second

// act has to come before anything is done as whom the attempt acts as. Whoever was named, or is the default for those who name
// nobody, has to exist: nothing is ever done with the agent's own rights instead (faults.md A21). It looks again when the steps
// since the last time have taken theirs. Where nothing is done nothing is asked.
func (r *Reconciler) act(ctx context.Context, a *attempt) error {
	account, named := r.account(a.ks)
	if !named || time.Since(a.acting) < actAgain {
		return nil
	}
	now := time.Now()
	if err := a.cluster.Exists(ctx, account); err != nil {
		a.applier = nil
		return err
	}
	a.acting = now
	return nil
}

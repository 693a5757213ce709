package helm

import (
	"context"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/kube"
)

// clientFailedReason: the way to the cluster of the release, or whom to act as, cannot be used. It is Flux's word.
const clientFailedReason = "RESTClientError"

// connect finds out where the release is and as whom it is acted on. The deletion of the object waits from here on: what it has
// made must go with it. spec.persistentClient makes no difference: clients are shared, and nothing that they know grows old.
func (r *Reconciler) connect(ctx context.Context, a *attempt) error {
	if err := a.run.HoldDeletion(ctx); err != nil {
		return err
	}
	err := r.reach(ctx, a)
	if err == nil {
		return nil
	}
	return api.AsFault(err, clientFailedReason, kube.RetryOf(err))
}

// reach sets the attempt's cluster and user. Whoever was named, or is the default for those who name nobody, has to exist:
// nothing is ever done with the agent's own rights instead (faults.md A21).
func (r *Reconciler) reach(ctx context.Context, a *attempt) error {
	cluster, err := r.clusterOf(ctx, a)
	if err != nil {
		return err
	}
	account, named := r.account(a.hr)
	if !named {
		a.cluster, a.user = cluster, ""
		return nil
	}
	user, err := kube.Username(account)
	if err != nil {
		return err
	}
	if err := cluster.Exists(ctx, account); err != nil {
		return err
	}
	a.cluster, a.user = cluster, user
	return nil
}

// account is whom a HelmRelease acts as; named is false for the agent itself.
func (r *Reconciler) account(hr *v2.HelmRelease) (account types.NamespacedName, named bool) {
	name := orElse(hr.Spec.ServiceAccountName, r.Options.DefaultServiceAccount)
	return types.NamespacedName{Namespace: hr.Namespace, Name: name}, name != ""
}

func (r *Reconciler) clusterOf(ctx context.Context, a *attempt) (*kube.Cluster, error) {
	if a.hr.Spec.KubeConfig == nil {
		return r.Clusters.Local(a.key), nil
	}
	cluster, err := r.Clusters.Remote(ctx, a.key, *a.hr.Spec.KubeConfig)
	if err != nil {
		return nil, fmt.Errorf("spec.kubeConfig: %w", err)
	}
	return cluster, nil
}

package failover

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

// Leader waits until one agent holds all leases, which it takes in the order of this list, and which the last leader, if there is one,
// is not. It returns what the agent calls itself.
func Leader(ctx context.Context, cluster *live.Cluster, namespace, last string) (string, error) {
	holder := ""
	for _, controller := range []string{"source", "kustomize", "helm", "notification"} {
		ref := live.Ref{Kind: "leases.coordination.k8s.io", Namespace: namespace, Name: controller + "-controller-leader-election"}
		_, err := cluster.Until(ctx, ref, func(obj *unstructured.Unstructured) bool {
			holder = text(obj, "spec", "holderIdentity")
			return holder != "" && holder != last
		})
		if err != nil {
			return "", err
		}
	}
	return holder, nil
}

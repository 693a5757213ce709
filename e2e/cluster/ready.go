package main

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// awaitAPIServer asks /readyz again and again, since there is nothing to watch
// before the API server answers.
func awaitAPIServer(ctx context.Context, client kubernetes.Interface) error {
	readyz := func(ctx context.Context) (bool, error) {
		err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		return err == nil, nil // refused or not yet ready: both mean "ask again"
	}
	return wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, readyz)
}

// dropLeases removes what the kwok of the last run holds. Kwok touches no node
// whose lease another kwok holds, and a killed one holds it for 40 s more.
func dropLeases(ctx context.Context, client kubernetes.Interface) error {
	return client.CoordinationV1().Leases(corev1.NamespaceNodeLease).
		DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// ensureNodes creates the fake nodes. More nodes than last time are added;
// those beyond count are removed, and their pods move.
func ensureNodes(ctx context.Context, client kubernetes.Interface, count int) error {
	for i := range count {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name:        nodeName(i),
			Labels:      map[string]string{corev1.LabelHostname: nodeName(i), corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"},
			Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"},
		}}
		_, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for i := count; ; i++ {
		err := client.CoreV1().Nodes().Delete(ctx, nodeName(i), metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// awaitNodes returns when every node is held by the kwok or the kubelet of this run, is Ready
// and takes pods.
func awaitNodes(ctx context.Context, client kubernetes.Interface, names []string) error {
	for _, name := range names {
		leases := client.CoordinationV1().RESTClient()
		if err := await(ctx, leases, "leases", corev1.NamespaceNodeLease, name, &coordinationv1.Lease{}, exists); err != nil {
			return err
		}
		if err := await(ctx, client.CoreV1().RESTClient(), "nodes", "", name, &corev1.Node{}, isSchedulable); err != nil {
			return err
		}
	}
	return nil
}

// awaitServiceAccount returns when pods can be created in namespace default:
// admission refuses them before their service account exists.
func awaitServiceAccount(ctx context.Context, client kubernetes.Interface) error {
	return await(ctx, client.CoreV1().RESTClient(), "serviceaccounts", "default", "default", &corev1.ServiceAccount{}, exists)
}

// await watches one object, of the type of the sample, until ok holds.
func await(ctx context.Context, client rest.Interface, resource, namespace, name string, sample runtime.Object, ok func(runtime.Object) bool) error {
	lw := cache.NewListWatchFromClient(client, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	_, err := watchtools.UntilWithSync(ctx, lw, sample, nil, func(e watch.Event) (bool, error) {
		// A deleted object may come back: nodes do when a restart changes their number.
		return e.Type != watch.Deleted && ok(e.Object), nil
	})
	return err
}

func exists(runtime.Object) bool { return true }

// isSchedulable looks at the taints too: the controller manager takes the one
// for "not ready" away a moment after kwok reports the node as Ready.
func isSchedulable(object runtime.Object) bool {
	node, ok := object.(*corev1.Node)
	if !ok || len(node.Spec.Taints) > 0 {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

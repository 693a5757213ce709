package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/object"
)

// selfTimeout bounds the search for the objects by which the agent runs. An agent that does not find them starts all the same.
const selfTimeout = 30 * time.Second

// podName is where the API server says which pod a ServiceAccount's token is bound to.
const podName = "authentication.kubernetes.io/pod-name"

// findSelf returns the objects by which the agent runs, which are never pruned: its ServiceAccount, its Deployment, and the
// bindings and roles by which it has its rights. It asks the API server who it is: neither the environment nor a flag can then
// be wrong about it. What cannot be found out is not protected, and said in the log; an agent with a kubeconfig of a person has
// no such objects.
func findSelf(ctx context.Context, c client.Client, log *slog.Logger) []object.Ref {
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	review := &authenticationv1.SelfSubjectReview{}
	if err := c.Create(ctx, review); err != nil {
		log.Info("the API server does not say who the agent is: its ServiceAccount and its rights are not protected from being pruned", "error", err)
		return nil
	}
	account, ok := serviceAccount(review.Status.UserInfo.Username)
	if !ok {
		return nil
	}
	self := []object.Ref{{Version: "v1", Kind: "ServiceAccount", Namespace: account.Namespace, Name: account.Name}}
	for _, find := range []func() ([]object.Ref, error){
		func() ([]object.Ref, error) { return clusterRights(ctx, c, account) },
		func() ([]object.Ref, error) { return rights(ctx, c, account) },
		func() ([]object.Ref, error) {
			pod := review.Status.UserInfo.Extra[podName]
			if len(pod) == 0 {
				return nil, nil
			}
			return workload(ctx, c, types.NamespacedName{Namespace: account.Namespace, Name: pod[0]})
		},
	} {
		found, err := find()
		if err != nil {
			log.Info("not all objects by which the agent runs are known, and those that are not are not protected from being pruned", "error", err)
		}
		self = append(self, found...)
	}
	object.Sort(self)
	return slices.Compact(self)
}

// serviceAccount reads the user name of a ServiceAccount.
func serviceAccount(user string) (types.NamespacedName, bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	namespace, name, both := strings.Cut(rest, ":")
	return types.NamespacedName{Namespace: namespace, Name: name}, ok && both
}

// clusterRights returns the ClusterRoleBindings that name an account, and their roles.
func clusterRights(ctx context.Context, c client.Client, account types.NamespacedName) ([]object.Ref, error) {
	list := &rbacv1.ClusterRoleBindingList{}
	if err := c.List(ctx, list); err != nil {
		return nil, fmt.Errorf("listing ClusterRoleBindings: %w", err)
	}
	var found []object.Ref
	for _, binding := range list.Items {
		if names(binding.Subjects, account) {
			found = append(found, rbacRef("ClusterRoleBinding", "", binding.Name), rbacRef(binding.RoleRef.Kind, "", binding.RoleRef.Name))
		}
	}
	return found, nil
}

// rights returns the RoleBindings of the account's own namespace that name it, and their roles.
func rights(ctx context.Context, c client.Client, account types.NamespacedName) ([]object.Ref, error) {
	list := &rbacv1.RoleBindingList{}
	if err := c.List(ctx, list, client.InNamespace(account.Namespace)); err != nil {
		return nil, fmt.Errorf("listing RoleBindings in %s: %w", account.Namespace, err)
	}
	var found []object.Ref
	for _, binding := range list.Items {
		if !names(binding.Subjects, account) {
			continue
		}
		role := rbacRef(binding.RoleRef.Kind, "", binding.RoleRef.Name)
		if role.Kind == "Role" {
			role.Namespace = account.Namespace
		}
		found = append(found, rbacRef("RoleBinding", account.Namespace, binding.Name), role)
	}
	return found, nil
}

func names(subjects []rbacv1.Subject, account types.NamespacedName) bool {
	return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
		return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == account.Namespace && s.Name == account.Name
	})
}

func rbacRef(kind, namespace, name string) object.Ref {
	return object.Ref{Group: rbacv1.GroupName, Version: "v1", Kind: kind, Namespace: namespace, Name: name}
}

// workload returns what runs a pod: its controller, and the controller of a ReplicaSet.
func workload(ctx context.Context, c client.Client, name types.NamespacedName) ([]object.Ref, error) {
	pod := &corev1.Pod{}
	if err := c.Get(ctx, name, pod); err != nil {
		return nil, fmt.Errorf("reading the agent's own Pod %s: %w", name, err)
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return controllers(name.Namespace, owner), nil
	}
	set := &appsv1.ReplicaSet{}
	if err := c.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: owner.Name}, set); err != nil {
		return nil, fmt.Errorf("reading the agent's own ReplicaSet %s/%s: %w", name.Namespace, owner.Name, err)
	}
	return controllers(name.Namespace, owner, metav1.GetControllerOf(set)), nil
}

// controllers returns the refs of owners in the apps group; there may be none.
func controllers(namespace string, owners ...*metav1.OwnerReference) []object.Ref {
	var refs []object.Ref
	for _, owner := range owners {
		if owner != nil && owner.APIVersion == appsv1.SchemeGroupVersion.String() {
			refs = append(refs, object.Ref{Group: appsv1.GroupName, Version: "v1", Kind: owner.Kind, Namespace: namespace, Name: owner.Name})
		}
	}
	return refs
}

package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/generic"
	authutils "github.com/fluxcd/pkg/auth/utils"
	"github.com/fluxcd/pkg/cache"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ErrFeatureGate means: the operator has not switched on what is asked for.
var ErrFeatureGate = errors.New("feature gate is off")

// Identity gets the tokens with which the clusters of ConfigMaps are reached, as their provider asks for.
type Identity struct {
	// DefaultServiceAccount gets them when a ConfigMap names none (--default-kubeconfig-service-account).
	DefaultServiceAccount string
	// OfServiceAccounts allows that ServiceAccounts get tokens (feature gate ObjectLevelWorkloadIdentity).
	OfServiceAccounts bool
	// Tokens keeps them until they expire; without it every request gets one.
	Tokens *cache.TokenCache
}

// config returns how to reach the cluster that a ConfigMap describes. Each request made with it looks for a token that is
// still good.
func (i Identity) config(ctx context.Context, c client.Client, described *corev1.ConfigMap) (*rest.Config, error) {
	account := described.Data[meta.KubeConfigKeyServiceAccountName]
	if account == "" {
		account = i.DefaultServiceAccount
	}
	switch provider := described.Data[meta.KubeConfigKeyProvider]; {
	case account == "" && provider == generic.ProviderName:
		// The agent's own token, for an audience and to an address that the ConfigMap chooses, would be a gift.
		return nil, fmt.Errorf("%w: provider %s needs a serviceAccountName", ErrKubeconfig, provider)
	case account != "" && !i.OfServiceAccounts:
		return nil, fmt.Errorf("%w: to use serviceAccountName the agent needs --feature-gates=%s=true", ErrFeatureGate, auth.FeatureGateObjectLevelWorkloadIdentity)
	}
	named := described.DeepCopy()
	named.Data = maps.Clone(described.Data)
	delete(named.Data, meta.KubeConfigKeyServiceAccountName)
	if account != "" {
		named.Data[meta.KubeConfigKeyServiceAccountName] = account
	}
	var options []auth.Option
	if i.Tokens != nil {
		options = append(options, auth.WithCache(*i.Tokens, cache.InvolvedObject{
			Kind: "ConfigMap", Name: described.Name, Namespace: described.Namespace, Operation: "kubeconfig",
		}))
	}
	ref := meta.KubeConfigReference{ConfigMapRef: &meta.LocalObjectReference{Name: described.Name}}
	config, err := authutils.GetRESTConfig(ctx, ref, described.Namespace, pinned{c, named}, options...)
	if err != nil {
		return nil, fmt.Errorf("asking for a token: %w", err)
	}
	return config, nil
}

// pinned is a client for which one ConfigMap is as it was judged, whatever somebody makes of it meanwhile.
type pinned struct {
	client.Client
	judged *corev1.ConfigMap
}

func (p pinned) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	if into, ok := obj.(*corev1.ConfigMap); ok && key == client.ObjectKeyFromObject(p.judged) {
		p.judged.DeepCopyInto(into)
		return nil
	}
	return p.Client.Get(ctx, key, obj, opts...)
}

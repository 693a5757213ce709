package decrypt

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	authaws "github.com/fluxcd/pkg/auth/aws"
	authazure "github.com/fluxcd/pkg/auth/azure"
	authgcp "github.com/fluxcd/pkg/auth/gcp"
	"github.com/fluxcd/pkg/auth/generic"
	"github.com/golang-jwt/jwt/v5"
	vault "github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
)

// identity is who asks clouds and Vaults for a Kustomization that holds no credentials for them: a ServiceAccount of its
// namespace, or the agent itself.
type identity struct{ options []auth.Option }

// identity returns who acts for ks: whom it names, or else whom --default-decryption-service-account names, or else the agent.
func (l *Loader) identity(ks *kustomizev1.Kustomization) identity {
	options := []auth.Option{auth.WithClient(l.client)}
	name := ks.Spec.Decryption.ServiceAccountName
	if name == "" {
		name = l.options.DefaultServiceAccount
	}
	if name != "" {
		options = append(options, auth.WithServiceAccountName(name), auth.WithServiceAccountNamespace(ks.Namespace))
	}
	return identity{options}
}

func (who identity) with(more ...auth.Option) []auth.Option {
	return append(append([]auth.Option{}, who.options...), more...)
}

// complete fills in what the Secret holds no credentials for. Nothing is asked for before a document needs it. The contexts
// are those of the library's own making; who waits for them has a deadline.
func (who identity) complete(keys *keyring) {
	ctx := context.Background()
	if keys.aws == nil {
		keys.aws = func(region string) aws.CredentialsProvider {
			return authaws.NewCredentialsProvider(ctx, who.with(auth.WithSTSRegion(region))...)
		}
	}
	if keys.azure == nil {
		keys.azure = authazure.NewTokenCredential(ctx, who.with()...)
	}
	if keys.gcp == nil {
		keys.gcp = authgcp.NewTokenSource(ctx, who.with()...)
	}
	keys.vaultLogin = who.vaultLogin
}

// vaultLogin exchanges a token of the identity, which is good for that Vault only, for a token of the Vault. The role is
// "namespace_name" of the ServiceAccount, as Flux has it.
func (who identity) vaultLogin(ctx context.Context, address, path string) (string, error) {
	token, err := auth.GetAccessToken(ctx, generic.Provider{}, who.with(auth.WithAudiences(address))...)
	if err != nil {
		return "", err
	}
	issued, ok := token.(*generic.Token)
	if !ok {
		return "", fmt.Errorf("a token of type %T was issued", token)
	}
	role, err := roleOf(issued.Token)
	if err != nil {
		return "", err
	}
	config := vault.DefaultConfig()
	config.Address = address
	server, err := vault.NewClient(config)
	if err != nil {
		return "", fmt.Errorf("making the client: %w", err)
	}
	server.ClearToken() // the agent's environment may hold one, which is not this Kustomization's
	answer, err := server.Logical().WriteWithContext(ctx, path, map[string]any{"role": role, "jwt": issued.Token})
	if err != nil {
		return "", fmt.Errorf("logging in at %s as role %s: %w", path, role, err)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return "", fmt.Errorf("logging in at %s as role %s: no token was handed out", path, role)
	}
	return answer.Auth.ClientToken, nil
}

// roleOf returns the role of the ServiceAccount that a token was issued for.
func roleOf(token string) (string, error) {
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{}) // the API server has issued it just now
	if err != nil {
		return "", fmt.Errorf("the ServiceAccount's token is no JWT")
	}
	subject, err := parsed.Claims.GetSubject()
	parts := strings.Split(subject, ":")
	if err != nil || len(parts) != 4 {
		return "", fmt.Errorf("the ServiceAccount's token has no subject of a ServiceAccount")
	}
	return parts[2] + "_" + parts[3], nil
}

// vaultKey is the key of the ConfigMap of trusted Vaults that holds a VaultConfig.
const vaultKey = "config.yaml"

// trust reads which Vaults may be spoken to. A document says itself which Vault holds its key, and whoever can change the
// document would have the token sent to a server of theirs (faults.md A33), so that what no administrator has listed is
// refused. Flux sends a token of a Secret anywhere.
func (l *Loader) trust(ctx context.Context, from client.Reader, keys *keyring) error {
	if l.options.VaultConfigMap == "" {
		return nil
	}
	key := types.NamespacedName{Namespace: l.options.Namespace, Name: l.options.VaultConfigMap}
	var list corev1.ConfigMap
	if err := from.Get(ctx, key, &list); err != nil {
		return api.Faultf(meta.BuildFailedReason, api.RetryBackoff, "reading the ConfigMap '%s' of trusted Vaults: %w", key, err)
	}
	var config kustomizev1.VaultConfig
	text, found := list.Data[vaultKey]
	if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil || !found {
		return api.Faultf(meta.BuildFailedReason, api.RetryBackoff, "the ConfigMap '%s' of trusted Vaults has no key %s that holds a list of instances", key, vaultKey)
	}
	keys.vaults = make(map[string]string, len(config.Instances))
	for _, instance := range config.Instances {
		keys.vaults[vaultAddress(instance.Address)] = instance.LoginPath
	}
	return nil
}

// vaultAddress brings the address of a Vault into the one form by which two are compared.
func vaultAddress(address string) string { return strings.TrimRight(strings.TrimSpace(address), "/") }

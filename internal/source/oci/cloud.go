package oci

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	"github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// Identity is who asks a cloud for credentials. The zero value is the agent itself, as its Pod or node is known.
type Identity struct {
	// Namespace and Account name a ServiceAccount that the cloud knows.
	Namespace, Account string
	// Proxy is the object's, for a ServiceAccount of its namespace. The agent never asks for its own credentials through it:
	// the clouds' libraries speak to the metadata service without encryption, and would do that through the proxy.
	Proxy source.Proxy
}

// Cloud gets credentials for a repository of a cloud's registry.
type Cloud func(ctx context.Context, repository string, as Identity) (authn.AuthConfig, time.Time, error)

// clouds are the providers of spec.provider beside generic. The client makes tokens of ServiceAccounts.
func clouds(accounts client.Client) map[string]Cloud {
	return map[string]Cloud{
		sourcev1.AmazonOCIProvider: cloudOf(aws.Provider{}, accounts),
		sourcev1.AzureOCIProvider:  cloudOf(azure.Provider{}, accounts),
		sourcev1.GoogleOCIProvider: cloudOf(gcp.Provider{}, accounts),
	}
}

func cloudOf(provider auth.ArtifactRegistryCredentialsProvider, accounts client.Client) Cloud {
	return func(ctx context.Context, repository string, as Identity) (authn.AuthConfig, time.Time, error) {
		credentials, err := auth.GetArtifactRegistryCredentials(ctx, provider, repository, as.options(accounts)...)
		if err != nil {
			return authn.AuthConfig{}, time.Time{}, err
		}
		config, err := credentials.Authorization()
		if err != nil {
			return authn.AuthConfig{}, time.Time{}, err
		}
		return *config, credentials.ExpiresAt, nil
	}
}

func (i Identity) options(accounts client.Client) []auth.Option {
	if i.Account == "" {
		return nil
	}
	options := []auth.Option{auth.WithClient(accounts), auth.WithServiceAccountNamespace(i.Namespace), auth.WithServiceAccountName(i.Account)}
	if i.Proxy != (source.Proxy{}) {
		options = append(options, auth.WithProxyURL(*i.Proxy.URL()))
	}
	return options
}

// cloudKey tells apart what must not share a token.
type cloudKey struct {
	provider, registry string
	as                 Identity
	// state is what the ServiceAccount says of itself: the role that it stands for is among that.
	state string
}

type cloudToken struct {
	auth    authn.AuthConfig
	expires time.Time
}

// tokens keeps the clouds' credentials for as long as they are good, so that not every poll asks for new ones.
type tokens struct {
	clouds  map[string]Cloud
	now     func() time.Time
	running *source.Running
	answers shared[cloudKey, cloudToken]
}

func newTokens(o Options, running *source.Running) *tokens {
	t := &tokens{clouds: o.Clouds, now: o.Now, running: running}
	if t.clouds == nil {
		t.clouds = clouds(o.Edge.Client)
	}
	t.answers.most = maxAnswers
	return t
}

// margin is how long before it expires a token is no longer used.
const margin = 2 * time.Minute

// get returns a token that is younger than answerLife, so that somebody whose rights were taken does not have it for longer.
func (t *tokens) get(ctx context.Context, provider string, repository name.Repository, as Identity, state string) (authn.AuthConfig, error) {
	cloud, ok := t.clouds[provider]
	if !ok {
		return authn.AuthConfig{}, fmt.Errorf("%w: spec.provider %q is not known", source.ErrAuthentication, provider)
	}
	key := cloudKey{provider: provider, registry: repository.RegistryStr(), as: as, state: state}
	ask := func() (cloudToken, error) {
		// The clouds' libraries have deadlines of their own making; this one is ours.
		return source.Detached(ctx, t.running, func() (cloudToken, error) {
			config, expires, err := cloud(ctx, repository.Name(), as)
			return cloudToken{config, expires}, err
		}, func(cloudToken) {})
	}
	notBefore := t.now().Add(-answerLife)
	token, err := t.answers.do(ctx, key, notBefore, t.now(), ask)
	if err == nil && t.now().Add(margin).After(token.expires) {
		t.answers.forget(key)
		token, err = t.answers.do(ctx, key, notBefore, t.now(), ask)
	}
	if err != nil {
		return authn.AuthConfig{}, fmt.Errorf("%w: %s gives no credentials for %s: %s", source.ErrAuthentication, provider, repository.RegistryStr(),
			cloudWords(err))
	}
	return token.auth, nil
}

// once matches what a cloud says only once: the numbers of requests, and times.
var once = regexp.MustCompile(`(?i)\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?|\bRequestID: [^,\s]+`)

func cloudWords(err error) string {
	return source.OneLine(once.ReplaceAllString(source.Steady(err).Error(), "…"))
}

// cloudLogin gets credentials from spec.provider, for the ServiceAccount or else for the agent itself.
//
// What the agent's own identity gives must be shown to nobody whom an object names. A proxy does no harm: what goes through it
// is encrypted, and checked against the system's authorities. A server that is known by an authority of the object's does.
func (o *repositories) cloudLogin(ctx context.Context, provider, namespace, account string, to remote) (authn.AuthConfig, error) {
	if account == "" {
		if to.tls.CA != "" {
			return authn.AuthConfig{}, api.Faultf(api.UnsupportedReason, api.RetryInterval,
				"a Secret with \"ca.crt\" and spec.provider %s exclude each other: who is known by that authority would get to see the agent's own credentials; "+
					"take it out of the Secret, or let an OCIRepository use an identity of its own by spec.serviceAccountName", provider)
		}
		return o.tokens.get(ctx, provider, to.repository, Identity{}, "")
	}
	key := types.NamespacedName{Namespace: namespace, Name: account}
	var sa corev1.ServiceAccount
	if err := o.secrets.Get(ctx, key, &sa); err != nil {
		return authn.AuthConfig{}, readingAccount(key, err)
	}
	as := Identity{Namespace: namespace, Account: account}
	if to.proxy != nil {
		as.Proxy = *to.proxy
	}
	return o.tokens.get(ctx, provider, to.repository, as, digestOf(fmt.Appendf(nil, "%s %q", sa.UID, sa.Annotations)))
}

func readingAccount(key types.NamespacedName, err error) error {
	return api.Faultf(sourcev1.AuthenticationFailedReason, api.RetryBackoff, "reading the ServiceAccount %s of spec.serviceAccountName: %w", key, err)
}

// errPlainCloud: the registries of clouds speak https, and credentials that a cloud gives go no other way.
var errPlainCloud = errors.New("spec.insecure with spec.provider other than generic is not supported: remove spec.insecure, or use a Secret")

// isCloud reports whether a provider is asked for credentials. As in Flux, a Secret that is there is used instead.
func isCloud(provider string, secret bool) bool {
	return provider != "" && provider != sourcev1.GenericOCIProvider && !secret
}

// checkCloud refuses what a provider other than generic does not go with.
func (o *repositories) checkCloud(a *attempt) error {
	spec := &a.obj.Spec
	switch {
	case !a.cloud():
		return nil
	case spec.Insecure:
		return api.Faultf(api.UnsupportedReason, api.RetryNever, "%w", errPlainCloud)
	case spec.ServiceAccountName != "" && !o.objectIdentity:
		return api.Faultf(meta.FeatureGateDisabledReason, api.RetryNever,
			"spec.serviceAccountName with spec.provider %s needs the agent to be started with --feature-gates=%s=true; remove it to use the agent's own identity",
			spec.Provider, auth.FeatureGateObjectLevelWorkloadIdentity)
	}
	return nil
}

func (a *attempt) cloud() bool { return isCloud(a.obj.Spec.Provider, a.obj.Spec.SecretRef != nil) }

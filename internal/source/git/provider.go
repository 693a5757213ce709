package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	"github.com/fluxcd/pkg/auth/azure"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// clouds are the providers that know the agent, or a ServiceAccount, by its workload identity. Tests put others in their place.
func clouds() map[string]auth.GitCredentialsProvider {
	return map[string]auth.GitCredentialsProvider{
		sourcev1.GitProviderAzure: azure.Provider{},
		sourcev1.GitProviderAWS:   aws.Provider{},
	}
}

// azureHost is Azure DevOps. Its tokens are good for every host that is shown one, so that whoever writes a GitRepository must
// not be the one to say where they go. For AWS the library checks that, and signs for the host. The names under azure.us and
// azure.cn are those of the clouds for the US government and for China, in whose zones customers get no names of this form.
var azureHost = regexp.MustCompile(`(?i)^(([a-z0-9-]+\.)*dev\.azure\.(com|us|cn)|([a-z0-9-]+\.)+visualstudio\.com)$`)

// credentials finds out what to show the server: the Secret's content, or a token that the provider gives.
func (g *repositories) credentials(ctx context.Context, a *attempt) error {
	spec := &a.obj.Spec
	a.remote = Remote{URL: spec.URL}
	if spec.ProxySecretRef != nil {
		data, err := source.Secret(ctx, g.secrets, a.obj.Namespace, spec.ProxySecretRef.Name, "spec.proxySecretRef")
		if err != nil {
			return err
		}
		if a.remote.Proxy, err = source.ProxyFrom(data); err != nil {
			return gitFault(fmt.Errorf("using the Secret %s/%s of spec.proxySecretRef: %w", a.obj.Namespace, spec.ProxySecretRef.Name, err))
		}
	}
	var data map[string][]byte
	if spec.SecretRef != nil {
		var err error
		if data, err = source.Secret(ctx, g.secrets, a.obj.Namespace, spec.SecretRef.Name, "spec.secretRef"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, source.Timeout(spec.Timeout))
	defer cancel()
	if err := g.authenticate(ctx, a, data); err != nil {
		if spec.SecretRef != nil {
			err = fmt.Errorf("using the Secret %s/%s of spec.secretRef: %w", a.obj.Namespace, spec.SecretRef.Name, err)
		}
		return gitFault(err)
	}
	return nil
}

func (g *repositories) authenticate(ctx context.Context, a *attempt, data map[string][]byte) error {
	ep, _, err := a.remote.parse()
	if err != nil {
		return err
	}
	provider := a.obj.GetProvider()
	switch {
	case isGitHubApp(data) != (provider == sourcev1.GitProviderGitHub):
		return fmt.Errorf("%w: a GitHub App needs both spec.provider github and a Secret with \"githubAppID\"", ErrProvider)
	case provider == sourcev1.GitProviderGitHub:
		return g.authenticateApp(ctx, a, data)
	case provider == sourcev1.GitProviderGeneric && data == nil:
		return nil
	case provider == sourcev1.GitProviderGeneric:
		a.remote.Credentials, err = CredentialsFrom(data, ep.Scheme)
		return err
	}
	cloud, ok := g.clouds[provider]
	if !ok {
		return api.Faultf(api.UnsupportedReason, api.RetryNever, "spec.provider %q is not known; use generic, github, azure or aws", provider)
	}
	if ep.Scheme != "https" {
		return fmt.Errorf("%w: a token of %s is only shown over https, not %s", ErrProvider, provider, ep.Scheme)
	}
	if provider == sourcev1.GitProviderAzure && !azureHost.MatchString(ep.Hostname()) {
		return api.Faultf(providerReason, api.RetryNever, "a token of azure is only shown to dev.azure.com, dev.azure.us, dev.azure.cn, what is below these, and *.visualstudio.com, not %s; "+
			"correct spec.url, or use spec.provider generic and a Secret with a token of that host", ep.Hostname())
	}
	tls, err := source.TLSFrom(data)
	if err != nil {
		return err
	}
	if a.remote.Proxy != nil && tls.CA != "" {
		// Together they make the proxy a server that can read the token.
		return fmt.Errorf("%w: with spec.provider %s, spec.proxySecretRef and a Secret with \"ca.crt\" exclude each other; remove one", ErrProvider, provider)
	}
	return g.authenticateCloud(ctx, a, provider, cloud, ep.URL, tls)
}

func (g *repositories) authenticateApp(ctx context.Context, a *attempt, data map[string][]byte) error {
	app, err := githubAppFrom(data)
	if err != nil {
		return err
	}
	value, err := g.tokens.get(ctx, app, a.remote.Proxy)
	if err != nil {
		return err
	}
	a.remote.Credentials = Credentials{Credentials: source.Credentials{Username: appAccount, Password: value, TLS: app.tls}}
	a.remote.Principal = principal("github", app.baseURL, app.id, app.installation, app.owner, app.privateKey)
	return nil
}

// authenticateCloud asks a cloud for a token, for the ServiceAccount of the spec or for the agent itself. Its library opens
// the connections, to the cloud's own endpoints, which are not taken from the object; the deadline is ours.
func (g *repositories) authenticateCloud(ctx context.Context, a *attempt, name string, cloud auth.GitCredentialsProvider, to *url.URL, tls source.TLS) error {
	account := a.obj.Spec.ServiceAccountName
	identity := g.identities.Of(sourcev1.GitRepositoryKind, client.ObjectKeyFromObject(a.obj), account, a.remote.Proxy)
	got, err := source.Detached(ctx, &g.fetcher.mirrors.work, func() (*auth.GitCredentials, error) {
		return auth.GetGitCredentials(ctx, cloud, identity.Options(auth.WithGitURL(*to))...)
	}, func(*auth.GitCredentials) {})
	if err != nil {
		return identity.Refused(name, err)
	}
	a.remote.Credentials = Credentials{Credentials: source.Credentials{
		Username: got.Username, Password: got.Password, BearerToken: got.BearerToken, TLS: tls,
	}}
	if a.remote.Principal = principal(name); account != "" {
		a.remote.Principal = principal(name, a.obj.Namespace, account)
	}
	return nil
}

// principal names who the credentials are for, without telling it.
func principal(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}

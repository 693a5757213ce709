package notify

import (
	"context"
	"errors"

	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/git"
)

// identities are the clouds as they are.
type identities struct {
	of      source.Identities
	apps    *git.Apps
	running source.Running // calls of libraries that do not heed their context
}

// Token implements clouds: by the key in the Secret if there is one, and otherwise as the ServiceAccount or the agent.
func (i *identities) Token(ctx context.Context, c cloud, t *target) (string, error) {
	if c.name == "github" {
		token, err := i.apps.Token(ctx, t.data, t.proxy)
		if err != nil {
			return "", configOr(err)
		}
		return token, nil
	}
	if t.token != "" && c.name == "gcp" {
		return t.googleToken(ctx, c.scope)
	}
	if err := source.CheckServiceAccount(t.spec.ServiceAccountName); err != nil {
		return "", configf("%w", err)
	}
	var provider auth.Provider = azure.Provider{}
	if c.name == "gcp" {
		provider = gcp.Provider{}
	}
	identity := i.of.Of(api.ProviderKind.Kind, types.NamespacedName{Namespace: t.namespace, Name: t.name}, t.spec.ServiceAccountName, t.proxy)
	token, err := source.Detached(ctx, &i.running, func() (auth.Token, error) {
		return identity.Token(ctx, provider, auth.WithScopes(c.scope))
	}, func(auth.Token) {})
	if err != nil {
		return "", err
	}
	switch token := token.(type) {
	case *azure.Token:
		return token.Token, nil
	case *gcp.Token:
		return token.AccessToken, nil
	}
	return "", configf("the cloud gives no token that %s takes", t.spec.Type)
}

// googleToken asks for a token by the key of a service account. The key says where, so it is asked through our network.
func (t *target) googleToken(ctx context.Context, scope string) (string, error) {
	config, err := google.JWTConfigFromJSON([]byte(t.token), scope)
	if err != nil {
		return "", configf("the Secret's \"token\" is no key of a service account in JSON") // not quoted
	}
	token, err := config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, t.client)).Token()
	if err != nil {
		return "", (&source.Identity{Account: config.Email}).Refused("gcp", err)
	}
	return token.AccessToken, nil
}

// configOr makes an error one of the Provider's unless the network is at fault.
func configOr(err error) error {
	var failure *source.Failure
	if errors.As(err, &failure) {
		return err
	}
	return configf("%w", err)
}

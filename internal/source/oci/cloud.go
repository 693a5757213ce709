package oci

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	"github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/cleat-dev/cleat/internal/source"
)

// Cloud gets credentials for a repository of a cloud's registry from the identity that the agent itself has in that cloud.
type Cloud func(ctx context.Context, repository string) (authn.AuthConfig, time.Time, error)

// clouds are the providers of spec.provider beside generic.
func clouds() map[string]Cloud {
	return map[string]Cloud{
		sourcev1.AmazonOCIProvider: cloudOf(aws.Provider{}),
		sourcev1.AzureOCIProvider:  cloudOf(azure.Provider{}),
		sourcev1.GoogleOCIProvider: cloudOf(gcp.Provider{}),
	}
}

func cloudOf(provider auth.ArtifactRegistryCredentialsProvider) Cloud {
	return func(ctx context.Context, repository string) (authn.AuthConfig, time.Time, error) {
		credentials, err := auth.GetArtifactRegistryCredentials(ctx, provider, repository)
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

// cloudKey tells apart what must not share a token.
type cloudKey struct{ provider, registry string }

type cloudToken struct {
	auth    authn.AuthConfig
	expires time.Time
}

// tokens keeps the clouds' credentials for as long as they are good, so that not every poll asks for new ones.
type tokens struct {
	clouds  map[string]Cloud
	now     func() time.Time
	running *sync.WaitGroup
	answers shared[cloudKey, cloudToken]
}

// margin is how long before it expires a token is no longer used.
const margin = 2 * time.Minute

func (t *tokens) get(ctx context.Context, provider string, repository name.Repository) (authn.AuthConfig, error) {
	cloud, ok := t.clouds[provider]
	if !ok {
		return authn.AuthConfig{}, fmt.Errorf("%w: spec.provider %q is not known", source.ErrAuthentication, provider)
	}
	key := cloudKey{provider: provider, registry: repository.RegistryStr()}
	ask := func() (cloudToken, error) {
		// The clouds' libraries have deadlines of their own making; this one is ours.
		return source.Detached(ctx, t.running, func() (cloudToken, error) {
			config, expires, err := cloud(ctx, repository.Name())
			return cloudToken{config, expires}, err
		}, func(cloudToken) {})
	}
	token, err := t.answers.do(ctx, key, time.Time{}, t.now(), ask)
	if err == nil && t.now().Add(margin).After(token.expires) {
		t.answers.forget(key)
		token, err = t.answers.do(ctx, key, time.Time{}, t.now(), ask)
	}
	if err != nil {
		return authn.AuthConfig{}, fmt.Errorf("%w: %s gives no credentials for %s: %s", source.ErrAuthentication, provider, repository.RegistryStr(),
			source.OneLine(source.Steady(err).Error()))
	}
	return token.auth, nil
}

package git

import (
	"context"

	"github.com/cleat-dev/cleat/internal/source"
)

// Apps gets tokens of GitHub Apps for others than repositories. Its methods may be called concurrently.
type Apps struct{ tokens tokens }

// NewApps returns an Apps that asks through the network.
func NewApps(network source.Network) *Apps { return &Apps{tokens: tokens{network: network}} }

// Token returns a token of the installation of an App that a Secret describes.
func (a *Apps) Token(ctx context.Context, data map[string][]byte, proxy *source.Proxy) (string, error) {
	app, err := githubAppFrom(data)
	if err != nil {
		return "", err
	}
	return a.tokens.get(ctx, app, proxy)
}

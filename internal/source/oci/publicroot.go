package oci

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"

	"github.com/cleat-dev/cleat/internal/source"
)

// rootLife is for how long the trusted root of the public Sigstore instance is used before it is fetched anew.
const rootLife = 24 * time.Hour

// publicGood fetches what the public Sigstore instance is known by. Its integrity comes from TUF, whose root is compiled in.
type publicGood struct {
	network source.Network
	now     func() time.Time
	running *source.Running
	answers shared[struct{}, root.TrustedMaterial]
}

func (p *publicGood) root(ctx context.Context) (root.TrustedMaterial, error) {
	now := p.now()
	return p.answers.do(ctx, struct{}{}, now.Add(-rootLife), now, func() (root.TrustedMaterial, error) {
		transport, err := p.network.Transport(source.TLS{}, nil)
		if err != nil {
			return nil, err
		}
		defer transport.CloseIdleConnections()
		fetch := fetcher.NewDefaultFetcher()
		fetch.SetHTTPClient(&http.Client{Transport: &lasting{ctx, &bounded{transport, maxAnswer}}})
		options := tuf.DefaultOptions().WithDisableLocalCache().WithContext(ctx).WithFetcher(fetch)
		material, err := source.Detached(ctx, p.running, func() (root.TrustedMaterial, error) {
			return root.FetchTrustedRootWithOptions(options)
		}, func(root.TrustedMaterial) {})
		if err != nil {
			return nil, fmt.Errorf("fetching the trusted root of the public Sigstore instance: %w; "+
				"where it cannot be reached, give one by spec.verify.trustedRootSecretRef", source.Steady(err))
		}
		return material, nil
	})
}

// lasting ends requests with a context that the library does not pass on.
type lasting struct {
	ctx  context.Context
	next http.RoundTripper
}

func (l *lasting) RoundTrip(req *http.Request) (*http.Response, error) {
	return l.next.RoundTrip(req.WithContext(l.ctx))
}

package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"

	"github.com/cleat-dev/cleat/internal/kube"
)

// bound is the transport of a user for one operation: Helm makes requests without a context, and they are to end with the
// operation all the same. It owns nothing; the transport under it is the one that all share (faults.md F21).
type bound struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := b.ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(b.ctx, func() { cancel(b.ctx.Err()) })
	end := func() { stop(); cancel(nil) }
	res, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end()
		if ended := b.ctx.Err(); ended != nil {
			return nil, ended
		}
		return nil, err
	}
	res.Body = &ending{ReadCloser: res.Body, end: sync.OnceFunc(end)}
	return res, nil
}

// WrappedRoundTripper is how client-go finds the transport inside.
func (b bound) WrappedRoundTripper() http.RoundTripper { return b.next }

// ending lets go of the operation's context with the answer's body.
type ending struct {
	io.ReadCloser
	end func()
}

func (e *ending) Close() error {
	defer e.end()
	return e.ReadCloser.Close()
}

// boundConfig returns how to reach the cluster as user, for whoever wants to make a client of its own: with a transport in it
// instead of what one is made of, so that it makes none, and cannot act as anybody else.
func boundConfig(ctx context.Context, user *kube.User) (*rest.Config, error) {
	at, _, err := rest.DefaultServerUrlFor(user.Config)
	if err != nil {
		return nil, fmt.Errorf("finding the API server: %w", err)
	}
	return &rest.Config{
		Host:           strings.TrimSuffix(at.String(), "/"),
		Transport:      bound{ctx: ctx, next: user.HTTP.Transport},
		Timeout:        user.HTTP.Timeout,
		UserAgent:      user.Config.UserAgent,
		QPS:            -1, // API priority and fairness decides; see kube.Connect
		WarningHandler: rest.NoWarnings{},
	}, nil
}

// restClient returns what Helm's own code reads objects of one group version with.
func (c *Client) restClient(gv schema.GroupVersion) (*rest.RESTClient, error) {
	config := rest.CopyConfig(c.config)
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.ContentConfig = resource.UnstructuredPlusDefaultContentConfig()
	config.GroupVersion = &gv
	client, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", gv, err)
	}
	return client, nil
}

package client

import (
	"context"
	"errors"
	"fmt"

	openapi "github.com/google/gnostic-models/openapiv2"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/cleat-dev/cleat/internal/kube"
)

// Getter is what the SDK makes clients of its own with, should it want to: action.Configuration.RESTClientGetter.
type Getter struct{ client *Client }

// Getter returns a RESTClientGetter whose clients act as the operation's identity, over its connections, and end with it.
func (c *Client) Getter() Getter { return Getter{c} }

// ToRESTConfig returns a config that a client can be made of without a new transport.
func (g Getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.client.config), nil }

// ToRESTMapper returns the mapper that all share.
func (g Getter) ToRESTMapper() (meta.RESTMapper, error) { return g.client.cluster.Mapper, nil }

// ToDiscoveryClient returns a client that asks each time. It is not asked as long as action.Configuration has Capabilities.
func (g Getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(g.client.config, g.client.http)
	if err != nil {
		return nil, fmt.Errorf("making a discovery client: %w", err)
	}
	return &uncached{d}, nil
}

// errNoSchema is the answer to whoever wants the whole schema of a cluster: several MiB for each release (faults.md F21).
var errNoSchema = errors.New("the schema is not downloaded: the API server validates")

// uncached is a discovery client without a cache and without schemas.
type uncached struct{ *discovery.DiscoveryClient }

func (*uncached) Fresh() bool { return true }

func (*uncached) Invalidate() {}

func (*uncached) OpenAPISchema() (*openapi.Document, error) { return nil, errNoSchema }

// Capabilities returns what charts may ask about the cluster: its version, and the API versions and kinds that it serves, as
// Helm's discovery has it. The lists are shared by all operations and must not be modified; they are as fresh as the cluster.
func Capabilities(ctx context.Context, cluster *kube.Cluster) (*chartutil.Capabilities, error) {
	v, err := cluster.Versions(ctx)
	if err != nil {
		return nil, err
	}
	return &chartutil.Capabilities{
		KubeVersion: chartutil.KubeVersion{Version: v.Server.GitVersion, Major: v.Server.Major, Minor: v.Server.Minor},
		APIVersions: v.Served[:len(v.Served):len(v.Served)],
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}, nil
}

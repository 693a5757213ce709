package client

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

var (
	_ helmkube.Interface                    = (*Client)(nil)
	_ helmkube.InterfaceExt                 = (*Client)(nil)
	_ helmkube.InterfaceThreeWayMerge       = (*Client)(nil)
	_ helmkube.InterfaceLogs                = (*Client)(nil)
	_ helmkube.InterfaceDeletionPropagation = (*Client)(nil)
)

// ApplyMethod says how objects are written, in the words of Helm's storage.
type ApplyMethod string

const (
	// ServerSide is server-side apply, which takes over what other field managers own.
	ServerSide ApplyMethod = "ssa"
	// ClientSide creates, and patches by what the last manifest, the live object and the new manifest say.
	ClientSide ApplyMethod = "csa"
)

// WaitStrategy says what is waited for.
type WaitStrategy string

const (
	// Poller waits until all objects are healthy by kstatus or by expressions, and fails early. The name is Flux's; nothing
	// is polled.
	Poller WaitStrategy = "poller"
	// Legacy waits for the kinds that Helm 3 knows, and for Jobs alone fails early.
	Legacy WaitStrategy = "legacy"
)

// Options says what an operation is about.
type Options struct {
	// Owner is the HelmRelease.
	Owner types.NamespacedName
	// Release is the release that it makes: its name, and the namespace of objects that name none.
	Release types.NamespacedName
	Method  ApplyMethod
	Wait    WaitStrategy
	// Judge has the expressions of the HelmRelease; nil when there are none. It is for the Poller only.
	Judge *health.Judge
	// SkipValidation lets fields pass that the schema of a kind does not know, where the API server can.
	SkipValidation bool
	// DropUnserved has Build leave out objects whose kind the API server says it does not have: for what is to be deleted, it is
	// gone already.
	DropUnserved bool
	// Parked, unless nil, is called when the operation begins to wait; what it returns, when that ends. In between nobody has to
	// stand by.
	Parked func() (resumed func())
	// Log, unless nil, gets what Helm would have logged.
	Log func(format string, args ...any)
}

// Client is Helm's access to a cluster for the length of one operation. Its methods return the error of the operation's context
// as soon as that has ended. It may be used by many goroutines, as Helm does.
type Client struct {
	ctx     context.Context // Helm's interfaces have none; see New
	cluster *kube.Cluster
	user    *kube.User
	options Options
	config  *rest.Config // of the user, with the transport bound to ctx
	http    *http.Client

	mu sync.Mutex
	// left are the versions at which this operation left objects; a wait is about nothing older.
	left map[object.Key]string
	// deleted are the UIDs of what this operation has deleted; empty for what was not there, or not this release's.
	deleted map[object.Key]types.UID
}

// New returns the Client of one operation, which ends with ctx, on a cluster of HelmReleases, as user. It makes no request and
// holds nothing that has to be closed.
func New(ctx context.Context, cluster *kube.Cluster, user *kube.User, options Options) (*Client, error) {
	if options.Log == nil {
		options.Log = func(string, ...any) {}
	}
	if options.Parked == nil {
		options.Parked = func() func() { return func() {} }
	}
	switch options.Method {
	case ServerSide, ClientSide:
	default:
		return nil, fmt.Errorf("unknown apply method %q", options.Method)
	}
	switch options.Wait {
	case Poller, Legacy:
	default:
		return nil, fmt.Errorf("unknown wait strategy %q", options.Wait)
	}
	c := &Client{
		ctx: ctx, cluster: cluster, user: user, options: options,
		left: make(map[object.Key]string), deleted: make(map[object.Key]types.UID),
	}
	var err error
	if c.config, err = boundConfig(ctx, user); err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: c.config.Transport, Timeout: user.HTTP.Timeout}
	return c, nil
}

// requestTimeout bounds one request. The API server gives up after a minute by itself, if it is there to do so.
const requestTimeout = 70 * time.Second

// request returns the context of one request of the operation.
func (c *Client) request() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, requestTimeout)
}

// IsReachable is nil unless the operation has ended. Helm asks before each action, and whoever made the cluster has seen it
// answer; if it does not now, the first thing that is done will say so in better words.
func (c *Client) IsReachable() error { return c.ctx.Err() }

// validation is how the API server treats fields that it does not know.
func (c *Client) validation() string {
	if c.options.SkipValidation {
		return metav1.FieldValidationIgnore
	}
	return metav1.FieldValidationStrict
}

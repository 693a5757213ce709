package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/object"
)

// Options says how to treat a cluster.
type Options struct {
	// Owner is the kind of owner whose objects are applied and observed: Kustomizations when zero.
	Owner Owner
	// Namespace is the one that the agent runs in. It is never pruned.
	Namespace string
	// Self are other objects by which the agent runs: its ServiceAccount, its Deployment, its rights. They are never pruned.
	Self []object.Ref
	// Concurrency is how many dry-runs of one Apply are under way at a time, 4 when zero.
	Concurrency int
	// OverrideManagers are field managers whose fields an apply takes over, besides kubectl's (--override-manager).
	OverrideManagers []string
	Log              *slog.Logger
}

// Cluster is one API server as one kind of owner uses it: the one the agent runs on, or the one a kubeConfig names. It is safe
// for concurrent use.
type Cluster struct {
	Observer *Observer
	Mapper   *Mapper

	options Options
	server  *server

	mu       sync.Mutex
	appliers map[string]*Applier
}

// server is an API server and how it is reached. All kinds of owners share it.
type server struct {
	config     *rest.Config
	httpClient *http.Client
	watcher    dynamic.Interface
	mapper     *Mapper

	mu       sync.Mutex
	users    map[string]*User
	answered time.Time // when the API server was last seen to answer; see answers
}

// User is somebody to act as on an API server. It is made once, and whatever acts as that user shares it: with a transport
// made for each action, memory would grow with every reconcile (faults.md F21).
type User struct {
	// Name is `system:serviceaccount:ns:name`; empty for the agent itself.
	Name string
	// Config is for libraries that ask for one. HTTP is the transport that belongs to it. Neither may be modified.
	Config *rest.Config
	HTTP   *http.Client
	// Client has no cache. It knows no Go types: objects are unstructured, or PartialObjectMetadata.
	Client client.Client
}

// Connect prepares a Cluster; it makes no request. Close it to end its watches.
//
// The client's own rate limit is off unless config sets one: API priority and fairness is what decides about the share of
// an API server that an agent gets, and it sees the whole.
func Connect(config *rest.Config, options Options) (*Cluster, error) {
	config = rest.CopyConfig(config)
	if config.QPS == 0 {
		config.QPS = -1
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making an HTTP client: %w", err)
	}
	mapper, err := newMapper(config, httpClient)
	if err != nil {
		return nil, err
	}
	watcher, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a client for watches: %w", err)
	}
	return newCluster(&server{
		config: config, httpClient: httpClient, watcher: watcher, mapper: mapper, users: make(map[string]*User),
	}, options), nil
}

func newCluster(s *server, options Options) *Cluster {
	if options.Owner == (Owner{}) {
		options.Owner = Kustomizations()
	}
	if options.Concurrency == 0 {
		options.Concurrency = 4
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{
		Observer: newObserver(options.Owner, s.watcher, s.mapper, options.Log),
		Mapper:   s.mapper,
		options:  options,
		server:   s,
		appliers: make(map[string]*Applier),
	}
	s.mapper.enter(c.Observer)
	return c
}

// For returns the same API server for another kind of owner: with the connections, users and discovery of this Cluster, and
// observations of its own. Both are to be closed.
func (c *Cluster) For(owner Owner) *Cluster {
	options := c.options
	options.Owner = owner
	return newCluster(c.server, options)
}

// User returns the given user, `system:serviceaccount:ns:name`, or the agent itself when the name is empty. It makes no request:
// before anything is done as a ServiceAccount, Exists has to have said that there is such a one.
func (c *Cluster) User(name string) (*User, error) { return c.server.user(name) }

func (s *server) user(name string) (*User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.users[name]; ok {
		return u, nil
	}
	u := &User{Name: name, Config: s.config, HTTP: s.httpClient}
	var err error
	if name != "" {
		u.Config = rest.CopyConfig(s.config)
		u.Config.Impersonate = rest.ImpersonationConfig{UserName: name}
		if u.HTTP, err = rest.HTTPClientFor(u.Config); err != nil {
			return nil, fmt.Errorf("making an HTTP client for %s: %w", name, err)
		}
	}
	u.Client, err = client.New(u.Config, client.Options{HTTPClient: u.HTTP, Scheme: runtime.NewScheme(), Mapper: s.mapper})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	s.users[name] = u
	return u, nil
}

// Applier returns the Applier that acts as the given user, `system:serviceaccount:ns:name`, or as the agent itself when
// user is empty. Each user has one: what one may apply says nothing about another.
func (c *Cluster) Applier(user string) (*Applier, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.appliers[user]; ok {
		return a, nil
	}
	u, err := c.server.user(user)
	if err != nil {
		return nil, err
	}
	a := &Applier{
		client:   u.Client, // without a cache: what is applied is compared with what is there, not with what was
		mapper:   c.Mapper,
		observer: c.Observer,
		options:  c.options,
		applied:  make(map[types.NamespacedName]memory),
	}
	c.appliers[user] = a
	return a, nil
}

// ErrIdentity means: there is nobody of that name to act as. Whoever was to be acted as, nobody else is instead.
var ErrIdentity = errors.New("cannot act as this ServiceAccount")

// Username returns the name by which a ServiceAccount is a user.
func Username(account types.NamespacedName) (string, error) {
	if reasons := validation.ValidateServiceAccountName(account.Name, false); len(reasons) > 0 {
		return "", fmt.Errorf("%w: %q is no name of a ServiceAccount: %s", ErrIdentity, account.Name, strings.Join(reasons, ", "))
	}
	return "system:serviceaccount:" + account.Namespace + ":" + account.Name, nil
}

// As returns the Applier that acts as a ServiceAccount. It makes no request: before anything is done as it, Exists has to
// have said that there is such a one.
func (c *Cluster) As(account types.NamespacedName) (*Applier, error) {
	user, err := Username(account)
	if err != nil {
		return nil, err
	}
	return c.Applier(user)
}

// Exists is an error unless a ServiceAccount is there: the API server lets anybody be acted as who was ever named in a
// RoleBinding, and a ServiceAccount that was deleted has to have lost its rights (faults.md A21).
func (c *Cluster) Exists(ctx context.Context, account types.NamespacedName) error {
	self, err := c.server.user("")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found := &metav1.PartialObjectMetadata{}
	found.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	switch err := self.Client.Get(ctx, account, found); {
	case apierrors.IsNotFound(err) && !kindGone(err):
		return fmt.Errorf("%w: ServiceAccount/%s does not exist", ErrIdentity, account)
	case err != nil:
		return fmt.Errorf("looking for ServiceAccount/%s: %w", account, err)
	case found.DeletionTimestamp != nil:
		return fmt.Errorf("%w: ServiceAccount/%s is being deleted", ErrIdentity, account)
	}
	return nil
}

// ask has the API server answer anything.
func (s *server) ask(ctx context.Context) error {
	at, _, err := rest.DefaultServerUrlFor(s.config)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.JoinPath("version").String(), nil)
	if err != nil {
		return err
	}
	res, err := s.httpClient.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Forget drops all that is kept for an owner, who is gone: what it needs to see, and what was applied for it.
func (c *Cluster) Forget(owner types.NamespacedName) {
	c.Observer.Forget(owner)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.appliers {
		a.forget(owner)
	}
}

// Close ends every watch and returns when the last of its goroutines has.
func (c *Cluster) Close() {
	c.server.mapper.leave(c.Observer)
	c.Observer.Close()
}

package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// RemoteOptions says how the clusters of kubeConfigs are reached.
type RemoteOptions struct {
	// Secrets reads Secrets, ConfigMaps and ServiceAccounts on the agent's own cluster, past any cache.
	Secrets client.Client
	Policy  KubeconfigPolicy
	// Identity gets tokens for kubeConfigs that are ConfigMaps.
	Identity Identity
	// Dial makes every connection; what it refuses is not an address that a cluster has.
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	UserAgent string
	// Guard has the last word on how each is reached; nil has none.
	Guard func(*rest.Config) *rest.Config
	// Cluster is how each is treated.
	Cluster Options
}

// Clusters knows all the clusters that owners' objects are on: the one that the agent runs on, and one for each kubeConfig
// that an owner uses at the moment. Owners whose kubeConfigs are the same share one, with its watches. It is safe for
// concurrent use, for one owner at a time.
type Clusters struct {
	own     *Cluster
	options RemoteOptions
	closing sync.WaitGroup

	mu                sync.Mutex
	remotes           map[string]*remote
	used              map[types.NamespacedName]*remote
	subscribers       []func(types.NamespacedName)
	objectSubscribers []func(Moved)
}

// remote is the cluster of a kubeConfig.
type remote struct {
	*Cluster
	// digest identifies how it is reached, and with which credentials.
	digest string
	users  int
}

// NewClusters returns the clusters of an agent that runs on own.
func NewClusters(own *Cluster, options RemoteOptions) *Clusters {
	if options.Cluster.Log == nil {
		options.Cluster.Log = slog.New(slog.DiscardHandler)
	}
	return &Clusters{own: own, options: options, remotes: map[string]*remote{}, used: map[types.NamespacedName]*remote{}}
}

// Subscribe has changed called as Observer.Subscribe does, for all clusters.
func (c *Clusters) Subscribe(changed func(owner types.NamespacedName)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers = append(c.subscribers, changed)
	c.own.Observer.Subscribe(changed)
	for _, r := range c.remotes {
		r.Observer.Subscribe(changed)
	}
}

// Own returns the agent's own cluster.
func (c *Clusters) Own() *Cluster { return c.own }

// Local returns the agent's own cluster, which is the owner's from now on.
func (c *Clusters) Local(owner types.NamespacedName) *Cluster {
	c.leave(owner)
	return c.own
}

// Of returns the cluster that is the owner's now.
func (c *Clusters) Of(owner types.NamespacedName) *Cluster {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.used[owner]; r != nil {
		return r.Cluster
	}
	return c.own
}

// Forget drops all that is kept for an owner, who is gone.
func (c *Clusters) Forget(owner types.NamespacedName) {
	c.leave(owner)
	c.own.Forget(owner)
}

// Remote returns the cluster of a kubeConfig in the owner's namespace, which is the owner's from now on. Before it is handed
// out it has answered, lately: whoever gets it does not spend a worker on a cluster that is not there.
//
// The error is a NotFound when the Secret or ConfigMap is not there, ErrKubeconfig when what it holds cannot be used, and
// ErrUnreachable when nobody answers. The cluster that the owner had is then left to it, unless only the answer is missing:
// the new one is the owner's then, and is asked again the next time.
func (c *Clusters) Remote(ctx context.Context, owner types.NamespacedName, ref meta.KubeConfigReference) (*Cluster, error) {
	described, err := c.describe(ctx, owner.Namespace, ref)
	if err != nil {
		return nil, err
	}
	r := c.find(owner, described.digest)
	if r == nil {
		config, err := described.config(ctx)
		if err != nil {
			return nil, err
		}
		made, err := c.connect(config)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKubeconfig, err)
		}
		r = c.add(owner, &remote{Cluster: made, digest: described.digest})
	}
	if err := r.server.answers(ctx); err != nil {
		return nil, err
	}
	return r.Cluster, nil
}

// description is how a cluster is reached: a digest of it all, and the configuration, which may take requests to make.
type description struct {
	digest string
	config func(context.Context) (*rest.Config, error)
}

func (c *Clusters) describe(ctx context.Context, namespace string, ref meta.KubeConfigReference) (description, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	switch {
	case ref.SecretRef != nil:
		return c.describeSecret(ctx, namespace, *ref.SecretRef)
	case ref.ConfigMapRef != nil:
		return c.describeConfigMap(ctx, types.NamespacedName{Namespace: namespace, Name: ref.ConfigMapRef.Name})
	default:
		return description{}, fmt.Errorf("%w: it has neither a secretRef nor a configMapRef", ErrKubeconfig)
	}
}

// kubeconfigKeys are where a Secret holds its kubeconfig when the reference does not say.
var kubeconfigKeys = []string{"value", "value.yaml"}

func (c *Clusters) describeSecret(ctx context.Context, namespace string, ref meta.SecretKeyReference) (description, error) {
	secret := &corev1.Secret{}
	key := types.NamespacedName{Namespace: namespace, Name: ref.Name}
	if err := c.options.Secrets.Get(ctx, key, secret); err != nil {
		return description{}, fmt.Errorf("reading Secret/%s: %w", key, err)
	}
	keys := kubeconfigKeys
	if ref.Key != "" {
		keys = []string{ref.Key}
	}
	for _, name := range keys {
		data, ok := secret.Data[name]
		if !ok {
			continue
		}
		return description{digest: digestOf("kubeconfig", data), config: func(context.Context) (*rest.Config, error) {
			config, err := ParseKubeconfig(data, c.options.Policy)
			if err != nil {
				return nil, fmt.Errorf("key %q of Secret/%s: %w", name, key, err)
			}
			return config, nil
		}}, nil
	}
	return description{}, fmt.Errorf("%w: Secret/%s has no key %q", ErrKubeconfig, key, keys[0])
}

func (c *Clusters) describeConfigMap(ctx context.Context, key types.NamespacedName) (description, error) {
	configMap := &corev1.ConfigMap{}
	if err := c.options.Secrets.Get(ctx, key, configMap); err != nil {
		return description{}, fmt.Errorf("reading ConfigMap/%s: %w", key, err)
	}
	data, err := json.Marshal(configMap.Data)
	if err != nil {
		return description{}, fmt.Errorf("encoding ConfigMap/%s: %w", key, err)
	}
	// The namespace is part of it: the token is that of a ServiceAccount there.
	return description{digest: digestOf("configmap "+key.Namespace, data), config: func(ctx context.Context) (*rest.Config, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		config, err := c.options.Identity.config(ctx, c.options.Secrets, configMap)
		if err != nil {
			return nil, fmt.Errorf("ConfigMap/%s: %w", key, err)
		}
		return config, nil
	}}, nil
}

func digestOf(what string, data []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00", what)
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}

// connect makes a cluster of a configuration. It makes no request.
func (c *Clusters) connect(config *rest.Config) (*Cluster, error) {
	config.UserAgent = c.options.UserAgent
	config.Dial = c.options.Dial
	if c.options.Guard != nil {
		config = c.options.Guard(config)
	}
	options := c.options.Cluster
	options.Log = options.Log.With("cluster", config.Host)
	return Connect(config, options)
}

// find makes the cluster of that digest the owner's, if there is one.
func (c *Clusters) find(owner types.NamespacedName, digest string) *remote {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[digest]
	if r != nil {
		c.use(owner, r)
	}
	return r
}

// add makes a new cluster the owner's, or the one that another owner has added meanwhile.
func (c *Clusters) add(owner types.NamespacedName, r *remote) *remote {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.remotes[r.digest]; other != nil {
		c.close(r)
		r = other
	} else {
		c.remotes[r.digest] = r
		for _, changed := range c.subscribers {
			r.Observer.Subscribe(changed)
		}
		for _, changed := range c.objectSubscribers {
			r.Observer.SubscribeObjects(changed)
		}
	}
	c.use(owner, r)
	return r
}

// use moves an owner to a cluster. The caller holds the lock.
func (c *Clusters) use(owner types.NamespacedName, r *remote) {
	before := c.used[owner]
	if before == r {
		return
	}
	r.users++
	c.used[owner] = r
	c.own.Forget(owner)
	c.release(owner, before)
}

func (c *Clusters) leave(owner types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.used[owner]
	delete(c.used, owner)
	c.release(owner, before)
}

// release takes a user off a cluster and ends it with the last. The caller holds the lock.
func (c *Clusters) release(owner types.NamespacedName, r *remote) {
	if r == nil {
		return
	}
	r.Forget(owner)
	if r.users--; r.users > 0 {
		return
	}
	delete(c.remotes, r.digest)
	c.close(r)
}

// close ends a cluster's watches without holding up the caller.
func (c *Clusters) close(r *remote) { c.closing.Go(r.Close) }

// Close ends all clusters but the agent's own, and returns when they have ended.
func (c *Clusters) Close() {
	c.mu.Lock()
	for digest, r := range c.remotes {
		delete(c.remotes, digest)
		c.close(r)
	}
	c.mu.Unlock()
	c.closing.Wait()
}

// Remotes returns how many clusters of kubeConfigs are in use.
func (c *Clusters) Remotes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.remotes)
}

const (
	// answerTimeout is how long a cluster may take to answer the least of all questions.
	answerTimeout = 10 * time.Second
	// answerLasts is how long an answer stands for the next ones.
	answerLasts = time.Minute
)

// answers says whether the API server answers at all; what it says does not matter.
func (s *server) answers(ctx context.Context) error {
	s.mu.Lock()
	lately := time.Since(s.answered) < answerLasts
	s.mu.Unlock()
	if lately {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("it does not answer in time"))
	defer cancel()
	if err := s.ask(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, s.config.Host, connection(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = time.Now()
	return nil
}

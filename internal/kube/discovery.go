package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// ErrNotServed says that the API server has no such kind now. It is only said when the server itself said so: a group
// whose discovery fails is another error (faults.md F47).
var ErrNotServed = errors.New("the API server does not serve this kind")

// Mapper finds the resource of a kind by discovery, on demand. All clients of a Cluster share one. It asks the server
// again about a kind that it does not know; one that was known and is gone stays known until Reset.
type Mapper struct {
	config     *rest.Config
	httpClient *http.Client
	discovery  *discovery.DiscoveryClient

	mu      sync.RWMutex
	current meta.RESTMapper
	// observers have watches that wait for kinds to be served.
	observers map[*Observer]struct{}
}

func newMapper(config *rest.Config, httpClient *http.Client) (*Mapper, error) {
	d, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a discovery client: %w", err)
	}
	m := &Mapper{config: config, httpClient: httpClient, discovery: d, observers: make(map[*Observer]struct{})}
	m.current, err = apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a REST mapper: %w", err)
	}
	return m, nil
}

// Reset forgets all that was discovered.
func (m *Mapper) Reset() {
	fresh, err := apiutil.NewDynamicRESTMapper(m.config, m.httpClient)
	if err != nil {
		return // The same arguments made one before; keep that rather than have none.
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current = fresh
}

// enter has an Observer told of new kinds; leave ends that.
func (m *Mapper) enter(o *Observer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.observers[o] = struct{}{}
}

func (m *Mapper) leave(o *Observer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.observers, o)
}

// rediscover has every watch of a kind that was not served look again at once, whoever has made it be served.
func (m *Mapper) rediscover() {
	m.mu.RLock()
	observers := slices.Collect(maps.Keys(m.observers))
	m.mu.RUnlock()
	for _, o := range observers {
		o.rediscover()
	}
}

func (m *Mapper) get() meta.RESTMapper {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.current
}

func (m *Mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return m.get().KindFor(r)
}

func (m *Mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return m.get().KindsFor(r)
}

func (m *Mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return m.get().ResourceFor(r)
}

func (m *Mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return m.get().ResourcesFor(r)
}

func (m *Mapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return m.get().RESTMapping(gk, versions...)
}

func (m *Mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.get().RESTMappings(gk, versions...)
}

func (m *Mapper) ResourceSingularizer(resource string) (string, error) {
	return m.get().ResourceSingularizer(resource)
}

// Served returns a version at which the API server has the kind now, the given one if it can be. The error is
// ErrNotServed only after the server has said, for every version of the group, that the kind is not there.
//
// The version's own page is asked for first. A server that is still starting answers it with 503 until every kind is
// installed, whereas its list of groups is served, incomplete, before that.
func (m *Mapper) Served(ctx context.Context, gk schema.GroupKind, version string) (string, error) {
	if version != "" {
		if ok, err := m.has(ctx, gk, version); err != nil || ok {
			return version, err
		}
	}
	groups, err := m.discovery.ServerGroupsWithContext(ctx)
	if err != nil {
		return "", fmt.Errorf("listing API groups: %w", err)
	}
	for _, group := range groups.Groups {
		if group.Name != gk.Group {
			continue
		}
		for _, v := range group.Versions {
			if v.Version == version {
				continue
			}
			if ok, err := m.has(ctx, gk, v.Version); err != nil || ok {
				return v.Version, err
			}
		}
	}
	return "", fmt.Errorf("%s: %w", gk, ErrNotServed)
}

func (m *Mapper) has(ctx context.Context, gk schema.GroupKind, version string) (bool, error) {
	gv := schema.GroupVersion{Group: gk.Group, Version: version}
	list, err := m.discovery.ServerResourcesForGroupVersionWithContext(ctx, gv.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("discovering %s: %w", gv, err)
	}
	for _, r := range list.APIResources {
		if r.Kind == gk.Kind {
			return true, nil
		}
	}
	return false, nil
}

// mapping finds the resource of a kind at the given version, or at the preferred one if that version is served no more.
// An error that is ErrNotServed is the server's word.
func (m *Mapper) mapping(ctx context.Context, gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	mapping, err := m.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err == nil {
		return mapping, nil
	}
	version, served := m.Served(ctx, gvk.GroupKind(), gvk.Version)
	if served != nil {
		return nil, served
	}
	return m.RESTMapping(gvk.GroupKind(), version)
}

// kindGone says whether a 404 speaks of the kind and not of one object: it is then not the API's own answer but that
// of a path which leads nowhere.
func kindGone(err error) bool {
	return apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) && apierrors.IsUnexpectedServerError(err)
}

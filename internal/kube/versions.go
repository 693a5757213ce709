package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// Versions is what an API server is and serves. It may not be modified: all who ask share it.
type Versions struct {
	Server version.Info
	// Served are group versions, and the kinds in them: `v1`, `apps/v1`, `apps/v1/Deployment`; sorted.
	Served []string
	// Failing are the group versions of aggregated API servers that do not answer. Their kinds are as they were last known, if at
	// all (faults.md F47).
	Failing []string
}

const (
	// maxDiscovery bounds one page of discovery, in bytes. A thousand CRDs take about 2 MiB.
	maxDiscovery = 64 << 20
	// versionsLast is how long Versions are good where the API server cannot say whether they have changed.
	versionsLast = time.Minute
)

// versions keeps what a server serves, once for all who ask.
type versions struct {
	// busy holds one token: who has it may use the rest. A mutex would hold up those whose operation has ended.
	busy  chan struct{}
	known *Versions
	at    time.Time
	// pages are the two pages of discovery, by path.
	pages map[string]page
}

// page is a page of discovery as its ETag names it.
type page struct {
	etag     string
	served   []string
	failing  []string
	modified bool
}

// Versions returns what the API server serves now. When that has not changed since somebody last asked, it costs two small
// requests, and no memory.
func (c *Cluster) Versions(ctx context.Context) (*Versions, error) {
	v, s := &c.server.versions, c.server
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	select {
	case v.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("discovering kinds: %w", ctx.Err())
	}
	defer func() { <-v.busy }()
	if v.pages == nil && v.known != nil && time.Since(v.at) < versionsLast {
		return v.known, nil
	}
	pages, modified := map[string]page{}, false
	for _, path := range []string{"api", "apis"} {
		p, err := s.discover(ctx, path, v.pages[path])
		if err != nil {
			return nil, fmt.Errorf("discovering kinds: %w", err)
		}
		if p.etag == "" { // an API server before 1.27, or a proxy that lets no ETag through
			return s.versionsOneByOne(ctx)
		}
		pages[path], modified = p, modified || p.modified
	}
	if !modified && v.known != nil {
		return v.known, nil
	}
	return s.keepVersions(ctx, pages, slices.Concat(pages["api"].served, pages["apis"].served), slices.Concat(pages["api"].failing, pages["apis"].failing))
}

// keepVersions makes Versions of what was discovered. The caller has the token.
func (s *server) keepVersions(ctx context.Context, pages map[string]page, served, failing []string) (*Versions, error) {
	is, err := s.mapper.discovery.ServerVersionWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the server's version: %w", err)
	}
	slices.Sort(served)
	slices.Sort(failing)
	s.versions.known = &Versions{Server: *is, Served: slices.Compact(served), Failing: slices.Compact(failing)}
	s.versions.pages, s.versions.at = pages, time.Now()
	return s.versions.known, nil
}

// discover reads a page of aggregated discovery unless it is as known.
func (s *server) discover(ctx context.Context, path string, known page) (page, error) {
	at, _, err := rest.DefaultServerUrlFor(s.config)
	if err != nil {
		return page{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.JoinPath(path).String(), nil)
	if err != nil {
		return page{}, err
	}
	req.Header.Set("Accept", discovery.AcceptV2)
	if known.etag != "" {
		req.Header.Set("If-None-Match", known.etag)
	}
	res, err := s.httpClient.Do(req)
	if err != nil {
		return page{}, connection(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotModified:
		known.modified = false
		return known, nil
	case res.StatusCode != http.StatusOK, !strings.Contains(res.Header.Get("Content-Type"), "APIGroupDiscoveryList"):
		return page{}, nil // It is asked the old way, which says what is wrong.
	}
	var list apidiscovery.APIGroupDiscoveryList
	if err := json.NewDecoder(io.LimitReader(res.Body, maxDiscovery)).Decode(&list); err != nil {
		return page{}, fmt.Errorf("reading /%s: %w", path, err)
	}
	read := page{etag: res.Header.Get("ETag"), modified: true, failing: refresh(&list)}
	groups, resources, _ := discovery.SplitGroupsAndResources(list)
	for i := range groups.Groups {
		read.served = append(read.served, versionsOf(&groups.Groups[i])...)
	}
	for _, resource := range resources {
		read.served = append(read.served, kindsIn(resource)...)
	}
	return read, nil
}

// refresh has the kinds of a server that is away count as they were last, and returns its group versions. A chart that asks for
// them would otherwise drop what it has made with them.
func refresh(list *apidiscovery.APIGroupDiscoveryList) (stale []string) {
	for i := range list.Items {
		group := &list.Items[i]
		for j := range group.Versions {
			v := &group.Versions[j]
			if v.Freshness == apidiscovery.DiscoveryFreshnessStale {
				stale = append(stale, schema.GroupVersion{Group: group.Name, Version: v.Version}.String())
				v.Freshness = apidiscovery.DiscoveryFreshnessCurrent
			}
		}
	}
	return stale
}

// versionsOneByOne asks an API server that cannot say all at once.
func (s *server) versionsOneByOne(ctx context.Context) (*Versions, error) {
	groups, resources, err := s.mapper.discovery.ServerGroupsAndResourcesWithContext(ctx)
	failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		return nil, fmt.Errorf("discovering kinds: %w", err)
	}
	var served []string
	for _, group := range groups {
		served = append(served, versionsOf(group)...)
	}
	for _, resource := range resources {
		served = append(served, kindsIn(resource)...)
	}
	return s.keepVersions(ctx, nil, served, names(failed))
}

func versionsOf(group *metav1.APIGroup) []string {
	var out []string
	for _, v := range group.Versions {
		out = append(out, v.GroupVersion)
	}
	return out
}

func kindsIn(list *metav1.APIResourceList) []string {
	var out []string
	for _, r := range list.APIResources {
		out = append(out, list.GroupVersion+"/"+r.Kind)
	}
	return out
}

func names(failed map[schema.GroupVersion]error) []string {
	var out []string
	for gv := range maps.Keys(failed) {
		out = append(out, gv.String())
	}
	return out
}

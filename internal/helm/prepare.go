package helm

import (
	"context"
	"errors"
	"fmt"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/render"
	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// prepared is what an install or an upgrade hands to the SDK.
type prepared struct {
	*render.Result
	config *action.Configuration
}

// rendering is what a release is rendered for.
type rendering struct {
	version    int // of the release, for templates
	install    bool
	skipSchema bool
	previous   *render.Previous
}

// prepare renders the chart and brings its CustomResourceDefinitions into the cluster. That the release will have room in the
// storage is found out before anything is changed (faults.md F15).
func (j *job) prepare(method storage.Method, what rendering, policy v2.CRDsPolicy, timeout time.Duration) (*prepared, error) {
	crds, err := j.crds(policy)
	if err != nil {
		return nil, err
	}
	made, err := j.render(method, what)
	if len(crds) == 0 || isTooLarge(err) {
		return made, err
	}
	// An error may be that of a template which asks for a kind that the chart is about to bring.
	changed, failed := j.applyCRDs(method, crds, policy, timeout)
	switch {
	case failed != nil:
		return nil, failed
	case !changed:
		return made, err
	}
	return j.render(method, what)
}

func isTooLarge(err error) bool {
	var large *storage.TooLargeError
	return errors.As(err, &large)
}

// render renders the chart for a release, and checks that it can be stored.
func (j *job) render(method storage.Method, what rendering) (*prepared, error) {
	capabilities, err := client.Capabilities(j.ctx, j.cluster)
	if err != nil {
		return nil, fmt.Errorf("asking the cluster what it serves: %w", err)
	}
	result, err := j.renderer.Render(j.ctx, render.Request{
		Chart: j.chart, Values: charts.CopyValues(j.values), Previous: what.previous,
		Release: chartutil.ReleaseOptions{
			Name: j.target.Name, Namespace: j.target.Namespace, Revision: what.version, IsInstall: what.install, IsUpgrade: !what.install,
		},
		Capabilities: capabilities, Lookup: j.lookup, AllowDNS: j.options.AllowDNSLookups, SkipSchemaValidation: what.skipSchema,
		Post: render.PostRender{
			Owner:          types.NamespacedName{Namespace: j.hr.Namespace, Name: j.hr.Name},
			CommonMetadata: j.hr.Spec.CommonMetadata, Kustomize: j.hr.Spec.PostRenderers, Strategy: j.postRenderStrategy(),
		},
	})
	if err != nil {
		return nil, err
	}
	made := &prepared{Result: result}
	if made.config, err = j.configure(method, result.Literal, result.Stored); err != nil {
		return nil, err
	}
	dropped, err := made.config.Releases.Driver.(*ledger).Check(j.expected(made))
	if err != nil {
		return nil, err
	}
	if len(dropped) > 0 {
		j.logs.printf("the release would not fit into its Secret with these files of the chart, which no template uses: %v", dropped)
	}
	return made, nil
}

// expected is the release that will be stored, as far as its size goes.
func (j *job) expected(made *prepared) *helmrelease.Release {
	version := 1
	if j.newest != nil {
		version = j.newest.Version + 1
	}
	return &helmrelease.Release{
		Name: j.target.Name, Namespace: j.target.Namespace, Version: version, Chart: made.Literal, Config: made.Values,
		Manifest: made.Manifest, Hooks: made.Hooks, Info: &helmrelease.Info{Status: helmrelease.StatusPendingInstall, Notes: made.Notes},
	}
}

// lookup reads the cluster for templates, with the rights of whom the release acts as (faults.md A15).
func (j *job) lookup(ctx context.Context, apiVersion, kind, namespace, name string) (map[string]any, error) {
	return client.Lookup(ctx, j.user, apiVersion, kind, namespace, name)
}

func (j *job) postRenderStrategy() v2.PostRenderStrategy {
	if j.hr.Spec.PostRenderStrategy == "" && j.options.UseHelm3Defaults {
		return v2.PostRenderStrategyNoHooks
	}
	return j.hr.Spec.PostRenderStrategy
}

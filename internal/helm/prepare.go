package helm

import (
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// rendering is what a release is rendered for.
type rendering struct {
	revision int
	install  bool
	values   map[string]any
	// defaults take the place of the chart's values, unless nil.
	defaults map[string]any
}

// prepared is what an install or an upgrade hands to the SDK.
type prepared struct {
	config *action.Configuration
	// literal is the chart whose templates are what was rendered.
	literal *chart.Chart
	values  map[string]any
}

// prepare renders the chart and brings its CustomResourceDefinitions into the cluster. That the release will have room in the
// storage is found out before anything is changed (faults.md F15).
func (j *job) prepare(method storage.Method, what rendering, policy client.CRDPolicy, timeout time.Duration) (*prepared, error) {
	original, values, err := j.processed(what)
	if err != nil {
		return nil, err
	}
	crds, err := charts.CRDs(original)
	if err != nil {
		return nil, err
	}
	if policy == "" {
		policy = client.CreateCRDs
	}
	made, err := j.render(method, original, values, what)
	if len(crds) == 0 || policy == client.SkipCRDs || isTooLarge(err) {
		return made, err
	}
	changed, failed := j.applyCRDs(method, crds, policy, timeout)
	switch {
	case failed != nil:
		return nil, failed
	case !changed:
		return made, err
	}
	return j.render(method, original, values, what) // a template may ask whether the kinds are there
}

func isTooLarge(err error) bool {
	var large *storage.TooLargeError
	return errors.As(err, &large)
}

// applyCRDs says whether it has changed any.
func (j *job) applyCRDs(method storage.Method, crds []charts.CRD, policy client.CRDPolicy, timeout time.Duration) (changed bool, err error) {
	access, err := j.client(method)
	if err != nil {
		return false, err
	}
	objects := make([]*unstructured.Unstructured, 0, len(crds))
	for _, crd := range crds {
		objects = append(objects, crd.Object)
	}
	changes, err := access.ApplyCRDs(objects, policy, timeout)
	if err != nil {
		return false, access.note(fmt.Errorf("failed to apply CustomResourceDefinitions: %w", err))
	}
	return len(changes) > 0, nil
}

// processed returns a copy of the chart with its dependencies processed for the values, and the values. Neither is shared.
func (j *job) processed(what rendering) (*chart.Chart, map[string]any, error) {
	c, values := j.chart.Copy(), charts.CopyValues(what.values)
	if values == nil {
		values = map[string]any{}
	}
	if what.defaults != nil {
		c.Values = what.defaults
	}
	if err := chartutil.ProcessDependenciesWithMerge(c, values); err != nil {
		return nil, nil, fmt.Errorf("processing the dependencies of the chart: %w", err)
	}
	return c, values, nil
}

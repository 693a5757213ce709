package helm

import (
	"fmt"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/helm/charts"
	"github.com/cleat-dev/cleat/internal/helm/client"
	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// crds returns the CustomResourceDefinitions that the chart, and those of its dependencies that the values enable, bring.
func (j *job) crds(policy v2.CRDsPolicy) ([]*unstructured.Unstructured, error) {
	all, err := j.chart.CRDs()
	if policy == v2.Skip || len(all) == 0 {
		return nil, err
	}
	copied, values := j.chart.Copy(), charts.CopyValues(j.values)
	if err := chartutil.ProcessDependenciesWithMerge(copied, values); err != nil {
		return nil, fmt.Errorf("processing the dependencies of the chart: %w", err)
	}
	enabled, err := charts.CRDs(copied)
	objects := make([]*unstructured.Unstructured, 0, len(enabled))
	for _, crd := range enabled {
		objects = append(objects, crd.Object.DeepCopy())
	}
	return objects, err
}

// applyCRDs says whether it has changed any. The default policy makes what is not there, on upgrades too: Flux does so, whatever
// its documentation says.
func (j *job) applyCRDs(method storage.Method, crds []*unstructured.Unstructured, policy v2.CRDsPolicy, timeout time.Duration) (changed bool, err error) {
	access, err := j.client(method)
	if err != nil {
		return false, err
	}
	if policy == "" {
		policy = v2.Create
	}
	changes, err := access.ApplyCRDs(crds, client.CRDPolicy(policy), timeout)
	if err != nil {
		return false, access.note(fmt.Errorf("failed to apply CustomResourceDefinitions: %w", err))
	}
	return len(changes) > 0, nil
}

package render

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
)

// install runs Helm's own action, which ends before anything reaches a cluster.
func install(q Request, c *chart.Chart, values map[string]any) (*release.Release, error) {
	a := action.NewInstall(&action.Configuration{
		Releases: storage.Init(driver.NewMemory()), KubeClient: &fake.PrintingKubeClient{Out: io.Discard},
		Capabilities: q.Capabilities, Log: func(string, ...any) {},
	})
	a.DryRun, a.ClientOnly, a.SkipCRDs, a.SkipSchemaValidation = true, true, true, q.SkipSchemaValidation
	a.ReleaseName, a.Namespace, a.IsUpgrade = q.Release.Name, q.Release.Namespace, q.Release.IsUpgrade
	return a.Run(c, values)
}

// sameInstalled holds what Helm's SDK makes of the literal chart against the result.
func sameInstalled(t *testing.T, q Request, result *Result) {
	t.Helper()
	q.SkipSchemaValidation = true
	got, err := install(q, result.Literal, result.Values)
	if err != nil {
		t.Fatalf("Helm refuses the literal chart: %v", err)
	}
	if diff := cmp.Diff(result.Manifest, got.Manifest); diff != "" {
		t.Errorf("the manifest of the literal chart:\n%s", diff)
	}
	if diff := cmp.Diff(result.Hooks, got.Hooks); diff != "" {
		t.Errorf("the hooks of the literal chart:\n%s", diff)
	}
	if diff := cmp.Diff(result.Notes, got.Info.Notes); diff != "" {
		t.Errorf("the notes of the literal chart:\n%s", diff)
	}
	if diff := cmp.Diff(chartutil.Values(q.Values), chartutil.Values(got.Config)); diff != "" && q.Previous == nil {
		t.Errorf("the config:\n%s", diff)
	}
}

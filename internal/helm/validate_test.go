package helm

import (
	"context"
	"errors"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/api"
)

func kubeConfig(secret string) *meta.KubeConfigReference {
	return &meta.KubeConfigReference{SecretRef: &meta.SecretKeyReference{Name: secret}}
}

// helmRelease returns demo/web with a spec.
func helmRelease(t *testing.T, spec string) *v2.HelmRelease {
	t.Helper()
	u := read(t, []byte("{apiVersion: helm.toolkit.fluxcd.io/v2, kind: HelmRelease, metadata: {name: web, namespace: demo, generation: 1}, spec: "+spec+"}"))[0]
	hr := &v2.HelmRelease{}
	if err := api.Decode(u.(*unstructured.Unstructured), hr); err != nil {
		t.Fatal(err)
	}
	return hr
}

// TestValidate: what is refused, by which reason, and that it waits for the spec to change.
func TestValidate(t *testing.T) {
	const chart = "chart: {spec: {chart: x, sourceRef: {kind: HelmRepository, name: r}}}"
	for name, tt := range map[string]struct{ spec, annotation, want string }{
		"all is well":           {spec: chart + `, releaseName: web, targetNamespace: a, storageNamespace: b, postRenderStrategy: separate, waitStrategy: {name: legacy}`},
		"no chart":              {want: "InvalidSpec: either spec.chart or spec.chartRef"},
		"two charts":            {spec: chart + `, chartRef: {kind: OCIRepository, name: x}`, want: "InvalidSpec: either spec.chart or spec.chartRef"},
		"no such source":        {spec: `chart: {spec: {chart: x, sourceRef: {kind: OCIRepository, name: r}}}`, want: `InvalidSpec: spec.chart.spec.sourceRef.kind is "OCIRepository", use`},
		"no such chartRef":      {spec: `chartRef: {kind: GitRepository, name: x}`, want: `InvalidSpec: spec.chartRef.kind is "GitRepository", use`},
		"release name":          {spec: chart + `, releaseName: Web`, want: `InvalidSpec: spec.releaseName: "Web"`},
		"long release name":     {spec: chart + `, releaseName: ` + strings.Repeat("a", 54), want: `InvalidSpec: spec.releaseName: "aaa`},
		"target namespace":      {spec: chart + `, targetNamespace: a/b`, want: `InvalidSpec: spec.targetNamespace: "a/b" is no name`},
		"storage namespace":     {spec: chart + `, storageNamespace: A`, want: `InvalidSpec: spec.storageNamespace: "A" is no name`},
		"post-render strategy":  {spec: chart + `, postRenderStrategy: twice`, want: "UnsupportedField: this version of the agent does not support spec.postRenderStrategy: twice; known are combined"},
		"wait strategy":         {spec: chart + `, waitStrategy: {name: never}`, want: "UnsupportedField: this version of the agent does not support spec.waitStrategy.name: never"},
		"remediation":           {spec: chart + `, upgrade: {remediation: {strategy: pray}}`, want: "UnsupportedField: this version of the agent does not support spec.upgrade.remediation.strategy: pray"},
		"strategy":              {spec: chart + `, install: {strategy: {name: Hope}}`, want: "UnsupportedField: this version of the agent does not support spec.install.strategy.name: Hope"},
		"propagation":           {spec: chart + `, uninstall: {deletionPropagation: none}`, want: "UnsupportedField: this version of the agent does not support spec.uninstall.deletionPropagation: none"},
		"ignored by nonsense":   {spec: chart + `, driftDetection: {ignore: [{paths: [/a], target: {name: "("}}]}`, want: "InvalidSpec: spec.driftDetection.ignore: "},
		"ready by nonsense":     {spec: chart + `, dependsOn: [{name: a, readyExpr: "dep."}]`, want: "InvalidCELExpression: spec.dependsOn[0].readyExpr: "},
		"healthy by nonsense":   {spec: chart + `, healthCheckExprs: [{apiVersion: v1, kind: X, current: "a."}]`, want: "InvalidCELExpression: spec.healthCheckExprs[0].current: "},
		"annotation":            {spec: chart, annotation: "x", want: "InvalidAnnotation: the annotation cleat.dev/depends-on cannot be understood"},
		"A20: annotation":       {spec: chart, annotation: "Kustomization/other/x", want: "AccessDenied: can't depend on 'Kustomization/other/x'"},
		"A20: source":           {spec: `chart: {spec: {chart: x, sourceRef: {kind: GitRepository, name: r, namespace: other}}}`, want: "AccessDenied: can't access 'GitRepository/other/r', cross-namespace references have been blocked"},
		"A20: chartRef":         {spec: `chartRef: {kind: OCIRepository, name: x, namespace: other}`, want: "AccessDenied: can't access 'OCIRepository/other/x', cross-namespace references have been blocked"},
		"A20: in one's own":     {spec: `chartRef: {kind: OCIRepository, name: x, namespace: demo}`},
		"A20: a kind of no use": {spec: `chartRef: {kind: ExternalArtifact, name: x}`},
	} {
		t.Run(name, func(t *testing.T) {
			hr := helmRelease(t, "{interval: 10m, "+tt.spec+"}")
			if tt.annotation != "" {
				hr.Annotations = map[string]string{api.DependsOnAnnotation: tt.annotation}
			}
			r := newWorld(t, Options{NoCrossNamespaceRefs: true}).r
			err := r.validate(context.Background(), &attempt{hr: hr})
			var fault *api.Fault
			switch {
			case tt.want == "" && err == nil:
			case !errors.As(err, &fault) || fault.Retry != api.RetryNever || tt.want == "" || !strings.HasPrefix(fault.Reason+": "+fault.Error(), tt.want):
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// TestDependencies: HelmReleases wait for each other, and by annotation for other kinds; a cycle over both is told.
func TestDependencies(t *testing.T) {
	const other = `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: db, namespace: demo, generation: 1}
spec: {interval: 10m, chartRef: {kind: OCIRepository, name: x}}
status: {observedGeneration: 1, conditions: [{type: Ready, status: "READY", observedGeneration: 1, reason: x, message: "", lastTransitionTime: "2026-11-25T00:00:00Z"}]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: infra, namespace: demo, generation: 1, annotations: {cleat.dev/depends-on: HelmRelease/web}}
spec: {interval: 10m, prune: true, sourceRef: {kind: GitRepository, name: x}}
`
	for name, tt := range map[string]struct{ ready, spec, annotation, want string }{
		"ready":             {ready: "True", spec: `dependsOn: [{name: db}]`},
		"not ready":         {ready: "False", spec: `dependsOn: [{name: db}]`, want: "dependency 'demo/db' is not ready"},
		"not there":         {ready: "True", spec: `dependsOn: [{name: none, namespace: x}]`, want: "dependency 'x/none' not found"},
		"by expression":     {ready: "False", spec: `dependsOn: [{name: db, readyExpr: "dep.metadata.generation == self.metadata.generation"}]`},
		"not by expression": {ready: "True", spec: `dependsOn: [{name: db, readyExpr: "dep.metadata.generation > 1"}]`, want: "dependency 'demo/db' is not ready according to readyExpr eval"},
		"F54: in a cycle":   {ready: "True", annotation: "Kustomization/infra", want: "dependency cycle: HelmRelease/demo/web → Kustomization/demo/infra → HelmRelease/demo/web"},
	} {
		t.Run(name, func(t *testing.T) {
			hr := helmRelease(t, `{interval: 10m, chartRef: {kind: OCIRepository, name: x}, `+tt.spec+`}`)
			if tt.annotation != "" {
				hr.Annotations = map[string]string{api.DependsOnAnnotation: tt.annotation}
			}
			w := newWorld(t, Options{}, append(read(t, []byte(strings.ReplaceAll(other, "READY", tt.ready))), hr)...)
			got := ready(w.reconcile("web"))
			if want := "False DependencyNotReady: " + tt.want; tt.want != "" && got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if tt.want == "" && strings.Contains(got, "Dependency") {
				t.Errorf("waits: %s", got)
			}
		})
	}
}

package sync

import (
	"context"
	"errors"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// cached is a cache that holds the given objects.
type cached struct {
	client.Reader
	objects []*unstructured.Unstructured
}

func (c *cached) Get(_ context.Context, key types.NamespacedName, into client.Object, _ ...client.GetOption) error {
	for _, u := range c.objects {
		if u.GroupVersionKind() == into.GetObjectKind().GroupVersionKind() && client.ObjectKeyFromObject(u) == key {
			u.DeepCopyInto(into.(*unstructured.Unstructured))
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (c *cached) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	list := into.(*unstructured.UnstructuredList)
	for _, u := range c.objects {
		if u.GetKind()+"List" == list.GetKind() {
			list.Items = append(list.Items, *u)
		}
	}
	return nil
}

// world returns a Reconciler over a cache with these objects, without HelmCharts, and the attempts of those Kustomizations.
func world(t *testing.T, text string) (*Reconciler, map[string]*attempt) {
	t.Helper()
	cache, attempts := &cached{}, map[string]*attempt{}
	for _, document := range strings.Split(text, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		cache.objects = append(cache.objects, u)
		if u.GroupVersionKind() != api.KustomizationKind {
			continue
		}
		ks := &kustomizev1.Kustomization{}
		if err := api.Decode(u, ks); err != nil {
			t.Fatal(err)
		}
		attempts[ks.Name] = &attempt{ks: ks, key: client.ObjectKeyFromObject(ks), artifact: &meta.Artifact{Revision: "main@sha1:b"}}
	}
	r := New(Reconciler{Reader: cache}, nil)
	for _, kind := range depend.Kinds {
		if kind != api.HelmChartKind {
			r.dependants.Served = append(r.dependants.Served, kind)
		}
	}
	return r, attempts
}

// asFault runs the steps up to the dependencies and returns the fault that comes of it, as `reason: message`.
func (r *Reconciler) asFault(a *attempt) (string, api.Retry) {
	err := r.validate(context.Background(), a)
	if err == nil {
		err = r.dependencies(context.Background(), a)
	}
	var fault *api.Fault
	if errors.As(err, &fault) {
		return fault.Reason + ": " + fault.Error(), fault.Retry
	}
	return "", ""
}

const dependencyWorld = `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: ns, generation: 1, labels: {tier: "2"}ANNOTATIONS}
spec: {sourceRef: {kind: GitRepository, name: repo}, dependsOn: [DEPENDENCY]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: ready, namespace: ns, generation: 1, labels: {tier: "1"}}
spec: {sourceRef: {kind: GitRepository, name: other}}
status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: behind, namespace: ns, generation: 1}
spec: {sourceRef: {kind: GitRepository, name: repo}}
status: {observedGeneration: 1, lastAppliedRevision: "main@sha1:a", conditions: [{type: Ready, status: "True", observedGeneration: 1}]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: unready, namespace: ns, generation: 2}
spec: {sourceRef: {kind: GitRepository, name: other}, path: canary}
status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: foreign, namespace: other, generation: 2}
spec: {sourceRef: {kind: GitRepository, name: other}, path: canary}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: db, namespace: ns, generation: 1}
status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: Bucket
metadata: {name: files, namespace: ns, generation: 1}
`

// TestDependencies: what is waited for, and what is said about it.
func TestDependencies(t *testing.T) {
	const notReady = "DependencyNotReady: "
	for name, tt := range map[string]struct {
		dependency, annotation string
		options                Options
		want                   string
		retry                  api.Retry
	}{
		"ready":                      {dependency: `{name: ready}`},
		"not ready":                  {dependency: `{name: unready}`, want: notReady + "dependency 'ns/unready' is not ready", retry: api.RetryWoken},
		"not there":                  {dependency: `{name: none}`, want: notReady + "dependency 'ns/none' not found", retry: api.RetryWoken},
		"at an older revision":       {dependency: `{name: behind}`, want: notReady + "dependency 'ns/behind' revision is not up to date", retry: api.RetryWoken},
		"another namespace":          {dependency: `{name: foreign, namespace: other}`, want: notReady + "dependency 'other/foreign' is not ready", retry: api.RetryWoken},
		"by expression":              {dependency: `{name: unready, readyExpr: "dep.metadata.generation == 2 && self.metadata.labels.tier == '2'"}`},
		"not by expression":          {dependency: `{name: ready, readyExpr: "dep.metadata.labels.tier > self.metadata.labels.tier"}`, want: notReady + "dependency 'ns/ready' is not ready according to readyExpr eval", retry: api.RetryWoken},
		"expression over nothing":    {dependency: `{name: ready, readyExpr: "dep.status.x == 1"}`, want: notReady + "dependency 'ns/ready' is not ready: its readyExpr cannot be evaluated: no such key: x", retry: api.RetryWoken},
		"expression in place of all": {dependency: `{name: behind, readyExpr: "true"}`},
		"expression beside all":      {dependency: `{name: behind, readyExpr: "true"}`, options: Options{AdditiveReadyExpr: true}, want: notReady + "dependency 'ns/behind' revision is not up to date", retry: api.RetryWoken},
		"value of another tenant": {dependency: `{name: foreign, namespace: other, readyExpr: "int(dep.spec.path) == 1"}`, retry: api.RetryWoken,
			want: notReady + "dependency 'other/foreign' is not ready: its readyExpr cannot be evaluated: over an object of another namespace, of which no more is told"},
		"annotation":                       {annotation: "HelmRelease/db, Kustomization/ns/ready"},
		"annotation, not ready":            {annotation: "HelmRelease/db, Bucket/files", want: notReady + "dependency 'Bucket/ns/files' is not ready", retry: api.RetryWoken},
		"annotation, not there":            {annotation: "GitRepository/x/y", want: notReady + "dependency 'GitRepository/x/y' not found", retry: api.RetryWoken},
		"annotation, a kind not known":     {annotation: "HelmChart/x", want: notReady + "dependency 'HelmChart/ns/x' not found: the cluster did not know the kind HelmChart when the agent was started", retry: api.RetryWoken},
		"annotation, nonsense":             {annotation: "db", want: "InvalidAnnotation: the annotation cleat.dev/depends-on cannot be understood: \"db\" is neither Kind/name nor Kind/namespace/name", retry: api.RetryNever},
		"A20: annotation of another one's": {annotation: "HelmRelease/other/db", options: Options{NoCrossNamespaceRefs: true}, want: "AccessDenied: can't depend on 'HelmRelease/other/db' by the annotation cleat.dev/depends-on, cross-namespace references have been blocked", retry: api.RetryNever},
		"an expression with a mistake":     {dependency: `{name: ready}, {name: ready, readyExpr: "dep."}`, want: "InvalidCELExpression: spec.dependsOn[1].readyExpr: 1:5: Syntax error: no viable alternative at input '.'", retry: api.RetryNever},
		"an expression that is no bool":    {dependency: `{name: ready, readyExpr: "dep.kind"}`, want: "InvalidCELExpression: spec.dependsOn[0].readyExpr: it must be true or false, and is of the type dyn", retry: api.RetryNever},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := ""
			if tt.annotation != "" {
				annotations = `, annotations: {cleat.dev/depends-on: "` + tt.annotation + `"}`
			}
			r, attempts := world(t, strings.NewReplacer("ANNOTATIONS", annotations, "DEPENDENCY", tt.dependency).Replace(dependencyWorld))
			r.Options, r.dependants.Additive = tt.options, tt.options.AdditiveReadyExpr
			got, retry := r.asFault(attempts["app"])
			if got != tt.want || retry != tt.retry {
				t.Errorf("got  %q (%s)\nwant %q (%s)", got, retry, tt.want, tt.retry)
			}
			if again, _ := r.asFault(attempts["app"]); again != got {
				t.Errorf("first %q, then %q", got, again)
			}
		})
	}
}

// TestF54_CycleOverKinds: a cycle is told to each Kustomization in it, and a change of any member wakes them all.
func TestF54_CycleOverKinds(t *testing.T) {
	r, attempts := world(t, `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: a, namespace: ns, annotations: {cleat.dev/depends-on: HelmRelease/b}}
spec: {sourceRef: {kind: GitRepository, name: x}}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: b, namespace: ns, annotations: {cleat.dev/depends-on: Kustomization/c}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: c, namespace: ns}
spec: {sourceRef: {kind: GitRepository, name: x}, dependsOn: [{name: a}]}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: d, namespace: ns}
spec: {sourceRef: {kind: GitRepository, name: x}, dependsOn: [{name: a}]}
`)
	for name, want := range map[string]string{
		"a": "DependencyNotReady: dependency cycle: Kustomization/ns/a → HelmRelease/ns/b → Kustomization/ns/c → Kustomization/ns/a",
		"c": "DependencyNotReady: dependency cycle: Kustomization/ns/c → Kustomization/ns/a → HelmRelease/ns/b → Kustomization/ns/c",
		"d": "DependencyNotReady: dependency 'ns/a' is not ready",
	} {
		if got, retry := r.asFault(attempts[name]); got != want || retry != api.RetryWoken {
			t.Errorf("%s: got  %q (%s)\nwant %q", name, got, retry, want)
		}
	}
	woken := func(kind, name string) []string {
		var names []string
		for _, request := range r.dependants.DependantsOf(kind)(context.Background(), attempts[name].ks) {
			names = append(names, request.Name)
		}
		return names
	}
	if got := woken("Kustomization", "c"); !cmp.Equal(got, []string{"a"}) {
		t.Errorf("a change of c wakes %v", got)
	}
	if got := woken("Kustomization", "d"); got != nil {
		t.Errorf("a change of d wakes %v", got)
	}
	if got := r.dependants.Waiting.For(depend.In("ns", "HelmRelease", "", "b")); len(got) != 2 {
		t.Errorf("a change of the HelmRelease b wakes %v", got)
	}
}

// TestExprsAreCompiledOnce: for one generation of one object, and anew for another; also what was wrong with them.
func TestExprsAreCompiledOnce(t *testing.T) {
	r := New(Reconciler{}, nil)
	ks := &kustomizev1.Kustomization{}
	ks.Name, ks.Namespace, ks.UID, ks.Generation = "a", "n", "1", 1
	ks.Spec.HealthCheckExprs = []kustomize.CustomHealthCheck{{APIVersion: "v1", Kind: "X", HealthCheckExpressions: kustomize.HealthCheckExpressions{Current: "true"}}}
	first, err := r.understand(ks)
	if err != nil || first.judge == nil {
		t.Fatalf("%v, %v", first, err)
	}
	if again, _ := r.understand(ks); again != first {
		t.Error("compiled again")
	}
	ks.Generation, ks.Spec.HealthCheckExprs[0].Current = 2, "a."
	var fault *api.Fault
	if _, err := r.understand(ks); !errors.As(err, &fault) || fault.Reason != meta.InvalidCELExpressionReason || fault.Retry != api.RetryNever ||
		!strings.Contains(fault.Error(), "spec.healthCheckExprs[0].current") {
		t.Errorf("a mistake: %v", err)
	}
	ks.UID, ks.Spec.HealthCheckExprs[0].Current = "2", "false"
	if _, err := r.understand(ks); err != nil {
		t.Errorf("another object of that name: %v", err)
	}
	r.understood.Forget(client.ObjectKeyFromObject(ks))
	if r.understood.Len() != 0 {
		t.Error("kept what is gone")
	}
}

package sync

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What a Kustomization refers to wakes it: its kubeconfig, too.
func TestVariableKeys(t *testing.T) {
	for spec, want := range map[string][]string{
		`{}`: nil,
		`{kubeConfig: {secretRef: {name: a, key: k}}}`:                                                 {"Secret/demo/a"},
		`{kubeConfig: {configMapRef: {name: b}}}`:                                                      {"ConfigMap/demo/b"},
		`{postBuild: {substituteFrom: [{kind: Secret, name: c}]}, kubeConfig: {secretRef: {name: a}}}`: {"Secret/demo/a", "Secret/demo/c"},
	} {
		settings, err := encode(kustomization(t, spec))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, variableKeys(&unstructured.Unstructured{Object: settings.Object})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
	}
}

func TestIgnoreRules(t *testing.T) {
	rules, err := ignoreRules(kustomization(t, `
ignore:
- paths: [/data/a]
- paths: [/spec/replicas]
  target: {group: apps, version: v1, kind: Deployment, name: web.*, namespace: demo, labelSelector: a=b, annotationSelector: c=d}
- paths: [/data/b]`))
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) != 2 || !cmp.Equal(rules[1].Paths, []string{"/data/a", "/data/b"}) || rules[1].Selector != nil {
		t.Errorf("rules = %+v: those without a target belong together", rules)
	}
	s := rules[0].Selector
	if s == nil || s.Group != "apps" || s.Version != "v1" || s.Kind != "Deployment" || s.Name != "web.*" || s.Namespace != "demo" ||
		s.LabelSelector != "a=b" || s.AnnotationSelector != "c=d" {
		t.Errorf("selector = %+v", s)
	}
	for _, target := range []string{`{name: "("}`, `{labelSelector: "a in"}`} {
		if _, err := ignoreRules(kustomization(t, `{ignore: [{paths: [/a], target: `+target+`}]}`)); err == nil {
			t.Errorf("%s is accepted", target)
		}
	}
}

// spec.buildMetadata and spec.ignoreMissingComponents reach the kustomize library.
func TestBuildFields(t *testing.T) {
	root := tree(t, `
-- kustomization.yaml --
resources: [cm.yaml]
-- cm.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
-- there/kustomization.yaml --
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
namePrefix: x-
`)
	b, err := build(t, kustomization(t, `{buildMetadata: [originAnnotations], components: [there, missing], ignoreMissingComponents: true}`), root)
	if err != nil {
		t.Fatal(err)
	}
	if u := b.Objects[0]; u.GetName() != "x-a" || u.GetAnnotations()["config.kubernetes.io/origin"] != "path: cm.yaml\n" {
		t.Errorf("%s, annotations %v", u.GetName(), u.GetAnnotations())
	}
	if _, err := build(t, kustomization(t, `{components: [missing]}`), root); err == nil {
		t.Error("a component that is missing is no error")
	}
}

package object

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

// live is a Deployment as the API server returns it, after defaults, a status update and a kubectl scale.
const live = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
  generation: 2
  resourceVersion: "100"
  labels: {app: web, added-by: someone}
  managedFields:
  - manager: kustomize-controller
    operation: Apply
    apiVersion: apps/v1
    fieldsType: FieldsV1
    fieldsV1:
      f:metadata:
        f:labels: {f:app: {}}
        f:finalizers: {'v:"a"': {}}
      f:spec:
        f:selector: {}
        f:template:
          f:spec:
            f:containers:
              'k:{"name":"web"}':
                .: {}
                f:image: {}
                f:name: {}
                f:ports:
                  'k:{"containerPort":80,"protocol":"TCP"}': {.: {}, f:containerPort: {}}
                f:args: {'i:0': {}}
            f:volumes:
              'k:{"name":"tmp"}': {.: {}, f:emptyDir: {}, f:name: {}}
  - manager: kubectl
    operation: Update
    subresource: scale
    fieldsV1: {f:spec: {f:replicas: {}}}
  - manager: kube-controller-manager
    operation: Update
    subresource: status
    fieldsV1: {f:status: {f:replicas: {}}}
  finalizers: [a, b]
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    spec:
      containers:
      - {name: sidecar, image: proxy:1}
      - name: web
        image: web:1
        args: [one, two]
        ports: [{containerPort: 80, protocol: TCP}, {containerPort: 81, protocol: TCP}]
      volumes:
      - {name: tmp, emptyDir: {}}
status: {replicas: 3}
`

func TestOwnedDigest(t *testing.T) {
	spec := func(u *unstructured.Unstructured) map[string]any { return u.Object["spec"].(map[string]any) }
	pod := func(u *unstructured.Unstructured) map[string]any {
		return spec(u)["template"].(map[string]any)["spec"].(map[string]any)
	}
	containers := func(u *unstructured.Unstructured) []any { return pod(u)["containers"].([]any) }
	web := func(u *unstructured.Unstructured) map[string]any { return containers(u)[1].(map[string]any) }
	for name, tt := range map[string]struct {
		change func(u *unstructured.Unstructured)
		counts bool
	}{
		"status":          {func(u *unstructured.Unstructured) { u.Object["status"] = map[string]any{"replicas": int64(1)} }, false},
		"resourceVersion": {func(u *unstructured.Unstructured) { u.SetResourceVersion("101") }, false},
		"someone's field": {func(u *unstructured.Unstructured) { spec(u)["replicas"] = int64(9) }, false},
		"someone's label": {func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"app": "web"}) }, false},
		"someone's container": {func(u *unstructured.Unstructured) {
			pod(u)["containers"] = append([]any{map[string]any{"name": "new"}}, containers(u)...)
		}, false},
		"someone's port":      {func(u *unstructured.Unstructured) { web(u)["ports"] = web(u)["ports"].([]any)[:1] }, false},
		"someone's argument":  {func(u *unstructured.Unstructured) { web(u)["args"] = []any{"one", "three"} }, false},
		"someone's finalizer": {func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"c", "a"}) }, false},
		"our label":           {func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"app": "x"}) }, true},
		"our image":           {func(u *unstructured.Unstructured) { web(u)["image"] = "web:2" }, true},
		"our field removed":   {func(u *unstructured.Unstructured) { delete(web(u), "image") }, true},
		"our field null":      {func(u *unstructured.Unstructured) { web(u)["image"] = nil }, true},
		"our container":       {func(u *unstructured.Unstructured) { pod(u)["containers"] = containers(u)[:1] }, true},
		"our port":            {func(u *unstructured.Unstructured) { web(u)["ports"] = web(u)["ports"].([]any)[1:] }, true},
		"our argument":        {func(u *unstructured.Unstructured) { web(u)["args"] = []any{"zero", "two"} }, true},
		"our finalizer":       {func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"b"}) }, true},
		"atomic field": {func(u *unstructured.Unstructured) {
			spec(u)["selector"] = map[string]any{"matchLabels": map[string]any{"app": "web", "x": "y"}}
		}, true},
		"ownership lost": {func(u *unstructured.Unstructured) {
			entry := metadataList(u, "managedFields")[0].(map[string]any)
			delete(entry["fieldsV1"].(map[string]any)["f:metadata"].(map[string]any), "f:labels")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := parse(t, live)
			before, ok := OwnedDigest(u, Manager{Name: "kustomize-controller"})
			if !ok {
				t.Fatal("the manager owns nothing")
			}
			tt.change(u)
			after, _ := OwnedDigest(u, Manager{Name: "kustomize-controller"})
			if counted := before != after; counted != tt.counts {
				t.Errorf("the digest changed: %t, want %t", counted, tt.counts)
			}
		})
	}
}

func metadataList(u *unstructured.Unstructured, field string) []any {
	list, _ := u.Object["metadata"].(map[string]any)[field].([]any)
	return list
}

func TestOwnedDigestOfNothing(t *testing.T) {
	for _, manager := range []string{"helm-controller", "kubectl", "kube-controller-manager"} {
		if _, ok := OwnedDigest(parse(t, live), Manager{Name: manager}); ok {
			t.Errorf("%s owns nothing by apply, but has a digest", manager)
		}
	}
}

func TestDigestOf(t *testing.T) {
	base := DigestOf(parse(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1", y: ""}}`))
	for text, same := range map[string]bool{
		`{kind: ConfigMap, data: {y: "", x: "1"}, metadata: {name: a}, apiVersion: v1}`:                      true,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: 1, y: ""}}`:                        false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1"}}`:                             false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1", y: null}}`:                    false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1", y: ""}, immutable: true}`:     false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, annotations: {}}, data: {x: "1", y: ""}}`:     false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1\"}{", y: ""}}`:                  false,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: "1", y: ""}, binaryData: {x: ""}}`: false,
	} {
		if got := DigestOf(parse(t, text)) == base; got != same {
			t.Errorf("%s: equal %t, want %t", text, got, same)
		}
	}
	number := func(v any) Digest {
		return DigestOf(&unstructured.Unstructured{Object: map[string]any{"n": v}})
	}
	if number(int64(3)) != number(float64(3)) {
		t.Error("3 and 3.0 differ")
	}
	if number(int64(3)) == number(3.5) || number(int64(3)) == number("3") {
		t.Error("3 is the same as 3.5 or as text")
	}
}

// An object of any shape has a digest, always the same, and status does not enter into it.
func FuzzOwnedDigest(f *testing.F) {
	raw, err := parse(f, live).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"kind":"X","metadata":{"managedFields":[{"manager":"kustomize-controller","operation":"Apply","fieldsV1":{"i:-1":{},"k:{":{},"v:":{},"q:1":{},"f:a":{"k:[1]":{}}}}]},"a":[1]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			return
		}
		a, owns := OwnedDigest(u, Manager{Name: "kustomize-controller"})
		if b, again := OwnedDigest(u.DeepCopy(), Manager{Name: "kustomize-controller"}); a != b || owns != again {
			t.Fatal("the digest of one object differs from time to time")
		}
		_ = DigestOf(u)
		_ = OwnerOf(u)
		_ = Marked(u, "a", "b")
	})
}

func BenchmarkOwnedDigest(b *testing.B) {
	u := parse(b, live)
	b.ReportAllocs()
	for b.Loop() {
		OwnedDigest(u, Manager{Name: "kustomize-controller"})
	}
}

// What was applied by the client counts where it is asked for, as releases of Helm need it, and status never does.
func TestOwnedDigestOfUpdates(t *testing.T) {
	const live = `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, managedFields: [
		{manager: helm-controller, operation: %s, subresource: %q, fieldsV1: {"f:data": {"f:a": {}}}}]}, data: {a: %q, b: x}}`
	digest := func(operation, subresource, value string, updates bool) (Digest, bool) {
		u := parse(t, fmt.Sprintf(live, operation, subresource, value))
		return OwnedDigest(u, Manager{Name: "helm-controller", Updates: updates})
	}
	if _, owns := digest("Update", "", "1", false); owns {
		t.Error("it owns by server-side apply what it does not")
	}
	if _, owns := digest("Update", "status", "1", true); owns {
		t.Error("it owns status")
	}
	one, owns := digest("Update", "", "1", true)
	if two, _ := digest("Update", "", "2", true); !owns || one == two {
		t.Error("a changed value is not seen")
	}
	if applied, _ := digest("Apply", "", "1", true); applied != one {
		t.Error("how it was written counts")
	}
}

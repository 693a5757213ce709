package drift

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// deployment is one as the API server answers: with who owns what.
const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  managedFields:
  - manager: kustomize-controller
    operation: Apply
    time: "2026-11-25T01:00:00Z"
    fieldsV1:
      f:spec:
        f:template: {"f:spec": {"f:containers": {'k:{"name":"app"}': {".": {}, "f:name": {}, "f:image": {}, "f:env": {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}}}}}}
  - manager: kubectl-edit
    operation: Update
    time: "2026-11-25T02:00:00Z"
    fieldsV1:
      f:spec:
        f:replicas: {}
        f:template: {"f:spec": {"f:containers": {'k:{"name":"app"}': {"f:image": {}}}}}
  - manager: kube-controller-manager
    operation: Update
    subresource: status
    time: "2026-11-25T03:00:00Z"
    fieldsV1: {"f:status": {"f:replicas": {}}}
spec:
  replicas: %d
  template:
    spec:
      containers:
      - {name: app, image: %s, args: [%s], env: [%s]}
status: {replicas: %d}
`

func TestDifferences(t *testing.T) {
	declared := parse(t, fmt.Sprintf(deployment, 3, "web:1", "a, b", "{name: A, value: x}", 3))
	live := parse(t, fmt.Sprintf(deployment, 5, "web:2", "a, c", "{name: B, value: z}, {name: A, value: w}", 1))
	by := []Author{{Manager: "kubectl-edit", Operation: "Update", Time: "2026-11-25T02:00:00Z"}}
	got, omitted := Differences(declared, live, policy())
	want := []Difference{
		{Path: "spec.replicas", Declared: "3", Live: "5", By: by},
		{Path: "spec.template.spec.containers[name=app].args[1]", Declared: `"b"`, Live: `"c"`},
		{Path: "spec.template.spec.containers[name=app].env[name=A].value", Declared: `"x"`, Live: `"w"`},
		{Path: "spec.template.spec.containers[name=app].env[name=B]", Live: `{"name":"B","value":"z"}`},
		{Path: "spec.template.spec.containers[name=app].image", Declared: `"web:1"`, Live: `"web:2"`, By: by},
	}
	if diff := cmp.Diff(want, got); diff != "" || omitted != 0 {
		t.Errorf("(-want +got), %d omitted:\n%s", omitted, diff)
	}
}

// The order of what has keys is a difference of its own, for the API server keeps it.
func TestDifferencesOfOrder(t *testing.T) {
	list := func(env string) *unstructured.Unstructured {
		return parse(t, fmt.Sprintf(deployment, 1, "web:1", "a", env, 1))
	}
	got, _ := Differences(list("{name: A}, {name: B}"), list("{name: B}, {name: A}"), policy())
	want := []Difference{{Path: "spec.template.spec.containers[name=app].env", Declared: `[{"name":"A"},{"name":"B"}]`, Live: `[{"name":"B"},{"name":"A"}]`}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDifferencesAreBounded(t *testing.T) {
	data := func(value string) *unstructured.Unstructured {
		u := cm(t, "", "")
		values := map[string]any{}
		for i := range 3 * maxDifferences {
			values[fmt.Sprintf("k%03d", i)] = value
		}
		u.Object["data"] = values
		return u
	}
	got, omitted := Differences(data(strings.Repeat("ä", maxValue)), data("b"), policy())
	if len(got) != maxDifferences || omitted != 2*maxDifferences {
		t.Errorf("%d and %d more", len(got), omitted)
	}
	if len(got[0].Declared) > maxValue+len("…") || !strings.HasSuffix(got[0].Declared, "…") || strings.ContainsRune(got[0].Declared, '�') {
		t.Errorf("a long value is shown as %q", got[0].Declared)
	}
}

// What kubectl has added beside what is declared goes with an apply, although a dry-run does not tell.
func TestDifferencesOfTraces(t *testing.T) {
	text := `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, labels: {` + ownerLabels + `}, managedFields: [
	  {manager: kustomize-controller, operation: Apply, fieldsV1: {"f:data": {"f:a": {}}}},
	  {manager: other, operation: Update, fieldsV1: {"f:data": {"f:c": {}}}},
	  {manager: kubectl-patch, operation: Update, time: "2026-11-25T02:00:00Z", fieldsV1: {"f:data": {"f:b": {}, "f:c": {}}}}]},
	  data: {a: "1", b: "2", c: "3"}}`
	got := Judge(parse(t, text), parse(t, text), policy())
	want := []Difference{{Path: "data.b", Live: `"2"`, By: []Author{{Manager: "kubectl-patch", Operation: "Update", Time: "2026-11-25T02:00:00Z"}}}}
	if diff := cmp.Diff(want, got.Differences); diff != "" || got.Op != Apply {
		t.Errorf("%s (-want +got):\n%s", got.Op, diff)
	}
}

const canary = "canary-hunter2-canary"

// TestA29_A31_SecretsAreHidden: of a Secret no value is told, of neither side, and yet it is seen that one has changed and
// another has not.
func TestA29_A31_SecretsAreHidden(t *testing.T) {
	secret := func(a, b string) *unstructured.Unstructured {
		return parse(t, fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: s, annotations: {copy: "it is %[1]s", kubectl.kubernetes.io/last-applied-configuration: '{"data":{"a":"%[1]s"}}'}},
			data: {a: %[1]q, b: %[2]q}, stringData: {c: %[2]q}}`, a, b))
	}
	got, _ := Differences(secret(canary, "same-same-same"), secret(canary+"2", "same-same-same"), policy())
	var paths []string
	for _, d := range got {
		paths = append(paths, d.Path)
		if d.Declared == d.Live {
			t.Errorf("%s: both sides are told as %s", d.Path, d.Live)
		}
		if text := fmt.Sprintf("%+v %s", d, d); strings.Contains(text, "hunter2") {
			t.Errorf("told: %s", text)
		}
		if !strings.HasPrefix(d.Live, `"*** (`) {
			t.Errorf("%s is shown as %s", d.Path, d.Live)
		}
	}
	if diff := cmp.Diff([]string{"data.a", "metadata.annotations.copy"}, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	again, _ := Differences(secret(canary, "x"), secret(canary+"2", "x"), with(func(p *Policy) { p.Hide = NewHider() }))
	if again[0].Live == got[0].Live {
		t.Error("the hash is the same with another key: anybody could try values")
	}
}

// TestA30_SecretsElsewhere: nor where others than Secrets hold them.
func TestA30_SecretsElsewhere(t *testing.T) {
	decrypted := parse(t, fmt.Sprintf("{apiVersion: v1, kind: Secret, stringData: {x: %q}}", canary))
	for name, text := range map[string]string{
		"a field's name": `{password: "%s"}`,
		"in a list":      `{tokens: ["%s"]}`,
		"an env":         `{env: [{name: DB_PASSWORD, value: "%s"}]}`,
		"an API key":     `{auth: {apiKey: "%s", secretAccessKey: "%[1]s"}}`,
		"a URL":          `{endpoint: "https://ada:%s@example.com/x"}`,
		"a signed URL":   `{endpoint: "https://example.com/x?sv=1&sig=%s"}`,
		"a private key":  `{pem: "-----BEGIN RSA PRIVATE KEY-----\n%s"}`,
		"decrypted":      `{anything: "a %s b"}`,
	} {
		spec := func(value string) *unstructured.Unstructured {
			return parse(t, "{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}, spec: "+fmt.Sprintf(text, value)+"}")
		}
		p := policy()
		p.Hide = p.Hide.With(decrypted)
		got, _ := Differences(spec(canary), spec(canary+"2"), p)
		if len(got) == 0 {
			t.Errorf("%s: no difference is seen", name)
		}
		if told := fmt.Sprintf("%+v", got); strings.Contains(told, "hunter2") {
			t.Errorf("%s: told %s", name, told)
		}
	}
	visible := parse(t, `{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}, spec: {secretName: a, tokenRef: {name: b}, imagePullSecrets: [{name: c}], serviceAccountTokenPath: d}}`)
	shown, _ := Differences(visible, parse(t, `{apiVersion: example.com/v1, kind: Thing, metadata: {name: t}, spec: {}}`), policy())
	if told := fmt.Sprintf("%+v", shown); strings.Contains(told, "***") {
		t.Errorf("the name of a secret is hidden: %s", told)
	}
}

func FuzzDifferences(f *testing.F) {
	f.Add(`{"spec":{"a":[{"name":"x"}]}}`, `{"spec":{"a":[]}}`, `{"f:spec":{"f:a":{"k:{\"name\":\"x\"}":{".":{}}}}}`)
	f.Add(`{"spec":{"a":["x"]}}`, `{"spec":{"a":["y"]}}`, `{"f:spec":{"f:a":{"v:\"x\"":{}}}}`)
	f.Fuzz(func(t *testing.T, a, b, fields string) {
		read := func(text string) *unstructured.Unstructured {
			u := &unstructured.Unstructured{}
			text = strings.Replace(text, "{", fmt.Sprintf(`{"apiVersion":"v1","kind":"Thing","metadata":{"name":"x","managedFields":[{"manager":"kubectl-x","operation":"Update","fieldsV1":%s}]},`, fields), 1)
			if u.UnmarshalJSON([]byte(text)) != nil {
				return nil
			}
			return u
		}
		declared, live := read(a), read(b)
		if declared == nil || live == nil {
			return
		}
		p := policy()
		if v := Judge(declared, declared.DeepCopy(), with(func(p *Policy) { p.Overridden = nil })); v.Op != Leave {
			t.Errorf("an object differs from itself: %+v", v)
		}
		once, twice := Judge(declared, live, p), Judge(declared, live, p)
		if !cmp.Equal(once, twice) {
			t.Errorf("judged otherwise the second time: %+v, %+v", once, twice)
		}
	})
}

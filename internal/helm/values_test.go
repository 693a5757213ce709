package helm

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestValues: where values come from, what is said of what is missing, and that it is taken when it is there.
func TestValues(t *testing.T) {
	release := func(values string) string {
		return strings.Replace(ociRelease, "interval: 10m,", "interval: 10m, "+values+",", 1)
	}
	for name, tt := range map[string]struct{ values, want string }{
		"no object":    {`valuesFrom: [{kind: Secret, name: none}]`, "ValuesError: could not find Secret 'demo/none'"},
		"no key":       {`valuesFrom: [{kind: ConfigMap, name: some, valuesKey: x}]`, "ValuesError: missing key 'x' in ConfigMap 'demo/some'"},
		"no values":    {`valuesFrom: [{kind: ConfigMap, name: some, valuesKey: text}]`, "ValuesError: unable to use the values of key 'text' in ConfigMap 'demo/some': "},
		"no path":      {`valuesFrom: [{kind: ConfigMap, name: some, valuesKey: text, targetPath: "a[x]"}]`, "ValuesError: invalid targetPath 'a[x]' for ConfigMap 'demo/some': "},
		"not in other": {`valuesFrom: [{kind: Secret, name: "../other/x"}]`, "ValuesError: invalid valuesFrom: "},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{}, append(read(t, []byte(release(tt.values))), &corev1.ConfigMap{ObjectMeta: named("demo", "some"), Data: map[string]string{"text": "just text"}})...)
			w.publish("OCIRepository", "web", ociFirst)
			if got := ready(w.reconcile("web")); !strings.HasPrefix(got, "False "+tt.want) {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	w := newWorld(t, Options{}, read(t, []byte(release(`valuesFrom: [{kind: Secret, name: late}, {kind: ConfigMap, name: bytes, optional: true}], values: {a: {b: 1}}`)))...)
	w.publish("OCIRepository", "web", ociFirst)
	w.reconcile("web")
	var composed map[string]any
	w.act = func(_ context.Context, a *attempt) error { composed = a.values; return nil }
	for _, late := range []*corev1.Secret{{ObjectMeta: named("demo", "late"), Data: map[string][]byte{"values.yaml": []byte("a: {c: 2}")}}} {
		if err := w.client.Create(t.Context(), late); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: named("demo", "bytes"), BinaryData: map[string][]byte{"values.yaml": []byte("d: 3")}}); err != nil {
		t.Fatal(err)
	}
	w.reconcile("web")
	inner, _ := composed["a"].(map[string]any)
	if inner["b"] != 1.0 || inner["c"] != 2.0 || composed["d"] != 3.0 {
		t.Errorf("composed %v", composed)
	}
}

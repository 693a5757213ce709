package values_test

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

// FuzzCompose: whatever objects and paths hold, there are values, the same ones each time, or an *Error, and that repeats
// nothing of a Secret.
func FuzzCompose(f *testing.F) {
	f.Add("a: {b: 1}\n", "a: {c: [1, 2]}\n", `{"a": {"d": null}}`, "a.b", "42", false)
	f.Add("a: &a [x]\nb: [*a, *a]\n", "", "", "b[1][0]", "{x,y}", false)
	f.Add("", "- 1", "[]", `a\.b.c`, "\"quoted\"", false)
	f.Add("x: {<<: {a: 1}}", "x: !!binary aGk=", "{}", "a[0].b[1]", "x,y[3]=z", false)
	f.Add("? [a]\n: b", "\t", "null", "a", "a = {b}\n", true)
	f.Fuzz(func(t *testing.T, first, second, inline, path, value string, literal bool) {
		const canary = "cAnArY"
		compose := func() (map[string]any, error) {
			src := &objects{data: map[string]map[string][]byte{
				"ConfigMap/first": {"values.yaml": []byte(first)},
				"Secret/second":   {"values.yaml": []byte(second), "one": []byte(value), "secret": []byte(canary + value)},
			}}
			return values.Compose(t.Context(), src, "demo", []v2.ValuesReference{
				{Kind: "ConfigMap", Name: "first"},
				{Kind: "Secret", Name: "second", ValuesKey: "one", TargetPath: path, Literal: literal},
				{Kind: "Secret", Name: "second", ValuesKey: "secret", TargetPath: path, Literal: literal},
				{Kind: "Secret", Name: "second"},
			}, &apiextensionsv1.JSON{Raw: []byte(inline)})
		}
		got, err := compose()
		if err != nil {
			if causeOf(err) == "" {
				t.Fatalf("not an *Error: %v", err)
			}
			// The HelmRelease and its ConfigMaps may be quoted, and may hold anything.
			public := first + inline + path
			if strings.Contains(err.Error(), canary) && !strings.Contains(public, canary) {
				t.Fatalf("it quotes a Secret: %v", err)
			}
			return
		}
		again, err := compose()
		if err != nil || values.Digest(got) != values.Digest(again) || values.Digest(got) == "" {
			t.Fatalf("%s, then %s, %v", values.Digest(got), values.Digest(again), err)
		}
	})
}

// FuzzLiteral: a literal value is at its path as it was, whatever it holds, and nothing else is.
func FuzzLiteral(f *testing.F) {
	for _, value := range []string{"", "text", "a,b=c", "{a,b}", `\n\\`, "[0]", "\"quoted\"", "'", "null", "007", "a\nb\n", "ü,\u2028"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !utf8.ValidString(value) || value == "" {
			t.Skip("Helm reads runes, and leaves out of a list what is empty")
		}
		got, err := values.Compose(t.Context(), object("Secret/a", "file", value), "demo", []v2.ValuesReference{
			{Kind: "Secret", Name: "a", ValuesKey: "file", TargetPath: `deep\.name.list[1].file`, Literal: true},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{"deep.name": map[string]any{"list": []any{nil, map[string]any{"file": value}}}}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

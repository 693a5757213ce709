package values_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

func causeOf(err error) values.Cause {
	var fault *values.Error
	if !errors.As(err, &fault) {
		return ""
	}
	return fault.Cause
}

// TestA14_Bounded: none of these may take more than a moment, or more memory than the agent has.
func TestA14_Bounded(t *testing.T) {
	bomb := "a: &a [" + strings.Repeat("x, ", 100) + "x]\n"
	for name := 'b'; name <= 'k'; name++ {
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", name, name, strings.Repeat(fmt.Sprintf("*%c, ", name-1), 100), name-1)
	}
	long := fmt.Sprintf("a: &a %q\nb: [%s*a]\n", strings.Repeat("x", 1<<19), strings.Repeat("*a, ", 1<<16))
	for name, test := range map[string]struct {
		ref   v2.ValuesReference
		value string
		want  values.Cause
	}{
		"index":                   {v2.ValuesReference{TargetPath: "a[99999999999]"}, "x", values.InvalidPath},
		"index beyond Helm's":     {v2.ValuesReference{TargetPath: "a[65537]"}, "x", values.InvalidPath},
		"index, literal":          {v2.ValuesReference{TargetPath: "a[99999999999]", Literal: true}, "x", values.InvalidPath},
		"indices":                 {v2.ValuesReference{TargetPath: strings.Repeat("a[65535].", 20) + "b"}, "x", values.TooLarge},
		"lists of lists":          {v2.ValuesReference{TargetPath: "a" + strings.Repeat("[65535]", 30)}, "x", values.TooLarge},
		"indices in the value":    {v2.ValuesReference{TargetPath: "a"}, "x" + manyLists(80000), values.TooLarge},
		"a list grown one by one": {v2.ValuesReference{TargetPath: "a"}, "x" + grownList(65536), values.TooLarge},
		"a list in a list in …":   {v2.ValuesReference{TargetPath: "a"}, "x,b" + strings.Repeat("[0]", 300000) + "=x", values.TooLarge},
		"nested names":            {v2.ValuesReference{TargetPath: strings.Repeat("a.", 31) + "a"}, "x", values.InvalidPath},
		"aliases":                 {v2.ValuesReference{}, bomb, values.TooLarge},
		"aliases of a long text":  {v2.ValuesReference{}, long, values.TooLarge},
		"an unknown alias":        {v2.ValuesReference{}, "a: *" + strings.Repeat("x", 1<<19), values.InvalidYAML},
		"an anchor within itself": {v2.ValuesReference{}, "a: &a [*a]\n", values.InvalidYAML},
		"depth":                   {v2.ValuesReference{}, "a: " + strings.Repeat("[", 500000), values.InvalidYAML},
		"size":                    {v2.ValuesReference{}, "a: " + strings.Repeat("x", 9<<20), values.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			test.ref.Kind, test.ref.Name = "ConfigMap", "values"
			_, err := values.Compose(t.Context(), object("ConfigMap/values", "values.yaml", test.value), "demo", []v2.ValuesReference{test.ref}, nil)
			if causeOf(err) != test.want {
				t.Fatalf("%v, want %s", shorten(err), test.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func manyLists(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",b%d[65535]=x", i)
	}
	return b.String()
}

func grownList(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ",b[%d]=x", i)
	}
	return b.String()
}

func shorten(err error) string {
	text := fmt.Sprint(err)
	return text[:min(len(text), 300)]
}

// TestA14_TogetherBounded: many references, each of which is small enough.
func TestA14_TogetherBounded(t *testing.T) {
	var refs []v2.ValuesReference
	for i := range 200 {
		refs = append(refs, v2.ValuesReference{Kind: "ConfigMap", Name: "values", TargetPath: fmt.Sprintf("a%d[65535]", i)})
	}
	_, err := values.Compose(t.Context(), object("ConfigMap/values", "values.yaml", "x"), "demo", refs, nil)
	if causeOf(err) != values.TooLarge {
		t.Errorf("%v, want TooLarge", err)
	}
}

// TestA14_Harmless: what only looks like an attack is taken.
func TestA14_Harmless(t *testing.T) {
	for name, test := range map[string]struct {
		ref   v2.ValuesReference
		value string
	}{
		"an index in a value":     {v2.ValuesReference{TargetPath: "a"}, "see [99999999999], or not"[:17]},
		"indices in a long value": {v2.ValuesReference{TargetPath: "a", Literal: true}, strings.Repeat("line [65535]=\n", 1000)},
		"Helm's largest index":    {v2.ValuesReference{TargetPath: "a[65535]"}, "x"},
		"an anchor used twice":    {v2.ValuesReference{}, "a: &a {b: 1}\nc: *a\nd:\n  <<: *a\n"},
	} {
		t.Run(name, func(t *testing.T) {
			test.ref.Kind, test.ref.Name = "ConfigMap", "values"
			_, err := values.Compose(t.Context(), object("ConfigMap/values", "values.yaml", test.value), "demo", []v2.ValuesReference{test.ref}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestA15_NoOtherNamespace: a name cannot lead out of the namespace, and what cannot be a name is not even asked for.
func TestA15_NoOtherNamespace(t *testing.T) {
	for _, ref := range []v2.ValuesReference{
		{Kind: "Secret", Name: "../../kube-system/secrets/admin"},
		{Kind: "Secret", Name: "kube-system/admin"},
		{Kind: "Secret", Name: "admin?watch=1"},
		{Kind: "Secret", Name: ""},
		{Kind: "ServiceAccount", Name: "admin"},
		{Kind: "", Name: "admin"},
	} {
		src := &strict{t: t}
		_, err := values.Compose(t.Context(), src, "demo", []v2.ValuesReference{ref}, nil)
		if causeOf(err) != values.InvalidReference {
			t.Errorf("%+v: %v, want InvalidReference", ref, err)
		}
	}
}

// strict fails the test when it is asked for anything.
type strict struct{ t *testing.T }

func (s *strict) Data(_ context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
	s.t.Errorf("asked for %s %s", kind, key)
	return nil, nil
}

// TestA29_NoSecretInErrors: whatever is wrong with what a Secret holds, no error repeats any of it.
func TestA29_NoSecretInErrors(t *testing.T) {
	const canary = "cAnArY"
	for _, text := range []string{
		canary, "- " + canary, canary + ": [" + canary, "a: *" + canary, "? {" + canary + ": 1}\n: 1\n", "a: !!float " + canary,
		"{" + canary + ": 1, [" + canary + "]: 2}", "\t" + canary, "a: \"\\" + canary, "&" + canary + " a: &" + canary, "a: !!" + canary + " b",
		"%" + canary + "\n---\na", "a: b: " + canary, "<<: " + canary, "a: !!binary " + canary, "--- !" + canary + "\n" + canary,
	} {
		refuse(t, v2.ValuesReference{}, text, canary)
	}
	for _, value := range []string{
		"a," + canary, "{" + canary, "a," + canary + "[x]=1", "a," + canary + ".b", "a," + canary + "[0]" + canary + "=1", "a,b[" + canary + "]=c", "a," + canary,
	} {
		for _, path := range []string{"a", "a.b", "a[0]", "a[x]", "[", "a["} {
			refuse(t, v2.ValuesReference{TargetPath: path}, value, canary)
		}
	}
}

func refuse(t *testing.T, ref v2.ValuesReference, value, canary string) {
	t.Helper()
	ref.Kind, ref.Name = "Secret", "values"
	_, err := values.Compose(t.Context(), object("Secret/values", "values.yaml", value), "demo", []v2.ValuesReference{ref}, nil)
	if err == nil {
		return // Another parser's idea of wrong; TestA29 is about what errors say.
	}
	if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(canary)) {
		t.Errorf("%q at %q: %v", value, ref.TargetPath, err)
	}
	var fault *values.Error
	if errors.As(err, &fault) && strings.Contains(fmt.Sprintf("%+v", *fault), canary) {
		t.Errorf("%q at %q: %+v", value, ref.TargetPath, *fault)
	}
}

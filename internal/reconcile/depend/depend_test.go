package depend

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
)

func ref(kind, namespace, name string) Ref {
	return Ref{Kind: kind, NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

func decoded(t *testing.T, text string) *unstructured.Unstructured {
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

func TestParse(t *testing.T) {
	for text, want := range map[string][]Ref{
		"":                    nil,
		" \n":                 nil,
		"HelmRelease/db":      {ref("HelmRelease", "own", "db")},
		"HelmRelease/data/db": {ref("HelmRelease", "data", "db")},
		" Kustomization/a ,\n Kustomization/own/a,GitRepository/x/b.c": {ref("Kustomization", "own", "a"), ref("GitRepository", "x", "b.c")},
	} {
		got, err := Parse(text, "own")
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", text, err, diff)
		}
	}
	for text, says := range map[string]string{
		"db":                      `"db" is neither`,
		"HelmRelease/a/b/c":       `"HelmRelease/a/b/c" is neither`,
		"HelmRelease/db,":         `"" is neither`,
		"Deployment/db":           "Kustomization, HelmRelease",
		"helmrelease/db":          "Kustomization, HelmRelease",
		"HelmRelease/":            `"HelmRelease/"`,
		"HelmRelease//db":         `"HelmRelease//db"`,
		"HelmRelease/data/Db":     `"HelmRelease/data/Db"`,
		"HelmRelease/da ta/db":    `"HelmRelease/da ta/db"`,
		strings.Repeat("x,", 200): "201",
	} {
		refs, err := Parse(text, "own")
		if err == nil || !strings.Contains(err.Error(), says) || refs != nil {
			t.Errorf("%q: %v, %v, which does not say %q", text, refs, err, says)
		}
	}
}

// FuzzParse: what was understood is understood again when it is written out.
func FuzzParse(f *testing.F) {
	f.Add("HelmRelease/data/db, Kustomization/a")
	f.Add("a/b/c/d,,")
	f.Fuzz(func(t *testing.T, text string) {
		refs, err := Parse(text, "own")
		if err != nil {
			return
		}
		var names []string
		for _, r := range refs {
			names = append(names, r.String())
		}
		again, err := Parse(strings.Join(names, ","), "other")
		if diff := cmp.Diff(refs, again); diff != "" || err != nil {
			t.Errorf("%q: %v (-first +again):\n%s", text, err, diff)
		}
	})
}

func TestOf(t *testing.T) {
	u := decoded(t, `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: a, namespace: own, annotations: {cleat.dev/depends-on: Kustomization/x/y}}
spec: {dependsOn: [{name: b}, {name: c, namespace: x}, {name: 1}, 2]}`)
	want := []Ref{ref("HelmRelease", "own", "b"), ref("HelmRelease", "x", "c"), ref("Kustomization", "x", "y")}
	if diff := cmp.Diff(want, Of(u)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	u.SetAnnotations(map[string]string{api.DependsOnAnnotation: "nonsense"})
	if diff := cmp.Diff(want[:2], Of(u)); diff != "" {
		t.Errorf("with a bad annotation (-want +got):\n%s", diff)
	}
	if got := Of(decoded(t, `{apiVersion: v1, kind: Kustomization, spec: 1}`)); got != nil {
		t.Errorf("of nonsense: %v", got)
	}
}

func TestReady(t *testing.T) {
	head := "{apiVersion: x/v1, kind: HelmRelease, metadata: {generation: 2}, "
	for name, tt := range map[string]struct {
		text string
		want bool
	}{
		"ready":                     {head + `status: {observedGeneration: 2, conditions: [{type: Ready, status: "True", observedGeneration: 2}]}}`, true},
		"not ready":                 {head + `status: {observedGeneration: 2, conditions: [{type: Ready, status: "False", observedGeneration: 2}]}}`, false},
		"unknown":                   {head + `status: {observedGeneration: 2, conditions: [{type: Ready, status: Unknown, observedGeneration: 2}]}}`, false},
		"ready before":              {head + `status: {observedGeneration: 1, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}}`, false},
		"condition of before":       {head + `status: {observedGeneration: 2, conditions: [{type: Ready, status: "True", observedGeneration: 1}]}}`, false},
		"without generations":       {head + `status: {conditions: [{type: Stalled, status: "True"}, {type: Ready, status: "True"}]}}`, true},
		"never looked at":           {head + `status: {observedGeneration: -1}}`, false},
		"without a status":          {head + `spec: {}}`, false},
		"nonsense":                  {head + `status: {observedGeneration: two, conditions: [1, {type: Ready, status: "True"}]}}`, false},
		"a registry is always":      {`{apiVersion: x/v1, kind: HelmRepository, metadata: {generation: 1}, spec: {type: oci}}`, true},
		"a Helm repository is not":  {`{apiVersion: x/v1, kind: HelmRepository, metadata: {generation: 1}, spec: {type: default}}`, false},
		"nor another kind that has": {`{apiVersion: x/v1, kind: GitRepository, metadata: {generation: 1}, spec: {type: oci}}`, false},
	} {
		u := decoded(t, tt.text)
		if first, second := Ready(u), Ready(u); first != tt.want || second != tt.want {
			t.Errorf("%s: %t, then %t, want %t", name, first, second, tt.want)
		}
	}
}

// TestF54_Cycle: a cycle is found from each of its members, and by nobody else (faults.md F54).
func TestF54_Cycle(t *testing.T) {
	a, b, c, d, e := ref("Kustomization", "n", "a"), ref("HelmRelease", "n", "b"), ref("Kustomization", "n", "c"), ref("Kustomization", "n", "d"), ref("Kustomization", "n", "e")
	graph := Graph{a: {e, b}, b: {c}, c: {a}, d: {a}}
	for of, want := range map[Ref]string{
		a: "Kustomization/n/a → HelmRelease/n/b → Kustomization/n/c → Kustomization/n/a",
		b: "HelmRelease/n/b → Kustomization/n/c → Kustomization/n/a → HelmRelease/n/b",
		c: "Kustomization/n/c → Kustomization/n/a → HelmRelease/n/b → Kustomization/n/c",
		d: "", // it waits for a cycle, and is in none
		e: "",
	} {
		got := ""
		if cycle := graph.Cycle(of); cycle != nil {
			got = cycle.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", of, got, want)
		}
	}
	if got := (Graph{a: {a}}).Cycle(a).String(); got != "Kustomization/n/a → Kustomization/n/a" {
		t.Errorf("on itself: %s", got)
	}
	delete(graph, c)
	if got := graph.Cycle(a); got != nil {
		t.Errorf("a cycle that was broken: %s", got)
	}
}

// TestF54_LargeGraph: everybody depending on everybody is one look at each edge, and a long cycle a short message.
func TestF54_LargeGraph(t *testing.T) {
	const n = 500
	all := make([]Ref, n)
	for i := range all {
		all[i] = ref("Kustomization", "n", fmt.Sprint(i))
	}
	dense, ring := Graph{}, Graph{}
	for i, r := range all {
		dense[r] = slices.Clone(all[i+1:])
		ring[r] = []Ref{all[(i+1)%n]}
	}
	if cycle := dense.Cycle(all[0]); cycle != nil {
		t.Errorf("found %s", cycle)
	}
	cycle := ring.Cycle(all[7])
	if len(cycle) != n || cycle[0] != all[7] || len(cycle.String()) > 2000 {
		t.Errorf("%d objects: %s", len(cycle), cycle)
	}
}

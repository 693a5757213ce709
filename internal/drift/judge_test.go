package drift

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/quick"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/object"
)

var shop = types.NamespacedName{Namespace: "demo", Name: "shop"}

const ownerLabels = "kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: demo"

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

// cm is a ConfigMap with data a and more metadata.
func cm(t testing.TB, a, more string) *unstructured.Unstructured {
	t.Helper()
	return parse(t, fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: demo, labels: {%s}%s}, data: {a: %q}}", ownerLabels, more, a))
}

func kubectls(manager, _ string) bool { return strings.HasPrefix(manager, "kubectl") }

func policy() Policy {
	return Policy{
		Mode: Correct, Owner: shop, Labels: object.KustomizationLabels(), Manager: object.Manager{Name: "kustomize-controller"},
		Overridden: kubectls, Hide: NewHider(),
	}
}

func with(change func(*Policy)) Policy {
	p := policy()
	change(&p)
	return p
}

func TestJudge(t *testing.T) {
	want, same, other := cm(t, "1", ""), cm(t, "1", ""), cm(t, "2", "")
	ending := cm(t, "2", `, deletionTimestamp: "2026-11-25T00:00:00Z", finalizers: [z.io/b, a.io/a]`)
	foreign := cm(t, "2", "")
	foreign.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": "other", "kustomize.toolkit.fluxcd.io/namespace": "demo"})
	helms := cm(t, "2", "")
	helms.SetLabels(map[string]string{"helm.toolkit.fluxcd.io/name": "other", "helm.toolkit.fluxcd.io/namespace": "demo"})
	others := cm(t, "2", ", annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}")
	others.SetLabels(nil)
	released := cm(t, "2", ", annotations: {helm.toolkit.fluxcd.io/driftDetection: disabled}")
	released.SetLabels(nil)
	bare := cm(t, "1", "")
	bare.SetLabels(nil)
	traces := cm(t, "1", `, managedFields: [{manager: kubectl-edit, operation: Update, fieldsV1: {"f:data": {"f:a": {}}}}]`)
	for name, tt := range map[string]struct {
		declared, live *unstructured.Unstructured
		policy         Policy
		op             Op
		reason         Reason
		detail         string
	}{
		"neither":                    {nil, nil, policy(), Leave, NotDeclared, ""},
		"not declared":               {nil, other, policy(), Leave, NotDeclared, ""},
		"missing":                    {want, nil, policy(), Create, Missing, ""},
		"missing, warn":              {want, nil, with(func(p *Policy) { p.Mode = Warn }), Report, Missing, ""},
		"missing, off":               {want, nil, with(func(p *Policy) { p.Mode = Off }), Leave, TurnedOff, ""},
		"missing, only created":      {want, nil, with(func(p *Policy) { p.IfNotPresent = true }), Create, Missing, ""},
		"missing, marked":            {want, nil, with(func(p *Policy) { p.Mark = "x=y" }), Leave, Marked, "x=y in Git"},
		"missing, suspended":         {want, nil, with(func(p *Policy) { p.Held = Suspended }), Leave, Suspended, ""},
		"the same":                   {want, same, policy(), Leave, AsDeclared, ""},
		"the same, warn":             {want, same, with(func(p *Policy) { p.Mode = Warn }), Leave, AsDeclared, ""},
		"changed":                    {want, other, policy(), Apply, Changed, ""},
		"changed, warn":              {want, other, with(func(p *Policy) { p.Mode = Warn }), Report, Changed, ""},
		"changed, off":               {want, other, with(func(p *Policy) { p.Mode = Off }), Leave, TurnedOff, ""},
		"changed, suspended":         {want, other, with(func(p *Policy) { p.Held = Suspended }), Leave, Suspended, ""},
		"changed, owner deleted":     {want, other, with(func(p *Policy) { p.Held = Deleting }), Leave, Deleting, ""},
		"changed, owner ahead":       {want, other, with(func(p *Policy) { p.Held = Outdated }), Leave, Outdated, ""},
		"changed, only created":      {want, other, with(func(p *Policy) { p.IfNotPresent = true }), Leave, OnlyCreated, ""},
		"changed, ignored":           {want, other, with(func(p *Policy) { p.Ignored = []string{"/data/a"} }), Leave, AsDeclared, ""},
		"changed, marked live":       {want, cm(t, "2", ", annotations: {kustomize.toolkit.fluxcd.io/reconcile: disabled}"), policy(), Leave, Marked, "kustomize.toolkit.fluxcd.io/reconcile=disabled in the cluster"},
		"changed, ssa ignore":        {want, cm(t, "2", ", annotations: {kustomize.toolkit.fluxcd.io/ssa: Ignore}"), policy(), Leave, Marked, "kustomize.toolkit.fluxcd.io/ssa=ignore in the cluster"},
		"changed, a mark for others": {want, others, with(func(p *Policy) { p.Labels = object.HelmReleaseLabels() }), Apply, Changed, ""},
		"changed, a release's mark":  {want, released, with(func(p *Policy) { p.Labels = object.HelmReleaseLabels() }), Leave, Marked, "helm.toolkit.fluxcd.io/driftDetection=disabled in the cluster"},
		"changed, not a release's":   {want, cm(t, "2", ", annotations: {helm.toolkit.fluxcd.io/driftDetection: disabled}"), policy(), Apply, Changed, ""},
		"terminating":                {want, ending, policy(), Leave, Terminating, "it is being deleted and waits for a.io/a, z.io/b"},
		"another's":                  {want, foreign, policy(), Leave, Foreign, "it belongs to demo/other now"},
		"a HelmRelease's":            {want, helms, policy(), Leave, Foreign, "it belongs to demo/other now"},
		"labels removed":             {want, bare, policy(), Apply, Changed, ""},
		"traces":                     {want, traces, policy(), Leave, Traces, ""},
		"traces, warn":               {want, traces, with(func(p *Policy) { p.Mode = Warn }), Leave, Traces, ""},
		"traces, merge":              {cm(t, "1", ", annotations: {kustomize.toolkit.fluxcd.io/ssa: Merge}"), traces, with(func(p *Policy) { p.Ignored = []string{"/metadata/annotations"} }), Leave, AsDeclared, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := Judge(tt.declared, tt.live, tt.policy)
			if got.Op != tt.op || got.Reason != tt.reason || got.Detail != tt.detail {
				t.Errorf("%s %s %q, want %s %s %q", got.Op, got.Reason, got.Detail, tt.op, tt.reason, tt.detail)
			}
			if (got.Reason == Changed) != (len(got.Differences) > 0) {
				t.Errorf("reason %s with the differences %v", got.Reason, got.Differences)
			}
			if got.Summary() == "" {
				t.Error("nothing is said about it")
			}
		})
	}
}

// TestF03_A50_OtherOwner: what belongs to somebody else now is not touched, whatever it looks like and whatever the mode.
func TestF03_A50_OtherOwner(t *testing.T) {
	for _, mode := range []Mode{Correct, Warn, Off} {
		live := cm(t, "2", ", uid: another")
		live.SetLabels(map[string]string{"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "elsewhere"})
		if got := Judge(cm(t, "1", ""), live, with(func(p *Policy) { p.Mode = mode })); got.Op != Leave {
			t.Errorf("%s: %s", mode, got.Op)
		}
	}
}

// TestF10_Terminating: what waits for somebody's finalizer is left alone, and is said to.
func TestF10_Terminating(t *testing.T) {
	live := cm(t, "2", `, deletionTimestamp: "2026-11-25T00:00:00Z", finalizers: [example.com/hold]`)
	got := Judge(cm(t, "1", ""), live, policy())
	if got.Op != Leave || !strings.Contains(got.Detail, "example.com/hold") {
		t.Errorf("%s: %s", got.Op, got.Detail)
	}
}

func value(r *rand.Rand, depth int) any {
	switch n := r.IntN(7); {
	case depth > 0 && n == 0:
		return fields(r, depth-1)
	case depth > 0 && n == 1:
		list := []any{}
		for range r.IntN(3) {
			list = append(list, value(r, depth-1))
		}
		return list
	case n == 2:
		return int64(r.IntN(3))
	case n == 3:
		return r.IntN(2) == 0
	default:
		return string(rune('a' + r.IntN(4)))
	}
}

func fields(r *rand.Rand, depth int) map[string]any {
	m := map[string]any{}
	for range r.IntN(4) {
		m[string(rune('p'+r.IntN(4)))] = value(r, depth)
	}
	return m
}

func thing(r *rand.Rand) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "t", "labels": map[string]any{}},
		"spec": fields(r, 3), "status": fields(r, 1),
	}}
}

// Judging twice says the same, changes nothing of what is judged, and what was corrected is as declared.
func TestJudgeIsStable(t *testing.T) {
	check := func(seed uint64) bool {
		r := rand.New(rand.NewPCG(seed, 1))
		declared, live := thing(r), thing(r)
		before, beforeLive := declared.DeepCopy(), live.DeepCopy()
		p := policy()
		once, twice := Judge(declared, live, p), Judge(declared, live, p)
		corrected := declared.DeepCopy()
		corrected.Object["status"] = live.Object["status"]
		after := Judge(declared, corrected, p)
		return cmp.Equal(once, twice) && cmp.Equal(declared, before) && cmp.Equal(live, beforeLive) &&
			after.Op == Leave && after.Reason == AsDeclared && (once.Op == Leave || once.Reason == Changed)
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

func TestParseMode(t *testing.T) {
	for value, want := range map[string]Mode{"correct": Correct, "warn": Warn, "off": Off} {
		if got, err := ParseMode(map[string]string{"cleat.dev/drift": value}, Correct); err != nil || got != want {
			t.Errorf("%s: %s, %v", value, got, err)
		}
	}
	if got, err := ParseMode(nil, Warn); err != nil || got != Warn {
		t.Errorf("none: %s, %v", got, err)
	}
	for _, value := range []string{"", "Warn", "disabled"} {
		if _, err := ParseMode(map[string]string{"cleat.dev/drift": value}, Correct); err == nil {
			t.Errorf("%q is accepted", value)
		}
	}
}

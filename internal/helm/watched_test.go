package helm

import (
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/drift"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

func TestDriftLine(t *testing.T) {
	of := drift.Record{APIVersion: "v1", Kind: "ConfigMap", Namespace: "ns", Name: "web", Reason: drift.Changed, Omitted: 2, Differences: []drift.Difference{
		{Path: "data.a", Declared: "1"}, {Path: "data.b", Live: "1"}, {Path: "data.c", Declared: "1", Live: "2"},
	}}
	gone := of
	gone.Reason = drift.Missing
	for _, tt := range []struct {
		record drift.Record
		state  drift.State
		want   string
	}{
		{of, drift.Open, "ConfigMap/ns/web changed (1 additions, 3 changes, 1 removals)"},
		{of, drift.Corrected, "ConfigMap/ns/web configured"},
		{gone, drift.Open, "ConfigMap/ns/web removed"},
		{gone, drift.Corrected, "ConfigMap/ns/web created"},
	} {
		if got := driftLine(tt.record, tt.state); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.state, got, tt.want)
		}
	}
}

// TestA29_TextsInValues: what a Secret brings into the values is known by its texts, and what stands everywhere is not.
func TestA29_TextsInValues(t *testing.T) {
	for content, want := range map[string][]string{
		"db: {password: s3cret, port: 5432}\nlist: [first, {a: second}]\non: yes": {"first", "s3cret", "second"},
		"just a text": {"just a text"},
		"a: [":        {"a: ["},
	} {
		source := &objects{secrets: map[string]map[string][]byte{"db": {"values.yaml": []byte(content)}}}
		got := source.texts([]v2.ValuesReference{{Kind: "Secret", Name: "db"}})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", content, diff)
		}
	}
}

// TestA30_RecordHidesSecrets: what a Secret of the release or of its values holds is shown nowhere, wherever it stands.
func TestA30_RecordHidesSecrets(t *testing.T) {
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "db"}, "data": map[string]any{"p": "aHVudGVyMg=="},
	}}
	policy := drift.Policy{Mode: drift.Correct, Labels: object.HelmReleaseLabels(), Hide: drift.NewHider().With(sensitive([]string{"s3cret"}, []*unstructured.Unstructured{secret}))}
	config := func(a, b string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "web"}, "data": map[string]any{"a": a, "b": b},
		}}
	}
	v := drift.Judge(config("url of s3cret", "hunter2"), config("x", "y"), policy)
	if len(v.Differences) != 2 {
		t.Fatalf("differences: %+v", v.Differences)
	}
	for _, d := range v.Differences {
		if len(d.Declared) < 5 || d.Declared[1:4] != object.Mask {
			t.Errorf("%s is shown as %s", d.Path, d.Declared)
		}
	}
	if sensitive(nil, nil) != nil {
		t.Error("something is secret where nothing is")
	}
}

// TestF42_ScaledRule: replicas are ignored if the dry-run has left them to an autoscaler, and only then.
func TestF42_ScaledRule(t *testing.T) {
	at := func(n int64) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": "ns"}}}
		if n > 0 {
			_ = unstructured.SetNestedField(u.Object, n, "spec", "replicas") // which has no field of another type on its way
		}
		return u
	}
	for name, tt := range map[string]struct {
		desired, live, merged int64
		want                  bool
	}{
		"an autoscaler's": {1, 5, 5, true},
		"edited":          {1, 5, 1, false},
		"as declared":     {1, 1, 1, false},
		"not declared":    {0, 5, 5, false},
	} {
		if got := len(scaledRule(at(tt.desired), &kube.Look{Live: at(tt.live), Merged: at(tt.merged)})) > 0; got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if scaledRule(at(1), &kube.Look{Merged: at(1)}) != nil {
		t.Error("one that is not there is scaled")
	}
}

func TestPolicyOf(t *testing.T) {
	for mode, want := range map[v2.DriftDetectionMode]drift.Mode{
		v2.DriftDetectionEnabled: drift.Correct, v2.DriftDetectionWarn: drift.Warn, v2.DriftDetectionDisabled: drift.Off, "": drift.Off,
	} {
		hr := &v2.HelmRelease{Spec: v2.HelmReleaseSpec{DriftDetection: &v2.DriftDetection{Mode: mode}}}
		if got := policyOf(hr).Mode; got != want {
			t.Errorf("%q: %s, want %s", mode, got, want)
		}
	}
	if got := policyOf(&v2.HelmRelease{}).Mode; got != drift.Off {
		t.Errorf("without spec.driftDetection: %s", got)
	}
}

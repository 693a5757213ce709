package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

func TestRunRefusesBadFlags(t *testing.T) {
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"run", "--no-such-flag"}, "no-such-flag"},
		{[]string{"run", "--watch-label-selector", "a in"}, "--watch-label-selector"},
		{[]string{"run", "--watch-configs-label-selector", "=="}, "--watch-configs-label-selector"},
		{[]string{"run", "--interval-jitter-percentage", "100"}, "--interval-jitter-percentage"},
		{[]string{"run", "--concurrent", "0"}, "--concurrent"},
		{[]string{"run", "--feature-gates", "NoSuchGate=true"}, "NoSuchGate"},
		{[]string{"run", "--feature-gates", "MigrateAPIVersion=maybe"}, "MigrateAPIVersion=true"},
		{[]string{"run", "--feature-gates", "DirectSourceFetch=true"}, "DirectSourceFetch cannot be true"},
		{[]string{"run", "--feature-gates", "CancelHealthCheckOnNewRevision=false"}, "CancelHealthCheckOnNewRevision cannot be false"},
		{[]string{"run", "--feature-gates", "DetectDrift=true"}, "DetectDrift cannot be true"},
		{[]string{"run", "--snapshot-digest-algo", "sha512"}, "--snapshot-digest-algo"},
		{[]string{"run", "--default-service-account", "system:masters"}, "--default-service-account"},
		{[]string{"run", "--default-kubeconfig-service-account", "a/b"}, "--default-kubeconfig-service-account"},
		{[]string{"run", "--custom-apply-stage-kinds", "a/b/c"}, "--custom-apply-stage-kinds"},
		{[]string{"run", "--orphan-after", "0s"}, "--orphan-after"},
		{[]string{"run", "--token-cache-max-size", "-1"}, "--token-cache-max-size"},
		{[]string{"run", "--kubeconfig", "/no/such/file"}, "--kubeconfig"},
		{[]string{"run", "extra"}, "extra"},
		{[]string{"no-such-command"}, "no-such-command"},
	} {
		var stderr bytes.Buffer
		code := Run(context.Background(), test.args, nil, io.Discard, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("cleat %v: exit code %d, stderr %q does not name %q", test.args, code, stderr.String(), test.says)
		}
	}
}

func TestVersion(t *testing.T) {
	var stdout bytes.Buffer
	if code := Run(context.Background(), []string{"version"}, nil, &stdout, io.Discard); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if !strings.Contains(stdout.String(), "cleat: "+Version) {
		t.Errorf("printed %q", stdout.String())
	}
}

// TestAdvertised: artifact URLs lead to the agent, in a cluster and out of it.
func TestAdvertised(t *testing.T) {
	for _, test := range []struct {
		flags Flags
		want  string
	}{
		{Flags{StorageAddr: ":9090", Namespace: "flux-system"}, "source-controller.flux-system.svc.cluster.local."},
		{Flags{StorageAddr: "127.0.0.1:7070", Kubeconfig: "x"}, "127.0.0.1:7070"},
	} {
		if got := test.flags.advertised(); got != test.want {
			t.Errorf("%+v: %s, want %s", test.flags, got, test.want)
		}
	}
}

// TestLog: log lines have the keys that `flux logs` reads, and one line stays one line (faults.md A49).
func TestLog(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, "info", "json").With("controllerKind", "Kustomization")
	log.Debug("not at this level")
	log.Error("reconciliation failed", "name", "shop", "namespace", "demo", "error", errors.New("first\nsecond \x1b[31m"))
	if lines := strings.Count(out.String(), "\n"); lines != 1 || strings.Contains(out.String(), "\x1b") {
		t.Fatalf("%d lines: %q", lines, out.String())
	}
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if ts, _ := line["ts"].(string); !strings.HasSuffix(ts, "Z") || len(ts) != len("2026-11-23T11:58:08.181Z") {
		t.Errorf("ts is %v", line["ts"])
	}
	delete(line, "ts")
	want := map[string]any{
		"level": "error", "msg": "reconciliation failed", "controllerKind": "Kustomization",
		"name": "shop", "namespace": "demo", "error": "first\nsecond \x1b[31m",
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestHealthHandler(t *testing.T) {
	fine := func(*http.Request) error { return nil }
	broken := func(*http.Request) error { return errors.New("stuck: Kustomization/demo/shop") }
	handler := healthHandler(broken, fine)
	for path, want := range map[string]int{"/healthz": 500, "/readyz": 200, "/": 404} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		if answer.Code != want {
			t.Errorf("%s: %d, want %d", path, answer.Code, want)
		}
	}
}

// cached is a cache that holds the given objects.
type cached struct {
	client.Reader
	objects []unstructured.Unstructured
}

func (c cached) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	into := list.(*unstructured.UnstructuredList)
	for _, u := range c.objects {
		if u.GetKind()+"List" == into.GetKind() {
			into.Items = append(into.Items, u)
		}
	}
	return nil
}

// TestResourcesOfReleases: what Flux's dashboard asks of HelmReleases.
func TestResourcesOfReleases(t *testing.T) {
	hr := api.Undecoded(api.HelmReleaseKind)
	hr.SetName("web")
	hr.SetNamespace("demo")
	hr.Object["spec"] = map[string]any{"chart": map[string]any{"spec": map[string]any{"sourceRef": map[string]any{"name": "charts"}}}}
	hr.Object["status"] = map[string]any{"history": []any{map[string]any{"chartName": "web", "chartVersion": "1.1.0", "appVersion": "7"}}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newResources(cached{objects: []unstructured.Unstructured{*hr}}, []schema.GroupVersionKind{api.HelmReleaseKind}, slog.New(slog.DiscardHandler)))
	want := `
# HELP gotk_resource_info The current status of a GitOps Toolkit resource.
# TYPE gotk_resource_info gauge
gotk_resource_info{chart_app_version="7",chart_name="web",chart_ref_name="",chart_source_name="charts",chart_version="1.1.0",customresource_group="helm.toolkit.fluxcd.io",customresource_kind="HelmRelease",customresource_version="v2",exported_namespace="demo",name="web",ready="Unknown",revision="1.1.0",source_name="",suspended="false",url=""} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "gotk_resource_info"); err != nil {
		t.Error(err)
	}
}

// TestResources: the metrics that Flux's old dashboards ask for, also of an object that does not decode.
func TestResources(t *testing.T) {
	ks := api.Undecoded(api.KustomizationKind)
	ks.SetName("shop")
	ks.SetNamespace("demo")
	ks.Object["spec"] = map[string]any{"suspend": true, "interval": "9999999h", "sourceRef": map[string]any{"name": "repo"},
		"url": "https://user:canary@example.com/repo.git"}
	ks.Object["status"] = map[string]any{
		"lastAppliedRevision": "main@sha1:abc",
		"conditions":          []any{map[string]any{"type": "Ready", "status": "False"}},
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newResources(cached{objects: []unstructured.Unstructured{*ks}}, required, slog.New(slog.DiscardHandler)))
	want := `
# HELP gotk_reconcile_condition The current condition status of a GitOps Toolkit resource reconciliation.
# TYPE gotk_reconcile_condition gauge
gotk_reconcile_condition{kind="Kustomization",name="shop",namespace="demo",status="False",type="Ready"} 1
gotk_reconcile_condition{kind="Kustomization",name="shop",namespace="demo",status="True",type="Ready"} 0
gotk_reconcile_condition{kind="Kustomization",name="shop",namespace="demo",status="Unknown",type="Ready"} 0
# HELP gotk_resource_info The current status of a GitOps Toolkit resource.
# TYPE gotk_resource_info gauge
gotk_resource_info{chart_app_version="",chart_name="",chart_ref_name="",chart_source_name="",chart_version="",customresource_group="kustomize.toolkit.fluxcd.io",customresource_kind="Kustomization",customresource_version="v1",exported_namespace="demo",name="shop",ready="False",revision="main@sha1:abc",source_name="repo",suspended="true",url="https://example.com/repo.git"} 1
# HELP gotk_suspend_status The current suspend status of a GitOps Toolkit resource.
# TYPE gotk_suspend_status gauge
gotk_suspend_status{kind="Kustomization",name="shop",namespace="demo"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

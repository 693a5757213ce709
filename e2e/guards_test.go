package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// about counts the requests of an apply that are about single objects, as "1 read 2 writes"; a dry-run is a write. Discovery and
// the first lists of watches are not about any.
func (e *edge) about(name string) string {
	reads, writes := 0, 0
	for _, request := range e.requests.take() {
		method, uri, _ := strings.Cut(request, " ")
		path, _, _ := strings.Cut(uri, "?")
		switch {
		case !strings.HasSuffix(path, "/"+name):
		case method == http.MethodGet:
			reads++
		default:
			writes++
		}
	}
	return fmt.Sprintf("%d read %d writes", reads, writes)
}

// A new object costs a read and two writes, a changed one the same, an unchanged one nothing; in every stage.
func TestKubeCostsFewRequests(t *testing.T) {
	e := newEdge(t)
	group := "g" + testenv.Token()
	const one = "{apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: NS}, data: {x: '%d'}}"
	text := func(n int) string {
		return strings.Replace(crdAndWidget(group), "size: 1", fmt.Sprintf("size: %d", n), 1) + "\n---\n" + fmt.Sprintf(one, n)
	}
	for _, test := range []struct {
		name  string
		n     int
		names map[string]string
	}{
		{"create", 1, map[string]string{"one": "1 read 2 writes", "w": "1 read 2 writes", "widgets." + group + ".example.com": "1 read 2 writes"}},
		{"unchanged", 1, map[string]string{"one": "0 read 0 writes", "w": "0 read 0 writes", "widgets." + group + ".example.com": "0 read 0 writes"}},
		{"change", 2, map[string]string{"one": "1 read 2 writes", "w": "1 read 2 writes", "widgets." + group + ".example.com": "0 read 0 writes"}},
	} {
		e.requests.take()
		set := e.mustApply(t, text(test.n))
		seen := e.requests.take()
		got := map[string]string{}
		for name := range test.names {
			e.requests.mu.Lock()
			e.requests.seen = slices.Clone(seen)
			e.requests.mu.Unlock()
			got[name] = e.about(name)
		}
		if diff := cmp.Diff(test.names, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", test.name, diff, strings.Join(seen, "\n"))
		}
		if test.name == "unchanged" && len(seen) > 0 {
			t.Errorf("nothing has changed, and the API server was asked %q", seen)
		}
		e.synced(t, set.Refs()...)
	}
}

// webhook registers an admission webhook for ConfigMaps of the test's namespace and returns when it is in force.
func (e *edge) webhook(t *testing.T, url string) {
	t.Helper()
	hook := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
		"metadata": map[string]any{"name": e.namespace},
		"webhooks": []any{map[string]any{
			"name": "hook.example.com", "sideEffects": "None", "failurePolicy": "Fail", "admissionReviewVersions": []any{"v1"},
			"clientConfig":      map[string]any{"url": url},
			"namespaceSelector": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": e.namespace}},
			"rules": []any{map[string]any{"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE", "UPDATE"},
				"resources": []any{"configmaps"}}},
		}},
	}}
	if err := e.other.Create(t.Context(), hook); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.other.Delete(context.WithoutCancel(t.Context()), hook); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	// The API server takes a moment, and offers nothing to wait for. A dry-run that is refused says that it has.
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for probe := e.parse(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: probe, namespace: NS}}")[0]; ; {
		if err := e.other.Create(t.Context(), probe.DeepCopy(), client.DryRunAll); err != nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the webhook is not in force")
		case <-again.C:
		}
	}
}

// F40: a webhook that cannot be called is told by its name, by an error that says that it passes.
func TestF40_KubeWebhookIsDown(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	e.webhook(t, "https://127.0.0.1:1/")
	text := "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}}\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: s, namespace: NS}}"
	_, err := e.apply(t, e.parse(t, text))
	if !errors.Is(err, kube.ErrWebhookUnavailable) || !strings.Contains(err.Error(), `"hook.example.com": connection refused`) {
		t.Errorf("error = %v", err)
	}
	// What it does not concern is applied, if that is what is asked for.
	objects := e.parse(t, text)
	set, err := e.applier.Apply(t.Context(), e.owner, objects, kube.ApplyOptions{BestEffort: true})
	if !errors.Is(err, kube.ErrWebhookUnavailable) {
		t.Errorf("error = %v", err)
	}
	if diff := cmp.Diff([]string{"ServiceAccount/" + e.namespace + "/s created"}, actions(set)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// F40: where a webhook with side effects keeps the API server from a dry-run, objects are applied without. Such a webhook can no
// longer be registered, but one that was before is still there; the API server's answer is put in its mouth.
func TestF40_KubeWebhookRefusesDryRun(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	e.requests.answer = func(req *http.Request) *http.Response {
		if !req.URL.Query().Has("dryRun") {
			return nil
		}
		status, err := json.Marshal(metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusBadRequest,
			Reason: metav1.StatusReasonBadRequest, Message: `admission webhook "old.example.com" does not support dry run`,
		})
		if err != nil {
			t.Error(err)
		}
		return &http.Response{
			StatusCode: http.StatusBadRequest, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(bytes.NewReader(status)), Request: req,
		}
	}
	const text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {x: '%d'}}"
	for _, step := range []struct {
		n    int
		want string
	}{{1, "created"}, {2, "configured"}} {
		set := e.mustApply(t, fmt.Sprintf(text, step.n))
		if diff := cmp.Diff([]string{"ConfigMap/" + e.namespace + "/c " + step.want}, actions(set)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	e.Forget(e.owner) // as a new agent, which does not know how the object was left
	if set := e.mustApply(t, fmt.Sprintf(text, 2)); len(set.Effective()) > 0 {
		t.Errorf("nothing has changed: %v", actions(set))
	}
}

// F41: spec.force makes an object anew when that mends it, and spares what would lose its data unless the object itself asks.
func TestF41_KubeForceSparesData(t *testing.T) {
	e := newEdge(t)
	e.mustApply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: NS}}")
	claim := func(annotations, class string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: p, namespace: NS, annotations: {%s}}, spec: {storageClassName: %s, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}", annotations, class)
	}
	const config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, immutable: true, data: {x: '%d'}}"
	const service = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: s, namespace: NS, labels: {%s}}}"
	force := func(text string) (kube.ChangeSet, error) {
		return e.applier.Apply(t.Context(), e.owner, e.parse(t, text), kube.ApplyOptions{Force: true, WaitTimeout: 30 * time.Second})
	}
	e.mustApply(t, claim("", "a")+"\n---\n"+fmt.Sprintf(config, 1)+"\n---\n"+fmt.Sprintf(service, "a: b"))
	before := e.get(t, object.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: e.namespace, Name: "p"}).GetUID()

	_, err := force(claim("", "b"))
	var refused *kube.RefusedError
	if !errors.As(err, &refused) || !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec") || !strings.Contains(err.Error(), "the data in it would be lost") {
		t.Errorf("error = %v", err)
	}
	if set, err := force(fmt.Sprintf(config, 2)); err != nil || !set[0].Recreated {
		t.Errorf("a ConfigMap: %v, %v", set, err)
	}
	// What is wrong for itself would be as wrong when it is new.
	account := object.Ref{Version: "v1", Kind: "ServiceAccount", Namespace: e.namespace, Name: "s"}
	if _, err := force(fmt.Sprintf(service, "'not/a/label': b")); !apierrors.IsInvalid(err) || e.get(t, account) == nil {
		t.Errorf("a typo: %v", err)
	}
	if e.get(t, object.Ref{Version: "v1", Kind: "PersistentVolumeClaim", Namespace: e.namespace, Name: "p"}).GetUID() != before {
		t.Error("the claim was made anew")
	}
}

// F43: a CRD that changes its versions leaves fields in managedFields that the new schema lacks; they are migrated once.
func TestF43_KubeMigratesManagedFields(t *testing.T) {
	e := newEdge(t)
	group := "g" + testenv.Token()
	const crd = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.%[1]s.example.com}, spec: {group: %[1]s.example.com, scope: Namespaced,
names: {kind: Widget, plural: widgets}, versions: [%[2]s]}}`
	const version = "{name: %s, served: %t, storage: %t, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {%s}}}}}}"
	widget := func(v string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: NS}}\n---\n{apiVersion: %s.example.com/%s, kind: Widget, metadata: {name: w, namespace: NS}, spec: {size: 1}}", group, v)
	}
	old := fmt.Sprintf(version, "v1", true, true, "size: {type: integer}")
	e.mustApply(t, fmt.Sprintf(crd, group, old)+"\n---\n"+widget("v1"))
	// v2 has a default, which v1, under which the fields are owned, does not know.
	both := fmt.Sprintf(version, "v1", true, false, "size: {type: integer}") + ", " + fmt.Sprintf(version, "v2", true, true, "size: {type: integer}, colour: {type: string, default: red}")
	e.mustApply(t, fmt.Sprintf(crd, group, both)+"\n---\n"+widget("v2"))
}

// F05: an agent that runs as a ServiceAccount never prunes it, nor what it has its rights by.
func TestF05_AgentKeepsItself(t *testing.T) {
	cluster := testenv.Shared(t)
	namespace := cluster.Namespace(t, "self")
	repo := create(t, testenv.Git(t), "self")
	files := fmt.Sprintf(`
-- app/keep.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: keep, namespace: %[1]s}
-- app/self.yaml --
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: %[1]s}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: agent, namespace: %[1]s}]
`, namespace)
	manifests, _, _ := strings.Cut(files[strings.Index(files, "-- app/self.yaml --\n")+len("-- app/self.yaml --\n"):], "-- end")
	if _, err := cluster.Apply(t.Context(), []byte(manifests), namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteBinding(t, cluster, namespace) })
	agent := testenv.NewAgent(t, cluster.Kubeconfig, namespace)
	if err := agent.StartAs(t.Context(), "system:serviceaccount:"+namespace+":agent"); err != nil {
		t.Fatal(err)
	}
	commit := push(t, repo, files)
	if _, err := cluster.Apply(t.Context(), fmt.Appendf(nil, strings.ReplaceAll(killObjects, "wait: true, targetNamespace: %s, ", ""), repo.URL), namespace); err != nil {
		t.Fatal(err)
	}
	ks := live.Ref{Kind: "ks", Namespace: namespace, Name: "app"}
	if _, err := cluster.Until(t.Context(), ks, live.ReadyAt(commit)); err != nil {
		t.Fatal(err)
	}
	keep, _, _ := strings.Cut(files, "-- app/self.yaml")
	commit = push(t, repo, keep)
	if err := cluster.Poke(t.Context(), live.Ref{Kind: "gitrepo", Namespace: namespace, Name: "app"}, testenv.Token()); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Until(t.Context(), ks, live.ReadyAt(commit)); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[live.Ref]bool{
		{Kind: "serviceaccount", Namespace: namespace, Name: "agent"}: true,
		{Kind: "clusterrolebinding", Name: namespace}:                 true,
		{Kind: "serviceaccount", Namespace: namespace, Name: "other"}: false,
		{Kind: "configmap", Namespace: namespace, Name: "keep"}:       true,
	} {
		obj, err := cluster.Get(t.Context(), ref)
		if err != nil || (obj != nil) != want {
			t.Errorf("%s is there: %t, want %t (%v)", ref, obj != nil, want, err)
		}
	}
}

// deleteBinding removes what the test has made outside of its namespace.
func deleteBinding(t *testing.T, cluster *testenv.Cluster, name string) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig)
	if err != nil {
		t.Error(err)
		return
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Error(err)
		return
	}
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("rbac.authorization.k8s.io/v1")
	u.SetKind("ClusterRoleBinding")
	u.SetName(name)
	if err := c.Delete(context.WithoutCancel(t.Context()), u); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// TestLeaderElection: of two agents one acts, under Flux's leases; when it stops, the other goes on where it was.
func TestLeaderElection(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster := testenv.Shared(t)
	namespace := cluster.Namespace(t, "lead")
	git := testenv.Git(t)
	repo, err := git.Create("shop")
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{
		"--enable-leader-election", "--leader-election-lease-duration=4s",
		"--leader-election-renew-deadline=3s", "--leader-election-retry-period=200ms",
	}
	first := testenv.NewAgent(t, cluster.Kubeconfig, namespace, flags...)
	second := testenv.NewAgent(t, cluster.Kubeconfig, namespace, flags...)
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for _, controller := range []string{"source-controller", "kustomize-controller", "helm-controller", "notification-controller"} {
		lease := controller + "-leader-election"
		held := func(obj *unstructured.Unstructured) bool { return field(obj, "{.spec.holderIdentity}") != "" }
		if _, err := cluster.Until(ctx, live.Ref{Kind: "leases.coordination.k8s.io", Namespace: namespace, Name: lease}, held); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.Start(ctx); err != nil {
		t.Fatal(err)
	}

	push := func(n int) string {
		t.Helper()
		commit, err := repo.CommitTxtar(fmt.Appendf(nil,
			"-- cm.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, namespace: %s}\ndata: {n: \"%d\"}\n", namespace, n), "commit")
		if err == nil {
			err = repo.Push(false)
		}
		if err != nil {
			t.Fatal(err)
		}
		return commit
	}
	ks := live.Ref{Kind: "ks", Namespace: namespace, Name: "shop"}
	commit := push(1)
	if _, err := cluster.Apply(ctx, []byte(fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: shop}
spec: {interval: 1h, url: %q, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop}
spec: {interval: 1h, path: ./, prune: true, sourceRef: {kind: GitRepository, name: shop}}
`, git.URL("shop"))), namespace); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Until(ctx, ks, live.ReadyAt(commit)); err != nil {
		t.Fatal(err)
	}
	standbyTakesHooks(t, ctx, cluster, namespace, second, func() { commit = push(3) })
	if _, err := cluster.Until(ctx, ks, live.ReadyAt(commit)); err != nil {
		t.Fatalf("the hook that the second agent has taken did not reach the first: %v", err)
	}
	if log := second.Log(); strings.Contains(log, `"reconciled"`) {
		t.Errorf("the second agent has acted beside the first:\n%s", log)
	}

	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	commit = push(2)
	if err := cluster.Poke(ctx, live.Ref{Kind: "gitrepo", Namespace: namespace, Name: "shop"}, testenv.Token()); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Until(ctx, ks, live.ReadyAt(commit)); err != nil {
		t.Fatalf("the second agent has not taken over: %v", err)
	}
	requireMetrics(t, second.Metrics())
}

// standbyTakesHooks posts a hook about a push to an agent that waits for its lease: most senders try once, and a Service sends
// them to any agent.
func standbyTakesHooks(t *testing.T, ctx context.Context, cluster *testenv.Cluster, namespace string, standby *testenv.Agent, push func()) {
	t.Helper()
	if _, err := cluster.Apply(ctx, []byte(`
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {token: canary-token}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: push}
spec: {type: github, secretRef: {name: token}, resources: [{kind: GitRepository, name: shop, filter: "req.repository.name == res.metadata.name"}]}
`), namespace); err != nil {
		t.Fatal(err)
	}
	receiver, err := cluster.Until(ctx, live.Ref{Kind: "receivers", Namespace: namespace, Name: "push"}, live.Ready)
	if err != nil {
		t.Fatal(err)
	}
	url := standby.Hooks() + field(receiver, "{.status.webhookPath}")
	if err := proc.AwaitHook(ctx, url); err != nil {
		t.Fatal(err)
	}
	push()
	if d := gitserver.Deliver(url, "canary-token", "shop", "", ""); d.Status != http.StatusOK {
		t.Fatalf("%d: %v", d.Status, d.Err)
	}
}

// requireMetrics checks that the series which Flux's dashboards ask for are there after a reconciliation.
func requireMetrics(t *testing.T, url string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", response.Status, text)
	}
	for _, series := range []string{
		`gotk_reconcile_duration_seconds_count{kind="Kustomization",name="shop"`,
		`gotk_reconcile_condition{kind="GitRepository",name="shop"`,
		`gotk_suspend_status{kind="Kustomization",name="shop"`,
		`gotk_resource_info{`,
		`customresource_group="source.toolkit.fluxcd.io",customresource_kind="GitRepository"`,
		`cleat_step_duration_seconds_count{kind="Kustomization",result="ok",step="apply"}`,
		`cleat_events_total{kind="Kustomization",severity="info"}`,
		`gotk_receiver_http_request_duration_seconds_count{code="200",handler="/hook/",method="POST",service=""} 1`,
		`controller_runtime_reconcile_total{`,
		`workqueue_depth{`,
	} {
		if !strings.Contains(string(text), series) {
			t.Errorf("/metrics lacks %s", series)
		}
	}
}

// TestStandbyAfterCrash: the leases of a leader that has crashed run out together, and not one after the other.
func TestStandbyAfterCrash(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster := testenv.Shared(t)
	namespace := cluster.Namespace(t, "crash")
	names := []string{
		"source-controller-leader-election", "kustomize-controller-leader-election",
		"helm-controller-leader-election", "notification-controller-leader-election",
	}
	const runsOut = 4 * time.Second
	for _, name := range names {
		lease := fmt.Sprintf("apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: %s}\nspec: {holderIdentity: crashed, leaseDurationSeconds: %d, renewTime: %q}\n",
			name, runsOut/time.Second, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
		if _, err := cluster.Apply(ctx, []byte(lease), namespace); err != nil {
			t.Fatal(err)
		}
	}
	standby := testenv.NewAgent(t, cluster.Kubeconfig, namespace, "--enable-leader-election", "--leader-election-lease-duration=4s",
		"--leader-election-renew-deadline=3s", "--leader-election-retry-period=200ms")
	if err := standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, name := range names {
		taken := func(obj *unstructured.Unstructured) bool { return field(obj, "{.spec.holderIdentity}") != "crashed" }
		if _, err := cluster.Until(ctx, live.Ref{Kind: "leases.coordination.k8s.io", Namespace: namespace, Name: name}, taken); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 2*runsOut {
		t.Errorf("the standby has taken over after %s", took)
	}
}

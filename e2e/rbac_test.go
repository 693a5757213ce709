package e2e_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

const (
	home       = "flux-system"
	agentsUser = "system:serviceaccount:" + home + ":cleat"
)

// withoutProof are rights that are used only when something breaks that cannot be broken here.
var withoutProof = map[string]string{
	"get receivers.notification.toolkit.fluxcd.io /": "a write to a Receiver that got no answer is followed by a read",
}

// TestRights runs the agent as the manifests do: with the flags of their Deployment and the token of their ServiceAccount, bound
// to a pod that they made, never as an administrator. Nothing that it asks for is refused, and no right that is granted to it by
// its roles goes without use.
func TestRights(t *testing.T) {
	for _, overlay := range []string{"base", "overlays/lockdown"} {
		t.Run(filepath.Base(overlay), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			c := install(t, ctx, overlay)
			agent := c.agent(t, ctx)
			if err := agent.Start(ctx); err != nil {
				t.Fatal(err)
			}
			kustomizations := []string{"kustomizations/shop"}
			if overlay != "base" { // which does not switch on what the other takes
				kustomizations = append(kustomizations, "kustomizations/far")
			}
			c.work(t, ctx, agent, kustomizations)
			if err := agent.Stop(); err != nil {
				t.Fatal(err)
			}
			c.judge(t, ctx)
		})
	}
}

// platform is a control plane with one of the overlays.
type platform struct {
	*testenv.Cluster
	root string
}

// install applies an overlay as its readers are told to, to a cluster that has nothing yet.
func install(t *testing.T, ctx context.Context, overlay string) platform {
	t.Helper()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := platform{testenv.Empty(t), root}
	c.kubectl(t, ctx, "apply", "--server-side", "-k", filepath.Join(root, "manifests", overlay))
	return c
}

func (c platform) kubectl(t *testing.T, ctx context.Context, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(c.root, "bin", "devcluster"), append([]string{"kubectl", "--kubeconfig=" + c.Kubeconfig}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// agent returns an agent that runs as the Deployment of the cluster says, but for the addresses and the folder of this machine.
func (c platform) agent(t *testing.T, ctx context.Context) *testenv.Agent {
	t.Helper()
	running := func(obj *unstructured.Unstructured) bool { return field(obj, "{.status.phase}") == "Running" }
	if err := c.UntilAll(ctx, "pods", home, 1, running); err != nil {
		t.Fatalf("the Deployment has made no pod: %v\n%s", err, c.kubectl(t, ctx, "-n", home, "get", "events"))
	}
	pods, err := c.List(ctx, "pods", home, "app.kubernetes.io/name=cleat")
	if err != nil || len(pods) == 0 {
		t.Fatalf("the Deployment has made no pod: %v", err)
	}
	deployment, err := c.Get(ctx, live.Ref{Kind: "deployments", Namespace: home, Name: "cleat"})
	if err != nil {
		t.Fatal(err)
	}
	args, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	flags, _, _ := unstructured.NestedStringSlice(args[0].(map[string]any), "args")
	flags = slices.DeleteFunc(flags, func(flag string) bool {
		name, _, _ := strings.Cut(flag, "=")
		return name == "run" || name == "--storage-path" || strings.HasSuffix(name, "-addr") || name == "--receiverAddr"
	})
	agent := testenv.NewAgent(t, c.Kubeconfig, home, append([]string{"--watch-all-namespaces=true", "--inventory-max-size=1"}, flags...)...)
	token := c.kubectl(t, ctx, "-n", home, "create", "token", "cleat", "--bound-object-kind=Pod", "--bound-object-name="+pods[0].GetName())
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, c.kubeconfigOf(t, token), 0o600); err != nil {
		t.Fatal(err)
	}
	agent.Kubeconfig(path)
	return agent
}

// kubeconfigOf returns a kubeconfig of this cluster for the bearer of a token.
func (c platform) kubeconfigOf(t *testing.T, token string) []byte {
	t.Helper()
	config := c.authority(t)
	written, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// right is one thing that a role allows: a verb on a resource, in one namespace or, without, in all, and on one object or, without
// a name, on all.
type right struct{ verb, group, resource, namespace, name string }

func (r right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s/%s", r.verb, strings.TrimSuffix(r.resource+"."+r.group, "."), r.namespace, r.name))
}

func (r right) covers(a testenv.Access) bool {
	if a.As != "" { // the request itself is judged by the rights of whoever was impersonated
		namespace, _, _ := strings.Cut(strings.TrimPrefix(a.As, "system:serviceaccount:"), ":")
		a = testenv.Access{Verb: "impersonate", Resource: "serviceaccounts", Namespace: namespace}
	}
	verb := r.verb == a.Verb || r.verb == "create" && a.Verb == "patch" && a.Created // an apply that makes an object takes both
	return verb && r.group == a.Group && r.resource == a.Resource &&
		(r.namespace == "" || r.namespace == a.Namespace) && (r.name == "" || r.name == a.Name)
}

// judge holds the rights that are granted against those that were used.
func (c platform) judge(t *testing.T, ctx context.Context) {
	t.Helper()
	unused := map[right]bool{}
	for _, r := range c.granted(t, ctx) {
		unused[r] = true
	}
	if len(unused) == 0 {
		t.Fatal("the manifests grant nothing")
	}
	audit, err := c.AuditLog()
	if err != nil {
		t.Fatal(err)
	}
	// The log follows the answers by a moment, and there is nothing to watch on a file.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for patience := time.After(5 * time.Second); len(unused) > 0; {
		asked, err := audit.Accesses(agentsUser)
		if err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(unused, func(r right, _ bool) bool { return slices.ContainsFunc(asked, r.covers) })
		select {
		case <-patience:
			for r := range unused {
				if why := withoutProof[r.String()]; why != "" {
					t.Logf("granted without proof: %s: %s", r, why)
					continue
				}
				t.Errorf("granted and never used: %s", r)
			}
			clear(unused)
		case <-again.C:
		}
	}
	asked, err := audit.Accesses(agentsUser)
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) == 0 {
		t.Fatal("the audit log has nothing of the agent's")
	}
	refused := map[string]int{}
	for _, a := range asked {
		if a.Forbidden && a.As == "" { // what a tenant may not do is the tenant's affair
			refused[a.String()]++
		}
	}
	for _, access := range slices.Sorted(maps.Keys(refused)) {
		t.Errorf("asked for and not granted, %d times: %s", refused[access], access)
	}
}

// granted returns the rights that the manifests' own roles grant. A role that the control plane fills with what others add to it
// is not theirs.
func (c platform) granted(t *testing.T, ctx context.Context) []right {
	t.Helper()
	var rights []right
	for _, kind := range []string{"clusterroles", "roles"} {
		roles, err := c.List(ctx, kind, home, "app.kubernetes.io/name=cleat")
		if err != nil {
			t.Fatal(err)
		}
		for i := range roles {
			var role rbacv1.ClusterRole // a Role has the same rules
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(roles[i].Object, &role); err != nil {
				t.Fatal(err)
			}
			if role.AggregationRule != nil {
				continue
			}
			for _, rule := range role.Rules {
				rights = append(rights, rightsOf(rule, role.Namespace)...)
			}
		}
	}
	return rights
}

func rightsOf(rule rbacv1.PolicyRule, namespace string) []right {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	var rights []right
	for _, verb := range rule.Verbs {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, name := range names {
					rights = append(rights, right{verb, group, resource, namespace, name})
				}
			}
		}
	}
	return rights
}

// work has the agent do something of everything that it does, for a tenant: sources and releases, and some Kustomizations.
func (c platform) work(t *testing.T, ctx context.Context, agent *testenv.Agent, kustomizations []string) {
	t.Helper()
	const ns = "shop"
	git, sink := testenv.Git(t), testenv.NewSink(t)
	charts := t.TempDir()
	if err := os.WriteFile(filepath.Join(charts, "index.yaml"), []byte("apiVersion: v1\nentries: {}\ngenerated: \"2026-01-02T03:04:05Z\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sources := testenv.NewSources(t, git, charts)
	content := filepath.Join("testdata", "rbac", "content")
	if err := sources.PutObjects("shop", content); err != nil {
		t.Fatal(err)
	}
	if err := sources.PushImage("demo/shop:latest", content); err != nil {
		t.Fatal(err)
	}
	repo, err := git.Create("shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Commit(os.DirFS(content), "content"); err != nil {
		t.Fatal(err)
	}
	if err := repo.Push(false); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{
		"GIT": git.URL("shop"), "REGISTRY": sources.Registry, "S3": sources.S3.Endpoint, "CHARTS": sources.Charts, "SINK": sink.URL,
		"SERVER": c.Config.Host, "CA": "    " + strings.ReplaceAll(strings.TrimSpace(string(c.authority(t).CAData)), "\n", "\n    "),
	}
	c.applyFile(t, ctx, "tenant.yaml", "", vars)
	c.applyFile(t, ctx, "objects.yaml", ns, vars)
	if len(kustomizations) > 1 {
		c.applyFile(t, ctx, "far.yaml", ns, vars)
	}
	applied := append([]string{"helmreleases/shop"}, kustomizations...)
	ready := []string{"gitrepositories/shop", "ocirepositories/shop", "helmrepositories/shop", "buckets/shop", "receivers/shop", "receivers/filtered"}
	for _, name := range append(ready, applied...) {
		c.await(t, ctx, name, live.Ready)
	}
	c.hooks(t, ctx, agent, "shop")
	for n := range 2 { // the first time makes the record, the second changes it
		cm := live.Ref{Kind: "configmaps", Namespace: ns, Name: "one"}
		if err := c.Patch(ctx, cm, `{"data":{"key":"drifted"}}`); err != nil {
			t.Fatal(err)
		}
		c.await(t, ctx, "configmaps/one", func(obj *unstructured.Unstructured) bool { return field(obj, "{.data.key}") == "1" })
		if _, err := c.Until(ctx, live.Ref{Kind: "configmaps", Namespace: ns, Name: "kustomization-shop-drift"}, func(obj *unstructured.Unstructured) bool {
			return strings.Count(field(obj, "{.data.records}"), `"ended"`) > 0 && strings.Contains(field(obj, "{.data.records}"), fmt.Sprintf(`"times":%d`, n+1))
		}); err != nil {
			t.Fatal(err)
		}
	}
	c.shrink(t, ctx, repo, content)
	c.repeat(t, ctx, sources, content)
	requireSeries(t, c.root, agent.Metrics())
	c.standBy(t, ctx, agent)
	c.remove(t, ctx, applied)
}

// shrink pushes a commit with fewer objects, so that the inventory, whose pages are as small as can be, is written anew.
func (c platform) shrink(t *testing.T, ctx context.Context, repo *gitserver.Repo, content string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(content)); err != nil {
		t.Fatal(err)
	}
	app := filepath.Join(dir, "app", "app.yaml")
	text, err := os.ReadFile(app)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "---")
	if err := os.WriteFile(app, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	commit, err := repo.Commit(os.DirFS(dir), "fewer objects")
	if err == nil {
		err = repo.Push(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Poke(ctx, c.ref(t, "gitrepositories/shop"), testenv.Token()); err != nil {
		t.Fatal(err)
	}
	c.await(t, ctx, "kustomizations/shop", live.ReadyAt(commit))
}

// repeat has the same be told twice: an image, another one, and the first again.
func (c platform) repeat(t *testing.T, ctx context.Context, sources *testenv.Sources, content string) {
	t.Helper()
	for _, dir := range []string{filepath.Join(content, "app"), content, filepath.Join(content, "app"), content} {
		if err := sources.PushImage("demo/shop:latest", dir); err != nil {
			t.Fatal(err)
		}
		token := testenv.Token()
		if err := c.Poke(ctx, c.ref(t, "ocirepositories/shop"), token); err != nil {
			t.Fatal(err)
		}
		c.await(t, ctx, "ocirepositories/shop", live.All(live.Ready, func(obj *unstructured.Unstructured) bool {
			return field(obj, "{.status.lastHandledReconcileAt}") == token
		}))
	}
}

// standBy has the agent take a hook while somebody else leads: then it reads what its caches would hold, and asks for what others do.
func (c platform) standBy(t *testing.T, ctx context.Context, agent *testenv.Agent) {
	t.Helper()
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	lease := live.Ref{Kind: "leases.coordination.k8s.io", Namespace: home, Name: "source-controller-leader-election"}
	lead := fmt.Sprintf(`{"spec":{"holderIdentity":"other","leaseDurationSeconds":3600,"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
	if err := c.Patch(ctx, lease, lead); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(ctx); err != nil {
		t.Fatal(err)
	}
	c.hooks(t, ctx, agent, "filtered")
	if log := agent.Log(); !strings.Contains(log, `"holder":"other"`) {
		t.Fatal("the agent has not seen that somebody else leads")
	}
	if err := c.Patch(ctx, lease, `{"spec":{"holderIdentity":""}}`); err != nil {
		t.Fatal(err)
	}
}

// remove deletes what has applied something, first while the tenant lacks the right to prune: it is then looked whether its
// namespace goes, too.
func (c platform) remove(t *testing.T, ctx context.Context, applied []string) {
	t.Helper()
	admin := live.Ref{Kind: "rolebindings", Namespace: "shop", Name: "admin"}
	binding, err := c.Get(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, admin); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, c.ref(t, "kustomizations/shop")); err != nil {
		t.Fatal(err)
	}
	c.await(t, ctx, "kustomizations/shop", live.Condition("Ready", "False", ""))
	binding.SetResourceVersion("")
	binding.SetUID("")
	binding.SetManagedFields(nil)
	if _, err := c.ApplyAs(ctx, binding, "shop", live.Manager); err != nil {
		t.Fatal(err)
	}
	for _, name := range applied {
		if err := c.Delete(ctx, c.ref(t, name)); err != nil {
			t.Fatal(err)
		}
		c.await(t, ctx, name, gone)
	}
	c.await(t, ctx, "helmcharts/shop-shop", gone)
}

func gone(obj *unstructured.Unstructured) bool { return obj == nil }

// hooks posts to a Receiver and returns when all that it names was asked for.
func (c platform) hooks(t *testing.T, ctx context.Context, agent *testenv.Agent, receiver string) {
	t.Helper()
	obj, err := c.Until(ctx, c.ref(t, "receivers/"+receiver), live.Ready)
	if err != nil {
		t.Fatal(err)
	}
	url := agent.Hooks() + field(obj, "{.status.webhookPath}")
	if err := proc.AwaitHook(ctx, url); err != nil {
		t.Fatal(err)
	}
	named, _, err := unstructured.NestedSlice(obj.Object, "spec", "resources")
	if err != nil {
		t.Fatal(err)
	}
	const asked = `{.metadata.annotations.reconcile\.fluxcd\.io/requestedAt}`
	before := map[string]string{}
	for _, resource := range named {
		name := strings.ToLower(resource.(map[string]any)["kind"].(string)) + "/shop"
		obj, err := c.Get(ctx, c.ref(t, name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = field(obj, asked)
	}
	if d := gitserver.Deliver(url, "rights", "shop", "", ""); d.Status != http.StatusOK {
		t.Fatalf("the hook was answered %d: %v", d.Status, d.Err)
	}
	for name, value := range before {
		c.await(t, ctx, name, func(obj *unstructured.Unstructured) bool { return field(obj, asked) != value })
	}
}

func (c platform) ref(t *testing.T, name string) live.Ref {
	t.Helper()
	ref, err := live.ParseRef(name, "shop")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (c platform) await(t *testing.T, ctx context.Context, name string, holds func(*unstructured.Unstructured) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	if obj, err := c.Until(ctx, c.ref(t, name), holds); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, live.Describe(obj))
	}
}

func (c platform) applyFile(t *testing.T, ctx context.Context, file, namespace string, vars map[string]string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "rbac", file))
	if err != nil {
		t.Fatal(err)
	}
	expanded := os.Expand(string(content), func(name string) string { return vars[name] })
	if _, err := c.Apply(ctx, []byte(expanded), namespace); err != nil {
		t.Fatal(err)
	}
}

// authority returns how the cluster is reached, with the certificate of its authority read.
func (c platform) authority(t *testing.T) *rest.Config {
	t.Helper()
	config := rest.CopyConfig(c.Config)
	if err := rest.LoadTLSFiles(config); err != nil {
		t.Fatal(err)
	}
	return config
}

// series finds the names of series in an expression of Prometheus.
var series = regexp.MustCompile(`\b(?:gotk|cleat|controller_runtime|workqueue|rest_client|process|go)_[a-z0-9_]+`)

// requireSeries checks that what the dashboards and the alerts ask for is there.
func requireSeries(t *testing.T, root, url string) {
	t.Helper()
	response, err := http.Get(url) //nolint:noctx // A loopback server that ends with the test.
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	told, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]string{}
	monitoring := filepath.Join(root, "manifests", "components", "monitoring")
	for _, file := range []string{"alerts.yaml", "dashboards/syncs.json", "dashboards/agent.json"} {
		text, err := os.ReadFile(filepath.Join(monitoring, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range series.FindAllString(string(text), -1) {
			asked[name] = file
		}
	}
	if len(asked) < 20 {
		t.Fatalf("the dashboards ask for %d series only", len(asked))
	}
	for name, file := range asked {
		if !regexp.MustCompile("(?m)^" + name + `[{ ]`).Match(told) {
			t.Errorf("%s asks for %s, which the agent does not have", file, name)
		}
	}
}

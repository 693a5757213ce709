package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// The two commits between which the updates go: one object is removed, one changed, one added, one left as it is.
const (
	commitA = `
-- app/objects.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: changed}
data: {version: a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: only-a}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kept}
---
apiVersion: v1
kind: Service
metadata: {name: only-a}
spec: {selector: {app: a}, ports: [{port: 80}]}
`
	commitB = `
-- app/objects.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: kept}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: changed}
data: {version: b}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: only-b}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kept}
`
	killObjects = `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app}
spec: {interval: 1h, url: %s, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app}
spec: {interval: 1h, retryInterval: 1s, path: ./app, prune: true, wait: true, targetNamespace: %s, sourceRef: {kind: GitRepository, name: app}}
`
)

// wanted is what each commit describes, as "Kind/name".
var wanted = map[string][]string{
	commitA: {"ConfigMap/changed", "ConfigMap/kept", "ConfigMap/only-a", "Service/only-a", "ServiceAccount/kept"},
	commitB: {"ConfigMap/changed", "ConfigMap/kept", "ConfigMap/only-b", "ServiceAccount/kept"},
}

// moreWrites bounds the search for the last write, should an agent never stop writing.
const moreWrites = 60

// TestKilledWhileInstalling kills the agent with SIGKILL at the first, second, … write of a first installation, until it
// gets through alive, and holds each time: nothing on the cluster is untracked at the moment of death, and the next
// agent completes the work.
func TestKilledWhileInstalling(t *testing.T) {
	cluster := testenv.Shared(t)
	repo := create(t, testenv.Git(t), "install")
	commit := push(t, repo, commitA)
	for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
		t.Run(string(when), func(t *testing.T) {
			t.Parallel()
			for n := 1; n <= moreWrites; n++ {
				v := newVictim(t, cluster)
				v.run(n, when, commitA, commit, func() { v.apply(fmt.Sprintf(killObjects, repo.URL, v.namespace)) })
				if err := v.agent.Stop(); err != nil {
					t.Fatal(err)
				}
				if !v.killed {
					t.Logf("an installation takes %d writes:\n%s", len(v.writes), strings.Join(v.writes, "\n"))
					return
				}
			}
			t.Errorf("still writing after %d writes", moreWrites)
		})
	}
}

// TestKilledWhileUpdating does the same between two commits of which each removes, changes and adds objects of the
// other, and holds in addition that what is in both is never deleted: its UID stays.
func TestKilledWhileUpdating(t *testing.T) { killWhileUpdating(t) }

// TestF50_KilledWhileUpdatingPages does so with an inventory that has no room in the status.
func TestF50_KilledWhileUpdatingPages(t *testing.T) { killWhileUpdating(t, "--inventory-max-size=100") }

func killWhileUpdating(t *testing.T, flags ...string) {
	t.Helper()
	cluster := testenv.Shared(t)
	git := testenv.Git(t)
	for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
		t.Run(string(when), func(t *testing.T) {
			t.Parallel()
			repo := create(t, git, string(when))
			v := newVictim(t, cluster, flags...)
			v.run(0, when, commitA, push(t, repo, commitA), func() { v.apply(fmt.Sprintf(killObjects, repo.URL, v.namespace)) })
			kept := v.uids("kept", "changed")

			// To and fro, since a removal and an addition are each other's reverse. Both ways must be survived, for they need
			// not take the same number of writes.
			survived := map[string]bool{}
			for n := 1; len(survived) < 2; n++ {
				if n > moreWrites {
					t.Fatalf("still writing after %d writes", moreWrites)
				}
				for _, next := range []string{commitB, commitA} {
					v.run(n, when, next, push(t, repo, next), v.poke)
					if now := v.uids("kept", "changed"); !maps.Equal(now, kept) {
						t.Fatalf("killed %s write %d: what both commits have was deleted and made again: %v, was %v", when, n, now, kept)
					}
					if !v.killed {
						survived[next] = true
					}
				}
			}
			t.Logf("an update takes %d writes:\n%s", len(v.writes), strings.Join(v.writes, "\n"))
		})
	}
}

// victim is an agent that is killed, with its namespace.
type victim struct {
	t         *testing.T
	cluster   *testenv.Cluster
	namespace string
	proxy     *testenv.Proxy
	agent     *testenv.Agent

	// Of the last run.
	writes []string
	killed bool
}

func newVictim(t *testing.T, cluster *testenv.Cluster, flags ...string) *victim {
	t.Helper()
	v := &victim{t: t, cluster: cluster, namespace: cluster.Namespace(t, "kill"), proxy: testenv.NewProxy(t, cluster)}
	v.agent = testenv.NewAgent(t, v.proxy.Kubeconfig, v.namespace, flags...)
	v.startAgent()
	return v
}

// run triggers work, kills the agent at its nth write (never, when n is 0), starts it again when it was killed, and checks
// what became of the commit. The agent runs when it returns.
func (v *victim) run(n int, when testenv.FailPoint, content, commit string, trigger func()) {
	v.t.Helper()
	tripped := v.proxy.Arm(n, when, v.agent.Kill)
	trigger()
	v.untilReady(commit, tripped)
	v.writes, v.killed = v.proxy.Disarm()
	if v.killed {
		where := fmt.Sprintf("killed %s write %d, %s", when, n, v.writes[n-1])
		v.checkTracked(where)
		v.startAgent()
		v.untilReady(commit, nil)
	}
	where := fmt.Sprintf("after %d writes", len(v.writes))
	v.checkTracked(where)
	if got := v.owned(); !slices.Equal(got, wanted[content]) {
		v.t.Errorf("%s: the cluster has %v, want %v", where, got, wanted[content])
	}
	if v.t.Failed() {
		v.t.FailNow() // Further deaths would say the same.
	}
}

// untilReady waits until both objects are Ready at the commit, or until the agent is killed.
func (v *victim) untilReady(commit string, tripped <-chan struct{}) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		_, err := v.cluster.Until(ctx, v.ref("gitrepo"), live.ReadyAt(commit))
		if err == nil {
			_, err = v.cluster.Until(ctx, v.ref("ks"), live.ReadyAt(commit))
		}
		ready <- err
	}()
	select {
	case <-tripped:
		cancel()
		<-ready
	case err := <-ready:
		if err != nil {
			v.t.Fatal(err)
		}
	}
}

// checkTracked fails the test when an object with the owner's labels is not in the owner's inventory.
func (v *victim) checkTracked(where string) {
	v.t.Helper()
	ks, err := v.cluster.Get(v.t.Context(), v.ref("ks"))
	if err != nil {
		v.t.Fatal(err)
	}
	tracked := v.withPages(live.Inventory(ks))
	for _, object := range v.owned() {
		kind, name, _ := strings.Cut(object, "/")
		if id := fmt.Sprintf("%s_%s__%s", v.namespace, name, kind); !slices.Contains(tracked, id) {
			v.t.Errorf("%s: %s is on the cluster but not in the inventory %v", where, id, tracked)
		}
	}
}

// withPages adds what the pages among the entries of an inventory name.
func (v *victim) withPages(entries []string) []string {
	v.t.Helper()
	pages, err := v.cluster.List(v.t.Context(), "configmaps", v.namespace, "")
	if err != nil {
		v.t.Fatal(err)
	}
	all := slices.Clone(entries)
	for i := range pages {
		if slices.Contains(entries, fmt.Sprintf("%s_%s__ConfigMap", v.namespace, pages[i].GetName())) {
			for _, line := range strings.Split(field(&pages[i], "{.data.inventory}"), "\n") {
				id, _, _ := strings.Cut(line, " ")
				all = append(all, id)
			}
		}
	}
	return all
}

// owned returns what the Kustomization owns on the cluster, as "Kind/name", sorted.
func (v *victim) owned() []string {
	v.t.Helper()
	var out []string
	v.each(func(obj *unstructured.Unstructured) { out = append(out, obj.GetKind()+"/"+obj.GetName()) })
	slices.Sort(out)
	return out
}

// uids returns the UIDs of the owned objects of these names.
func (v *victim) uids(names ...string) map[string]types.UID {
	v.t.Helper()
	out := map[string]types.UID{}
	v.each(func(obj *unstructured.Unstructured) {
		if slices.Contains(names, obj.GetName()) {
			out[obj.GetKind()+"/"+obj.GetName()] = obj.GetUID()
		}
	})
	return out
}

func (v *victim) each(visit func(*unstructured.Unstructured)) {
	v.t.Helper()
	selector := "kustomize.toolkit.fluxcd.io/name=app,kustomize.toolkit.fluxcd.io/namespace=" + v.namespace
	for _, kind := range []string{"configmaps", "serviceaccounts", "services"} {
		objects, err := v.cluster.List(v.t.Context(), kind, v.namespace, selector)
		if err != nil {
			v.t.Fatal(err)
		}
		for i := range objects {
			if !strings.Contains(objects[i].GetName(), "-inventory-") { // a page is the agent's, and comes before it is named
				visit(&objects[i])
			}
		}
	}
}

func (v *victim) ref(kind string) live.Ref {
	return live.Ref{Kind: kind, Namespace: v.namespace, Name: "app"}
}

func (v *victim) startAgent() {
	v.t.Helper()
	if err := v.agent.StartChild(v.t.Context(), v.proxy.Kubeconfig); err != nil {
		v.t.Fatalf("starting the agent: %v", err)
	}
}

func (v *victim) apply(manifests string) {
	v.t.Helper()
	if _, err := v.cluster.Apply(v.t.Context(), []byte(manifests), v.namespace); err != nil {
		v.t.Fatal(err)
	}
}

func (v *victim) poke() {
	v.t.Helper()
	if err := v.cluster.Poke(v.t.Context(), v.ref("gitrepo"), testenv.Token()); err != nil {
		v.t.Fatal(err)
	}
}

func create(t *testing.T, git *gitserver.Server, name string) *gitserver.Repo {
	t.Helper()
	repo, err := git.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// push makes the files of a txtar archive the content of the repository and returns the commit.
func push(t *testing.T, repo *gitserver.Repo, content string) string {
	t.Helper()
	commit, err := repo.CommitTxtar([]byte(content), "e2e")
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Push(false); err != nil {
		t.Fatal(err)
	}
	return commit
}

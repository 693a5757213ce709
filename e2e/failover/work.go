package failover

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
)

// Size is how much there is to do in each round.
type Size struct {
	Kustomizations int
	Objects        int // of each Kustomization
	Releases       int
}

// Work is the same every round: all ConfigMaps of all Kustomizations and all Helm releases get the round's number.
type Work struct {
	cluster   *live.Cluster
	namespace string
	size      Size
	git       *gitserver.Server
	repo      *gitserver.Repo // shop

	round   int
	commit  string
	before  map[string]int   // newest revision of each release when the round began
	workers map[string]int64 // generation of each Deployment then

	mu       sync.Mutex
	versions map[string]string    // last seen resourceVersion of each ConfigMap
	uids     map[string]types.UID // of each ConfigMap
	changes  map[string]int       // of each ConfigMap in this round
	enough   int                  // ConfigMaps that have changed when reached is closed
	reached  chan struct{}
	flushes  int
	flushed  chan struct{} // closed when the watch has told of everything before the last flush
}

// New prepares the work. The charts' folder has the chart app of the end-to-end tests.
func New(cluster *live.Cluster, namespace string, git *gitserver.Server, charts fs.FS, size Size) (*Work, error) {
	w := newWork(cluster, namespace, git, size)
	repo, err := git.Create("charts")
	if err != nil {
		return nil, err
	}
	if _, err := repo.Commit(charts, "charts"); err != nil {
		return nil, err
	}
	if err := repo.Push(false); err != nil {
		return nil, err
	}
	if w.repo, err = git.Create("shop"); err != nil {
		return nil, err
	}
	return w, nil
}

func newWork(cluster *live.Cluster, namespace string, git *gitserver.Server, size Size) *Work {
	return &Work{cluster: cluster, namespace: namespace, size: size, git: git, versions: map[string]string{}, uids: map[string]types.UID{}, changes: map[string]int{}}
}

// Follow counts changes until ctx ends.
func (w *Work) Follow(ctx context.Context) error {
	return w.cluster.Follow(ctx, "configmaps", w.namespace, w.seen)
}

// Install has the agent that leads do round 0, which is not disturbed.
func (w *Work) Install(ctx context.Context) error {
	var err error
	if w.commit, err = w.push(); err != nil {
		return err
	}
	manifests := &strings.Builder{}
	for _, source := range []string{"charts", "shop"} {
		fmt.Fprintf(manifests, `---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: %s}
spec: {interval: 1h, url: %q, ref: {branch: main}}
`, source, w.git.URL(source))
	}
	manifests.WriteString(`---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: app}
spec: {interval: 1h, chart: app, sourceRef: {kind: GitRepository, name: charts}}
`)
	for i := range w.size.Kustomizations {
		fmt.Fprintf(manifests, `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: k%[1]d}
spec: {interval: 1h, retryInterval: 1s, path: ./k%[1]d, prune: true, targetNamespace: %[2]s, sourceRef: {kind: GitRepository, name: shop}}
`, i, w.namespace)
	}
	if _, err := w.cluster.Apply(ctx, []byte(manifests.String()), w.namespace); err != nil {
		return err
	}
	if err := w.applyReleases(ctx); err != nil {
		return err
	}
	return w.Done(ctx)
}

// Begin begins the next round. The channel is closed when so many ConfigMaps have changed in it.
func (w *Work) Begin(ctx context.Context, changes int) (<-chan struct{}, error) {
	if err := w.remember(ctx); err != nil {
		return nil, err
	}
	w.round++
	w.mu.Lock()
	w.changes, w.enough, w.reached = map[string]int{}, changes, make(chan struct{})
	reached := w.reached
	w.mu.Unlock()
	var err error
	if w.commit, err = w.push(); err != nil {
		return nil, err
	}
	if err := w.cluster.Poke(ctx, live.Ref{Kind: "gitrepo", Namespace: w.namespace, Name: "shop"}, fmt.Sprint(w.round)); err != nil {
		return nil, err
	}
	return reached, w.applyReleases(ctx)
}

// Done returns when everything says that the round is done.
func (w *Work) Done(ctx context.Context) error {
	if err := w.cluster.UntilAll(ctx, "kustomizations", w.namespace, w.size.Kustomizations, live.ReadyAt(w.commit)); err != nil {
		return err
	}
	return w.cluster.UntilAll(ctx, "helmreleases", w.namespace, w.size.Releases, live.Ready)
}

// Again has everything reconciled though nothing is new, and returns when it was.
func (w *Work) Again(ctx context.Context) error {
	token := fmt.Sprint("again-", time.Now().UnixNano())
	handled := func(obj *unstructured.Unstructured) bool {
		return text(obj, "status", "lastHandledReconcileAt") == token && live.Ready(obj)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, ref := range w.refs() {
		group.Go(func() error {
			if err := w.cluster.Poke(ctx, ref, token); err != nil {
				return err
			}
			_, err := w.cluster.Until(ctx, ref, handled)
			return err
		})
	}
	return group.Wait()
}

// refs are all sources, Kustomizations and HelmReleases.
func (w *Work) refs() []live.Ref {
	refs := []live.Ref{
		{Kind: "gitrepo", Namespace: w.namespace, Name: "charts"}, {Kind: "gitrepo", Namespace: w.namespace, Name: "shop"},
		{Kind: "helmcharts", Namespace: w.namespace, Name: "app"},
	}
	for i := range w.size.Kustomizations {
		refs = append(refs, live.Ref{Kind: "ks", Namespace: w.namespace, Name: fmt.Sprint("k", i)})
	}
	for i := range w.size.Releases {
		refs = append(refs, live.Ref{Kind: "hr", Namespace: w.namespace, Name: releaseName(i)})
	}
	return refs
}

func releaseName(i int) string { return fmt.Sprintf("release-%d", i) }

// configMaps are the names of those that have the number of the round, and the field that has it.
func (w *Work) configMaps() map[string]string {
	names := map[string]string{}
	for i := range w.size.Kustomizations {
		for j := range w.size.Objects {
			names[fmt.Sprintf("k%d-%d", i, j)] = "round"
		}
	}
	for i := range w.size.Releases {
		names[releaseName(i)] = "text"
	}
	return names
}

func (w *Work) push() (string, error) {
	var files strings.Builder
	for i := range w.size.Kustomizations {
		for j := range w.size.Objects {
			fmt.Fprintf(&files, "-- k%[1]d/c%[2]d.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: k%[1]d-%[2]d}\ndata: {round: \"%[3]d\"}\n", i, j, w.round)
		}
	}
	commit, err := w.repo.CommitTxtar([]byte(files.String()), fmt.Sprint("round ", w.round))
	if err != nil {
		return "", err
	}
	return commit, w.repo.Push(false)
}

func (w *Work) applyReleases(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range w.size.Releases {
		group.Go(func() error {
			_, err := w.cluster.Apply(ctx, fmt.Appendf(nil, `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s}
spec: {interval: 1h, chartRef: {kind: HelmChart, name: app}, values: {replicas: 0, text: "%d"}}
`, releaseName(i), w.round), w.namespace)
			return err
		})
	}
	return group.Wait()
}

func text(obj *unstructured.Unstructured, path ...string) string {
	if obj == nil {
		return ""
	}
	value, _, err := unstructured.NestedString(obj.Object, path...)
	if err != nil {
		return ""
	}
	return value
}

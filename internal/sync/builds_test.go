package sync

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// shop is a repository with an overlay, a base, a component, a patch, a generator and things beside them.
const shop = `
-- apps/prod/kustomization.yaml --
resources: [../base]
components: [../extra]
patches: [{path: patch.yaml, target: {kind: ConfigMap, name: one}}]
configMapGenerator: [{name: generated, files: [settings.ini]}]
-- apps/prod/patch.yaml --
- op: add
  path: /data
  value: {k: v}
-- apps/prod/settings.ini --
a=1
-- apps/base/kustomization.yaml --
resources: [one.yaml]
-- apps/base/one.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: one, namespace: a}
-- apps/extra/kustomization.yaml --
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
resources: [two.yaml]
-- apps/extra/two.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: two, namespace: a}
-- apps/other/three.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: three, namespace: a}
-- plain/a.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, namespace: a}
-- plain/sub/b.yaml --
apiVersion: v1
kind: ConfigMap
metadata: {name: sub, namespace: a}
-- README.md --
a shop
`

const cmFour = "\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: four, namespace: a}\n"

// unobserved knows nothing of the cluster.
type unobserved struct{}

func (unobserved) Get(object.Ref) (kube.Observation, kube.State) {
	return kube.Observation{}, kube.State{}
}

// TestSameBuild: a build is remembered exactly as long as nothing that it has looked at has changed, and is then what a
// new build would be.
func TestSameBuild(t *testing.T) {
	for _, test := range []struct {
		name, spec string
		change     func(string) string
		same       bool
	}{
		{"nothing", "path: apps/prod", func(s string) string { return s }, true},
		{"a file beside", "path: apps/prod", func(s string) string { return s + "more\n" }, true},
		{"a new file beside", "path: apps/prod", func(s string) string { return s + "-- apps/base/four.yaml --" + cmFour }, true},
		{"another application", "path: apps/prod", replacing("name: three", "name: drei"), true},
		{"the base", "path: apps/prod", replacing("name: one, n", "name: eins, n"), false},
		{"the overlay", "path: apps/prod", replacing("components: [../extra]\n", ""), false},
		{"the component", "path: apps/prod", replacing("name: two", "name: zwei"), false},
		{"the patch", "path: apps/prod", replacing("{k: v}", "{k: w}"), false},
		{"the source of a generator", "path: apps/prod", replacing("a=1", "a=2"), false},
		{"a file is gone", "path: apps/prod", replacing("-- apps/prod/settings.ini --", "-- apps/prod/settings.txt --"), false},
		{"a second kustomization file", "path: apps/prod", func(s string) string { return s + "-- apps/prod/kustomization.yml --\nresources: []\n" }, false},
		{"a manifest", "path: plain", replacing("name: plain", "name: flat"), false},
		{"a manifest deeper", "path: plain", replacing("name: sub", "name: deep"), false},
		{"a new manifest", "path: plain", func(s string) string { return s + "-- plain/four.yaml --" + cmFour }, false},
		{"a new directory", "path: plain", func(s string) string { return s + "-- plain/x/four.yaml --" + cmFour }, false},
		{"a kustomization file where there was none", "path: plain", func(s string) string { return s + "-- plain/Kustomization --\nresources: [a.yaml]\n" }, false},
		{"a kustomization file below", "path: plain", func(s string) string { return s + "-- plain/sub/kustomization.yaml --\nresources: [b.yaml]\n" }, false},
		{"outside of the plain directory", "path: plain", replacing("name: one, n", "name: eins, n"), true},
		{"a component that was missing comes", "{path: plain, components: [../new], ignoreMissingComponents: true}",
			func(s string) string {
				return s + "-- new/kustomization.yaml --\napiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n"
			}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := newStore(t)
			ks := kustomization(t, test.spec)
			first, err := build(t, ks, commit(t, store, shop))
			if err != nil {
				t.Fatal(err)
			}
			known := newBuilds()
			known.keep(client.ObjectKeyFromObject(ks), first)
			changed := commit(t, store, test.change(shop))
			same := known.same(ks, 0, changed, unobserved{})
			if got := same != nil; got != test.same {
				t.Fatalf("the build is remembered: %v, want %v", got, test.same)
			}
			if same == nil {
				return
			}
			second, err := build(t, ks, changed)
			if err != nil {
				t.Fatal(err)
			}
			if second.Digest != same.Digest || !cmp.Equal(second.Refs, same.Refs) {
				t.Errorf("what is remembered, %v, is not what a build gives, %v", same.Refs, second.Refs)
			}
		})
	}
}

func replacing(old, with string) func(string) string {
	return func(s string) string {
		if !strings.Contains(s, old) {
			panic("the test changes nothing: " + old)
		}
		return strings.ReplaceAll(s, old, with)
	}
}

// TestSameBuildOfOthers: another spec or another version of what was read from the cluster makes another build.
func TestSameBuildOfOthers(t *testing.T) {
	snapshot := tree(t, shop)
	ks := kustomization(t, "path: plain")
	b, err := build(t, ks, snapshot)
	if err != nil {
		t.Fatal(err)
	}
	variables := object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "demo", Name: "variables"}
	b.from.references[variables] = version{"u", "7"}
	b.from.changes = 1
	known := newBuilds()
	known.keep(client.ObjectKeyFromObject(ks), b)
	for _, test := range []struct {
		name    string
		changes uint64
		seen    observed
		same    bool
	}{
		{"the same version", 1, observed{kube.Observation{UID: "u", ResourceVersion: "7"}, kube.State{Found: true, Synced: true}}, true},
		{"a watch that is not synced", 1, observed{kube.Observation{UID: "u", ResourceVersion: "7"}, kube.State{Found: true}}, false},
		{"a change that the watch has not seen yet", 2, observed{kube.Observation{UID: "u", ResourceVersion: "7"}, kube.State{Found: true, Synced: true}}, false},
		{"another version", 1, observed{kube.Observation{UID: "u", ResourceVersion: "8"}, kube.State{Found: true, Synced: true}}, false},
		{"gone", 1, observed{kube.Observation{}, kube.State{Synced: true}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := known.same(ks, test.changes, snapshot, test.seen) != nil; got != test.same {
				t.Errorf("the build is remembered: %v, want %v", got, test.same)
			}
		})
	}
	ks.Spec.Force = true
	if known.same(ks, 1, snapshot, observed{kube.Observation{UID: "u", ResourceVersion: "7"}, kube.State{Found: true, Synced: true}}) != nil {
		t.Error("the build of another spec is remembered")
	}
}

// observed is what an observer says of every object.
type observed struct {
	observation kube.Observation
	state       kube.State
}

func (o observed) Get(object.Ref) (kube.Observation, kube.State) { return o.observation, o.state }

// TestSharedBase: Kustomizations of one path that differ in their variables share one run of the kustomize library, and none
// gets what is another's.
func TestSharedBase(t *testing.T) {
	store := newStore(t)
	snapshot := commit(t, store, shop+"-- tenant/a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: '${team}'}\n")
	r := &renderer{strict: true}
	for i := range 5 {
		team := fmt.Sprint("team-", i)
		b, err := buildWith(r, kustomization(t, "{path: tenant, postBuild: {substitute: {team: "+team+"}}}"), snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"ConfigMap/" + team + "/a"}, names(b)); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
	}
	if n := len(r.shared.last); n != 1 {
		t.Fatalf("%d runs are kept, want 1 for all", n)
	}
	// What is kept must be what is used: a mark on it shows in the next build.
	kept := r.shared.last[0].resources.Resources()[0]
	if err := kept.SetAnnotations(map[string]string{"mark": "kept"}); err != nil {
		t.Fatal(err)
	}
	b, err := buildWith(r, kustomization(t, "{path: tenant, postBuild: {substitute: {team: x}}}"), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if b.Objects[0].GetAnnotations()["mark"] != "kept" {
		t.Error("the kept run was not used")
	}
	changed := commit(t, store, shop+"-- tenant/a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: '${team}'}\n")
	if b, err = buildWith(r, kustomization(t, "{path: tenant, postBuild: {substitute: {team: x}}}"), changed); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ConfigMap/x/b"}, names(b)); diff != "" {
		t.Errorf("objects after a change (-want +got):\n%s", diff)
	}
}

// TestParallelBuilds: builds that run side by side, some with an OpenAPI schema of their own, give what each gives alone. It
// is the race detector that looks at the kustomize library here.
func TestParallelBuilds(t *testing.T) {
	const schema = `{"definitions": {"v1.Thing": {"type": "object", "properties": {"parts": {"type": "array",
		"x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge", "items": {"type": "object"}}},
		"x-kubernetes-group-version-kind": [{"group": "example.com", "kind": "Thing", "version": "v1"}]}}}`
	const thing = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t, namespace: a}\nparts: [{name: x, v: 1}]\n"
	const patch = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t, namespace: a}\nparts: [{name: y, v: 2}]\n"
	snapshot := tree(t, shop+
		"-- own/kustomization.yaml --\nresources: [thing.yaml]\nopenapi: {path: schema.json}\npatches: [{path: patch.yaml}]\n"+
		"-- own/schema.json --\n"+schema+"\n-- own/thing.yaml --\n"+thing+"-- own/patch.yaml --\n"+patch+
		"-- below/kustomization.yaml --\nresources: [../own]\n"+
		"-- none/kustomization.yaml --\nresources: [thing.yaml]\npatches: [{path: patch.yaml}]\n"+
		"-- none/thing.yaml --\n"+thing+"-- none/patch.yaml --\n"+patch)
	want := map[string]int{"own": 2, "below": 2, "none": 1, "apps/prod": 0, "plain": 0} // parts that a merge leaves
	digests := map[string]string{}
	for path := range want {
		b, err := build(t, kustomization(t, "path: "+path), snapshot)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		digests[path] = b.Digest
		if parts, _, _ := unstructured.NestedSlice(b.Objects[0].Object, "parts"); len(parts) != want[path] {
			t.Errorf("%s: %d parts, want %d", path, len(parts), want[path])
		}
	}
	r := &renderer{strict: true}
	var group sync.WaitGroup
	for range 8 {
		for path, digest := range digests {
			group.Go(func() {
				b, err := buildWith(r, kustomization(t, "path: "+path), snapshot)
				if err != nil || b.Digest != digest {
					t.Errorf("%s beside others: %v, digest as alone: %v", path, err, err == nil && b.Digest == digest)
				}
			})
		}
	}
	group.Wait()
}

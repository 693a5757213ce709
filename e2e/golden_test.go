package e2e_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// meant are the facts in which Cleat differs from Flux on purpose. An entry that no longer differs fails the test.
var meant = []difference{
	{[]string{"GitRepository/shop", "GitRepository/shop-semver"}, "finalizers",
		"a source has nothing to clean up but files, and those of deleted objects are collected anyway"},
	{[]string{"GitRepository/shop", "GitRepository/shop-semver"}, "manager source-controller Update",
		"this entry of Flux's owns the finalizer"},
	{[]string{"Kustomization/missing-path", "Kustomization/undefined-variable", "Kustomization/waiting"}, "finalizers",
		"it has applied nothing yet, so its deletion needs no work; the finalizer comes with the first inventory"},
	{[]string{"Kustomization/missing-path", "Kustomization/undefined-variable", "Kustomization/waiting"}, "manager gotk-kustomize-controller Update",
		"this entry of Flux's owns the finalizer"},
}

type difference struct {
	objects []string // Kind/name
	fact    string
	reason  string
}

// TestSameAsFlux applies what was applied to Flux when testdata/golden was recorded, pushes the same commit, and compares
// what is on the cluster with what Flux made of it.
func TestSameAsFlux(t *testing.T) {
	cluster := testenv.Shared(t)
	cluster.Renew(t, "demo")
	git := testenv.Git(t)
	repo, err := git.Import("shop", absolute(t, "testdata/golden/shop.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	const first, second = "f12aaebd0ed930b86b96ed6583add2ad249033ae", "aa3e7da585bb7c53b55766c8714298088bd35d37"
	point(t, git, first)

	agent := testenv.NewAgent(t, cluster.Kubeconfig, "demo")
	if err := agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	objects := strings.ReplaceAll(read(t, "testdata/golden/objects.yaml"), "$GIT/shop.git", repo.URL)
	if _, err := cluster.Apply(t.Context(), []byte(objects), ""); err != nil {
		t.Fatal(err)
	}
	golden := golden{t: t, cluster: cluster, agent: agent, facts: facts, meant: meant, met: map[string]bool{}}

	golden.settle(first)
	golden.compare("testdata/golden/installed.yaml")

	point(t, git, second)
	if err := cluster.Poke(t.Context(), live.Ref{Kind: "gitrepo", Namespace: "demo", Name: "shop"}, testenv.Token()); err != nil {
		t.Fatal(err)
	}
	golden.settle(second)
	golden.compare("testdata/golden/upgraded.yaml")
	golden.compareArtifacts()
	golden.checkMeant()
	if left, err := cluster.Get(t.Context(), live.Ref{Kind: "clusterroles", Name: "shop:reader"}); err != nil || left != nil {
		t.Errorf("the ClusterRole that the second commit removes is still there: %v", err)
	}
}

type golden struct {
	t       *testing.T
	cluster *testenv.Cluster
	agent   *testenv.Agent
	facts   func(*unstructured.Unstructured) map[string]any // what is compared, by name
	meant   []difference
	met     map[string]bool // meant differences that were met, as "Kind/name fact"
}

// settle waits until each object has reached, at a commit, the state that the recording has.
func (g *golden) settle(commit string) {
	g.t.Helper()
	attempted := func(obj *unstructured.Unstructured) bool {
		return strings.HasSuffix(field(obj, "{.status.lastAttemptedRevision}"), commit)
	}
	for _, state := range []struct {
		object string
		checks []func(*unstructured.Unstructured) bool
	}{
		{"gitrepo/shop", []func(*unstructured.Unstructured) bool{live.ReadyAt(commit)}},
		{"gitrepo/shop-semver", []func(*unstructured.Unstructured) bool{live.Ready}},
		{"ks/shop", []func(*unstructured.Unstructured) bool{live.ReadyAt(commit)}},
		{"ks/missing-path", []func(*unstructured.Unstructured) bool{live.Condition("Ready", "False", "ArtifactFailed")}},
		{"ks/undefined-variable", []func(*unstructured.Unstructured) bool{live.Condition("Ready", "False", "BuildFailed"), attempted}},
		{"ks/waiting", []func(*unstructured.Unstructured) bool{live.Condition("Ready", "False", "DependencyNotReady")}},
	} {
		ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
		defer cancel()
		ref, err := live.ParseRef(state.object, "demo")
		if err != nil {
			g.t.Fatal(err)
		}
		if _, err := g.cluster.Until(ctx, ref, live.All(state.checks...)); err != nil {
			g.t.Fatal(err)
		}
	}
}

// compare holds every object of a recording against the one on the cluster, fact by fact.
func (g *golden) compare(file string) {
	g.t.Helper()
	recorded, err := live.Decode([]byte(read(g.t, file)))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, flux := range recorded {
		ref := live.Ref{Kind: flux.GetKind(), Namespace: flux.GetNamespace(), Name: flux.GetName()}
		if group := flux.GroupVersionKind().Group; group != "" {
			ref.Kind += "." + group
		}
		ours, err := g.cluster.Get(g.t.Context(), ref)
		if err != nil {
			g.t.Fatal(err)
		}
		if ours == nil {
			g.t.Errorf("%s: %s is missing", file, ref)
			continue
		}
		g.compareFacts(file, flux.GetKind()+"/"+flux.GetName(), g.facts(flux), g.facts(ours))
		if url := field(ours, "{.status.artifact.url}"); url != "" {
			if want := "http://" + g.agent.StorageAddr() + "/" + field(ours, "{.status.artifact.path}"); url != want {
				g.t.Errorf("%s: the artifact's URL is %s, want %s", ref, url, want)
			}
		}
	}
}

func (g *golden) compareFacts(file, object string, flux, ours map[string]any) {
	g.t.Helper()
	names := maps.Clone(flux)
	maps.Copy(names, ours)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		diff := cmp.Diff(flux[name], ours[name])
		if diff == "" || g.isMeant(object, name) {
			continue
		}
		g.t.Errorf("%s: %s of %s differs (-Flux +Cleat):\n%s", file, name, object, diff)
	}
}

func (g *golden) isMeant(object, fact string) bool {
	for _, m := range g.meant {
		if m.fact == fact && slices.Contains(m.objects, object) {
			g.met[object+" "+fact] = true
			return true
		}
	}
	return false
}

// checkMeant fails the test for a meant difference that there is not.
func (g *golden) checkMeant() {
	g.t.Helper()
	for _, m := range g.meant {
		for _, object := range m.objects {
			if !g.met[object+" "+m.fact] {
				g.t.Errorf("the table of meant differences lists %s of %s, but nothing differs there", m.fact, object)
			}
		}
	}
}

// compareArtifacts holds the tarballs that the agent serves against the listing of Flux's.
func (g *golden) compareArtifacts() {
	g.t.Helper()
	want := listings(read(g.t, "testdata/golden/listing.txt"))
	for name, listed := range map[string]string{
		"shop":        "aa3e7da585bb7c53b55766c8714298088bd35d37.tar.gz",
		"shop-semver": "shop-semver-f12aaebd.tar.gz",
	} {
		obj, err := g.cluster.Get(g.t.Context(), live.Ref{Kind: "gitrepo", Namespace: "demo", Name: name})
		if err != nil {
			g.t.Fatal(err)
		}
		for _, url := range []string{
			field(obj, "{.status.artifact.url}"),
			"http://" + g.agent.StorageAddr() + "/gitrepository/demo/" + name + "/latest.tar.gz",
		} {
			got, err := list(url)
			if err != nil {
				g.t.Errorf("reading %s: %v", url, err)
				continue
			}
			if diff := cmp.Diff(want[listed], got); diff != "" {
				g.t.Errorf("%s (-Flux +Cleat):\n%s", url, diff)
			}
		}
	}
}

// facts are what must be the same, by name: everything but what differs from run to run.
func facts(obj *unstructured.Unstructured) map[string]any {
	out := managers(obj)
	out["finalizers"] = obj.GetFinalizers()
	out["labels"] = obj.GetLabels()
	switch obj.GetKind() {
	case "GitRepository", "Kustomization":
	default:
		// The fields that the agent owns are among the managers' facts, their values here.
		out["data"] = obj.Object["data"]
		out["rules"] = obj.Object["rules"]
		out["spec"] = obj.Object["spec"]
		return out
	}
	out["conditions"] = conditions(obj)
	out["history"] = history(obj)
	for _, path := range [][]string{
		{"observedGeneration"}, {"observedIgnore"}, {"inventory"}, {"lastAppliedRevision"}, {"lastAttemptedRevision"},
		{"artifact", "digest"}, {"artifact", "path"}, {"artifact", "revision"}, {"artifact", "size"},
	} {
		value, _, _ := unstructured.NestedFieldNoCopy(obj.Object, append([]string{"status"}, path...)...)
		out[strings.Join(path, ".")] = value
	}
	return out
}

// conditions returns type, status and reason of an object's conditions, sorted, with the message where it is the same in
// every run.
func conditions(obj *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	var out []string
	for _, item := range list {
		c, _ := item.(map[string]any)
		text := fmt.Sprintf("%v=%v %v (generation %v)", c["type"], c["status"], c["reason"], c["observedGeneration"])
		if c["status"] == "True" && (c["type"] == "Ready" || c["type"] == "ArtifactInStorage") {
			text += fmt.Sprintf(": %v", c["message"])
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func history(obj *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "history")
	var out []string
	for _, item := range list {
		h, _ := item.(map[string]any)
		out = append(out, fmt.Sprintf("%v %v %v, %v times", h["digest"], h["lastReconciledStatus"], h["metadata"], h["totalReconciliations"]))
	}
	return out
}

// managers returns which fields the agent owns, by manager, operation and subresource.
func managers(obj *unstructured.Unstructured) map[string]any {
	out := map[string]any{}
	for _, entry := range obj.GetManagedFields() {
		switch entry.Manager {
		case "kustomize-controller", "gotk-kustomize-controller", "source-controller", "helm-controller":
			name := strings.TrimSpace(fmt.Sprintf("manager %s %s %s", entry.Manager, entry.Operation, entry.Subresource))
			out[name] = entry.FieldsV1.GetRawString()
		}
	}
	return out
}

// listings splits a listing into the lines of each artifact, by its file name.
func listings(text string) map[string][]string {
	out := map[string][]string{}
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(block, "\n")
		name, _, _ := strings.Cut(lines[0], " ")
		out[name] = lines[1:]
	}
	return out
}

// list fetches a tarball and lists it as `tar tv` does.
func list(url string) ([]string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	zipped, err := gzip.NewReader(resp.Body)
	if err != nil {
		return nil, err
	}
	var lines []string
	for tape := tar.NewReader(zipped); ; {
		h, err := tape.Next()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
		mode := h.FileInfo().Mode().String()
		lines = append(lines, fmt.Sprintf("%s %d/%d %15d %s %s", mode, h.Uid, h.Gid, h.Size, h.ModTime.UTC().Format("2006-01-02 15:04"), h.Name))
	}
}

func point(t *testing.T, git *gitserver.Server, commit string) {
	t.Helper()
	if err := git.Point("shop", "main", commit); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func absolute(t *testing.T, file string) string {
	t.Helper()
	abs, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

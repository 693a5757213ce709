package e2e_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

const (
	releases   = "testdata/golden/releases/"
	chartFiles = "../internal/source/helm/testdata/"
	// What Flux's controllers call themselves as field managers.
	helmController, sourceController = "helm-controller", "source-controller"
)

// meantOfReleases are the facts of releases in which Cleat differs from Flux on purpose.
var meantOfReleases = []difference{
	{[]string{"HelmChart/demo-web", "HelmChart/demo-web-failing-test", "HelmChart/demo-web-git"}, "finalizers",
		"a source has nothing to clean up but files, and those of deleted objects are collected anyway"},
	{[]string{"HelmChart/demo-web", "HelmChart/demo-web-failing-test", "HelmChart/demo-web-git"}, "manager source-controller Update",
		"this entry of Flux's owns the finalizer"},
	{[]string{"HelmChart/demo-web-git"}, "artifact digest", "Flux packs the time of packing in; the same commit is the same archive here"},
	{[]string{"HelmChart/demo-web-git"}, "artifact size", "as its digest"},
	{[]string{"Deployment/web"}, "manager helm-controller Apply",
		"drift is corrected by server-side apply, under the manager that the upgrade applied as; Flux patches, and is two managers then"},
	{[]string{"Deployment/web"}, "manager helm-controller Update", "as above"},
}

// TestSameReleasesAsFlux applies what was applied to Flux when testdata/golden/releases was recorded, does what was done then,
// an upgrade and a change by hand, and compares what is on the cluster with what Flux made of it: objects, records and Events.
func TestSameReleasesAsFlux(t *testing.T) {
	w := newFluxWorld(t)
	w.failTests()
	if err := w.agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.apply(w.read("objects.yaml"))
	golden := golden{t: t, cluster: w.cluster, agent: w.agent, facts: releaseFacts, meant: meantOfReleases, met: map[string]bool{}}

	w.until("hr/web", live.Ready, live.Condition("TestSuccess", "True", ""))
	w.until("hr/web-oci", live.Ready)
	w.until("hr/web-git", live.Ready)
	w.until("hr/web-failing-test", live.Condition("Stalled", "True", "RetriesExceeded"), live.Condition("TestSuccess", "False", ""))
	golden.compare(releases + "installed.yaml")

	w.upgrade()
	w.until("hr/web", live.Ready, live.Condition("TestSuccess", "True", ""), is("{.status.history[0].version}", "2"))
	w.patch("deployments/web", `{"spec":{"replicas":1}}`)
	w.patch("hr/web", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"now1"}}}`)
	w.until("hr/web", live.Ready, is("{.status.lastHandledReconcileAt}", "now1"), live.Condition("Drifted", "False", ""))
	w.until("deployments/web", is("{.spec.replicas}", "3"))
	golden.compare(releases + "upgraded.yaml")
	golden.checkMeant()

	want := strings.Split(strings.TrimSpace(w.read("events.txt")), "\n")
	if diff := cmp.Diff(want, w.events()); diff != "" {
		t.Errorf("the Events of the HelmReleases (-Flux +Cleat):\n%s", diff)
	}
}

// TestAdoptsReleasesOfFlux begins with a cluster as Flux has left it: its HelmReleases with their status, its records, what it has
// applied. Nothing is installed or upgraded, no record is written, no object touched; and the next upgrade is one like any other.
func TestAdoptsReleasesOfFlux(t *testing.T) {
	for _, state := range []string{"installed", "upgraded"} {
		t.Run(state, func(t *testing.T) {
			w := newFluxWorld(t)
			recorded := w.restore(state)
			before := w.touched()
			w.watchEvents()
			if err := w.agent.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			token := testenv.Token()
			for _, flux := range recorded {
				if flux.GetKind() != "HelmRelease" {
					continue
				}
				ref := w.ref("hr/" + flux.GetName())
				if err := w.cluster.Poke(t.Context(), ref, token); err != nil {
					t.Fatal(err)
				}
				ours := w.until("hr/"+flux.GetName(), is("{.status.lastHandledReconcileAt}", token), settled)
				for _, field := range []string{"history", "lastAttemptedConfigDigest", "lastAttemptedRevision", "failures", "installFailures", "inventory"} {
					if diff := cmp.Diff(statusOf(flux, field), statusOf(ours, field)); diff != "" {
						t.Errorf("%s of %s (-Flux +Cleat):\n%s", field, ref, diff)
					}
				}
				if diff := cmp.Diff(allConditions(flux), allConditions(ours)); diff != "" {
					t.Errorf("conditions of %s (-Flux +Cleat):\n%s", ref, diff)
				}
			}
			if diff := cmp.Diff(before, w.touched()); diff != "" {
				t.Errorf("records and objects were touched (-before +after):\n%s", diff)
			}
			for _, event := range w.events() {
				if strings.Contains(event, "Succeeded") || strings.Contains(event, "Drift") {
					t.Errorf("something was done: %s", event)
				}
			}
			w.goOn(state)
		})
	}
}

// goOn upgrades a release that was adopted and deletes it then.
func (w *fluxWorld) goOn(state string) {
	w.t.Helper()
	next := map[string]string{"installed": "2", "upgraded": "3"}[state]
	w.patch("hr/web", `{"spec":{"values":{"replicaCount":1}}}`)
	w.until("hr/web", live.Ready, is("{.status.history[0].version}", next), is("{.status.lastAttemptedReleaseAction}", "upgrade"))
	w.until("deployments/web", is("{.spec.replicas}", "1"))
	for _, name := range []string{"web", "web-git"} {
		if err := w.cluster.Delete(w.t.Context(), w.ref("hr/"+name)); err != nil {
			w.t.Fatal(err)
		}
		for _, left := range []string{"hr/" + name, "deployments/" + name, "helmcharts/demo-" + name} {
			w.until(left, func(obj *unstructured.Unstructured) bool { return obj == nil })
		}
	}
}

// fluxWorld is the cluster and the sources that the recording was made with.
type fluxWorld struct {
	t       *testing.T
	cluster *testenv.Cluster
	agent   *testenv.Agent
	vars    map[string]string
	old     []string // Events that were there before
}

func newFluxWorld(t *testing.T) *fluxWorld {
	t.Helper()
	w := &fluxWorld{t: t, cluster: testenv.Shared(t)}
	w.cluster.Renew(t, "demo", "web-oci")
	git := testenv.Git(t)
	repo, err := git.Import("shop", absolute(t, "testdata/golden/shop.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for from, to := range map[string]string{releases + "index.yaml": "index.yaml", chartFiles + "web-1.0.0.tgz": "web-1.0.0.tgz", chartFiles + "web-1.1.0.tgz": "web-1.1.0.tgz"} {
		if err := os.WriteFile(filepath.Join(folder, to), []byte(read(t, from)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sources := testenv.NewSources(t, git, folder)
	w.pushChart(sources.Registry)
	w.vars = map[string]string{"GIT": strings.TrimSuffix(repo.URL, "/shop.git"), "CHARTS": sources.Charts, "REGISTRY": sources.Registry}
	w.agent = testenv.NewAgent(t, w.cluster.Kubeconfig, "demo")
	t.Cleanup(func() {
		// Cluster-wide, and of no other test.
		if err := w.cluster.Delete(context.Background(), live.Ref{Kind: "crd", Name: "widgets.example.com"}); err != nil {
			t.Error(err)
		}
	})
	return w
}

// failingPod is the Pod of the test that failed in the recording, where its command was looked at. Nothing runs in the Pods here:
// they fail when an annotation says so, and a policy sets that.
const failingPod = `
apiVersion: v1
kind: Pod
metadata: {name: web-failing-test-check, namespace: demo}
spec: {restartPolicy: Never, containers: [{name: check, image: example.com/check:1}]}
`

// failTests lets that Pod fail. A policy takes effect some time after it was made, and there is nothing to watch for that.
func (w *fluxWorld) failTests() {
	w.t.Helper()
	w.apply(w.read("failing-test.yaml"))
	w.t.Cleanup(func() {
		for _, kind := range []string{"mutatingadmissionpolicies", "mutatingadmissionpolicybindings"} {
			if err := w.cluster.Delete(context.Background(), live.Ref{Kind: kind, Name: "web-failing-test"}); err != nil {
				w.t.Error(err)
			}
		}
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		cmd := exec.CommandContext(ctx, absolute(w.t, "../bin/devcluster"), "kubectl", "--kubeconfig="+w.cluster.Kubeconfig, "create", "--dry-run=server", "--output=yaml", "--filename=-")
		cmd.Stdin = strings.NewReader(failingPod)
		if out, err := cmd.Output(); err == nil && bytes.Contains(out, []byte("cleat.dev/fail")) {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatal("the policy does not take effect")
		case <-again.C:
		}
	}
}

// pushChart puts the chart into the registry with the manifest that it had there, whose digest is part of Flux's version of it.
func (w *fluxWorld) pushChart(registry string) {
	w.t.Helper()
	repository := "http://" + registry + "/v2/charts/web/"
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal([]byte(w.read("oci-manifest.json")), &manifest); err != nil {
		w.t.Fatal(err)
	}
	for digest, blob := range map[string]string{manifest.Config.Digest: w.read("oci-config.json"), manifest.Layers[0].Digest: read(w.t, chartFiles+"web-1.0.0.tgz")} {
		w.send(http.MethodPost, repository+"blobs/uploads/?digest="+digest, "application/octet-stream", blob)
	}
	w.send(http.MethodPut, repository+"manifests/1.0.0", "application/vnd.oci.image.manifest.v1+json", w.read("oci-manifest.json"))
}

func (w *fluxWorld) send(method, url, contentType, body string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.t.Fatalf("%s %s: %s", method, url, resp.Status)
	}
}

func (w *fluxWorld) read(name string) string {
	w.t.Helper()
	return read(w.t, releases+name)
}

func (w *fluxWorld) apply(manifests string) {
	w.t.Helper()
	expanded := os.Expand(manifests, func(name string) string { return w.vars[name] })
	if _, err := w.cluster.Apply(w.t.Context(), []byte(expanded), "demo"); err != nil {
		w.t.Fatal(err)
	}
}

// upgrade changes the release web as it was changed for the second part of the recording.
func (w *fluxWorld) upgrade() {
	w.t.Helper()
	w.patch("hr/web", `{"spec":{"chart":{"spec":{"version":"1.1.0"}},"values":{"replicaCount":3}}}`)
}

func (w *fluxWorld) ref(text string) live.Ref {
	w.t.Helper()
	ref, err := live.ParseRef(text, "demo")
	if err != nil {
		w.t.Fatal(err)
	}
	return ref
}

func (w *fluxWorld) patch(object, merge string) {
	w.t.Helper()
	if err := w.cluster.Patch(w.t.Context(), w.ref(object), merge); err != nil {
		w.t.Fatal(err)
	}
}

func (w *fluxWorld) until(object string, checks ...func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	obj, err := w.cluster.Until(ctx, w.ref(object), live.All(checks...))
	if err != nil {
		w.t.Fatal(err)
	}
	return obj
}

// is holds for an object whose field has a value.
func is(path, value string) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool { return field(obj, path) == value }
}

// settled holds for an object that is not being worked on.
func settled(obj *unstructured.Unstructured) bool {
	return !live.Condition("Reconciling", "True", "")(obj)
}

// restore makes the cluster as Flux left it and returns what was recorded.
func (w *fluxWorld) restore(state string) []*unstructured.Unstructured {
	w.t.Helper()
	w.apply(w.read("objects.yaml"))
	if state == "upgraded" {
		w.upgrade()
	}
	recorded, err := live.Decode([]byte(w.read(state + ".yaml")))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, obj := range recorded {
		switch obj.GetKind() {
		case "HelmRelease":
			w.restoreObject(obj, helmController)
		case "HelmChart":
			spec := &unstructured.Unstructured{Object: map[string]any{"apiVersion": obj.GetAPIVersion(), "kind": obj.GetKind(), "spec": obj.Object["spec"]}}
			spec.SetName(obj.GetName())
			spec.SetLabels(obj.GetLabels())
			w.applyAs(spec, helmController)
			w.restoreObject(obj, sourceController)
		case "Secret":
			if field(obj, "{.type}") == "helm.sh/release.v1" {
				w.restoreRecord(obj)
			}
		}
	}
	return recorded
}

// restoreObject gives an object that is there the finalizers and the status that it had.
func (w *fluxWorld) restoreObject(obj *unstructured.Unstructured, manager string) {
	w.t.Helper()
	ref := live.Ref{Kind: obj.GetKind() + "." + obj.GroupVersionKind().Group, Namespace: "demo", Name: obj.GetName()}
	if err := w.cluster.Patch(w.t.Context(), ref, `{"metadata":{"finalizers":["finalizers.fluxcd.io"]}}`); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cluster.SetStatus(w.t.Context(), ref, obj.Object["status"], manager); err != nil {
		w.t.Fatal(err)
	}
}

// restoreRecord writes a record and, of a release that is deployed, the objects of its manifest as Helm applies them.
func (w *fluxWorld) restoreRecord(secret *unstructured.Unstructured) {
	w.t.Helper()
	record := secret.DeepCopy()
	record.SetManagedFields(nil)
	w.applyAs(record, helmController)
	release := recordOf(w.t, secret)
	if field(secret, "{.metadata.labels.status}") != "deployed" {
		return // Another version is what is on the cluster.
	}
	objects, err := live.Decode([]byte(release["manifest"].(string)))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, obj := range objects {
		labels, annotations := obj.GetLabels(), obj.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		labels["app.kubernetes.io/managed-by"] = "Helm"
		annotations["meta.helm.sh/release-name"] = release["name"].(string)
		annotations["meta.helm.sh/release-namespace"] = release["namespace"].(string)
		obj.SetLabels(labels)
		obj.SetAnnotations(annotations)
		obj.SetNamespace(release["namespace"].(string))
		w.applyAs(obj, helmController)
	}
}

func (w *fluxWorld) applyAs(obj *unstructured.Unstructured, manager string) {
	w.t.Helper()
	if _, err := w.cluster.ApplyAs(w.t.Context(), obj, "demo", manager); err != nil {
		w.t.Fatal(err)
	}
}

// touched returns what changes when somebody touches a record or an object of a release: what it is made of, but for its status.
func (w *fluxWorld) touched() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, namespace := range []string{"demo", "web-oci"} {
		for _, kind := range []string{"secrets", "configmaps", "services", "deployments.apps"} {
			all, err := w.cluster.List(w.t.Context(), kind, namespace, "")
			if err != nil {
				w.t.Fatal(err)
			}
			for _, obj := range all {
				version := fmt.Sprintf("%s at %s", obj.GetUID(), obj.GetResourceVersion())
				if kind == "deployments.apps" { // Its status changes by itself.
					version = fmt.Sprintf("%s at generation %d", obj.GetUID(), obj.GetGeneration())
				}
				out[kind+"/"+namespace+"/"+obj.GetName()] = version
			}
		}
	}
	return out
}

// watchEvents leaves what was said before out of what events returns.
func (w *fluxWorld) watchEvents() { w.old = w.events() }

// events are what was said about HelmReleases, as the recording has it, sorted, each once.
func (w *fluxWorld) events() []string {
	w.t.Helper()
	all, err := w.cluster.List(w.t.Context(), "events", "demo", "")
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for i := range all {
		obj := &all[i]
		if field(obj, "{.involvedObject.kind}") != "HelmRelease" {
			continue
		}
		line := fmt.Sprintf("%s %s %s %q", field(obj, "{.involvedObject.name}"), field(obj, "{.type}"), field(obj, "{.reason}"), field(obj, "{.message}"))
		annotations := obj.GetAnnotations()
		for _, key := range slices.Sorted(maps.Keys(annotations)) {
			line += " " + key + "=" + annotations[key]
		}
		if !slices.Contains(w.old, line) {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// releaseFacts are the facts of HelmReleases, of their HelmCharts, of Helm's records and of what was applied.
func releaseFacts(obj *unstructured.Unstructured) map[string]any {
	out := map[string]any{}
	record := obj.GetKind() == "Secret" && strings.HasPrefix(obj.GetName(), "sh.helm.release.")
	if !record { // it was recorded without them
		out = managers(obj)
	}
	out["finalizers"] = obj.GetFinalizers()
	labels := maps.Clone(obj.GetLabels())
	delete(labels, "modifiedAt") // of a record
	out["labels"] = labels
	switch {
	case obj.GetKind() == "HelmRelease":
		out["conditions"] = allConditions(obj)
		out["history"] = snapshots(obj)
		for _, name := range []string{
			"failures", "helmChart", "installFailures", "inventory", "lastAttemptedConfigDigest", "lastAttemptedGeneration",
			"lastAttemptedReleaseAction", "lastAttemptedRevision", "lastAttemptedRevisionDigest", "lastHandledReconcileAt",
			"observedCommonMetadataDigest", "observedGeneration", "observedPostRenderersDigest", "storageNamespace", "upgradeFailures",
		} {
			out[name] = statusOf(obj, name)
		}
	case obj.GetKind() == "HelmChart":
		out["spec"] = obj.Object["spec"]
		out["conditions"] = allConditions(obj)
		for _, name := range []string{"observedChartName", "observedGeneration"} {
			out[name] = statusOf(obj, name)
		}
		for _, name := range []string{"digest", "path", "revision", "size"} {
			out["artifact "+name], _, _ = unstructured.NestedFieldNoCopy(obj.Object, "status", "artifact", name)
		}
	case record:
		out["type"] = obj.Object["type"]
		if release, err := decodeRecord(obj); err != nil {
			out["release"] = err.Error()
		} else {
			out["release"] = withoutTimes(release)
		}
	default:
		annotations := maps.Clone(obj.GetAnnotations())
		delete(annotations, "deployment.kubernetes.io/revision")
		out["annotations"] = annotations
		out["data"] = obj.Object["data"]
	}
	return out
}

func statusOf(obj *unstructured.Unstructured, name string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(obj.Object, "status", name)
	return value
}

// allConditions are an object's conditions with their messages, sorted.
func allConditions(obj *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	var out []string
	for _, item := range list {
		c, _ := item.(map[string]any)
		out = append(out, fmt.Sprintf("%v=%v %v (generation %v): %v", c["type"], c["status"], c["reason"], c["observedGeneration"], c["message"]))
	}
	slices.Sort(out)
	return out
}

// snapshots are the entries of a history without their times, and without their digests, which depend on times.
func snapshots(obj *unstructured.Unstructured) []any {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "history")
	for _, item := range list {
		snapshot := item.(map[string]any)
		for _, name := range []string{"digest", "firstDeployed", "lastDeployed", "deleted"} {
			delete(snapshot, name)
		}
		tests, _ := snapshot["testHooks"].(map[string]any)
		for _, test := range tests {
			delete(test.(map[string]any), "lastStarted")
			delete(test.(map[string]any), "lastCompleted")
		}
	}
	return list
}

// withoutTimes removes from a release what differs from run to run, and what only Helm's SDK 4, which Flux has, puts into it: the
// times of a chart's files, and the newline at the end of a manifest.
func withoutTimes(release map[string]any) map[string]any {
	info, _ := release["info"].(map[string]any)
	delete(info, "first_deployed")
	delete(info, "last_deployed")
	hooks, _ := release["hooks"].([]any)
	for _, item := range hooks {
		hook := item.(map[string]any)
		run, _ := hook["last_run"].(map[string]any)
		delete(run, "started_at")
		delete(run, "completed_at")
		hook["manifest"] = withoutLastLine(hook["manifest"])
	}
	release["manifest"] = withoutLastLine(release["manifest"])
	chart, _ := release["chart"].(map[string]any)
	delete(chart, "modtime")
	delete(chart, "schemamodtime")
	for _, name := range []string{"files", "templates"} {
		files, _ := chart[name].([]any)
		for _, file := range files {
			delete(file.(map[string]any), "modtime")
		}
	}
	return release
}

// withoutLastLine removes the empty lines at the end of each document.
func withoutLastLine(manifest any) string {
	text, _ := manifest.(string)
	documents := strings.Split(text, "\n---\n")
	for i := range documents {
		documents[i] = strings.TrimRight(documents[i], "\n")
	}
	return strings.Join(documents, "\n---\n")
}

func recordOf(t *testing.T, secret *unstructured.Unstructured) map[string]any {
	t.Helper()
	release, err := decodeRecord(secret)
	if err != nil {
		t.Fatal(err)
	}
	return release
}

// decodeRecord reads what Helm keeps of a release: JSON, in gzip, in base64, in a Secret.
func decodeRecord(secret *unstructured.Unstructured) (map[string]any, error) {
	once, err := base64.StdEncoding.DecodeString(field(secret, "{.data.release}"))
	if err != nil {
		return nil, err
	}
	packed, err := base64.StdEncoding.DecodeString(string(once))
	if err != nil {
		return nil, err
	}
	zipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(zipped)
	if err != nil {
		return nil, err
	}
	var release map[string]any
	return release, json.Unmarshal(text, &release)
}

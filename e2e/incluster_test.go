package e2e_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
)

// team is the namespace of a tenant whom the agent may serve under either overlay: it applies as the tenant's own ServiceAccount.
const team = `
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: cleat, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cleat-tenant}
subjects: [{kind: ServiceAccount, name: cleat, namespace: flux-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: default, namespace: team}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: default, namespace: team}]
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app, namespace: team}
spec: {interval: 1h, url: %s, ref: {branch: main}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: team}
spec:
  interval: 1h
  retryInterval: 1s
  serviceAccountName: default
  targetNamespace: team
  path: .
  prune: true
  wait: true
  sourceRef: {kind: GitRepository, name: app}
`

// TestInCluster installs the manifests into an empty cluster as their readers do, with the image of `make image-oci`. The agent
// runs as a pod, without root and without writing to its root file system; a pushed commit becomes a pod that runs; the agent's pod is
// deleted, and its successor, which has an empty disk, goes on where it was.
func TestInCluster(t *testing.T) {
	archive := os.Getenv("E2E_IMAGE")
	if archive == "" {
		t.Skip("no image of the agent here: `make e2e-incluster` makes one and names it by E2E_IMAGE")
	}
	image, err := imageName(archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"base", "overlays/lockdown"} {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), nodeTimeout)
			defer cancel()
			n := newRealNode(t, ctx)
			n.load(t, ctx, archive)
			n.install(t, ctx, folder, image)
			agent := n.readyPod(t, ctx, "flux-system", "app.kubernetes.io/name", "cleat")
			requireConfined(t)
			n.serve(t, ctx, agent)
		})
	}
}

// serve has the agent apply a commit, replaces the agent, and has its successor apply another.
func (n *realNode) serve(t *testing.T, ctx context.Context, agent *unstructured.Unstructured) {
	t.Helper()
	app := newApp(t)
	const more = "-- more.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n"
	hello := app.commit(t, "hello", more)
	n.apply(t, ctx, fmt.Sprintf(team, app.url))
	n.until(t, ctx, "kustomizations", "team", "app", live.ReadyAt(hello))
	before := n.readyPod(t, ctx, "team", "app", "web")
	n.answers(t, ctx, "team", "web", "hello "+before.GetName())

	if err := n.Delete(ctx, live.Ref{Kind: "pods", Namespace: "flux-system", Name: agent.GetName()}); err != nil {
		t.Fatal(err)
	}
	n.readyPod(t, ctx, "flux-system", "app.kubernetes.io/name", "cleat", string(agent.GetUID()))
	for _, kind := range []string{"gitrepositories", "kustomizations"} {
		n.handled(t, ctx, kind)
	}
	after := n.readyPod(t, ctx, "team", "app", "web")
	if after.GetUID() != before.GetUID() {
		t.Errorf("the agent's restart has replaced the pod %s by %s", before.GetName(), after.GetName())
	}

	bye := app.commit(t, "bye", "") // without the ConfigMap: what was applied is still known
	if err := n.Poke(ctx, live.Ref{Kind: "gitrepositories", Namespace: "team", Name: "app"}, "bye"); err != nil {
		t.Fatal(err)
	}
	n.until(t, ctx, "kustomizations", "team", "app", live.ReadyAt(bye))
	n.answers(t, ctx, "team", "web", "bye")
	n.until(t, ctx, "configmaps", "team", "more", func(obj *unstructured.Unstructured) bool { return obj == nil })
}

// gitApp is a repository that the pods of a real node reach.
type gitApp struct {
	url  string
	repo *gitserver.Repo
}

func newApp(t *testing.T) gitApp {
	t.Helper()
	git, err := gitserver.StartAt(nodeHost, t.TempDir(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := git.Close(); err != nil {
			t.Error(err)
		}
	})
	repo, err := git.Create("app")
	if err != nil {
		t.Fatal(err)
	}
	return gitApp{git.URL("app"), repo}
}

// commit pushes a web application that says something, and more files.
func (a gitApp) commit(t *testing.T, say, more string) string {
	t.Helper()
	files := "-- web.yaml --\n" + fmt.Sprintf(webApp, "{name: SAY, value: "+say+"}") + more
	hash, err := a.repo.CommitTxtar([]byte(files), say)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.repo.Push(false); err != nil {
		t.Fatal(err)
	}
	return hash
}

// handled asks for a reconciliation and waits until it was done.
func (n *realNode) handled(t *testing.T, ctx context.Context, kind string) {
	t.Helper()
	const token = "again"
	ref := live.Ref{Kind: kind, Namespace: "team", Name: "app"}
	if err := n.Poke(ctx, ref, token); err != nil {
		t.Fatal(err)
	}
	n.until(t, ctx, kind, ref.Namespace, ref.Name, live.All(live.Ready, func(obj *unstructured.Unstructured) bool {
		is, _, _ := unstructured.NestedString(obj.Object, "status", "lastHandledReconcileAt")
		return is == token
	}))
}

// imageName reads from the archive of an OCI layout what it calls its image.
func imageName(archive string) (string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for files := tar.NewReader(bufio.NewReader(f)); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("%s holds no index.json", archive)
		}
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", archive, err)
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Annotations map[string]string }
		}
		if err := json.NewDecoder(files).Decode(&index); err != nil {
			return "", fmt.Errorf("reading index.json of %s: %w", archive, err)
		}
		for _, m := range index.Manifests {
			if name := m.Annotations["io.containerd.image.name"]; name != "" {
				return name, nil
			}
		}
		return "", fmt.Errorf("%s names no image", archive)
	}
}

// install applies what `kubectl kustomize` makes of manifests/FOLDER, with an image of its own.
func (n *realNode) install(t *testing.T, ctx context.Context, folder, image string) {
	t.Helper()
	kustomize := exec.CommandContext(ctx, n.bin("devcluster"), "kubectl", "kustomize", filepath.Join(n.root, "manifests", folder))
	manifests, err := kustomize.Output()
	if err != nil {
		t.Fatalf("building manifests/%s: %v", folder, err)
	}
	const released = "image: ghcr.io/cleat-dev/cleat:"
	lines := strings.Split(string(manifests), "\n")
	for i, line := range lines {
		if before, _, ok := strings.Cut(line, released); ok {
			lines[i] = before + "image: " + image
		}
	}
	apply := exec.CommandContext(ctx, n.bin("devcluster"), "kubectl", "--kubeconfig="+filepath.Join(n.dir, "kubeconfig"), "apply", "--server-side", "-f", "-")
	apply.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("applying manifests/%s: %v\n%s", folder, err, out)
	}
}

// requireConfined looks at the agent's process as the kernel has it: who it is, what it may, and how its root is mounted.
func requireConfined(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		line, _ := os.ReadFile(file) // of one that has just ended there is none
		if !bytes.Contains(line, []byte("\x00--storage-path=/data\x00")) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !bytes.Contains(status, []byte(want)) {
				t.Errorf("the agent's process lacks %q:\n%s", want, status)
			}
		}
		mounts, err := os.ReadFile(filepath.Join(filepath.Dir(file), "mountinfo"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(mounts, []byte(" / / ro,")) {
			t.Errorf("the agent's root can be written to:\n%s", mounts)
		}
		return
	}
	t.Error("no process of the agent is found")
}

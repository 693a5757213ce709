package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// TestManifests: the API server accepts every overlay, without a warning, in a namespace that enforces Pod Security restricted, and so
// it does every pod that they make.
func TestManifests(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := platform{testenv.Empty(t), root}
	// A dry run makes no namespace and no CRD for what follows them.
	c.kubectl(t, ctx, "create", "namespace", home)
	c.kubectl(t, ctx, "label", "namespace", home, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
	c.kubectl(t, ctx, "apply", "-f", filepath.Join("testdata", "monitoring-crds"))
	c.kubectl(t, ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	c.kubectl(t, ctx, "-n", home, "create", "serviceaccount", "cleat")

	overlays, err := os.ReadDir(filepath.Join(root, "manifests", "overlays"))
	if err != nil || len(overlays) == 0 {
		t.Fatalf("no overlays: %v", err)
	}
	paths := []string{"base"}
	for _, overlay := range overlays {
		paths = append(paths, filepath.Join("overlays", overlay.Name()))
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			dir := filepath.Join(root, "manifests", path)
			out := c.kubectl(t, ctx, "apply", "--dry-run=server", "-k", dir)
			unowned := "resource namespaces/" + home + " is missing" // it was made by hand, above
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "Warning:") && !strings.Contains(line, unowned) && !strings.Contains(line, "resource serviceaccounts/cleat") {
					if path == "overlays/from-flux" && strings.Contains(line, "would violate PodSecurity") {
						continue // Deployments of Flux's, which make no pods
					}
					t.Errorf("%s", line)
				}
			}
			if count := c.pods(t, ctx, dir); count == 0 {
				t.Error("the overlay makes no pods")
			}
		})
	}
	t.Run("enforced", func(t *testing.T) {
		out, err := c.tryPod(ctx, map[string]any{"containers": []any{map[string]any{
			"name": "a", "image": "a", "securityContext": map[string]any{"privileged": true},
		}}})
		if err == nil || !strings.Contains(out, "violates PodSecurity") {
			t.Errorf("Pod Security is not enforced: %v %s", err, out)
		}
	})
}

// pods has the API server judge the pods of an overlay's Deployments, and returns of how many there are any.
func (c platform) pods(t *testing.T, ctx context.Context, dir string) int {
	t.Helper()
	objects, err := live.Decode([]byte(c.kubectl(t, ctx, "kustomize", dir)))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, object := range objects {
		replicas, _, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
		if object.GetKind() != "Deployment" || replicas == 0 {
			continue
		}
		count++
		spec, _, _ := unstructured.NestedMap(object.Object, "spec", "template", "spec")
		if out, err := c.tryPod(ctx, spec); err != nil {
			t.Errorf("a pod of Deployment %s: %s", object.GetName(), out)
		}
		c.wired(t, objects, object)
	}
	return count
}

// wired checks that each Service that selects a Deployment's pods names one of their ports.
func (c platform) wired(t *testing.T, objects []*unstructured.Unstructured, deployment *unstructured.Unstructured) {
	t.Helper()
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	var ports []string
	declared, _ := containers[0].(map[string]any)["ports"].([]any)
	for _, port := range declared {
		ports = append(ports, port.(map[string]any)["name"].(string))
	}
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
	served := 0
	for _, object := range objects {
		selector, _, _ := unstructured.NestedStringMap(object.Object, "spec", "selector")
		if object.GetKind() != "Service" || !selects(selector, labels) {
			continue
		}
		served++
		wanted, _, _ := unstructured.NestedSlice(object.Object, "spec", "ports")
		for _, port := range wanted {
			if target := fmt.Sprint(port.(map[string]any)["targetPort"]); !slices.Contains(ports, target) {
				t.Errorf("Service %s leads to the port %s, which Deployment %s does not have", object.GetName(), target, deployment.GetName())
			}
		}
	}
	if served == 0 {
		t.Errorf("no Service leads to Deployment %s", deployment.GetName())
	}
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// tryPod has the API server judge a pod without making it.
func (c platform) tryPod(ctx context.Context, spec map[string]any) (string, error) {
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "tried", "namespace": home}, "spec": spec,
	})
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.root, "bin", "devcluster"), "kubectl", "--kubeconfig="+c.Kubeconfig, "create", "--dry-run=server", "-f", "-")
	cmd.Stdin = strings.NewReader(string(text))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

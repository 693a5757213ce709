package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
)

// nodeHost is where this machine is for the pods of a real node, and its API server for everybody.
const nodeHost = "10.245.0.1"

// nodeTimeout bounds a test on a real node: a start takes ten seconds, a pod a second or two.
const nodeTimeout = 5 * time.Minute

// realNode is a control plane of its own with a node on which pods run.
type realNode struct {
	*live.Cluster
	root    string
	dir     string
	log     *bytes.Buffer
	process *proc.Process
}

// newRealNode starts one that ends with the test, or skips the test where there can be none.
func newRealNode(t *testing.T, ctx context.Context) *realNode {
	t.Helper()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	n := &realNode{root: root, log: &bytes.Buffer{}}
	lacks, err := exec.CommandContext(ctx, n.bin("devcluster"), "check-node").Output()
	if ended := new(exec.ExitError); errors.As(err, &ended) {
		t.Skipf("no real node here: %s", bytes.TrimSpace(lacks))
	} else if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no real node here: bin/devcluster is missing: run `make cluster-node`")
	} else if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: the path of a socket is in there, which may be no longer than 107 letters.
	if n.dir, err = os.MkdirTemp("", "cleat-node-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.end(t) })
	n.start(t, ctx)
	t.Cleanup(func() { n.explain(t) }) // before it ends
	n.load(t, ctx, n.bin("workload.tar"))
	return n
}

func (n *realNode) bin(name string) string { return filepath.Join(n.root, "bin", name) }

func (n *realNode) start(t *testing.T, ctx context.Context) {
	t.Helper()
	var err error
	if n.process, err = proc.Start(ctx, proc.ControlPlane(n.bin("devcluster"), n.dir, n.log, "--real-node")); err != nil {
		t.Fatalf("%v\n%s", err, n.log)
	}
	if n.Cluster, err = live.Connect(filepath.Join(n.dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
}

// end stops what the test has not stopped itself.
func (n *realNode) end(t *testing.T) {
	if n.process != nil {
		if err := n.process.Stop(); err != nil {
			t.Errorf("%v\n%s", err, n.log)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		t.Error(err)
	}
}

// explain shows what a failed test has left running.
func (n *realNode) explain(t *testing.T) {
	if !t.Failed() || n.process == nil {
		return
	}
	for _, args := range []string{"get pods -A -o wide", "get events -A", "logs -n flux-system -l app.kubernetes.io/name=cleat --tail=100"} {
		cmd := exec.Command(n.bin("devcluster"), append([]string{"kubectl", "--kubeconfig=" + filepath.Join(n.dir, "kubeconfig")}, strings.Fields(args)...)...)
		out, err := cmd.CombinedOutput()
		t.Logf("kubectl %s (%v):\n%s", args, err, out)
	}
}

func (n *realNode) load(t *testing.T, ctx context.Context, archive string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, n.bin("devcluster"), "load", "--dir", n.dir, archive).CombinedOutput(); err != nil {
		t.Fatalf("loading %s: %v\n%s", archive, err, out)
	}
}

func (n *realNode) apply(t *testing.T, ctx context.Context, manifests string) {
	t.Helper()
	if _, err := n.Apply(ctx, []byte(manifests), "default"); err != nil {
		t.Fatal(err)
	}
}

func (n *realNode) until(t *testing.T, ctx context.Context, kind, namespace, name string, holds func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	t.Helper()
	obj, err := n.Until(ctx, live.Ref{Kind: kind, Namespace: namespace, Name: name}, holds)
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// readyPod waits for a Ready pod of a label that is none of the given, and returns it.
func (n *realNode) readyPod(t *testing.T, ctx context.Context, namespace, key, value string, not ...string) *unstructured.Unstructured {
	t.Helper()
	var found *unstructured.Unstructured
	err := n.UntilAll(ctx, "pods", namespace, 1, func(obj *unstructured.Unstructured) bool {
		for _, uid := range not {
			if string(obj.GetUID()) == uid {
				return false
			}
		}
		if obj.GetLabels()[key] != value || obj.GetDeletionTimestamp() != nil || !live.Condition("Ready", "True", "")(obj) {
			return false
		}
		found = obj
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// answers asks a Service by its cluster IP until the answer holds the text. Nothing tells when a node has heard of a Service.
func (n *realNode) answers(t *testing.T, ctx context.Context, namespace, service, text string) {
	t.Helper()
	svc, err := n.Get(ctx, live.Ref{Kind: "services", Namespace: namespace, Name: service})
	if err != nil {
		t.Fatal(err)
	}
	ip, _, _ := unstructured.NestedString(svc.Object, "spec", "clusterIP")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		said, err := fetch(ctx, "http://"+ip+"/")
		if err == nil && strings.Contains(said, text) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("service %s answers %q (%v), not %q", service, said, err, text)
		case <-tick.C:
		}
	}
}

func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.Close = true // the next answer may be another pod's
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// phase holds for a pod in a phase.
func phase(want string) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool {
		if obj == nil {
			return false
		}
		is, _, _ := unstructured.NestedString(obj.Object, "status", "phase")
		return is == want
	}
}

// webApp is a Deployment of the test workload and its Service. What says has the pods behave so: an environment, as YAML.
const webApp = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: cleat.dev/e2e/workload:1
        env: [%s]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
        livenessProbe: {exec: {command: [workload, --get, "http://127.0.0.1:8080/"]}, periodSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// onePod is a pod of the test workload that runs once.
const onePod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  containers:
  - name: once
    image: cleat.dev/e2e/workload:1
    args: [%s]
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
`

// TestRealNode shows that the node is real: pods are Ready when their probe says so and not before, they fail when their program
// does, Services lead to them from outside and from other pods, and one that is deleted is replaced. Then it ends, once well and
// once by kill -9, and nothing of it is left.
func TestRealNode(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), nodeTimeout)
	defer cancel()
	n := newRealNode(t, ctx)

	n.apply(t, ctx, fmt.Sprintf(webApp, "{name: SAY, value: here}"))
	n.apply(t, ctx, fmt.Sprintf(onePod, "never", "--ready-after=-1s"))
	n.apply(t, ctx, fmt.Sprintf(onePod, "fails", "--fail-after=1ms"))
	first := n.readyPod(t, ctx, "default", "app", "web")
	n.answers(t, ctx, "default", "web", "here "+first.GetName())
	n.until(t, ctx, "pods", "default", "fails", phase("Failed"))
	if err := n.UntilAll(ctx, "events", "default", 1, func(obj *unstructured.Unstructured) bool {
		about, _, _ := unstructured.NestedString(obj.Object, "involvedObject", "name")
		message, _, _ := unstructured.NestedString(obj.Object, "message")
		return about == "never" && strings.Contains(message, "503")
	}); err != nil {
		t.Fatal(err)
	}
	n.until(t, ctx, "pods", "default", "never", live.All(phase("Running"), live.Condition("Ready", "False", "")))

	svc, err := n.Get(ctx, live.Ref{Kind: "services", Namespace: "default", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	ip, _, _ := unstructured.NestedString(svc.Object, "spec", "clusterIP")
	n.apply(t, ctx, fmt.Sprintf(onePod, "asks", "--get=http://"+ip))
	n.until(t, ctx, "pods", "default", "asks", phase("Succeeded"))

	if err := n.Delete(ctx, live.Ref{Kind: "pods", Namespace: "default", Name: first.GetName()}); err != nil {
		t.Fatal(err)
	}
	second := n.readyPod(t, ctx, "default", "app", "web", string(first.GetUID()))
	n.answers(t, ctx, "default", "web", "here "+second.GetName())

	process := n.process
	n.process = nil
	if err := process.Stop(); err != nil {
		t.Fatalf("%v\n%s", err, n.log)
	}
	n.nothingLeft(t, true)

	n.start(t, ctx)
	n.readyPod(t, ctx, "default", "app", "web")
	n.process.Kill()
	n.process = nil
	untilGone(t, ctx, func() error { return n.left(false) })

	n.start(t, ctx) // the same cluster, on what the killed one has left
	n.answers(t, ctx, "default", "web", "here")
	process = n.process
	n.process = nil
	if err := process.Stop(); err != nil {
		t.Fatalf("%v\n%s", err, n.log)
	}
	n.nothingLeft(t, true)
}

func (n *realNode) nothingLeft(t *testing.T, cgroups bool) {
	t.Helper()
	if err := n.left(cgroups); err != nil {
		t.Error(err)
	}
}

// untilGone asks until nothing is left: the kernel tells nobody when it has ended the processes of a killed one.
func untilGone(t *testing.T, ctx context.Context, left func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := left()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// left returns what an ended real node has left on this machine. A killed one leaves empty cgroups.
func (n *realNode) left(cgroups bool) error {
	var found []error
	if _, err := net.InterfaceByName("cleat-node"); err == nil {
		found = append(found, errors.New("the interface cleat-node is left"))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte(n.dir)) {
		found = append(found, errors.New("mounts are left"))
	}
	tables, err := exec.Command("nft", "list", "tables").CombinedOutput()
	if err != nil {
		return fmt.Errorf("listing the tables of nftables: %w\n%s", err, tables)
	}
	if bytes.Contains(tables, []byte("kube-proxy")) {
		found = append(found, errors.New("nftables rules are left"))
	}
	for _, pattern := range []string{"/sys/fs/cgroup/devcluster", "/sys/fs/cgroup/*/devcluster"} {
		if trees, _ := filepath.Glob(pattern); cgroups && len(trees) > 0 {
			found = append(found, fmt.Errorf("cgroups are left: %s", trees))
		}
	}
	return errors.Join(append(found, n.processesLeft())...)
}

// processesLeft looks for programs of the node, which have its folder or its containerd in their arguments.
func (n *realNode) processesLeft() error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	var found []error
	for _, file := range files {
		line, _ := os.ReadFile(file) // of one that has just ended there is none
		for _, mark := range []string{n.dir, "/var/lib/devcluster/", "/usr/local/bin/workload"} {
			if bytes.Contains(line, []byte(mark)) {
				found = append(found, fmt.Errorf("a process is left: %q", bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
				break
			}
		}
	}
	return errors.Join(found...)
}

// Package testenv gives end-to-end tests what they run against: a cluster, a Git server, agents that can be started,
// stopped and killed, and a count of what those write.
package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/internal/agent"
)

// startTimeout bounds the start of one program. The embedded control plane needs four seconds on an idle machine.
const startTimeout = 2 * time.Minute

// Cluster is the cluster that all tests of a binary share. Each test works in namespaces of its own.
type Cluster struct {
	*live.Cluster
	Kubeconfig string
	// audit is the API server's audit log; empty on a cluster that is not the embedded one.
	audit string
}

// shared is one cluster for the test binary: a start costs four seconds and half a gigabyte.
var shared struct {
	once    sync.Once
	cluster *Cluster
	err     error
	stop    func() error
}

// Main runs the tests of a package and then stops the cluster that they shared. TestMain hands its result to os.Exit.
func Main(m *testing.M) int {
	agent.TakeOverLogs(io.Discard) // each agent's own log is kept by testenv.Agent
	code := m.Run()
	if shared.stop == nil {
		return code
	}
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the control plane:", err)
		return max(code, 1)
	}
	return code
}

// Shared returns the cluster that E2E_KUBECONFIG names, or the embedded control plane, started by the first test that
// asks. The CRDs of this repository are installed there.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.once.Do(func() { shared.cluster, shared.stop, shared.err = open(t.Context()) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// Kubeconfig returns the path of the shared cluster's kubeconfig.
func Kubeconfig(t testing.TB) string {
	t.Helper()
	return Shared(t).Kubeconfig
}

// Empty starts a control plane of its own for a test that has to have a whole one to itself: nothing is installed there, and it
// ends with the test. It is always the embedded one.
func Empty(t testing.TB) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	root, err := proc.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{}
	stop, err := c.startEmbedded(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if c.Cluster, err = live.Connect(c.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	return c
}

func open(ctx context.Context) (*Cluster, func() error, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	root, err := proc.Root()
	if err != nil {
		return nil, nil, err
	}
	c := &Cluster{Kubeconfig: os.Getenv("E2E_KUBECONFIG")}
	var stop func() error
	if c.Kubeconfig == "" {
		if stop, err = c.startEmbedded(ctx, root); err != nil {
			return nil, nil, err
		}
	}
	if c.Cluster, err = live.Connect(c.Kubeconfig); err != nil {
		return nil, stop, err
	}
	if err := c.InstallCRDs(ctx, filepath.Join(root, "manifests", "crds")); err != nil {
		return nil, stop, fmt.Errorf("installing the CRDs: %w", err)
	}
	return c, stop, nil
}

func (c *Cluster) startEmbedded(ctx context.Context, root string) (stop func() error, err error) {
	binary := filepath.Join(root, "bin", "devcluster")
	if _, err := os.Stat(binary); err != nil {
		return nil, errors.New("bin/devcluster is missing: run `make cluster`, or set E2E_KUBECONFIG to a cluster of yours")
	}
	dir, err := os.MkdirTemp("", "cleat-e2e-")
	if err != nil {
		return nil, err
	}
	var log bytes.Buffer
	process, err := proc.Start(ctx, proc.ControlPlane(binary, dir, &log, "--audit"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, log.Bytes()), os.RemoveAll(dir))
	}
	c.Kubeconfig = filepath.Join(dir, "kubeconfig")
	c.audit = filepath.Join(dir, "audit.log")
	return func() error { return errors.Join(process.Stop(), os.RemoveAll(dir)) }, nil
}

// Namespace makes a namespace of a name that no other test uses, and deletes it after the test on a cluster that lives
// longer than the tests.
func (c *Cluster) Namespace(t testing.TB, prefix string) string {
	t.Helper()
	name := fmt.Sprintf("%s-%s", prefix, Token())
	manifest := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name)
	if _, err := c.Apply(t.Context(), []byte(manifest), ""); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("E2E_KUBECONFIG") != "" {
		t.Cleanup(func() { c.remove(t, name) })
	}
	return name
}

// remove deletes a namespace whose agent is gone, so that nobody takes the finalizers off its objects.
func (c *Cluster) remove(t testing.TB, namespace string) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, kind := range []string{"kustomizations", "helmreleases", "helmcharts"} {
		all, err := c.List(ctx, kind, namespace, "")
		if err != nil {
			t.Error(err)
		}
		for _, obj := range all {
			ref := live.Ref{Kind: kind, Namespace: namespace, Name: obj.GetName()}
			if err := c.Patch(ctx, ref, `{"metadata":{"finalizers":null}}`); err != nil {
				t.Error(err)
			}
		}
	}
	if err := c.Delete(ctx, live.Ref{Kind: "namespaces", Name: namespace}); err != nil {
		t.Error(err)
	}
}

// Renew makes namespaces of fixed names anew: those that an earlier test has left go first, with everything in them. It is for
// tests whose digests depend on the names.
func (c *Cluster) Renew(t testing.TB, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	for _, name := range names {
		c.remove(t, name)
	}
	for _, name := range names {
		gone := func(obj *unstructured.Unstructured) bool { return obj == nil }
		if _, err := c.Until(ctx, live.Ref{Kind: "namespaces", Name: name}, gone); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Apply(ctx, fmt.Appendf(nil, "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name), ""); err != nil {
			t.Fatal(err)
		}
	}
}

// Token returns a short text that is different each time.
func Token() string { return fmt.Sprintf("%x", time.Now().UnixNano()) }

package main_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// components are the children of devcluster, all of them.
var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"}

// TestRestart shows that the same folder continues the same cluster, after a
// good end and after kill -9, and that neither leaves anything behind.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	c := up(t, dir)
	kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "1"}}
	kept, err := c.client.CoreV1().ConfigMaps("default").Create(bounded(t), kept, metav1.CreateOptions{})
	must(t, err)
	old := c
	c.terminate(t)

	c = up(t, dir)
	c.expectKept(t, kept)
	if c.config.Host != old.config.Host {
		t.Errorf("the address moved from %s to %s", old.config.Host, c.config.Host)
	}
	_, err = old.client.CoreV1().ConfigMaps("default").Get(bounded(t), "kept", metav1.GetOptions{})
	if err != nil {
		t.Errorf("the kubeconfig of the first run is no longer good: %v", err)
	}
	c.killHard(t)

	c = up(t, dir)
	c.expectKept(t, kept)
	c.createDeployment(t, deployment("after", 1, nil))
	c.awaitDeployment(t, "after", func(s appsv1.DeploymentStatus) bool { return s.AvailableReplicas == 1 })
	c.terminate(t)
}

func (c *cluster) expectKept(t *testing.T, want *corev1.ConfigMap) {
	t.Helper()
	got, err := c.client.CoreV1().ConfigMaps("default").Get(bounded(t), want.Name, metav1.GetOptions{})
	must(t, err)
	if got.UID != want.UID || !maps.Equal(got.Data, want.Data) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// killHard ends devcluster so that it can do nothing about its children.
func (c *cluster) killHard(t *testing.T) {
	t.Helper()
	children := c.children(t)
	if names := slices.Sorted(maps.Keys(children)); !slices.Equal(names, components) {
		t.Fatalf("children: %v", names)
	}
	grips := hold(t, slices.Collect(maps.Values(children))...)
	must(t, syscall.Kill(c.pid, syscall.SIGKILL))
	_ = c.wait(t) // "signal: killed", as just asked
	awaitEnd(t, grips)
	c.expectNothingLeft(t)
}

// TestParentEnds shows that a killed test binary leaves no cluster behind.
func TestParentEnds(t *testing.T) {
	dir := t.TempDir()
	// The shell has something to do afterwards and so does not become devcluster itself.
	c := launch(t, dir, exec.Command("sh", "-c", `"$@"; exit 1`, "sh", binary, "up", "--dir", dir))
	pids := childrenOf(t, c.cmd.Process.Pid)
	if len(pids) != 1 {
		t.Fatalf("children of the shell: %v", pids)
	}
	c.pid = pids[0]
	grips := hold(t, append(slices.Collect(maps.Values(c.children(t))), c.pid)...)
	must(t, c.cmd.Process.Kill())
	awaitEnd(t, grips)
	c.expectNothingLeft(t)
}

// TestComponentEnds shows that a lost component ends everything and is named.
func TestComponentEnds(t *testing.T) {
	c := up(t, t.TempDir())
	must(t, syscall.Kill(c.children(t)["kube-scheduler"], syscall.SIGKILL))
	err := c.wait(t)
	if exitCode(err) != 1 {
		t.Errorf("ended with %v, want exit code 1", err)
	}
	log := filepath.Join(c.dir, "logs", "kube-scheduler.log")
	for _, want := range []string{"kube-scheduler has ended", log} {
		if !strings.Contains(c.stderr.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, &c.stderr)
		}
	}
	c.expectNothingLeft(t)
}

// TestCommandLine shows what devcluster refuses while a cluster runs, and that
// kubectl's exit code is handed on.
func TestCommandLine(t *testing.T) {
	c := up(t, t.TempDir(), "--nodes", "1")
	kubeconfig := "--kubeconfig=" + filepath.Join(c.dir, "kubeconfig")
	for _, tc := range []struct {
		name string
		args []string
		code int
	}{
		{"a folder in use", []string{"up", "--dir", c.dir}, 1},
		{"no folder", []string{"up"}, 2},
		{"an unknown command", []string{"down"}, 2},
		{"no command", nil, 2},
		{"kubectl succeeds", []string{"kubectl", kubeconfig, "get", "node", "node-0"}, 0},
		{"kubectl finds nothing", []string{"kubectl", kubeconfig, "get", "node", "node-1"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := exec.CommandContext(bounded(t), binary, tc.args...).CombinedOutput()
			if exitCode(err) != tc.code {
				t.Errorf("%v, want exit code %d:\n%s", err, tc.code, out)
			}
		})
	}
	c.terminate(t)
}

// TestStartFails shows that a failed start says what failed and where to look,
// and leaves nothing behind.
func TestStartFails(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(dir string) error
		args    []string
		want    []string
	}{
		{"too slow", nil, []string{"--ready-timeout", "1ms"},
			[]string{"waiting for the API server", "1ms", "--ready-timeout", "kube-apiserver.log"}},
		{"a component that cannot run", func(dir string) error { return os.WriteFile(filepath.Join(dir, "etcd"), nil, 0o600) }, nil,
			[]string{"etcd has ended", "etcd.log", "new --dir"}},
		{"a damaged folder", func(dir string) error { return os.WriteFile(filepath.Join(dir, "ports.json"), []byte("{"), 0o600) }, nil,
			[]string{"ports.json", "preparing the folder"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &cluster{dir: t.TempDir()}
			if tc.prepare != nil {
				must(t, tc.prepare(c.dir))
			}
			out, err := exec.CommandContext(bounded(t), binary, append([]string{"up", "--dir", c.dir}, tc.args...)...).CombinedOutput()
			if exitCode(err) != 1 {
				t.Errorf("ended with %v, want exit code 1", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
			c.expectNoProcess(t)
		})
	}
}

// exitCode is 0 for no error and -1 for one that is no exit.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

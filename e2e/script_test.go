package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// TestScripts runs each file of testdata/script with an agent, a Git server and a namespace of its own. Beside what
// testscript brings (exec, cmp, stdout, grep …) a script has the commands of commands_test.go, and the variables
//
//	NS       its namespace, the one that its agent sees
//	GIT      the Git server's URL; a repository is $GIT/NAME.git
//	PRIVATE  the URL of one that asks for the user ada and the password secret
//	REV      the commit pushed last
//	ROOT     the folder of this repository
//	SSH      the URL of the Git server over SSH; SSH_IDENTITY and SSH_KNOWN_HOSTS are files for a Secret
//	REGISTRY the host of an OCI registry, S3 that of an S3 server
//	SINK     the URL of an endpoint for Providers of type generic
//	CHARTS   the URL of a Helm repository: the script's folder charts
//	APP      the chart that most scripts about releases install: testdata/charts/app
func TestScripts(t *testing.T) {
	runScripts(t, "testdata/script", (*testing.T).Parallel)
}

// TestSerialScripts runs those of testdata/serial one after the other: they measure, or change what all namespaces share.
func TestSerialScripts(t *testing.T) {
	runScripts(t, "testdata/serial", func(*testing.T) {})
}

func runScripts(t *testing.T, dir string, begin func(*testing.T)) {
	t.Helper()
	runScriptsOn(t, dir, begin, setUp)
}

func runScriptsOn(t *testing.T, dir string, begin func(*testing.T), setUp func(*testing.T, string, *testscript.Env) error) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			begin(t)
			testscript.Run(t, testscript.Params{
				Files:              []string{file},
				RequireUniqueNames: true,
				Cmds:               commands,
				Condition:          condition,
				Setup:              func(env *testscript.Env) error { return setUp(t, name, env) },
			})
		})
	}
}

// condition knows [audit]: the API server's audit log can be read.
func condition(name string) (bool, error) {
	if name == "audit" {
		return os.Getenv("E2E_KUBECONFIG") == "", nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// script is what one script's commands share.
type script struct {
	cluster   *testenv.Cluster
	namespace string
	agent     *testenv.Agent
	git       *gitserver.Server
	private   *gitserver.Server
	sources   *testenv.Sources
	sink      *testenv.Sink
	repos     map[string]*gitserver.Repo
	kubectl   string
	helm      string

	// Set by the commands of the same name.
	token   string            // of the last poke
	mark    testenv.AuditMark // writes mark
	started time.Time         // timer start
	audit   testenv.Audit
}

type scriptKey struct{}

func setUp(t *testing.T, name string, env *testscript.Env) error {
	s, err := newScript(t, testenv.Shared(t), name, env)
	if err != nil {
		return err
	}
	if err := s.agent.Start(t.Context()); err != nil {
		return fmt.Errorf("starting the agent: %w\n%s", err, s.agent.Log())
	}
	return nil
}

// setUpEmpty gives a script a cluster of its own with nothing in it, and an agent that does not run.
func setUpEmpty(t *testing.T, name string, env *testscript.Env) error {
	_, err := newScript(t, testenv.Empty(t), name, env)
	return err
}

func newScript(t *testing.T, cluster *testenv.Cluster, name string, env *testscript.Env) (*script, error) {
	root, err := proc.Root()
	if err != nil {
		return nil, err
	}
	s := &script{
		cluster: cluster,
		git:     testenv.Git(t),
		private: testenv.PrivateGit(t, "ada", "secret"),
		repos:   map[string]*gitserver.Repo{},
		kubectl: filepath.Join(root, "bin", "devcluster"),
		helm:    filepath.Join(root, "bin", "helm"),
	}
	s.sources = testenv.NewSources(t, s.git, filepath.Join(env.WorkDir, "charts"))
	s.sink = testenv.NewSink(t)
	s.namespace = s.cluster.Namespace(t, name)
	s.agent = testenv.NewAgent(t, s.cluster.Kubeconfig, s.namespace)
	env.Values[scriptKey{}] = s
	env.Setenv("NS", s.namespace)
	env.Setenv("ROOT", root)
	env.Setenv("GIT", strings.TrimSuffix(s.git.URL(""), "/.git"))
	env.Setenv("PRIVATE", strings.TrimSuffix(s.private.URL(""), "/.git"))
	env.Setenv("SSH", s.sources.SSH.URL())
	env.Setenv("SSH_IDENTITY", filepath.Join(env.WorkDir, "identity"))
	env.Setenv("SSH_KNOWN_HOSTS", filepath.Join(env.WorkDir, "known_hosts"))
	env.Setenv("REGISTRY", s.sources.Registry)
	env.Setenv("S3", s.sources.S3.Endpoint)
	env.Setenv("SINK", s.sink.URL)
	env.Setenv("CHARTS", s.sources.Charts)
	env.Setenv("APP", filepath.Join(root, "e2e", "testdata", "charts", "app"))
	for _, kind := range []string{"CACHE", "CONFIG", "DATA"} {
		env.Setenv("HELM_"+kind+"_HOME", filepath.Join(env.WorkDir, ".helm"))
	}
	for name, content := range map[string]string{"SSH_IDENTITY": s.sources.SSH.Identity, "SSH_KNOWN_HOSTS": s.sources.SSH.KnownHosts} {
		if err := os.WriteFile(env.Getenv(name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	env.Setenv("KUBECONFIG", s.cluster.Kubeconfig)
	return s, nil
}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func (s *script) ref(ts *testscript.TestScript, text string) live.Ref {
	ref, err := live.ParseRef(text, s.namespace)
	ts.Check(err)
	return ref
}

// bounded is the context of one command: nothing that a script waits for takes a minute.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

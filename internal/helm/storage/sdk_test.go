package storage_test

import (
	"fmt"
	"io"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	helmstorage "helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// actions are Helm's own over a storage. There is no cluster behind them but for the Secrets.
type actions struct {
	open func() *helmstorage.Storage
}

func (a actions) configuration() *action.Configuration {
	return &action.Configuration{
		Releases:     a.open(),
		KubeClient:   &kubefake.PrintingKubeClient{Out: io.Discard},
		Capabilities: chartutil.DefaultCapabilities,
		Log:          func(string, ...any) {},
	}
}

func (a actions) chart(version string) *chart.Chart {
	c := madeChart()
	c.Metadata.Version = version
	c.Templates = append(c.Templates, &chart.File{Name: "templates/hook.yaml", Data: []byte(
		"kind: ConfigMap\nmetadata: {name: hook, annotations: {helm.sh/hook: \"pre-install,pre-upgrade,pre-rollback,pre-delete\"}}\n")})
	c.Templates[0].Data = []byte("kind: ConfigMap\nmetadata: {name: web, labels: {version: \"" + version + "\"}}\n")
	return c
}

func (a actions) install(version string, replace bool) error {
	install := action.NewInstall(a.configuration())
	install.ReleaseName, install.Namespace, install.Replace = "web", "demo", replace
	install.Labels = map[string]string{"team": "shop"}
	_, err := install.Run(a.chart(version), map[string]any{"of": version})
	return err
}

func (a actions) upgrade(version string, broken bool) error {
	configuration := a.configuration()
	if broken {
		configuration.KubeClient = &kubefake.FailingKubeClient{
			PrintingKubeClient: kubefake.PrintingKubeClient{Out: io.Discard},
			UpdateError:        fmt.Errorf("refused"),
		}
	}
	upgrade := action.NewUpgrade(configuration)
	upgrade.Namespace, upgrade.MaxHistory, upgrade.ReuseValues = "demo", 3, true
	_, err := upgrade.Run("web", a.chart(version), map[string]any{version: true})
	return err
}

func (a actions) rollback(version int) error {
	rollback := action.NewRollback(a.configuration())
	rollback.Version, rollback.MaxHistory = version, 3
	return rollback.Run("web")
}

func (a actions) uninstall(keep bool) error {
	uninstall := action.NewUninstall(a.configuration())
	uninstall.KeepHistory = keep
	_, err := uninstall.Run("web")
	return err
}

// seen is a revision as Helm's own driver reads it, without times.
type seen struct {
	Version                                          int
	Status                                           release.Status
	Description, ChartVersion, Manifest, Team, Hooks string
	Config                                           map[string]any
}

func look(t *testing.T, store *helmstorage.Storage) map[int]seen {
	t.Helper()
	out := map[int]seen{}
	all, err := store.ListReleases()
	if err != nil {
		t.Fatal(err)
	}
	for _, rel := range all {
		s := seen{
			Version: rel.Version, Status: rel.Info.Status, Description: rel.Info.Description,
			ChartVersion: rel.Chart.Metadata.Version, Manifest: rel.Manifest, Config: rel.Config, Team: rel.Labels["team"],
		}
		for _, hook := range rel.Hooks {
			s.Hooks += fmt.Sprintln(hook.Name, hook.LastRun.Phase)
		}
		out[rel.Version] = s
	}
	return out
}

// TestActions: what a life of Helm's actions leaves behind in our storage is what it leaves behind in Helm's, after each of
// them. Each begins with nothing in memory, as after a restart.
func TestActions(t *testing.T) {
	s := newSecrets()
	ours := actions{func() *helmstorage.Storage {
		store := sdk(t, observe(t, s, "web"), storage.Operation{Method: storage.ServerSide})
		store.MaxHistory = 3
		return store
	}}
	clientset := fake.NewClientset()
	theirs := actions{func() *helmstorage.Storage {
		store := helmstorage.Init(driver.NewSecrets(clientset.CoreV1().Secrets("demo")))
		store.MaxHistory = 3
		return store
	}}
	for i, step := range []struct {
		name string
		do   func(actions) error
		fail bool
		left int // revisions
	}{
		{"install", func(a actions) error { return a.install("1.0.0", false) }, false, 1},
		{"install again", func(a actions) error { return a.install("1.0.0", false) }, true, 1},
		{"upgrade", func(a actions) error { return a.upgrade("1.1.0", false) }, false, 2},
		{"a failing upgrade", func(a actions) error { return a.upgrade("1.2.0", true) }, true, 3},
		{"an upgrade after that", func(a actions) error { return a.upgrade("1.3.0", false) }, false, 3},
		{"rollback", func(a actions) error { return a.rollback(2) }, false, 3},
		{"rollback to nothing", func(a actions) error { return a.rollback(1) }, true, 3},
		{"uninstall, history kept", func(a actions) error { return a.uninstall(true) }, false, 3},
		{"uninstall again", func(a actions) error { return a.uninstall(true) }, true, 3},
		{"replace", func(a actions) error { return a.install("2.0.0", true) }, false, 3},
		{"uninstall", func(a actions) error { return a.uninstall(false) }, false, 0},
		{"uninstall what is gone", func(a actions) error { return a.uninstall(false) }, true, 0},
		{"install anew", func(a actions) error { return a.install("3.0.0", false) }, false, 1},
	} {
		ourErr, theirErr := step.do(ours), step.do(theirs)
		if (ourErr != nil) != step.fail || fmt.Sprint(ourErr) != fmt.Sprint(theirErr) {
			t.Fatalf("%d. %s: %v, with Helm's storage %v", i+1, step.name, ourErr, theirErr)
		}
		got := look(t, helm3(t, s))
		if diff := gocmp.Diff(look(t, theirs.open()), got); diff != "" {
			t.Errorf("%d. %s (-Helm's +ours):\n%s", i+1, step.name, diff)
		}
		if len(got) != step.left {
			t.Errorf("%d. %s: %d revisions are left, want %d", i+1, step.name, len(got), step.left)
		}
	}
}

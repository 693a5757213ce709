package helm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const revision = "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae"

// needing is a Chart.yaml with dependencies "name version repository".
func needing(name string, needs ...string) string {
	text := chartYAML(name, "1.0.0") + "dependencies:\n"
	for _, n := range needs {
		words := strings.SplitN(n, " ", 3)
		text += fmt.Sprintf("- name: %s\n  version: %q\n  repository: %q\n", words[0], words[1], words[2])
	}
	return text
}

// built runs the chart "app" of these files, and returns it with the Chart.yaml files in what is made of it.
func built(t *testing.T, files map[string]string, objects ...client.Object) (*sourcev1.HelmChart, []string, *world) {
	t.Helper()
	w := newWorld(t, append(objects, helmChart("app", kindGit, "shop", "app", "", nil))...)
	w.git(revision, files)
	for _, o := range objects {
		if r, ok := o.(*sourcev1.HelmRepository); ok {
			w.repository(r.Name)
		}
	}
	o, _ := w.chart("app")
	if o.Status.Artifact == nil {
		return o, nil, w
	}
	var charts []string
	for name, text := range w.stored(o) {
		if strings.HasSuffix(name, "/Chart.yaml") {
			version := text[strings.Index(text, "\nversion: ")+len("\nversion: "):]
			charts = append(charts, strings.TrimSuffix(name, "/Chart.yaml")+" "+strings.TrimSpace(version))
		}
	}
	slices.Sort(charts)
	return o, charts, w
}

func TestDependenciesAreBuilt(t *testing.T) {
	archives := map[string]string{"/redis-1.0.0.tgz": packaged(t, "redis", "1.0.0"), "/redis-1.1.0.tgz": packaged(t, "redis", "1.1.0")}
	s := chartsServer(t, "redis", archives)
	host := registryServer(t, "me:secret")
	pushChart(t, host, "charts/db", "2.0.0", packaged(t, "db", "2.0.0"))
	pushChart(t, host, "charts/db", "2.1.0_b1", packaged(t, "db", "2.1.0+b1"))
	repositories := []client.Object{
		secret("login", map[string]string{"username": "me", "password": "secret"}),
		helmRepository("registry", "oci://"+host+"/charts", func(s *sourcev1.HelmRepositorySpec) {
			s.Type, s.Insecure, s.SecretRef = "oci", true, &fluxmeta.LocalObjectReference{Name: "login"}
		}),
	}
	files := map[string]string{
		"app/Chart.yaml":                 needing("app", "redis >=1.0.0 "+s.URL+"/", "db 2.x oci://"+host+"/charts", "lib * file://../lib", "vendored 1.x https://nowhere.invalid"),
		"app/charts/vendored/Chart.yaml": chartYAML("vendored", "1.5.0"),
		"lib/Chart.yaml":                 needing("lib", "deeper * file://../deeper"),
		"deeper/Chart.yaml":              chartYAML("deeper", "0.1.0"),
		"app/templates/a.yaml":           "kind: A",
		"app/ignored.txt":                "x",
		"app/.helmignore":                "ignored.txt\n",
	}
	all := []string{"app 1.0.0", "app/charts/db 2.1.0+b1", "app/charts/lib 1.0.0", "app/charts/lib/charts/deeper 0.1.0", "app/charts/redis 1.1.0", "app/charts/vendored 1.5.0"}
	trim := func(charts []string) []string {
		for i, c := range charts {
			charts[i], _, _ = strings.Cut(c, "\n")
		}
		return charts
	}
	o, charts, w := built(t, files, repositories...)
	if diff := cmp.Diff(all, trim(charts)); diff != "" {
		t.Fatalf("%v\n%s", told(o), diff)
	}
	if _, ok := w.stored(o)["app/ignored.txt"]; ok {
		t.Error(".helmignore is not heeded")
	}
	digest := o.Status.Artifact.Digest
	if o, _, _ := built(t, files, repositories...); o.Status.Artifact.Digest != digest {
		t.Error("the same chart is other bytes when it is packaged again")
	}

	files["app/Chart.lock"] = fmt.Sprintf("dependencies:\n- {name: redis, version: 1.0.0, repository: %q}\n- {name: db, version: 2.0.0, repository: %q}\n- {name: lib, version: 1.0.0, repository: file://../lib}\n", s.URL, "oci://"+host+"/charts")
	o, charts, _ = built(t, files, repositories...)
	all[1], all[4] = "app/charts/db 2.0.0", "app/charts/redis 1.0.0"
	if diff := cmp.Diff(all, trim(charts)); diff != "" {
		t.Errorf("with Chart.lock: %v\n%s", told(o), diff)
	}
	files["app/Chart.lock"] = "dependencies: []\n"
	if o, _, _ = built(t, files, repositories...); !strings.Contains(told(o)[len(told(o))-1], "Chart.lock is out of step") {
		t.Errorf("with an old Chart.lock: %v", told(o))
	}
}

// Only a HelmRepository of the namespace gives credentials away, and only to its own URL.
func TestA09_DependencyCredentialsAreThoseOfItsRepository(t *testing.T) {
	archive := packaged(t, "redis", "1.0.0")
	for name, c := range map[string]struct {
		namespace, path string
		want            []string
	}{
		"same URL":          {namespace, "/charts", []string{"/charts/index.yaml me:secret", "/charts/redis-1.0.0.tgz me:secret"}},
		"another path":      {namespace, "/other", []string{"/charts/index.yaml", "/charts/redis-1.0.0.tgz"}},
		"another namespace": {"elsewhere", "/charts", []string{"/charts/index.yaml", "/charts/redis-1.0.0.tgz"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{
				"/charts/index.yaml": indexOf("redis", map[string]string{"redis-1.0.0.tgz": archive}), "/charts/redis-1.0.0.tgz": archive,
			}, false)
			login, repository := secret("login", map[string]string{"username": "me", "password": "secret"}), helmRepository("charts", s.URL+c.path, func(s *sourcev1.HelmRepositorySpec) {
				s.SecretRef = &fluxmeta.LocalObjectReference{Name: "login"}
			})
			login.Namespace, repository.Namespace = c.namespace, c.namespace
			w := newWorld(t, login, repository, helmChart("app", kindGit, "shop", "app", "", nil))
			w.git(revision, map[string]string{"app/Chart.yaml": needing("app", "redis * "+s.URL+"/charts")})
			if o, _ := w.chart("app"); o.Status.Artifact == nil {
				t.Fatalf("%v", told(o))
			}
			if diff := cmp.Diff(c.want, s.asked()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestA13_DependenciesFromElsewhereAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ need, want string }{
		"a host's directory":   {"x * file:///etc", "not a path relative"},
		"out of the source":    {"x * file://../../etc", "leads out of the source"},
		"far out":              {"x * file://../../../../../../etc", "leads out of the source"},
		"the metadata service": {"x * oci://169.254.169.254/charts", "not allowed"},
		"by http as well":      {"x * http://169.254.169.254/charts", "not allowed"},
		"nothing there":        {"x * file://../nothing", "no chart at"},
		"another scheme":       {"x * ssh://git@example.com", "must begin with"},
		"an alias":             {"x * @stable", "must begin with"},
		"no repository":        {"x * ", "names no repository"},
		"another name":         {"x * file://../yy", "has the name \"yy\""},
		"another version":      {"yy 9.x file://../yy", "is not in \"9.x\""},
		"itself, for ever":     {"loop * file://../loop", "more than"},
		"no range":             {"yy one file://../yy", "is not in \"one\""},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, w := built(t, map[string]string{
				"app/Chart.yaml": needing("app", c.need), "yy/Chart.yaml": chartYAML("yy", "1.0.0"), "loop/Chart.yaml": needing("loop", "loop * file://../loop"),
			})
			if reason, message := ready(o); reason != dependencyReason || !strings.Contains(message, c.want) {
				t.Errorf("%s: %s, want %s", reason, message, c.want)
			}
			if !slices.ContainsFunc(told(o), func(c string) bool { return strings.HasPrefix(c, "BuildFailed=True") }) || len(w.leftovers()) > 0 {
				t.Errorf("%v, left over %v", told(o), w.leftovers())
			}
		})
	}
}

// TestA04_DependenciesFitIntoOneChart: each of them is within its limits, and all become one chart.
func TestA04_DependenciesFitIntoOneChart(t *testing.T) {
	archives, needs := map[string]string{}, []string(nil)
	var url string
	for i := range 12 {
		name := fmt.Sprintf("big%d", i)
		archives["/"+name+"-1.0.0.tgz"] = targz(t, name+"/Chart.yaml", chartYAML(name, "1.0.0"), name+"/templates/a.txt", strings.Repeat("x", 5<<20-1))
	}
	index := "apiVersion: v1\nentries:\n"
	for at := range archives {
		name := strings.TrimSuffix(strings.TrimPrefix(at, "/"), "-1.0.0.tgz")
		index += fmt.Sprintf("  %s:\n  - apiVersion: v2\n    name: %s\n    version: 1.0.0\n    urls: [%s]\n", name, name, at[1:])
	}
	archives["/index.yaml"] = index
	url = serve(t, archives, false).URL
	for i := range 12 {
		needs = append(needs, fmt.Sprintf("big%d 1.x %s", i, url))
	}
	o, _, _ := built(t, map[string]string{"app/Chart.yaml": needing("app", needs...)}, helmRepository("charts", url, nil))
	if reason, message := ready(o); reason != dependencyReason || !strings.Contains(message, "expands to more than") {
		t.Errorf("%s: %s", reason, message)
	}
}

// Two charts of one name, told apart by an alias, both stay in the package.
func TestDependenciesOfOneName(t *testing.T) {
	o, charts, _ := built(t, map[string]string{
		"app/Chart.yaml": strings.Replace(needing("app", "yy 1.x file://../yy1", "yy 2.x file://../yy2"), "version: \"2.x\"", "version: \"2.x\"\n  alias: z", 1),
		"yy1/Chart.yaml": chartYAML("yy", "1.0.0"), "yy2/Chart.yaml": chartYAML("yy", "2.0.0"),
	})
	if len(charts) != 2 { // the other is an archive inside
		t.Errorf("%v: %v", told(o), charts)
	}
}

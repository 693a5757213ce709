package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/chartfile"
	"github.com/cleat-dev/cleat/internal/source/oci"
)

const kindRepository, kindGit = sourcev1.HelmRepositoryKind, sourcev1.GitRepositoryKind

// webArchives are the charts of Flux's recording.
func webArchives(t *testing.T) map[string]string {
	return map[string]string{"/web-1.0.0.tgz": readText(t, "testdata/web-1.0.0.tgz"), "/web-1.1.0.tgz": readText(t, "testdata/web-1.1.0.tgz")}
}

// chartsServer serves archives and an index of them.
func chartsServer(t *testing.T, name string, archives map[string]string) *server {
	files := map[string]string{"/index.yaml": indexOf(name, archives)}
	for at, archive := range archives {
		files[at] = archive
	}
	return serve(t, files, false)
}

// The status is held against the one in Flux's recording of the same chart.
func TestChartStatusIsFluxs(t *testing.T) {
	s := chartsServer(t, "web", webArchives(t))
	w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("demo-web", kindRepository, "charts", "web", "1.0.0", nil))
	revision := w.repository("charts").Status.Artifact.Revision
	w.events.Words()
	o, result := w.chart("demo-web")
	size := int64(1017)
	condition := func(kind string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: "True", Reason: "ChartPullSucceeded", ObservedGeneration: 1, Message: "pulled 'web' chart with version '1.0.0'"}
	}
	want := sourcev1.HelmChartStatus{
		ObservedGeneration: 1, ObservedChartName: "web", ObservedSourceArtifactRevision: revision,
		URL:        "http://source-controller/helmchart/demo/demo-web/latest.tar.gz",
		Conditions: []metav1.Condition{condition("Ready"), condition("ArtifactInStorage")},
		Artifact: &fluxmeta.Artifact{
			Digest: "sha256:93cad7568f88b16663d74766c305ad6074d93e000bac525c9cbd78b842ba87c2", Revision: "1.0.0", Size: &size,
			Path: "helmchart/demo/demo-web/web-1.0.0.tgz", URL: "http://source-controller/helmchart/demo/demo-web/web-1.0.0.tgz",
		},
	}
	if diff := cmp.Diff(want, o.Status, cmpopts.IgnoreTypes(metav1.Time{})); diff != "" {
		t.Errorf("status (-Flux +ours):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Normal ChartPullSucceeded pulled 'web' chart with version '1.0.0'"}, w.events.Words()); diff != "" {
		t.Errorf("events:\n%s", diff)
	}
	if result.RequeueAfter != o.Spec.Interval.Duration {
		t.Errorf("comes back after %v", result.RequeueAfter)
	}
	s.asked()
	if again, _ := w.chart("demo-web"); again.ResourceVersion != o.ResourceVersion || len(w.events.Words()) > 0 || len(s.asked()) > 0 {
		t.Error("a run in which nothing changed wrote a status, sent an event or asked the server")
	}
	o.Spec.Version = ">=1.0.0"
	w.change(o)
	if o, _ := w.chart("demo-web"); o.Status.Artifact.Revision != "1.1.0" {
		t.Errorf("after a change of the version: %v", told(o))
	}
}

// What Flux packages differs by the time of each file only, which here is always the same.
func TestChartInGitIsPackagedAsByFlux(t *testing.T) {
	recorded := untar(t, strings.NewReader(readText(t, "testdata/packaged-from-git-web-1.0.0.tgz")))
	files := map[string]string{"run.sh": "exit 1"}
	for name, text := range recorded {
		files["charts/"+name] = text
	}
	w := newWorld(t, helmChart("demo-web-git", kindGit, "shop", "./charts/web", "*", nil))
	w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", files)
	o, _ := w.chart("demo-web-git")
	if diff := cmp.Diff(recorded, w.stored(o)); diff != "" {
		t.Errorf("files (-Flux +ours):\n%s", diff)
	}
	if reason, message := ready(o); reason != "ChartPackageSucceeded" || message != "packaged 'web' chart with version '1.0.0'" {
		t.Errorf("%s: %s", reason, message)
	}
	if o.Status.ObservedSourceArtifactRevision != "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae" || o.Status.Artifact.Revision != "1.0.0" {
		t.Errorf("status %+v", o.Status)
	}
	digest := o.Status.Artifact.Digest
	w.restart(t.TempDir()) // the volume is lost
	w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", files)
	if o, _ := w.chart("demo-web-git"); o.Status.Artifact.Digest != digest || len(w.events.Words()) > 0 {
		t.Error("the same chart is other bytes, or news, when it is packaged again")
	}
}

func TestPackagedFilesHaveNoTime(t *testing.T) {
	c, err := DefaultLimits.files().Load([]byte(packaged(t, "web", "1.0.0")))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := DefaultLimits.pack(c)
	if err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil || h.ModTime.Unix() != 0 {
			t.Fatalf("%v, %v", h, err)
		}
	}
}

// A chart of the same name and version is another chart when the spec has changed.
func TestChangedSpecIsBuiltAnew(t *testing.T) {
	w := newWorld(t, helmChart("web", kindGit, "shop", "a/web", "", nil))
	w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", map[string]string{
		"a/web/Chart.yaml": chartYAML("web", "1.0.0"), "a/web/from": "a", "b/web/Chart.yaml": chartYAML("web", "1.0.0"), "b/web/from": "b",
	})
	o, _ := w.chart("web")
	o.Spec.Chart = "b/web"
	w.change(o)
	if o, _ := w.chart("web"); w.stored(o)["web/from"] != "b" {
		t.Errorf("%v: %v", told(o), w.stored(o))
	}
}

func TestReconcileStrategies(t *testing.T) {
	const first, second = "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", "main@sha1:aa3e7da585bb7c53b55766c8714298088bd35d37"
	files := map[string]string{"web/Chart.yaml": chartYAML("web", "1.0.0"), "web/templates/a.yaml": "first"}
	for strategy, want := range map[string][2]string{
		sourcev1.ReconcileStrategyChartVersion: {"1.0.0 first", "1.0.0 first"},
		sourcev1.ReconcileStrategyRevision:     {"1.0.0+f12aaebd0ed9 first", "1.0.0+aa3e7da585bb second"},
	} {
		w := newWorld(t, helmChart("web", kindGit, "shop", "web", "", func(s *sourcev1.HelmChartSpec) { s.ReconcileStrategy = strategy }))
		for i, revision := range []string{first, second} {
			files["web/templates/a.yaml"] = []string{"first", "second"}[i]
			w.git(revision, files)
			o, _ := w.chart("web")
			if got := o.Status.Artifact.Revision + " " + w.stored(o)["web/templates/a.yaml"]; got != want[i] {
				t.Errorf("%s at %s: %s, want %s", strategy, revision, got, want[i])
			}
			if o.Status.ObservedSourceArtifactRevision != revision {
				t.Errorf("%s: observed %s", strategy, o.Status.ObservedSourceArtifactRevision)
			}
		}
	}
	if got := shortRevision("sha256:0123456789abcdef0123"); got != "0123456789ab" {
		t.Errorf("a bucket's revision becomes %s", got)
	}
}

func TestValuesFilesAreMerged(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	git := map[string]string{
		"charts/web/Chart.yaml": chartYAML("web", "1.0.0"), "charts/web/values.yaml": "a: 1\nb: {c: 2, d: 3}\n", "prod.yaml": "b: {d: 4}\n",
		"web.tgz": packaged(t, "web", "1.0.0"),
	}
	const merged = "a: 1\nb:\n  c: 2\n  d: 4\n"
	for name, c := range map[string]struct {
		kind, from, chart string
		files             []string
		ignore            bool
		revision, message string
	}{
		"repository":         {kindRepository, "charts", "web", []string{"values.yaml", "other.yaml"}, false, "1.0.0+1", "packaged 'web' chart with version '1.0.0+1' and merged values files [values.yaml other.yaml]"},
		"directory":          {kindGit, "shop", "charts/web", []string{"charts/web/values.yaml", "prod.yaml"}, false, "1.0.0+1", "packaged 'web' chart with version '1.0.0+1' and merged values files [charts/web/values.yaml prod.yaml]"},
		"packaged":           {kindGit, "shop", "web.tgz", []string{"./charts/web/values.yaml", "/prod.yaml"}, false, "1.0.0+1", "packaged 'web' chart with version '1.0.0+1' and merged values files [./charts/web/values.yaml /prod.yaml]"},
		"missing":            {kindRepository, "charts", "web", []string{"values.yaml", "absent.yaml"}, false, "", "absent.yaml"},
		"missing, ignored":   {kindRepository, "charts", "web", []string{"values.yaml", "absent.yaml", "other.yaml"}, true, "1.0.0+1", "packaged 'web' chart with version '1.0.0+1' and merged values files [values.yaml other.yaml]"},
		"A15 leads out":      {kindGit, "shop", "charts/web", []string{"../../../etc/passwd"}, true, "", "leads out of the source"},
		"A15 of a host":      {kindGit, "shop", "charts/web", []string{"/etc/passwd"}, false, "", "there is no"},
		"A15 out of a chart": {kindRepository, "charts", "web", []string{"../values.yaml"}, false, "", "leads out of the source"},
		"no mapping":         {kindGit, "shop", "charts/web", []string{"web.tgz"}, false, "", "not a YAML mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", c.kind, c.from, c.chart, "", func(s *sourcev1.HelmChartSpec) {
				s.ValuesFiles, s.IgnoreMissingValuesFiles = c.files, c.ignore
			}))
			w.repository("charts")
			w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", git)
			o, _ := w.chart("web")
			reason, message := ready(o)
			if c.revision == "" {
				if reason != valuesReason || !strings.Contains(message, c.message) || o.Status.Artifact != nil || !slices.ContainsFunc(told(o), func(c string) bool { return strings.HasPrefix(c, "BuildFailed=True") }) {
					t.Errorf("%v", told(o))
				}
				return
			}
			if message != c.message || o.Status.Artifact.Revision != c.revision || w.stored(o)["web/values.yaml"] != merged {
				t.Errorf("%v\n%s", told(o), w.stored(o)["web/values.yaml"])
			}
			if w.stored(o)["web/Chart.yaml"] != "apiVersion: v2\nname: web\nversion: "+c.revision+"\n" {
				t.Errorf("Chart.yaml: %s", w.stored(o)["web/Chart.yaml"])
			}
			if again, _ := w.chart("web"); again.ResourceVersion != o.ResourceVersion {
				t.Errorf("a run in which nothing changed wrote a status: %v", told(again))
			}
			o.Spec.ValuesFiles = o.Spec.ValuesFiles[:1]
			w.change(o)
			if o, _ := w.chart("web"); o.Status.Artifact.Revision != "1.0.0+2" || !strings.Contains(w.stored(o)["web/values.yaml"], "d: 3") {
				t.Errorf("after a change of the list: %v", told(o))
			}
		})
	}
}

func TestF23_ChartFromRegistry(t *testing.T) {
	long := strings.Repeat("long-name-", 8) + "web"
	host := registryServer(t, "me:secret")
	for _, v := range []string{"1.0.0", "1.1.0+build.5", "1.2.0-rc.1"} {
		pushChart(t, host, "charts/"+long, tagOf(v), packaged(t, long, v))
	}
	pushChart(t, host, "charts/"+long, "latest", packaged(t, long, "9.9.9"))
	login := &fluxmeta.LocalObjectReference{Name: "login"}
	docker := fmt.Sprintf(`{"auths":{%q:{"username":"me","password":"secret"}}}`, host)
	for name, c := range map[string]struct {
		data    map[string]string
		version string
		want    string // revision, or reason
	}{
		"a range":              {map[string]string{"username": "me", "password": "secret"}, "1.x", "1.1.0+build.5"},
		"the newest":           {map[string]string{".dockerconfigjson": docker}, "*", "1.1.0+build.5"},
		"exactly":              {map[string]string{".dockerconfigjson": docker}, "1.1.0+build.5", "1.1.0+build.5"},
		"an early one":         {map[string]string{".dockerconfigjson": docker}, ">=1.2.0-0", "1.2.0-rc.1"},
		"one that is not":      {map[string]string{".dockerconfigjson": docker}, "7.7.7", chartReferenceReason},
		"none in the range":    {map[string]string{".dockerconfigjson": docker}, "7.x", chartReferenceReason},
		"another's password":   {map[string]string{"username": "me", "password": "wrong"}, "1.x", sourcev1.AuthenticationFailedReason},
		"no words of Docker's": {map[string]string{".dockerconfigjson": "secret"}, "1.x", sourcev1.AuthenticationFailedReason},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, secret("login", c.data), helmChart("web", kindRepository, "registry", long, c.version, nil),
				helmRepository("registry", "oci://"+host+"/charts", func(s *sourcev1.HelmRepositorySpec) { s.Type, s.Insecure, s.SecretRef = "oci", true, login }))
			o, _ := w.chart("web")
			reason, message := ready(o)
			if o.Status.Artifact == nil {
				if reason != c.want || strings.Contains(message, "secret") && name != "no words of Docker's" {
					t.Errorf("%s: %s, want %s", reason, message, c.want)
				}
				return
			}
			if o.Status.Artifact.Revision != c.want || message != fmt.Sprintf("pulled '%s' chart with version '%s'", long, c.want) || o.Status.ObservedSourceArtifactRevision != "" {
				t.Errorf("%+v", o.Status)
			}
			if want := "helmchart/demo/web/" + long + "-" + c.want + ".tgz"; o.Status.Artifact.Path != want {
				t.Errorf("path %s, want %s", o.Status.Artifact.Path, want)
			}
		})
	}
}

// TestAChartAskedForByHandIsLookedUp: what another chart has just been told is no answer to who asks by hand.
func TestAChartAskedForByHandIsLookedUp(t *testing.T) {
	host := registryServer(t, "")
	pushChart(t, host, "charts/web", "1.0.0", packaged(t, "web", "1.0.0"))
	w := newWorld(t, helmChart("web", kindRepository, "registry", "web", "1.x", nil),
		helmRepository("registry", "oci://"+host+"/charts", func(s *sourcev1.HelmRepositorySpec) { s.Type, s.Insecure = "oci", true }))
	w.chart("web")
	pushChart(t, host, "charts/web", "1.1.0", packaged(t, "web", "1.1.0"))
	o, _ := w.chart("web")
	if o.Status.Artifact.Revision != "1.0.0" {
		t.Errorf("nobody has asked, and the answer of a moment ago was not taken: %s", o.Status.Artifact.Revision)
	}
	o.Annotations = map[string]string{fluxmeta.ReconcileRequestAnnotation: "now"}
	w.change(o)
	if o, _ = w.chart("web"); o.Status.Artifact.Revision != "1.1.0" {
		t.Errorf("asked by hand, it is %s", o.Status.Artifact.Revision)
	}
}

// clouded is a registry that is reached with a provider's credentials.
type clouded struct {
	archive string
	at      []oci.Chart
}

func (c *clouded) Tags(_ context.Context, at oci.Chart) ([]string, error) {
	c.at = append(c.at, at)
	return []string{"1.0.0"}, nil
}

func (c *clouded) Pull(_ context.Context, at oci.Chart, _ string, _ int64) ([]byte, error) {
	c.at = append(c.at, at)
	return []byte(c.archive), nil
}

// TestProviderOfARegistryIsAsked: what the rules for that are is tested beside the registries' client.
func TestProviderOfARegistryIsAsked(t *testing.T) {
	c := &clouded{archive: packaged(t, "web", "1.0.0")}
	w := newWorld(t, helmChart("web", kindRepository, "registry", "web", "1.x", nil),
		helmRepository("registry", "oci://123456789012.dkr.ecr.eu-west-1.amazonaws.com/charts", func(s *sourcev1.HelmRepositorySpec) {
			s.Type, s.Provider = "oci", "aws"
		}))
	w.registry = c
	w.restart(w.dir)
	o, _ := w.chart("web")
	if reason, message := ready(o); o.Status.Artifact == nil {
		t.Errorf("%s: %s", reason, message)
	}
	want := oci.Chart{URL: "oci://123456789012.dkr.ecr.eu-west-1.amazonaws.com/charts/web", Provider: "aws", Namespace: namespace}
	if diff := cmp.Diff([]oci.Chart{want, want}, c.at); diff != "" {
		t.Errorf("asked for:\n%s", diff)
	}
}

func TestA12_VerificationFailsClosed(t *testing.T) {
	host := registryServer(t, "")
	pushChart(t, host, "charts/web", "1.0.0", packaged(t, "web", "1.0.0"))
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	key := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHHSF6ynONNLb7M5gPQSQBpCGDqnp\nVmMMxZMHZUSjmkCTLz6wDA8gWlG9cmUbsNOe5FbQ8WtGUuFGU0IVMmWBQA==\n-----END PUBLIC KEY-----\n"
	for name, c := range map[string]struct {
		kind, from, secret string
		reason             string
	}{
		"not signed":         {kindRepository, "registry", "key", sourcev1.VerificationError},
		"no key":             {kindRepository, "registry", "empty", sourcev1.VerificationError},
		"no Secret":          {kindRepository, "registry", "absent", sourcev1.AuthenticationFailedReason},
		"no registry at all": {kindRepository, "charts", "key", "UnsupportedField"},
		"from Git":           {kindGit, "shop", "key", "UnsupportedField"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, secret("key", map[string]string{"cosign.pub": key}), secret("empty", nil), helmRepository("charts", s.URL, nil),
				helmRepository("registry", "oci://"+host+"/charts", func(s *sourcev1.HelmRepositorySpec) { s.Type, s.Insecure = "oci", true }),
				helmChart("web", c.kind, c.from, "web", "1.0.0", func(s *sourcev1.HelmChartSpec) {
					s.Verify = &sourcev1.HelmChartVerification{Provider: "cosign", SecretRef: &fluxmeta.LocalObjectReference{Name: c.secret}}
				}))
			w.repository("charts")
			o, _ := w.chart("web")
			if reason, message := ready(o); reason != c.reason || o.Status.Artifact != nil {
				t.Errorf("%s: %s, want %s", reason, message, c.reason)
			}
		})
	}
}

// Credentials go to the repository's own host, and to others only when spec.passCredentials says so; never with a redirect.
func TestA09_CredentialsStayWithTheirHost(t *testing.T) {
	archive := packaged(t, "web", "1.0.0")
	other := serve(t, map[string]string{"/web-1.0.0.tgz": archive}, false)
	far := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	for name, c := range map[string]struct {
		url, redirect string
		pass          bool
		own, foreign  []string
	}{
		"own host":              {"web-1.0.0.tgz", "", false, []string{"/web-1.0.0.tgz me:secret"}, nil},
		"another host":          {far + "/web-1.0.0.tgz", "", false, nil, []string{"/web-1.0.0.tgz"}},
		"another host, allowed": {far + "/web-1.0.0.tgz", "", true, nil, []string{"/web-1.0.0.tgz me:secret"}},
		"redirected":            {"web-1.0.0.tgz", far + "/web-1.0.0.tgz", false, []string{"/web-1.0.0.tgz me:secret"}, []string{"/web-1.0.0.tgz"}},
		"redirected, allowed":   {"web-1.0.0.tgz", far + "/web-1.0.0.tgz", true, []string{"/web-1.0.0.tgz me:secret"}, []string{"/web-1.0.0.tgz"}},
	} {
		t.Run(name, func(t *testing.T) {
			index := strings.Replace(indexOf("web", map[string]string{"/web-1.0.0.tgz": archive}), "/web-1.0.0.tgz", c.url, 1)
			s := serve(t, map[string]string{"/index.yaml": index, "/web-1.0.0.tgz": archive}, false)
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if c.redirect == "" || r.URL.Path == "/index.yaml" {
					return false
				}
				http.Redirect(w, r, c.redirect, http.StatusFound)
				return true
			}
			w := newWorld(t, secret("login", map[string]string{"username": "me", "password": "secret"}), helmChart("web", kindRepository, "charts", "web", "", nil),
				helmRepository("charts", s.URL, func(s *sourcev1.HelmRepositorySpec) {
					s.SecretRef, s.PassCredentials = &fluxmeta.LocalObjectReference{Name: "login"}, c.pass
				}))
			w.repository("charts")
			s.asked()
			other.asked()
			if o, _ := w.chart("web"); o.Status.Artifact == nil {
				t.Fatalf("%v", told(o))
			}
			if diff := cmp.Diff(c.own, s.asked()); diff != "" {
				t.Errorf("own host: %s", diff)
			}
			if diff := cmp.Diff(c.foreign, other.asked()); diff != "" {
				t.Errorf("other host: %s", diff)
			}
		})
	}
}

func TestChartMustHaveTheDigestOfTheIndex(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	s.set("/web-1.0.0.tgz", packaged(t, "web", "6.6.6"))
	w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", kindRepository, "charts", "web", "", nil))
	w.repository("charts")
	o, _ := w.chart("web")
	if reason, message := ready(o); reason != chartPullReason || !strings.Contains(message, "digest") || o.Status.Artifact != nil {
		t.Errorf("%s: %s", reason, message)
	}
}

// TestCompressionIsUndoneOnce: an archive and an index arrive as they are, whatever a server says of how it sends them. Flux's
// client does not ask for compression, so archives with such a header reach it as they are.
func TestCompressionIsUndoneOnce(t *testing.T) {
	archive := packaged(t, "web", "1.0.0")
	index := indexOf("web", map[string]string{"/web-1.0.0.tgz": archive})
	for name, tt := range map[string]struct{ path, body string }{
		"the archive":                          {"/web-1.0.0.tgz", archive},
		"the archive, compressed once more":    {"/web-1.0.0.tgz", zipped(t, archive)},
		"the index, compressed":                {"/index.yaml", zipped(t, index)},
		"the index, said to be compressed":     {"/index.yaml", index},
		"an empty body, said to be an archive": {"/web-1.0.0.tgz", ""},
	} {
		for _, encoding := range []string{"", "gzip", "GZIP"} {
			if encoding == "" && tt.body != archive && tt.body != index {
				continue // nobody could know that this is compressed
			}
			t.Run(name+" "+encoding, func(t *testing.T) {
				s := serve(t, map[string]string{"/index.yaml": index, "/web-1.0.0.tgz": archive}, false)
				s.answer = func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != tt.path {
						return false
					}
					if encoding != "" {
						w.Header().Set("Content-Encoding", encoding)
					}
					fmt.Fprint(w, tt.body)
					return true
				}
				w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", kindRepository, "charts", "web", "", nil))
				w.repository("charts")
				o, _ := w.chart("web")
				if reason, message := ready(o); tt.body == "" {
					if reason != chartPullReason {
						t.Errorf("%s: %s", reason, message)
					}
				} else if o.Status.Artifact == nil || o.Status.Artifact.Digest != "sha256:"+sha([]byte(archive)) {
					t.Errorf("%s: %s", reason, message)
				}
			})
		}
	}
}

// zipped compresses a text.
func zipped(t testing.TB, text string) string {
	t.Helper()
	var b strings.Builder
	zw := gzip.NewWriter(&b)
	_, err := io.WriteString(zw, text)
	if err := errors.Join(err, zw.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestA04_CompressedBodiesAreBounded: neither what an index expands to nor what it is sent as can grow without end.
func TestA04_CompressedBodiesAreBounded(t *testing.T) {
	empty := zipped(t, "")
	for name, body := range map[string]string{"much in little": zipped(t, strings.Repeat("#", 1<<20)), "nothing in much": strings.Repeat(empty, 1<<16)} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{}, false)
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Encoding", "gzip")
				w.(http.Flusher).Flush() // so that no length is told
				fmt.Fprint(w, body)
				return true
			}
			w := newWorld(t, helmRepository("charts", s.URL, nil))
			w.limits.Index = 1 << 16
			w.restart(w.dir)
			if reason, message := ready(w.repository("charts")); reason != sourcev1.IndexationFailedReason || !strings.Contains(message, "over the limit") {
				t.Errorf("%s: %s", reason, message)
			}
		})
	}
}

func TestF35_ManyChartsParseOneIndexAndPullOnce(t *testing.T) {
	s := chartsServer(t, "web", webArchives(t))
	objects := []client.Object{helmRepository("charts", s.URL, nil)}
	for i := range 1000 {
		objects = append(objects, helmChart(fmt.Sprintf("web-%d", i), kindRepository, "charts", "web", "1.0.0", nil))
	}
	w := newWorld(t, objects...)
	w.repository("charts")
	w.restart(w.dir) // the lookup is gone, the stored index is not
	s.asked()
	for i := range 1000 {
		if o, _ := w.chart(fmt.Sprintf("web-%d", i)); o.Status.Artifact == nil {
			t.Fatalf("%v", told(o))
		}
	}
	if asked := s.asked(); w.indexes.Parsed() != 1 || len(asked) != 1 {
		t.Errorf("parsed %d times, asked %d times", w.indexes.Parsed(), len(asked))
	}
}

func TestF25_LastChartStaysWhenItsSourceIsBad(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", kindRepository, "charts", "web", "", nil))
	w.repository("charts")
	before, _ := w.chart("web")
	s.set("/index.yaml", indexOf("web", map[string]string{"/web-2.0.0.tgz": ""}))
	w.repository("charts")
	o, _ := w.chart("web")
	if diff := cmp.Diff(before.Status.Artifact, o.Status.Artifact); diff != "" || o.Status.ObservedSourceArtifactRevision != before.Status.ObservedSourceArtifactRevision {
		t.Errorf("the artifact has changed:\n%s", diff)
	}
	reason, message := ready(o)
	if again, _ := w.chart("web"); reason != chartPullReason {
		t.Errorf("%s: %s", reason, message)
	} else if r, m := ready(again); r != reason || m != message {
		t.Errorf("the same failure has another text: %s: %s", r, m)
	}
}

// With the volume lost, a chart waits for its source and changes nothing meanwhile; the source's return wakes it.
func TestF32_LostVolumeIsWaitedOut(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", kindRepository, "charts", "web", "", nil))
	w.repository("charts")
	before, _ := w.chart("web")
	w.restart(t.TempDir())
	w.store.Subscribe(w.charts.ArtifactAdded)
	o, result := w.chart("web")
	if diff := cmp.Diff(before, o); diff != "" || result.RequeueAfter == 0 {
		t.Errorf("comes back after %v; it has changed:\n%s", result.RequeueAfter, diff)
	}
	woken := &queue{}
	if err := w.charts.Waker.Start(context.Background(), woken); err != nil {
		t.Fatal(err)
	}
	w.repository("charts")
	if want := []ctrl.Request{{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "web"}}}; !cmp.Equal(want, woken.added) {
		t.Fatalf("woken: %v", woken.added)
	}
	o, _ = w.chart("web")
	if !o.Status.Artifact.HasDigest(before.Status.Artifact.Digest) || len(w.events.Words()) > 0 || !w.store.Holds(artifact.Object{Kind: sourcev1.HelmChartKind, Namespace: o.Namespace, Name: o.Name}, o.Status.Artifact) {
		t.Errorf("%v", told(o))
	}
	w.repository("charts")
	if len(woken.added) > 1 {
		t.Error("it is still waiting")
	}
}

func TestChartsThatCannotBe(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	cloud := helmRepository("cloud", "oci://127.0.0.1:1/charts", func(s *sourcev1.HelmRepositorySpec) { s.Type, s.Provider, s.Insecure = "oci", "aws", true })
	for name, c := range map[string]struct {
		kind, from, chart, version string
		reason                     string
		stalled                    bool
	}{
		"no source":            {kindRepository, "absent", "web", "", sourceUnavailableReason, false},
		"no artifact":          {kindRepository, "new", "web", "", noSourceArtifactReason, false},
		"unknown kind":         {"OCIRepository", "x", "web", "", unsupportedSourceReason, true},
		"no such chart":        {kindRepository, "charts", "other", "", chartReferenceReason, false},
		"no such version":      {kindRepository, "charts", "web", "7.x", chartReferenceReason, false},
		"no version":           {kindRepository, "charts", "web", "latest or so", chartReferenceReason, false},
		"A09 a plain cloud":    {kindRepository, "cloud", "web", "", "UnsupportedField", true},
		"A13 out of Git":       {kindGit, "shop", "../../etc", "", chartReferenceReason, false},
		"no chart at the path": {kindGit, "shop", "docs", "", chartReferenceReason, false},
		"A13 a name of a path": {kindGit, "shop", "evil", "", chartPackageReason, false},
		"A13 no name":          {kindGit, "shop", "nameless", "", chartPackageReason, false},
		"a broken archive":     {kindGit, "shop", "docs/readme.md", "", chartPackageReason, false},
		"a broken template":    {kindGit, "shop", "broken", "", chartPackageReason, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, helmRepository("charts", s.URL, nil), helmRepository("new", s.URL, nil), cloud.DeepCopy(), helmChart("x", c.kind, c.from, c.chart, c.version, nil))
			w.repository("charts")
			w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", map[string]string{
				"docs/readme.md": "hello", "evil/Chart.yaml": chartYAML("../../x", "1.0.0"), "nameless/Chart.yaml": chartYAML(`""`, "1.0.0"),
				"broken/Chart.yaml": chartYAML("broken", "1.0.0"), "broken/values.yaml": "- a list\n",
			})
			o, _ := w.chart("x")
			if reason, message := ready(o); reason != c.reason || o.Status.Artifact != nil {
				t.Errorf("%s: %s, want %s", reason, message, c.reason)
			}
			if stalled := strings.HasPrefix(told(o)[0], "Stalled"); stalled != c.stalled {
				t.Errorf("stalled: %t", stalled)
			}
			if found := w.leftovers(); len(found) > 0 {
				t.Errorf("F30: left over %v", found)
			}
		})
	}
}

func TestA01_HostileArchivesAreRefused(t *testing.T) {
	yaml := chartYAML("web", "1.0.0")
	with := func(h tar.Header) string {
		return entriesGz(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "web/Chart.yaml", Mode: 0o644, Size: int64(len(yaml))}, h}, []string{yaml})
	}
	zeros := make([]byte, 4<<20)
	var bomb []string
	for i := range 14 {
		bomb = append(bomb, fmt.Sprintf("web/files/%d", i), string(zeros))
	}
	nested := targz(t, append([]string{"inner/Chart.yaml", chartYAML("inner", "1.0.0")}, bomb...)...)
	deep := targz(t, "web/Chart.yaml", yaml)
	for range chartfile.MaxNested + 2 {
		deep = targz(t, "web/Chart.yaml", yaml, "web/charts/web.tgz", deep)
	}
	var many []tar.Header
	for i := range chartfile.MaxFiles + 1 {
		many = append(many, tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("web/%d", i)})
	}
	for name, c := range map[string]struct {
		archive string
		want    error
	}{
		"A01 parent":             {with(tar.Header{Typeflag: tar.TypeReg, Name: "web/../../x"}), chartfile.ErrInvalid},
		"A01 absolute":           {with(tar.Header{Typeflag: tar.TypeReg, Name: "/etc/x"}), chartfile.ErrInvalid},
		"A01 drive":              {with(tar.Header{Typeflag: tar.TypeReg, Name: "C:\\x\\y"}), chartfile.ErrInvalid},
		"A01 a directory":        {with(tar.Header{Typeflag: tar.TypeDir, Name: "../x/"}), chartfile.ErrInvalid},
		"A01 long":               {with(tar.Header{Typeflag: tar.TypeReg, Name: "web/" + strings.Repeat("x", 4096)}), chartfile.ErrInvalid},
		"A02 symlink":            {with(tar.Header{Typeflag: tar.TypeSymlink, Name: "web/templates", Linkname: "/etc"}), chartfile.ErrInvalid},
		"A02 hardlink":           {with(tar.Header{Typeflag: tar.TypeLink, Name: "web/x", Linkname: "/etc/passwd"}), chartfile.ErrInvalid},
		"A13 Chart.lock symlink": {with(tar.Header{Typeflag: tar.TypeSymlink, Name: "web/Chart.lock", Linkname: "../../lock"}), chartfile.ErrInvalid},
		"A03 fifo is dropped":    {with(tar.Header{Typeflag: tar.TypeFifo, Name: "web/fifo"}), nil},
		"A03 device is dropped":  {with(tar.Header{Typeflag: tar.TypeChar, Name: "web/dev"}), nil},
		"A04 large file":         {targz(t, "web/Chart.yaml", yaml, "web/x", strings.Repeat("x", int(DefaultLimits.File)+1)), chartfile.ErrLimit},
		"A04 bomb":               {targz(t, append([]string{"web/Chart.yaml", yaml}, bomb...)...), chartfile.ErrLimit},
		"A04 bomb in a chart":    {targz(t, "web/Chart.yaml", yaml, "web/charts/inner.tgz", nested), chartfile.ErrLimit},
		"A04 nested":             {deep, chartfile.ErrLimit},
		"A04 many files":         {entriesGz(t, many, nil), chartfile.ErrLimit},
		"A13 name of a path":     {targz(t, "web/Chart.yaml", chartYAML("../../x", "1.0.0")), chartfile.ErrInvalid},
		"A13 empty name":         {targz(t, "web/Chart.yaml", chartYAML(`""`, "1.0.0")), chartfile.ErrInvalid},
		"no Chart.yaml":          {targz(t, "web/values.yaml", "a: 1"), chartfile.ErrInvalid},
		"no directory":           {targz(t, "Chart.yaml", yaml), chartfile.ErrInvalid},
		"twice":                  {targz(t, "web/Chart.yaml", yaml, "web/Chart.yaml", yaml), chartfile.ErrInvalid},
		"no gzip":                {"PK\x03\x04", chartfile.ErrInvalid},
		"cut off":                {packaged(t, "web", "1.0.0")[:100], chartfile.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DefaultLimits.files().Inspect([]byte(c.archive)); !errors.Is(err, c.want) {
				t.Errorf("inspect: %v", err)
			}
			if _, err := DefaultLimits.files().Load([]byte(c.archive)); !errors.Is(err, c.want) {
				t.Errorf("load: %v", err)
			}
		})
	}
	if _, err := (Limits{Chart: 10, File: 10}).files().Inspect([]byte(packaged(t, "web", "1.0.0"))); !errors.Is(err, chartfile.ErrLimit) {
		t.Errorf("--helm-chart-max-size: %v", err)
	}
}

// A chart over the limit is not even downloaded to its end.
func TestA04_ChartOverTheLimitIsRefused(t *testing.T) {
	s := chartsServer(t, "web", map[string]string{"/web-1.0.0.tgz": packaged(t, "web", "1.0.0")})
	w := newWorld(t, helmRepository("charts", s.URL, nil), helmChart("web", kindRepository, "charts", "web", "", nil))
	w.repository("charts")
	w.limits.Chart = 100
	w.restart(w.dir)
	if o, _ := w.chart("web"); !strings.Contains(told(o)[len(told(o))-1], "--helm-chart-max-size") {
		t.Errorf("%v", told(o))
	}
}

func TestDeletedChartIsRemoved(t *testing.T) {
	w := newWorld(t, helmChart("web", kindGit, "shop", "web", "", nil))
	w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", map[string]string{"web/Chart.yaml": chartYAML("web", "1.0.0")})
	o, _ := w.chart("web")
	at := filepath.Join(w.dir, o.Status.Artifact.Path)
	if _, err := os.Stat(at); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := w.charts.Reconcile(context.Background(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(o)}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its artifact is still there: %v", err)
	}
}

func TestSuspendedChartIsLeftAlone(t *testing.T) {
	w := newWorld(t, helmChart("web", kindGit, "shop", "web", "", func(s *sourcev1.HelmChartSpec) { s.Suspend = true }))
	w.git("main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", map[string]string{"web/Chart.yaml": chartYAML("web", "1.0.0")})
	if o, _ := w.chart("web"); len(o.Status.Conditions) > 0 || o.Status.Artifact != nil {
		t.Errorf("%+v", o.Status)
	}
}

// FuzzArchive: whatever an archive holds, reading it ends, within the limits, in a chart whose files lie inside it or in an
// error.
func FuzzArchive(f *testing.F) {
	for _, archive := range []string{
		packaged(f, "web", "1.0.0"),
		targz(f, "web/Chart.yaml", chartYAML("web", "1.0.0"), "web/charts/x.tgz", packaged(f, "x", "1.0.0"), "web/values.yaml", "a: {b: 1}"),
		entriesGz(f, []tar.Header{{Name: "web/../x", Typeflag: tar.TypeReg}, {Name: "web/l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}}, []string{"", ""}),
	} {
		zr, err := gzip.NewReader(strings.NewReader(archive))
		if err != nil {
			f.Fatal(err)
		}
		plain, err := io.ReadAll(zr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	limits := Limits{Index: 1 << 20, Chart: 1 << 20, File: 1 << 16}
	f.Fuzz(func(t *testing.T, plain []byte) {
		archive := []byte(zipped(t, string(plain))) // the checksums of gzip would keep the fuzzer out
		about, err := limits.files().Inspect(archive)
		if err == nil && about.Name == "" {
			t.Error("a chart without a name was accepted")
		}
		c, err := limits.files().Load(archive)
		if err != nil {
			return
		}
		for _, file := range c.Raw {
			if !fs.ValidPath(file.Name) || len(file.Data) > 1<<16 {
				t.Errorf("%q with %d bytes was accepted", file.Name, len(file.Data))
			}
		}
	})
}

package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/helm/charts"
)

const postChart = `
apiVersion: v1
kind: ConfigMap
metadata: {name: plain, labels: {helm.toolkit.fluxcd.io/name: mine, team: own}}
data: {text: "{{ "{{" }} .Alert }}", yes: "true"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {containers: [{name: c, image: "nginx:1"}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: hook, annotations: {helm.sh/hook: pre-install}}
`

var owner = types.NamespacedName{Namespace: "apps", Name: "web"}

func TestPostRenderStrategies(t *testing.T) {
	patch := func(target *kustomize.Selector, text string) []v2.PostRenderer {
		return []v2.PostRenderer{{}, {Kustomize: &v2.Kustomize{
			Patches: []kustomize.Patch{{Patch: text, Target: target}},
			Images:  []kustomize.Image{{Name: "nginx", NewTag: "2"}},
		}}}
	}
	all := patch(&kustomize.Selector{Kind: ".*"}, `[{"op": "add", "path": "/metadata/labels", "value": {"patched": "yes", "helm.toolkit.fluxcd.io/name": "theirs"}}]`)
	common := &v2.CommonMetadata{Labels: map[string]string{"team": "web"}, Annotations: map[string]string{"by": "us"}}
	for strategy, hookIs := range map[v2.PostRenderStrategy]string{"": "patched", "combined": "patched", "separate": "patched", "nohooks": "as it was"} {
		t.Run(string(strategy), func(t *testing.T) {
			q := Request{
				Chart: expressionChart(t, postChart), Release: chartutil.ReleaseOptions{Name: "web", Namespace: "apps", Revision: 1, IsInstall: true},
				Post: PostRender{Owner: owner, CommonMetadata: common, Kustomize: all, Strategy: strategy},
			}
			got, err := New().Render(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			sameInstalled(t, q, got)
			labels := "  labels:\n    helm.toolkit.fluxcd.io/name: web\n    helm.toolkit.fluxcd.io/namespace: apps\n    patched: \"yes\"\n    team: web\n"
			want := "---\n# Source: web/templates/x.yaml\napiVersion: v1\ndata:\n  text: '{{ .Alert }}'\n  \"yes\": \"true\"\nkind: ConfigMap\nmetadata:\n  annotations:\n    by: us\n" + labels +
				"  name: plain\n---\n# Source: web/templates/x.yaml\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  annotations:\n    by: us\n" + labels +
				"  name: web\nspec:\n  template:\n    spec:\n      containers:\n      - image: nginx:2\n        name: c\n"
			if diff := cmp.Diff(want, got.Manifest); diff != "" {
				t.Error(diff)
			}
			hook := "apiVersion: batch/v1\nkind: Job\nmetadata:\n  annotations:\n    by: us\n    helm.sh/hook: pre-install\n" + labels + "  name: hook"
			if hookIs == "as it was" {
				hook = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, annotations: {helm.sh/hook: pre-install}}"
			}
			if len(got.Hooks) != 1 || got.Hooks[0].Manifest != hook || got.Hooks[0].Path != "web/templates/x.yaml" {
				t.Errorf("%+v", got.Hooks[0])
			}
		})
	}
}

// Without anything to do the text is that of the templates, and with the labels alone it is that of the library.
func TestPostRenderOfNothing(t *testing.T) {
	q := Request{Chart: expressionChart(t, postChart), Release: someRelease}
	got, err := New().Render(context.Background(), q)
	if err != nil || !strings.Contains(got.Manifest, `metadata: {name: web}`) {
		t.Errorf("%v, %v", got, err)
	}
	q.Chart, q.Post.Owner = expressionChart(t, "{{/* nothing */}}"), owner
	got, err = New().Render(context.Background(), q)
	if err != nil || got.Manifest != "" || len(got.Hooks) > 0 {
		t.Errorf("a chart of nothing: %v, %v", got, err)
	}
	sameInstalled(t, q, got)
}

func TestPostRenderErrors(t *testing.T) {
	kustomized := func(patch string) PostRender {
		return PostRender{Owner: owner, Kustomize: []v2.PostRenderer{{Kustomize: &v2.Kustomize{Patches: []kustomize.Patch{{Patch: patch, Target: &kustomize.Selector{Kind: "ConfigMap"}}}}}}}
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 10), ","))
	}
	for name, c := range map[string]struct {
		template string
		post     PostRender
		limit    bool
		says     string
	}{
		"no strategy":            {postChart, PostRender{Owner: owner, Strategy: "none"}, false, `"none"`},
		"no patch":               {postChart, kustomized("x"), false, "patch"},
		"no YAML":                {"a: [", PostRender{Owner: owner}, false, "web/templates/x.yaml"},
		"no YAML, nohooks":       {"a: [", PostRender{Owner: owner, Strategy: "nohooks"}, false, "web/templates/x.yaml"},
		"no kind":                {"a: 1", PostRender{Owner: owner}, false, "kind"},
		"twice":                  {postChart + "---" + postChart, PostRender{Owner: owner}, false, "already registered"},
		"A14 aliases":            {"kind: X\nmetadata: {name: x}\n" + bomb, PostRender{Owner: owner}, true, "web/templates/x.yaml"},
		"A14 alias of itself":    {"kind: X\nmetadata: {name: x}\na: &a [*a]\n", PostRender{Owner: owner}, false, `"a"`},
		"A14 aliases in a patch": {postChart, kustomized("kind: ConfigMap\nmetadata: {name: plain}\n" + bomb), true, "patch 0"},
		"A14 resources":          {postChart, PostRender{Owner: owner, Kustomize: []v2.PostRenderer{{Kustomize: &v2.Kustomize{Images: make([]kustomize.Image, 4_000_000)}}}}, true, "too many"},
		"notes by annotation": {postChart, kustomized(`[{"op": "add", "path": "/metadata/annotations", "value": {"postrenderer.helm.sh/postrender-filename": "web/templates/NOTES.txt"}}]`),
			false, "NOTES.txt"},
		"a path by annotation": {postChart, kustomized(`[{"op": "add", "path": "/metadata/annotations", "value": {"postrenderer.helm.sh/postrender-filename": "web/../../x"}}]`),
			false, "web/../../x"},
		"no value": {postChart, kustomized(`[{"op": "add", "path": "/data/x", "value": "a <no value> b"}]`), false, "no value"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New().Render(context.Background(), Request{Chart: expressionChart(t, c.template), Release: someRelease, Post: c.post})
			if err == nil || errors.Is(err, ErrLimit) != c.limit || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%.500v, want one about %s", err, c.says)
			}
		})
	}
}

// Values of the release before are kept as Helm's --reuse-values keeps them.
func TestPreserveValues(t *testing.T) {
	old := load(t, fstest.MapFS{
		"Chart.yaml": {Data: []byte(aboutWeb)}, "templates/x.yaml": {Data: []byte("kind: X\nvalues: {{ toJson .Values }}")},
		"values.yaml": {Data: []byte("a: old\nb: {c: old, d: old}\ngone: old\n")},
	})
	next := load(t, fstest.MapFS{
		"Chart.yaml": {Data: []byte(strings.ReplaceAll(aboutWeb, "1.2.3", "2.0.0"))}, "templates/x.yaml": {Data: []byte("kind: X\nvalues: {{ toJson .Values }}")},
		"values.yaml": {Data: []byte("a: new\nb: {c: new, e: new}\nadded: new\n")},
	})
	before := map[string]any{"b": map[string]any{"c": "user"}, "u": 1, "n": nil}
	for name, values := range map[string]map[string]any{
		"nothing": nil, "one": {"u": 2}, "in a table": {"b": map[string]any{"d": "now"}}, "away": {"a": nil, "b": map[string]any{"c": nil}, "u": nil}, "a table": {"a": map[string]any{"x": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			stored := &release.Release{
				Name: "rel", Namespace: "apps", Version: 2, Chart: old.Copy(), Config: charts.CopyValues(before),
				Info: &release.Info{Status: release.StatusDeployed},
			}
			q := Request{
				Chart: next, Values: values, Release: someRelease,
				Previous: &Previous{Chart: old.Copy(), Config: before},
			}
			given := fmt.Sprint(values, before)
			got, err := New().Render(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(values, before) != given {
				t.Error("what was given has changed")
			}
			want := upgrade(t, stored, next.Copy(), charts.CopyValues(values), func(u *action.Upgrade) { u.ReuseValues = true })
			if got.Manifest != want.Manifest || !cmp.Equal(got.Values, want.Config) || !cmp.Equal(got.Stored.Values, want.Chart.Values) {
				t.Errorf("ours %s%v %v\nHelm %s%v %v", got.Manifest, got.Values, got.Stored.Values, want.Manifest, want.Config, want.Chart.Values)
			}
			literal := upgrade(t, stored, got.Literal, got.Values, func(u *action.Upgrade) { u.ResetValues = true })
			if literal.Manifest != want.Manifest || !cmp.Equal(literal.Config, want.Config) {
				t.Errorf("the literal chart: %s%v", literal.Manifest, literal.Config)
			}
		})
	}
}

func upgrade(t *testing.T, before *release.Release, c *chart.Chart, values map[string]any, set func(*action.Upgrade)) *release.Release {
	t.Helper()
	memory := driver.NewMemory()
	memory.SetNamespace("apps")
	releases := storage.Init(memory)
	if err := releases.Create(before); err != nil {
		t.Fatal(err)
	}
	u := action.NewUpgrade(&action.Configuration{
		Releases: releases, KubeClient: &fake.PrintingKubeClient{Out: io.Discard}, Capabilities: chartutil.DefaultCapabilities, Log: func(string, ...any) {},
	})
	u.DryRun, u.Namespace = true, "apps"
	set(u)
	got, err := u.Run("rel", c, values)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Many releases of one chart at once: nobody sees what another's templates have done, and the chart is parsed once.
func TestManyReleasesOfOneChart(t *testing.T) {
	c := load(t, fstest.MapFS{
		"Chart.yaml":  {Data: []byte(aboutWeb + "dependencies: [{name: sub, condition: sub.enabled, version: '*'}]\n")},
		"values.yaml": {Data: []byte("n: 0\nmap: {}\nsub: {enabled: true}\n")},
		"templates/x.yaml": {Data: []byte(`kind: X
name: {{ .Release.Name }}
{{- $_ := set .Values.map "n" .Values.n }}
keywords: "{{ sortAlpha .Chart.Keywords }}{{ .Chart.Keywords }}"
map: {{ toJson .Values.map }}
tpl: {{ tpl "{{ .Release.Name }}{{ define \"own\" }}{{ .Values.n }}{{ end }}{{ include \"own\" . }}" . }}`)},
		"charts/sub/Chart.yaml":       {Data: []byte("name: sub\nversion: 1.0.0")},
		"charts/sub/templates/s.yaml": {Data: []byte("kind: S\nname: {{ .Release.Name }}")},
	})
	r := New()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			enabled := i%2 == 0
			q := Request{
				Chart: c, Values: map[string]any{"n": i, "sub": map[string]any{"enabled": enabled}},
				Release: chartutil.ReleaseOptions{Name: fmt.Sprintf("r%d", i), Namespace: "apps", Revision: 1, IsInstall: true},
			}
			got, err := r.Render(context.Background(), q)
			if err != nil {
				t.Error(err)
				return
			}
			want := fmt.Sprintf("---\n# Source: web/templates/x.yaml\nkind: X\nname: r%d\nkeywords: \"[ant zebra][ant zebra]\"\nmap: {\"n\":%d}\ntpl: r%d%d\n", i, i, i, i)
			if enabled {
				want = fmt.Sprintf("---\n# Source: web/charts/sub/templates/s.yaml\nkind: S\nname: r%d\n", i) + want
			}
			if diff := cmp.Diff(want, got.Manifest); diff != "" {
				t.Error(diff)
			}
		})
	}
	all.Wait()
	if n := r.parsed.kept.Len(); n != 2 {
		t.Errorf("parsed %d times, for a chart with and without another in it", n)
	}
	if k := c.Metadata().Keywords[0]; k != "zebra" {
		t.Errorf("the shared chart has changed: %s", k)
	}
}

// The templates of charts that were used long ago are let go.
func TestParsedIsBounded(t *testing.T) {
	r := New()
	r.parsed.most = 3000
	for i := range 20 {
		c, err := charts.New(charts.Limits{}).Load(context.Background(), fmt.Sprintf("sha256:%d", i), func() (fs.FS, func(), error) {
			return fstest.MapFS{"Chart.yaml": {Data: []byte(aboutWeb)}, "templates/x.yaml": {Data: []byte("kind: X\n#" + strings.Repeat("x", 1000))}}, func() {}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Render(context.Background(), Request{Chart: c, Release: someRelease}); err != nil {
			t.Fatal(err)
		}
	}
	if r.parsed.kept.Len() != 2 || len(r.parsed.known) != 2 || r.parsed.bytes > 3000 {
		t.Errorf("%d are kept, %d known, of %d bytes", r.parsed.kept.Len(), len(r.parsed.known), r.parsed.bytes)
	}
}

// FuzzTemplate: rendering ends within the limits, without a panic, and gives what Helm's engine gives when that may be asked.
func FuzzTemplate(f *testing.F) {
	f.Add("{{ range $i := until 3 }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ $i }}{{ end }}")
	f.Add("{{ define \"x\" }}{{ . | quote }}{{ end }}{{ include \"x\" .Values.map }}")
	f.Add("{{ $d := dict \"a\" 1 }}{{ $_ := set $d \"d\" $d }}{{ $d.d.d.a }}")
	f.Add("{{ tpl .Values.template . }}{{ .Values.YAML }}{{ .Files.Get \"config.ini\" }}")
	f.Add("{{ with .Values.list }}{{ index . 1 }}{{ else }}{{ fail \"x\" }}{{ end }}{{- /* c */ -}}")
	f.Add("{{ printf \"%5s %[1]q\" .Values.text | indent 3 | trimAll \" \" | splitList \"l\" }}")
	limits := Limits{Steps: 20_000, Memory: 1 << 20, Output: 1 << 16, Depth: 100}
	f.Fuzz(func(t *testing.T, template string) {
		c, values := fuzzed(t, template)
		r := New()
		m := newMeter(context.Background(), limits.orDefault())
		ours, err := r.run(c.Digest(), c.Copy(), values(), &functions{library: r.library, meter: m, included: map[string]int{}})
		if err != nil || random(template) {
			return // Helm's engine is asked only for what is known to end
		}
		theirs, err := theirEngine(c.Copy(), values())
		if err != nil || cmp.Diff(theirs, ours) != "" {
			t.Errorf("Helm: %v, %v\nours: %v", theirs, err, ours)
		}
	})
}

// random says that a template may give something else each time, or see which engine it is run by.
func random(template string) bool {
	for _, word := range []string{"rand", "uuid", "now", "ago", "gen", "Cert", "AES", "shuffle", "htpasswd", "bcrypt", "keys", "values", "date", "Date", "cleat", "Files", "%p", "typeOf", "%T", "%#"} {
		if strings.Contains(template, word) {
			return true
		}
	}
	return false
}

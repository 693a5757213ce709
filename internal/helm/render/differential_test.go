package render

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/helm/charts"
)

const aboutWeb = `apiVersion: v2
name: web
version: 1.2.3
appVersion: "4.5"
keywords: [zebra, ant]
annotations: {note: here}
type: application
`

const someValues = `
text: hello
int: 5
neg: -3
zero: 0
float: 1.5
large: 1000000000000
bool: true
"null": null
list: [a, b, c]
empty: []
map: {a: 1, deep: {x: "y", z: [1, {q: w}]}}
html: "<b>&</b>"
multi: "one\ntwo\n"
template: "{{ .Values.text | upper }}"
`

// expressionChart is a chart with one template of interest, and what that may use.
func expressionChart(t testing.TB, template string) *charts.Chart {
	return load(t, fstest.MapFS{
		"Chart.yaml":             {Data: []byte(aboutWeb)},
		"values.yaml":            {Data: []byte(someValues)},
		"templates/_helpers.tpl": {Data: []byte(`{{ define "helper" }}helped {{ .Release.Name }}{{ end }}{{ define "helper.scoped" }}{{ .a }} {{ .ctx.Values.text }}{{ end }}{{ define "dup" }}0{{ end }}`)},
		"templates/x.yaml":       {Data: []byte(template)},
		"config.ini":             {Data: []byte("a=1\nb=2\n")},
		"tpl.txt":                {Data: []byte("in a file: {{ .Release.Name }}")},
		"conf/a.txt":             {Data: []byte("A")},
		"conf/b.ini":             {Data: []byte("B")},
		"conf/deep/c.txt":        {Data: []byte("C")},
	})
}

var someRelease = chartutil.ReleaseOptions{Name: "rel", Namespace: "apps", Revision: 3, IsUpgrade: true}

// rendered returns what both engines make of a chart.
func rendered(t testing.TB, c *charts.Chart, user map[string]any, limits Limits) (ours, theirs map[string]string, ourErr, theirErr error) {
	t.Helper()
	prepared := func() (*chart.Chart, chartutil.Values) {
		c := c.Copy()
		if err := chartutil.ProcessDependenciesWithMerge(c, user); err != nil {
			t.Fatal(err)
		}
		values, err := chartutil.ToRenderValuesWithSchemaValidation(c, user, someRelease, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		return c, values
	}
	mine, values := prepared()
	r := New()
	m := newMeter(context.Background(), limits.orDefault())
	ours, ourErr = r.run(c.Digest(), mine, values, &functions{library: r.library, meter: m, included: map[string]int{}})
	other, values := prepared()
	theirs, theirErr = engine.Render(other, values)
	return ours, theirs, ourErr, theirErr
}

func same(t *testing.T, ours, theirs map[string]string, ourErr, theirErr error) {
	t.Helper()
	if fmt.Sprint(ourErr) != fmt.Sprint(theirErr) {
		t.Errorf("ours: %v\nHelm: %v", ourErr, theirErr)
	}
	if theirErr != nil {
		return
	}
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("-Helm +ours\n%s", diff)
	}
}

func TestExpressionsAsHelm(t *testing.T) {
	text, err := os.ReadFile("testdata/expressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	failing := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		t.Run(line, func(t *testing.T) {
			ours, theirs, ourErr, theirErr := rendered(t, expressionChart(t, line), nil, Limits{})
			same(t, ours, theirs, ourErr, theirErr)
			if theirErr != nil {
				failing++
			}
		})
	}
	if failing < 20 {
		t.Errorf("only %d of the expressions fail, some of which are there to", failing)
	}
}

// TestChartsAsHelm renders whole charts, and has Helm's SDK install both the chart and the literal one.
func TestChartsAsHelm(t *testing.T) {
	files, err := filepath.Glob("testdata/charts/*.txtar")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d charts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c, user := archived(t, file)
			ours, theirs, ourErr, theirErr := rendered(t, c, user, Limits{})
			same(t, ours, theirs, ourErr, theirErr)
			q := Request{Chart: c, Values: user, Release: someRelease}
			q.Release.Revision, q.Release.IsInstall = 1, false
			original, theirErr := install(q, c.Copy(), user)
			result, ourErr := New().Render(context.Background(), q)
			if fmt.Sprint(ourErr) != fmt.Sprint(theirErr) {
				t.Fatalf("ours: %v\nHelm: %v", ourErr, theirErr)
			}
			if theirErr != nil {
				return
			}
			if diff := cmp.Diff(original.Manifest, result.Manifest); diff != "" {
				t.Errorf("manifest -Helm +ours\n%s", diff)
			}
			if diff := cmp.Diff(original.Hooks, result.Hooks); diff != "" {
				t.Errorf("hooks -Helm +ours\n%s", diff)
			}
			if diff := cmp.Diff(original.Info.Notes, result.Notes); diff != "" {
				t.Errorf("notes -Helm +ours\n%s", diff)
			}
			if diff := cmp.Diff(stored(t, original.Chart), stored(t, result.Stored)); diff != "" {
				t.Errorf("the chart that is stored -Helm +ours\n%s", diff)
			}
			sameInstalled(t, q, result)
		})
	}
}

// stored is a chart as it is in a release.
func stored(t *testing.T, c *chart.Chart) string {
	t.Helper()
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// archived reads a chart and the values of its user, user.yaml, from a txtar archive.
func archived(t testing.TB, file string) (*charts.Chart, map[string]any) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	var user map[string]any
	for _, f := range archive.Files {
		if f.Name == "user.yaml" {
			if err := yaml.Unmarshal(f.Data, &user); err != nil {
				t.Fatal(err)
			}
			continue
		}
		files[f.Name] = &fstest.MapFile{Data: f.Data}
	}
	return load(t, files), user
}

// fuzzed is a chart with the template, and a function that makes the values it is run with.
func fuzzed(t testing.TB, template string) (*charts.Chart, func() chartutil.Values) {
	c := expressionChart(t, template)
	return c, func() chartutil.Values {
		values, err := chartutil.ToRenderValuesWithSchemaValidation(c.Copy(), nil, someRelease, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
}

func theirEngine(c *chart.Chart, values chartutil.Values) (map[string]string, error) {
	return engine.Render(c, values)
}

package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/cleat-dev/cleat/internal/chartfile"
)

const about = "apiVersion: v2\nname: web\nversion: 1.0.0\n"

// targz packs name, content, name, content.
func targz(t testing.TB, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func mapFS(files ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		m[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return m
}

func opens(files fs.FS) func() (fs.FS, func(), error) {
	return func() (fs.FS, func(), error) { return files, func() {}, nil }
}

func read(t testing.TB, files fs.FS) *Chart {
	t.Helper()
	c, err := New(Limits{}).Load(context.Background(), "sha256:0", opens(files))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLayouts(t *testing.T) {
	packed := string(targz(t, "web/Chart.yaml", about, "web/.helmignore", "templates/\n", "web/templates/a.yaml", "a: 1", "web/charts/sub/Chart.yaml", strings.ReplaceAll(about, "web", "sub")))
	inner := string(targz(t, "sub/Chart.yaml", strings.ReplaceAll(about, "web", "sub")))
	for name, files := range map[string]fstest.MapFS{
		"one archive":             mapFS("x", packed),
		"an archive and a readme": mapFS("web-1.0.0.tgz", packed, "README.md", "hello"),
		"unpacked": mapFS("Chart.yaml", about, ".helmignore", "templates/\n", "templates/a.yaml", "a: 1",
			"charts/sub.tgz", inner),
		"unpacked in a folder": mapFS("web/Chart.yaml", about, ".helmignore", "web/", "web/.helmignore", "templates/\n", "web/templates/a.yaml", "a: 1",
			"web/charts/sub/Chart.yaml", strings.ReplaceAll(about, "web", "sub"), "other/x", "y"),
	} {
		t.Run(name, func(t *testing.T) {
			c := read(t, files).Copy()
			if c.Name() != "web" || len(c.Templates) != 1 || c.Templates[0].Name != "templates/a.yaml" {
				t.Errorf("%q with the templates %v", c.Name(), c.Templates)
			}
			if d := c.Dependencies(); len(d) != 1 || d[0].Name() != "sub" || d[0].Parent() != c {
				t.Errorf("charts inside: %v", d)
			}
		})
	}
}

// What is bad about a chart is ErrInvalid and says where; that it cannot be read is not.
func TestA13_BadChartsAreRefused(t *testing.T) {
	web := func(yaml string) fstest.MapFS { return mapFS("web/Chart.yaml", yaml) }
	deep := "web/Chart.yaml"
	for range chartfile.MaxNested + 1 {
		deep = strings.TrimSuffix(deep, "Chart.yaml") + "charts/web/Chart.yaml"
	}
	link := mapFS("web/Chart.yaml", about)
	link["web/Chart.lock"] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("/etc/passwd")}
	for name, c := range map[string]struct {
		files fs.FS
		says  string
	}{
		"A13 a name of a path":     {web("apiVersion: v2\nname: ../../x\nversion: 1.0.0"), `"../../x"`},
		"A13 a name that climbs":   {web("apiVersion: v2\nname: ..\nversion: 1.0.0"), `".."`},
		"A13 no name":              {web("apiVersion: v2\nname: \"\"\nversion: 1.0.0"), "name"},
		"A13 bad version":          {web("apiVersion: v2\nname: web\nversion: one"), `"one"`},
		"A13 no version":           {web("apiVersion: v2\nname: web\n"), "version"},
		"A13 bad type":             {web(about + "type: plugin\n"), "type"},
		"A13 null dependency":      {web(about + "dependencies: [null]"), "dependencies"},
		"A13 alias of a path":      {web(about + "dependencies: [{name: sub, alias: ../sub}]"), "alias"},
		"A13 two of one alias":     {web(about + "dependencies: [{name: a, alias: x}, {name: b, alias: x}]"), `"x"`},
		"A13 bad name inside":      {mapFS("web/Chart.yaml", about, "web/charts/s/Chart.yaml", "name: ../s\nversion: 1.0.0"), `"../s"`},
		"A13 lock is a link":       {link, "Chart.lock"},
		"A13 not a mapping":        {web("[]"), "Chart.yaml"},
		"A14 values not a mapping": {mapFS("web/Chart.yaml", about, "web/values.yaml", "[]"), "values.yaml"},
		"A14 nested":               {mapFS("web/Chart.yaml", about, deep, about), "nested"},
		"A14 large":                {mapFS("web/Chart.yaml", about, "web/x", strings.Repeat("x", 6<<20)), "web/x"},
		"A14 aliases": {mapFS("web/Chart.yaml", about, "web/values.yaml",
			"a: &a [x,x,x,x,x,x,x,x,x]\n"+bomb()), "values.yaml"},
		"none":             {mapFS("README.md", "hello", "x", "y"), "neither"},
		"two":              {mapFS("a/Chart.yaml", about, "b/Chart.yaml", about), "a, b"},
		"two archives":     {mapFS("a.tgz", "", "b.tgz", ""), "a.tgz, b.tgz"},
		"no archive":       {mapFS("a.tgz", "no"), "gzip"},
		"empty":            {mapFS(), "neither"},
		"inside is no one": {mapFS("web/Chart.yaml", about, "web/charts/s/values.yaml", "a: 1"), "Chart.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Limits{}).Load(context.Background(), "sha256:0", opens(c.files))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want ErrInvalid about %s", err, c.says)
			}
		})
	}
	_, err := New(Limits{}).Load(context.Background(), "sha256:0", opens(os.DirFS(t.TempDir()+"/missing")))
	if err == nil || errors.Is(err, ErrInvalid) {
		t.Errorf("files that cannot be read: %v", err)
	}
	_, err = New(Limits{}).Load(context.Background(), "sha256:0", func() (fs.FS, func(), error) { return nil, nil, os.ErrPermission })
	if !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrInvalid) {
		t.Errorf("what cannot be opened: %v", err)
	}
}

// bomb is lists of the lists before them.
func bomb() string {
	var text strings.Builder
	for i := range 10 {
		fmt.Fprintf(&text, "%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 9)+"x")
	}
	return text.String()
}

func TestConcurrentLoadsReadOnce(t *testing.T) {
	s := New(Limits{})
	var opened, closed atomic.Int32
	begin := make(chan struct{})
	open := func() (fs.FS, func(), error) {
		opened.Add(1)
		<-begin
		return mapFS("Chart.yaml", about), func() { closed.Add(1) }, nil
	}
	got := make([]*Chart, 20)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() {
			c, err := s.Load(context.Background(), "sha256:a", open)
			if err != nil {
				t.Error(err)
			}
			got[i] = c
		})
	}
	close(begin)
	all.Wait()
	if opened.Load() != 1 || closed.Load() != 1 {
		t.Errorf("opened %d times, closed %d times", opened.Load(), closed.Load())
	}
	if c := slices.Compact(got); len(c) != 1 {
		t.Errorf("%d charts of one digest", len(c))
	}
}

// One who waits is not told that another has no access, and goes when its context ends.
func TestWaitersTryForThemselves(t *testing.T) {
	s := New(Limits{})
	started, end := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_, err := s.Load(context.Background(), "sha256:a", func() (fs.FS, func(), error) {
			close(started)
			<-end
			return nil, nil, os.ErrPermission
		})
		if !errors.Is(err, os.ErrPermission) {
			t.Error(err)
		}
	})
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		if _, err := s.Load(ctx, "sha256:a", opens(mapFS("Chart.yaml", about))); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	cancel()
	all.Go(func() {
		if _, err := s.Load(context.Background(), "sha256:a", opens(mapFS("Chart.yaml", about))); err != nil {
			t.Error(err)
		}
	})
	close(end)
	all.Wait()
}

// A chart that panics on reading does not keep others waiting.
func TestPanicFreesThoseWhoWait(t *testing.T) {
	s := New(Limits{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_, _ = s.Load(context.Background(), "sha256:a", func() (fs.FS, func(), error) { panic("boom") })
	}()
	if _, err := s.Load(context.Background(), "sha256:a", opens(mapFS("Chart.yaml", about))); err != nil {
		t.Error(err)
	}
}

// Charts in use are not read again, whatever has come since; others are kept up to the limit.
func TestKept(t *testing.T) {
	s := New(Limits{Kept: 300 << 10})
	reads := 0
	get := func(digest string) *Chart {
		t.Helper()
		c, err := s.Load(context.Background(), digest, func() (fs.FS, func(), error) {
			reads++
			return mapFS("Chart.yaml", about, "files/large", strings.Repeat("x", 100<<10)), func() {}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	used, _, err := get("sha256:used").WithRevision("sha256:0123456789abcdef", true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		get(fmt.Sprintf("sha256:%d", i))
	}
	if s.bytes > s.limits.Kept || s.kept.Len() != 2 {
		t.Errorf("%d charts of %d bytes are kept", s.kept.Len(), s.bytes)
	}
	runtime.GC()
	reads = 0
	if get("sha256:used").Copy().Files[0] != used.Copy().Files[0] || reads != 0 {
		t.Errorf("a chart in use was read again: %d", reads)
	}
	if get("sha256:9"); reads != 0 {
		t.Error("the last chart was not kept")
	}
	if get("sha256:0"); reads != 1 {
		t.Error("the first of ten charts was kept")
	}
	if len(s.charts) > 5 {
		t.Errorf("%d digests are remembered", len(s.charts))
	}
}

// Nothing that an action does to its copy is seen by others.
func TestCopyIsOnesOwn(t *testing.T) {
	c := read(t, mapFS(
		"Chart.yaml", about+"dependencies: [{name: sub, version: '*', condition: sub.enabled, import-values: [data]}, {name: sub, version: '*', alias: other}]\n",
		"values.yaml", "a: {b: [{c: 1}]}\nsub: {enabled: true}\n", "templates/a.yaml", "a: 1",
		"charts/sub/Chart.yaml", strings.ReplaceAll(about, "web", "sub"), "charts/sub/values.yaml", "exports: {data: {x: 1}}",
	))
	render := func() string { return dump(t, c.Copy()) }
	before := render()
	mine := c.Copy()
	if err := chartutil.ProcessDependenciesWithMerge(mine, map[string]any{"sub": map[string]any{"enabled": false}}); err != nil {
		t.Fatal(err)
	}
	mine.Values["a"].(map[string]any)["b"].([]any)[0].(map[string]any)["c"] = 2
	mine.Metadata.Version = "2.0.0"
	mine.Templates[0] = nil
	c.Metadata().Dependencies[0].Name = "changed"
	if diff := cmp.Diff(before, render()); diff != "" {
		t.Errorf("the shared chart has changed:\n%s", diff)
	}
	if one, other := c.Copy(), c.Copy(); &one.Templates[0].Data[0] != &other.Templates[0].Data[0] {
		t.Error("the contents of files are copied")
	}
}

// dump is everything of a chart and the charts inside it that is not a pointer.
func dump(t *testing.T, c *chart.Chart) string {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, inner := range c.Dependencies() {
		text = append(text, dump(t, inner)...)
	}
	return string(text)
}

// F20: only CustomResourceDefinitions come out of crds/, in Helm's order, and none of a dependency that is off.
func TestF20_OnlyCRDsComeOutOfCRDs(t *testing.T) {
	crd := func(name string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + name + "}\n"
	}
	c := read(t, mapFS(
		"Chart.yaml", about+"dependencies: [{name: sub, condition: enabled}]\n", "values.yaml", "enabled: true",
		"crds/b.yaml", "# a comment\n---\n"+crd("b1")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\n"+crd("b2"),
		"crds/a.yaml", crd("a"), "crds/README.md", "no YAML: [", "crds/deep/c.yml", crd("c"),
		"crds/own.yaml", "apiVersion: example.com/v1\nkind: CustomResourceDefinition\nmetadata: {name: mine}\n",
		"charts/sub/Chart.yaml", strings.ReplaceAll(about, "web", "sub"), "charts/sub/crds/d.json", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"d"}}`,
	))
	names := func(crds []CRD, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, crd := range crds {
			all = append(all, crd.File+" "+crd.Object.GetName())
		}
		return all
	}
	own := []string{"web/crds/a.yaml a", "web/crds/b.yaml b1", "web/crds/b.yaml b2", "web/crds/deep/c.yml c"}
	if diff := cmp.Diff(append(slices.Clone(own), "web/charts/sub/crds/d.json d"), names(c.CRDs())); diff != "" {
		t.Error(diff)
	}
	off := c.Copy()
	if err := chartutil.ProcessDependenciesWithMerge(off, map[string]any{"enabled": false}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(own, names(CRDs(off))); diff != "" {
		t.Errorf("of a dependency that is off: %s", diff)
	}
	bad := read(t, mapFS("Chart.yaml", about, "crds/bad.yaml", "a: ["))
	if _, err := bad.CRDs(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "web/crds/bad.yaml") {
		t.Errorf("%v", err)
	}
}

// F23: versions and tags with build metadata. The first line is what Flux 2.9 made of the release web-oci.
func TestF23_VersionsFromARegistry(t *testing.T) {
	const digest = "sha256:6fcb496ee101f5c5b1f382365dade6101fe8b43e95e972a46c46e12c05050baf"
	for _, c := range []struct {
		version, revision string
		off               bool
		want              string // "" for ErrRevision
	}{
		{"1.0.0", "1.0.0@" + digest, false, "1.0.0+6fcb496ee101"},
		{"1.0.0", "1.0.0@" + digest, true, "1.0.0"},
		{"1.0.0", digest, false, "1.0.0+6fcb496ee101"},
		{"1.0.0+build.5", "1.0.0_build.5@" + digest, false, "1.0.0+6fcb496ee101"},
		{"1.0.0+build.5", "1.0.0_build.5@" + digest, true, "1.0.0+build.5"},
		{"1.0.0+build.5", "1.0.0+build.5@" + digest, false, "1.0.0+6fcb496ee101"},
		{"1.0.0-rc.1", "1.0.0-rc.1@" + digest, false, "1.0.0-rc.1+6fcb496ee101"},
		{"1.0.0-rc.1+x", "1.0.0-rc.1_x@" + digest, false, "1.0.0-rc.1+6fcb496ee101"},
		{"v1.0.0", "1.0.0@" + digest, false, "1.0.0+6fcb496ee101"},
		{"1.0", "v1.0.0@" + digest, false, "1.0.0+6fcb496ee101"},
		{"1.0.0", "1.0.1@" + digest, false, ""},
		{"1.0.0", "1.0.1@" + digest, true, ""},
		{"1.0.0", "latest@" + digest, false, ""},
		{"1.0.0", "1.0.0@sha256:6fcb", false, ""},
		{"1.0.0", "1.0.0@6fcb496ee101f5c5b1f382365dade6101fe8b43e95e972a46c46e12c05050baf", false, ""},
		{"1.0.0", "1.0.0@" + digest + "@" + digest, false, ""},
		{"1.0.0", "1.0.0@sha256:??????????????", false, ""},
		{"1.0.0", "", false, ""},
	} {
		t.Run(c.version+" "+c.revision, func(t *testing.T) {
			from := read(t, mapFS("Chart.yaml", "apiVersion: v2\nname: web\nversion: \""+c.version+"\"\n"))
			got, tracked, err := from.WithRevision(c.revision, !c.off)
			if c.want == "" {
				if !errors.Is(err, ErrRevision) {
					t.Errorf("%v, want ErrRevision", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if v := got.Metadata().Version; v != c.want || got.Copy().Metadata.Version != v || tracked != digest {
				t.Errorf("%s (copy %s), digest %s; want %s", v, got.Copy().Metadata.Version, tracked, c.want)
			}
			if from.Metadata().Version != c.version {
				t.Error("the shared chart has changed")
			}
		})
	}
}

// FuzzChart: whatever lies in the files of a chart, it is refused as invalid, or can be copied and asked.
func FuzzChart(f *testing.F) {
	f.Add(about, "a: 1", "web/x", "x")
	f.Add(about+"dependencies: [{name: sub, alias: x, condition: a.b, tags: [t], import-values: [{child: a, parent: b}]}]", "sub: {a: 1}", "charts/sub/Chart.yaml", "name: sub\nversion: 1.0.0")
	f.Add("name: web\nversion: v1.0.0+x", "a: &a {b: *a}", "crds/a.yaml", "kind: CustomResourceDefinition\n---\n")
	f.Add("apiVersion: v1\nname: web\nversion: 1.0.0", "", "requirements.yaml", "dependencies: [null]")
	f.Fuzz(func(t *testing.T, about, values, name, data string) {
		if !fs.ValidPath(name) || name == "." || name == "Chart.yaml" || name == "values.yaml" || strings.ContainsFunc(name, unicode.IsControl) {
			return // what cannot be packed
		}
		packed := targz(t, "web/Chart.yaml", about, "web/values.yaml", values, "web/"+name, data)
		c, err := New(Limits{}).Load(context.Background(), "sha256:0", opens(mapFS("a.tgz", string(packed))))
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		if n := c.Name(); n == "" || strings.ContainsAny(n, "/") {
			t.Errorf("the name %q was accepted", n)
		}
		_, _ = c.CRDs()
		_, _, _ = c.WithRevision("1.0.0@sha256:6fcb496ee101f5c5", true)
		_ = chartutil.ProcessDependenciesWithMerge(c.Copy(), c.Copy().Values)
	})
}

package helm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/cleat-dev/cleat/internal/source"
)

// parse writes text to a file and reads it as an index.
func parse(t testing.TB, text []byte) (stored []byte, l *Lookup, err error) {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "index")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	l, err = canonical(context.Background(), in, &out, dir)
	return out.Bytes(), l, err
}

// helms is what Helm's own parser makes of the text, in the form in which Flux stores it.
func helms(t testing.TB, text []byte) ([]byte, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "index.yaml")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	index, err := repo.LoadIndexFile(name)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(index, "", "  ")
}

const twoCharts = `apiVersion: v1
# a comment
annotations:
  a: |
    entries:
      x: []
entries:
  web:
  - name: web
    version: 1.0.0
    description: "a quoted
      text"
    urls: [web-1.0.0.tgz]

  - version: 1.1.0
    name: web
    annotations:
      changes: |
        - first
        # not a comment

        - last
    urls:
    - https://example.com/web-1.1.0.tgz
    digest: sha256:0123
  3scale: []
  empty:
  "quoted":
    - {name: quoted, version: 0.1.0, urls: [q.tgz]}
    # a comment
    -
      name: quoted
      version: 0.2.0-rc.1
      urls: [q2.tgz]
    - name: quoted
      version: not a version
generated: "2026-01-01T00:00:00Z"
publicKeys:
- one
`

// Each of these reads like Helm reads it, whichever way it is read here; whole says that it is read in one piece.
var readings = []struct {
	name, text string
	whole      bool
}{
	{"two charts", twoCharts, false},
	{"carriage returns", strings.ReplaceAll(twoCharts, "\n", "\r\n"), false},
	{"a document marker", "# made by a tool\n---\n" + twoCharts, false},
	{"a text without an end", "apiVersion: v1\nentries:\n  web:\n  - name: web\n    version: 1.0.0\n    description: |\n      text", false},
	{"no charts", "apiVersion: v1\nentries: {}\n", false},
	{"no list of charts", "apiVersion: v1\nentries:\n", false},
	{"JSON", `{"apiVersion":"v1","entries":{"b":[{"name":"b","version":"1.0.0","urls":["<b>"]},null],"a":null,"c":[]},"unknown":[1]}`, false},
	{"JSON in other letters", `{"APIVersion":"v1","Entries":{"b":[{"name":"b","version":"1.0.0"}]}}`, true},
	{"flow style", "apiVersion: v1\nentries: {web: [{name: web, version: 1.0.0}]}\n", true},
	{"a quoted text that leaves its entry", "apiVersion: v1\nentries:\n  web:\n  - name: web\n    version: 1.0.0\n    description: \"x\n  - name: other\n\"\n", true},
	{"an alias from entry to entry", "apiVersion: v1\nentries:\n  web:\n  - &a\n    name: web\n    version: 1.0.0\n  - <<: *a\n    version: 2.0.0\n", true},
	{"a name that is a number", "apiVersion: v1\nentries:\n  1e3:\n  - name: web\n    version: 1.0.0\n", true},
	{"a lone carriage return", "apiVersion: v1\rentries:\n  web:\n  - name: web\n    version: 1.0.0\n", true},
}

func TestIndexReadsAsHelmReadsIt(t *testing.T) {
	for _, r := range readings {
		t.Run(r.name, func(t *testing.T) {
			want, wantErr := helms(t, []byte(r.text))
			got, _, err := parse(t, []byte(r.text))
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("error %v, Helm's %v", err, wantErr)
			}
			if diff := cmp.Diff(string(want), string(got)); err == nil && diff != "" {
				t.Errorf("(-Helm's +ours)\n%s", diff)
			}
			_, err = readPieces(strings.NewReader(r.text), sink{
				name: func(string, bool) error { return nil }, version: func(*repo.ChartVersion) error { return nil },
			})
			if whole := errors.Is(err, errShape); whole != r.whole {
				t.Errorf("read as a whole: %t (%v)", whole, err)
			}
		})
	}
}

// Flux serves the index sorted and as JSON; the revision is of what was fetched, the digest of what is served.
func TestIndexIsStoredInTheBytesOfFlux(t *testing.T) {
	text, err := os.ReadFile("testdata/flux-index.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stored, l, err := parse(t, text)
	if err != nil {
		t.Fatal(err)
	}
	const revision = "3eeb62882f1eb8e753c8754db47096934385d7afca87c87f197138dc748bbf88"
	const digest = "6180e819fc81e8f7a0b8d559930d7d2ee721d8a9e0765c2704d4a31f124aef6a"
	if sha(text) != revision || sha(stored) != digest || len(stored) != 1033 {
		t.Errorf("revision %s, digest %s, size %d", sha(text), sha(stored), len(stored))
	}
	again, l2, err := parse(t, stored)
	if err != nil || !bytes.Equal(stored, again) {
		t.Errorf("what is stored does not read as itself: %v", err)
	}
	for _, l := range []*Lookup{l, l2} {
		r, err := l.Find("web", "1.0.x")
		want := Release{"1.0.0", "93cad7568f88b16663d74766c305ad6074d93e000bac525c9cbd78b842ba87c2", []string{"http://127.0.0.1:5555/static/charts/web-1.0.0.tgz"}}
		if diff := cmp.Diff(want, r); err != nil || diff != "" {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
	}
}

func TestF23_VersionsAreFound(t *testing.T) {
	text := "apiVersion: v1\nentries:\n  " + strings.Repeat("n", 200) + ":\n"
	for i, v := range []string{"1.0.0", "1.1.0+a", "1.1.0+b", "2.0.0-rc.1", "v1.0.5", "0.9"} {
		text += fmt.Sprintf("  - {name: nn, version: %q, created: \"2026-01-0%dT00:00:00Z\", urls: [x]}\n", v, 9-i)
	}
	_, l, err := parse(t, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for constraint, want := range map[string]string{
		"": "1.1.0+a", "*": "1.1.0+a", "1.1.0+b": "1.1.0+b", "1.0.x": "v1.0.5", ">=2.0.0-0": "2.0.0-rc.1", "<1": "0.9", "1.0.0": "1.0.0",
	} {
		r, err := l.Find(strings.Repeat("n", 200), constraint)
		if err != nil || r.Version != want {
			t.Errorf("%q: %s, %v; want %s", constraint, r.Version, err, want)
		}
	}
	for _, constraint := range []string{"3.x", "a b c", "2.0.0"} {
		if _, err := l.Find(strings.Repeat("n", 200), constraint); !errors.Is(err, errNoChart) {
			t.Errorf("%q: %v", constraint, err)
		}
	}
	if _, err := l.Find("other", "*"); !errors.Is(err, errNoChart) {
		t.Errorf("other: %v", err)
	}
}

func TestA14_BadIndexesEndInAnError(t *testing.T) {
	bomb := "apiVersion: v1\nentries:\n  web:\n  - name: web\n    version: 1.0.0\n    keywords: &a [" + strings.Repeat("x,", 1000) + "]\n    sources: *a\n" +
		"  other:\n" + strings.Repeat("  - name: other\n    version: 1.0.0\n", maxWhole/30)
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":                            {"", errIndex},
		"HTML":                             {"<html><body>Sign in</body></html>", errIndex},
		"a page":                           {strings.Repeat("<p>Sign in</p>\n", maxWhole/10), errIndex},
		"no version":                       {"entries: {}\n", errIndex},
		"one giant line":                   {"apiVersion: v1\nentries:\n  web:\n  - name: " + strings.Repeat("x", maxItem+1), source.ErrLimit},
		"one giant entry":                  {"apiVersion: v1\nentries:\n  web:\n  - name: x\n    keywords:\n" + strings.Repeat("    - keyword\n", maxItem/10), source.ErrLimit},
		"one giant entry in JSON":          {`{"apiVersion":"v1","entries":{"web":[{"name":"` + strings.Repeat("x", 5*maxItem), source.ErrLimit},
		"a header without end":             {"apiVersion: v1\n" + strings.Repeat("# comment\n", maxItem/5), source.ErrLimit},
		"aliases in a large file":          {bomb, errIndex},
		"flow style in a large file":       {"apiVersion: v1\nentries: {web: [" + strings.Repeat("{name: web, version: 1.0.0},\n", maxWhole/20) + "]}", errIndex},
		"a chart that is listed once more": {"apiVersion: v1\nentries:\n  web: []\n  web: []\n", errIndex},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := parse(t, []byte(c.text)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			} else if len(err.Error()) > 300 {
				t.Errorf("the error repeats the input: %d bytes", len(err.Error()))
			}
		})
	}
}

func TestA14_TooManyVersionsEndInAnError(t *testing.T) {
	var text strings.Builder
	text.WriteString(`{"apiVersion":"v1","entries":{"web":[`)
	for range maxVersions {
		text.WriteString("null,")
	}
	text.WriteString("null]}}")
	if _, _, err := parse(t, []byte(text.String())); !errors.Is(err, source.ErrLimit) {
		t.Errorf("%v", err)
	}
}

func FuzzIndex(f *testing.F) {
	for _, r := range readings {
		f.Add([]byte(r.text))
	}
	golden, err := os.ReadFile("testdata/flux-index.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Fuzz(func(t *testing.T, text []byte) {
		want, wantErr := helms(t, text)
		got, _, err := parse(t, text)
		if errors.Is(err, source.ErrLimit) || (err != nil && strings.Contains(err.Error(), "NUL")) {
			return
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("error %v, Helm's %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(want, got) {
			t.Fatalf("(-Helm's +ours)\n%s", cmp.Diff(string(want), string(got)))
		}
	})
}

// writeIndex writes an index like those of large public repositories: 200 charts, some 500 bytes to a version.
func writeIndex(w io.Writer, bytes int) error {
	random := rand.New(rand.NewPCG(1, 2))
	n, err := io.WriteString(w, "apiVersion: v1\nentries:\n")
	for chart := 0; err == nil && n < bytes; chart++ {
		var text strings.Builder
		fmt.Fprintf(&text, "  chart-%d:\n", chart)
		for v := range 250 {
			fmt.Fprintf(&text, `  - annotations:
      category: Database
      licenses: Apache-2.0
    apiVersion: v2
    appVersion: %d.%d.0
    created: "2026-01-02T03:04:05.678901234Z"
    description: A chart that is described at some length, as charts of public repositories usually are.
    digest: %016x%016x%016x%016x
    home: https://example.com/charts/chart-%d
    keywords:
    - database
    - storage
    maintainers:
    - name: Somebody
      url: https://example.com/somebody
    name: chart-%d
    sources:
    - https://example.com/somebody/charts/tree/main/chart-%d
    urls:
    - https://charts.example.com/charts/chart-%d-%d.%d.0.tgz
    version: %d.%d.0
`, v, chart, random.Uint64(), random.Uint64(), random.Uint64(), random.Uint64(), chart, chart, chart, chart, v, chart, v, chart)
		}
		var written int
		written, err = io.WriteString(w, text.String())
		n += written
	}
	if err == nil {
		_, err = io.WriteString(w, "generated: \"2026-01-02T03:04:05Z\"\n")
	}
	return err
}

// TestMain can be told to read an index in a process of its own, whose memory the kernel then measures.
func TestMain(m *testing.M) {
	name := os.Getenv("HELM_TEST_INDEX")
	if name == "" {
		os.Exit(m.Run())
	}
	before := peakMiB()
	in, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	out, err := os.Create(name + ".stored")
	if err != nil {
		panic(err)
	}
	l, err := canonical(context.Background(), in, out, filepath.Dir(name))
	if err != nil {
		panic(err)
	}
	fmt.Print(peakMiB()-before, " ", l.Size()>>20, " ", len(l.versions))
}

// peakMiB is the most memory that this process has had.
func peakMiB() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		panic(err)
	}
	return kib >> 10
}

// measure returns what it costs to read an index of that size, in MiB: at the peak, and for good.
// env is added to the environment of the process that is measured.
func measure(t testing.TB, size int, env ...string) (peak, kept, versions int) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "index.yaml")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeIndex(f, size), f.Close()); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), "HELM_TEST_INDEX="+name), env...)
	said, err := child.CombinedOutput()
	if err == nil {
		_, err = fmt.Sscan(string(said), &peak, &kept, &versions)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return peak, kept, versions
}

// The peak is that of the whole process, beyond what it has when it begins.
func TestA14_LargeIndexTakesLittleMemory(t *testing.T) {
	// The collector keeps close behind, so that the peak is what is held and not what it has not got to on a busy machine.
	peak, kept, versions := measure(t, 8<<20, "GOGC=20")
	t.Logf("8 MiB, %d versions: %d MiB at the peak, %d MiB kept", versions, peak, kept)
	if limit := 40; peak > limit { // the race detector takes its share; a decoded index of that size is far above it
		t.Errorf("%d MiB at the peak, more than %d", peak, limit)
	}
}

func BenchmarkIndex50MiB(b *testing.B) {
	for b.Loop() {
		peak, kept, versions := measure(b, 50<<20)
		b.ReportMetric(float64(peak), "peak-MiB")
		b.ReportMetric(float64(kept), "kept-MiB")
		b.ReportMetric(float64(versions), "versions")
		if peak > 100 {
			b.Errorf("%d MiB at the peak, more than 100", peak)
		}
	}
}

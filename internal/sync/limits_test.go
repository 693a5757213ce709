package sync

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/kustomizer"
	"github.com/cleat-dev/cleat/internal/object"
)

// laughs is a YAML text whose aliases stand for ten to the power of levels values.
func laughs(levels int) string {
	var text strings.Builder
	text.WriteString("a0: &a0 lol\n")
	for i := range levels {
		fmt.Fprintf(&text, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return text.String()
}

// indent moves a text into a block scalar or a mapping.
func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}

const cmOne = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n"

// bombs are small repositories, or such as compress to nothing, that ask for more than any machine has; with a part of the
// error that each must end with.
func bombs() map[string]struct{ spec, files, err string } {
	type bomb = struct{ spec, files, err string }
	base := "-- kustomization.yaml --\nresources: [one.yaml]\n-- one.yaml --\n" + cmOne
	all := map[string]bomb{
		"a cycle": {"{path: a}", "-- a/kustomization.yaml --\nresources: [../b]\n-- b/kustomization.yaml --\nresources: [../a]\n", "cycle detected"},
		"billion laughs in a manifest": {
			"{}", "-- kustomization.yaml --\nresources: [one.yaml]\n-- one.yaml --\n" + cmOne + "data:\n" + indent(laughs(12)), "aliases expanded",
		},
		"billion laughs without a kustomization file": {"{}", "-- one.yaml --\n" + cmOne + "data:\n" + indent(laughs(12)), "aliases expanded"},
		"billion laughs in a kustomization file":      {"{}", "-- kustomization.yaml --\n" + laughs(12), "aliases expanded"},
		"billion laughs in an inline patch": {
			"{}", strings.Replace(base, "[one.yaml]\n", "[one.yaml]\npatches:\n- patch: |\n"+indent(indent(cmOne+"data:\n"+indent(laughs(12)))), 1), "aliases expanded",
		},
		"billion laughs in the spec":         {`{patches: [{patch: "` + strings.ReplaceAll(cmOne+"data:\n"+indent(laughs(12)), "\n", `\n`) + `"}]}`, base, "aliases expanded"},
		"an anchor that contains itself":     {"{}", "-- one.yaml --\n" + cmOne + "data: &a {b: *a}\n", "contains itself"},
		"the same in an inline patch":        {"{patches: [{patch: \"" + strings.ReplaceAll(cmOne, "\n", `\n`) + "data: &a {b: *a}\"}]}", base, "contains itself"},
		"the same written with escapes":      {"{}", strings.Replace(base, "[one.yaml]\n", "[one.yaml]\npatches: [{patch: \""+strings.ReplaceAll(cmOne, "\n", `\n`)+"data: \\x26a {b: \\u002aa}\"}]\n", 1), "contains itself"},
		"more bytes than a build may read":   {"{}", "-- one.yaml --\n" + cmOne + "data:\n  a: " + strings.Repeat("x", maxBuildBytes) + "\n", "bytes"},
		"more objects than a build may have": {"{}", "-- one.yaml --\n" + strings.Repeat(cmOne+"---\n", maxBuildObjects+1), "objects"},
		"as many in a list": {
			"{}", "-- one.yaml --\napiVersion: v1\nkind: List\nitems:\n" + strings.Repeat("- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", maxBuildObjects), "objects",
		},
		"a million patches": {"{}", strings.Replace(base, "[one.yaml]\n", "[one.yaml]\npatches:\n"+strings.Repeat("- {path: p}\n", 1_000_000), 1), "larger than"},
		"patches that fit":  {"{}", strings.Replace(base, "[one.yaml]\n", "[one.yaml]\npatches:\n"+strings.Repeat("- {path: p}\n", 20_000), 1), "patches"},
		"a variable used too often": {
			"{postBuild: {substitute: {a: " + strings.Repeat("x", 100_000) + "}}}",
			"-- one.yaml --\n" + cmOne + "data:\n  a: \"" + strings.Repeat("${a}", 10_000) + "\"\n", "larger than",
		},
		"a variable replaced letter by letter": {
			"{postBuild: {substitute: {a: " + strings.Repeat("x", 10_000) + "}}}",
			"-- one.yaml --\n" + cmOne + "data:\n  a: \"${a//x/" + strings.Repeat("y", 10_000) + "}\"\n", "larger than",
		},
	}
	var diamond strings.Builder // every level includes the next one twice
	for i := range 24 {
		fmt.Fprintf(&diamond, "-- k%d/kustomization.yaml --\nresources: [../l%d, ../r%d]\n", i, i, i)
		for _, side := range []string{"l", "r"} {
			fmt.Fprintf(&diamond, "-- %s%d/kustomization.yaml --\nnamePrefix: %s\nresources: [../k%d]\n", side, i, side, i+1)
		}
	}
	all["bases that include each other twice"] = bomb{"{path: k0}", diamond.String() + "-- k24/kustomization.yaml --\nresources: [one.yaml]\n-- k24/one.yaml --\n" + cmOne, "kustomization files"}
	var chain strings.Builder
	for i := range 1_000 {
		fmt.Fprintf(&chain, "-- k%d/kustomization.yaml --\nresources: [../k%d]\n", i, i+1)
	}
	all["a thousand bases deep"] = bomb{"{path: k0}", chain.String() + "-- k1000/kustomization.yaml --\nresources: [one.yaml]\n-- k1000/one.yaml --\n" + cmOne, "levels deep"}
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	all["twenty thousand lists deep"] = bomb{"{}", "-- one.yaml --\n" + cmOne + "data: " + deep + "\n", "depth"}
	return all
}

// TestA17_Bombs: what asks for more than any machine has ends in an error that says so, soon, and a build that runs beside
// it is not held up.
func TestA17_Bombs(t *testing.T) {
	all := bombs()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			bomb := all[name]
			ks, snapshot := kustomization(t, bomb.spec), tree(t, bomb.files)
			other, files := kustomization(t, "{path: apps/prod}"), tree(t, shop)
			ended := make(chan error, 1)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			go func() {
				_, err := build(t, ks, snapshot)
				ended <- err
			}()
			beside := make(chan error, 1)
			go func() {
				_, err := build(t, other, files)
				beside <- err
			}()
			limit := time.NewTimer(20 * time.Second)
			defer limit.Stop()
			for range 2 {
				select {
				case err := <-beside:
					if err != nil {
						t.Errorf("the build beside it: %v", err)
					}
				case err := <-ended:
					if err == nil || !strings.Contains(err.Error(), bomb.err) || strings.Contains(err.Error(), os.TempDir()) || len(err.Error()) > 4000 {
						t.Errorf("error %.500v, want one about %q", err, bomb.err)
					}
				case <-limit.C:
					t.Fatal("the builds did not end within 20 seconds")
				}
			}
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 2<<30 {
				t.Errorf("the builds have allocated %d MiB", used>>20)
			}
		})
	}
}

// TestA17_AbandonedBuild: a build that nobody waits for any more ends at the next file that it reads.
func TestA17_AbandonedBuild(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := &guard{FileSystem: snapshotFS{tree(t, "-- a.yaml --\n"+cmOne), newReads()}, ended: ctx.Err}
	at := filepath.Join(g.FileSystem.(snapshotFS).files.Dir(), "a.yaml")
	if _, err := g.ReadFile(at); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := g.ReadFile(at); err == nil {
		t.Error("it goes on reading")
	}
}

// snapshotOf makes a snapshot of an archive that a fuzzer made up; nil when no source could have such files.
func snapshotOf(t *testing.T, store *artifact.Store, archive []byte) *artifact.Snapshot {
	t.Helper()
	if bytes.Contains(archive, []byte("-- --")) {
		return nil // at which the parser of archives panics
	}
	w, err := store.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close) // which lets go of the snapshot
	for _, file := range txtar.Parse(archive).Files {
		if w.AddFile(file.Name, false, strings.NewReader(string(file.Data))) != nil {
			return nil
		}
	}
	snapshot, err := w.Commit()
	if err != nil {
		return nil
	}
	return snapshot
}

// FuzzBuild builds repositories: whatever is in one ends soon, in the same objects each time, or in an error that tells
// nothing of this machine.
func FuzzBuild(f *testing.F) {
	for _, bomb := range bombs() {
		if len(bomb.files) < 20_000 {
			f.Add([]byte(bomb.files))
		}
	}
	f.Add([]byte(shop))
	plain := []byte("-- a.yaml --\n" + cmOne)
	f.Add(plain)
	f.Add([]byte("-- a.yaml --\n" + cmOne + "data: {a: \"\\0\", b: \x00, c: \xff\xfe}\n"))
	f.Add([]byte("-- a.yaml --\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: [{apiVersion: v1, kind: List, items: []}]\n"))
	store := newStore(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		snapshot := snapshotOf(t, store, archive)
		if snapshot == nil {
			return
		}
		first, err := build(t, kustomization(t, "{}"), snapshot)
		if err != nil {
			if bytes.Equal(archive, plain) {
				t.Errorf("what can be built is not: %v", err)
			}
			if strings.Contains(err.Error(), snapshot.Dir()) || strings.Contains(err.Error(), os.TempDir()) {
				t.Errorf("the error %q tells where this machine keeps its files", err)
			}
			return
		}
		second, err := build(t, kustomization(t, "{}"), snapshot)
		if err != nil || first.Digest != second.Digest {
			t.Errorf("built again: %v; digests differ: %s", err, cmp.Diff(first.Objects, second.Objects))
		}
	})
}

// FuzzA27_Substitute: whatever the value of a variable, one object stays one object, and a value without quotes, backslashes and
// newlines leaves its identity alone. A value that ends the quotes around it may, as in Flux, whose substitution is one of text,
// become more keys of that object.
func FuzzA27_Substitute(f *testing.F) {
	for _, value := range []string{
		"plain", "", "\x00", "\xff", "a\n---\napiVersion: v1", "'", `"`, `"}, injected: {a: "b`, `x"` + "\n---\nkind: Secret", "${other}", "$${x}", "*a", "&a",
		strings.Repeat("x", 10_000), "\\u0000", "a: b",
	} {
		f.Add(value, "${v}")
		f.Add(value, "${v:-none} ${v^^} ${#v} ${v//a/b}")
	}
	store := newStore(f)
	f.Fuzz(func(t *testing.T, value, text string) {
		if len(value)+len(text) > 100_000 {
			return
		}
		one := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "one", "namespace": "a"},
			"data": map[string]any{"quoted": "'${v}", "text": text},
		}}
		content, err := one.MarshalJSON()
		if err != nil {
			return
		}
		snapshot := snapshotOf(t, store, []byte("-- kustomization.yaml --\nresources: [one.json]\n-- one.json --\n"+string(content)))
		if snapshot == nil {
			return
		}
		ks := kustomization(t, "{postBuild: {substitute: {}}}")
		ks.Spec.PostBuild.Substitute = map[string]string{"v": value, "other": "o"}
		b, err := build(t, ks, snapshot)
		if err != nil {
			if value == "plain" && text == "${v}" {
				t.Errorf("what can be built is not: %v", err)
			}
			if strings.Contains(err.Error(), snapshot.Dir()) {
				t.Errorf("the error %q tells where this machine keeps its files", err)
			}
			return
		}
		if len(b.Objects) != 1 {
			t.Fatalf("%d objects: %v", len(b.Objects), b.Refs)
		}
		if strings.ContainsAny(value, "'\"\\\n\r") || strings.ContainsAny(text, "'\"\\\n\r$") && text != "${v}" {
			return // it may end its quotes
		}
		if want := (object.Ref{Version: "v1", Kind: "ConfigMap", Namespace: "a", Name: "one"}); b.Refs[0] != want {
			t.Errorf("it became %s", b.Refs[0])
		}
	})
}

// TestAliasesOfAText: a text that is one YAML scalar is not looked into for ever. An encrypted value often is one.
func TestAliasesOfAText(t *testing.T) {
	for _, text := range []string{`a\b&c*d`, `"a\\b &c *d"`, `ENC[AES256_GCM,data:a\b&*]`, "k: 'a\\b & *'\n"} {
		if size, err := kustomizer.Aliased(text, maxBuildBytes); size != 0 || err != nil {
			t.Errorf("%q: %d bytes of aliases, %v", text, size, err)
		}
	}
}

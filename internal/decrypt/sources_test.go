package decrypt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"github.com/getsops/sops/v3/keys"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// tree writes files to a directory of its own, as a snapshot has them.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// build builds a directory as internal/sync does.
func build(ctx context.Context, t testing.TB, d *Decryptor, root, dir string) (resmap.ResMap, error) {
	t.Helper()
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		t.Fatal(err)
	}
	overlay := securefs.MakeFsInMemory(disk)
	if err := d.Sources(ctx, overlay, root, filepath.Join(root, dir)); err != nil {
		return nil, err
	}
	built, err := kustomize.Build(overlay, filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	return built, d.Objects(ctx, built)
}

// encrypted is a repository in which every kind of source is encrypted, for one key.
func encrypted(t testing.TB, master keys.MasterKey) map[string]string {
	doc := func(plain string, f format) string { return string(encryptTo(t, plain, f, nil, master)) }
	object := func(plain string) string { return string(encryptTo(t, plain, formatYAML, secretOnly, master)) }
	return map[string]string{
		".sops.yaml": "creation_rules: [{age: age1nobody}]\n",
		"app/kustomization.yaml": `
resources: [../base, whole.yaml, several.yaml, plain.yaml]
components: [../part]
namespace: apps
namePrefix: p-
generatorOptions: {disableNameSuffixHash: true}
secretGenerator:
- {name: env, envs: [vars.env, more.ini]}
- {name: files, files: [conf.json, conf.ini, conf.yaml, blob, renamed.yaml=blob2]}
- {name: docker, type: kubernetes.io/dockerconfigjson, files: [.dockerconfigjson=pull]}
configMapGenerator:
- {name: settings, env: settings.env}
patches:
- {path: patch.yaml}
- {path: patch.json, target: {kind: ConfigMap, name: plain}}
patchesStrategicMerge: [old.yaml]
`,
		"app/whole.yaml": object("apiVersion: v1\nkind: Secret\nmetadata: {name: whole}\ntype: Opaque\nstringData:\n  mac: " + canary + "-1\n  z: x\n"),
		"app/several.yaml": object("apiVersion: v1\nkind: Secret\nmetadata: {name: s1}\nstringData: {a: "+canary+"-2}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s2}\nstringData: {a: "+canary+"-3}\n") +
			"---\n" + object("apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: thing}\ndata: {a: "+canary+"-4}\n"),
		"app/plain.yaml":              "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\ndata: {z: z}\n",
		"app/vars.env":                doc("A="+canary+"-5\n", formatDotenv),
		"app/more.ini":                doc("A2="+canary+"-6\n", formatDotenv),
		"app/conf.json":               doc(`{"a":"`+canary+`-7"}`, formatJSON),
		"app/conf.ini":                doc("[s]\na = "+canary+"-8\n", formatINI),
		"app/conf.yaml":               doc("a: "+canary+"-9\n", formatYAML),
		"app/blob":                    doc("\x02"+canary+"-10", formatBinary),
		"app/blob2":                   doc("a: "+canary+"-11\n", formatYAML),
		"app/pull":                    doc(`{"auths":{"r":{"auth":"`+canary+`-12"}}}`, formatJSON),
		"app/settings.env":            doc("B="+canary+"-13\n", formatDotenv),
		"app/patch.yaml":              doc("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: plain\ndata:\n  c: "+canary+"-14\n", formatYAML),
		"app/patch.json":              doc(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"plain"},"data":{"d":"`+canary+`-15"}}`, formatJSON),
		"app/old.yaml":                doc("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: plain\ndata:\n  e: "+canary+"-16\n", formatYAML),
		"base/kustomization.yaml":     "resources: [deep]\n",
		"base/deep/kustomization.yml": "secretGenerator:\n- {name: deep, files: [x.txt]}\ngeneratorOptions: {disableNameSuffixHash: true}\n",
		"base/deep/x.txt":             doc(canary+"-17", formatBinary),
		"part/Kustomization":          "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nsecretGenerator:\n- {name: part, envs: [x.env]}\ngeneratorOptions: {disableNameSuffixHash: true}\n",
		"part/x.env":                  doc("A="+canary+"-18\n", formatDotenv),
	}
}

// decoded is the build as text, with the data of Secrets decoded.
func decoded(t testing.TB, built resmap.ResMap) string {
	t.Helper()
	var out strings.Builder
	for _, r := range built.Resources() {
		out.WriteString("# " + nameOf(r) + "\n")
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		if r.GetKind() != "Secret" {
			continue
		}
		for key, value := range r.GetDataMap() {
			plain, err := decode(value)
			if err != nil {
				t.Fatal(err)
			}
			out.WriteString("#" + key + "=" + plain + "\n")
		}
	}
	return out.String()
}

// TestSources: every kind of source of a build is opened, in memory only (faults.md A32).
func TestSources(t *testing.T) {
	id, master := ageKeys(t)
	files := encrypted(t, master)
	root := tree(t, files)
	d := loadKeys(t, Options{}, map[string]string{"x.agekey": id})
	built, err := build(t.Context(), t, d, root, "app")
	if err != nil {
		t.Fatal(err)
	}
	text := decoded(t, built)
	for i := 1; i <= 18; i++ {
		if want := canary + "-" + itoa(i); !strings.Contains(text, want+"\n") && !strings.Contains(text, want+"\"") {
			t.Errorf("%s was not opened", want)
		}
	}
	if strings.Contains(text, "ENC[") || strings.Contains(text, "sops") {
		t.Errorf("something is left encrypted:\n%s", text)
	}
	for name, want := range files { // TestA32
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s was written to: %v", name, err)
		}
	}
	entries := 0
	if err := filepath.WalkDir(root, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			entries++
		}
		return err
	}); err != nil || entries != len(files) {
		t.Errorf("%d files were written in, %d are there: %v", len(files), entries, err)
	}
}

// TestObjectMAC: it is the file that an object comes from that must be as it was encrypted, whatever kustomize makes of the
// object; a file that is not is refused, by its name.
func TestObjectMAC(t *testing.T) {
	id, master := ageKeys(t)
	good := string(encryptTo(t, "apiVersion: v1\nkind: Secret\ntype: Opaque\nmetadata: {name: a}\nstringData: {z: one, b: "+canary+"}\n", formatYAML, secretOnly, master))
	with := map[string]string{"x.agekey": id}
	t.Run("as encrypted", func(t *testing.T) {
		root := tree(t, map[string]string{"kustomization.yaml": "resources: [s.yaml]\ncommonLabels: {a: b}\n", "s.yaml": good})
		built, err := build(t.Context(), t, loadKeys(t, Options{}, with), root, ".")
		if err != nil || !strings.Contains(decoded(t, built), canary) {
			t.Errorf("build = %v", err)
		}
	})
	changed := tree(t, map[string]string{"kustomization.yaml": "resources: [s.yaml]\n", "s.yaml": strings.Replace(good, "Opaque", "Other", 1)})
	t.Run("TestA33 changed", func(t *testing.T) {
		_, err := build(t.Context(), t, loadKeys(t, Options{}, with), changed, ".")
		if err == nil || !strings.Contains(err.Error(), "decrypting Secret/a: s.yaml: the MAC") {
			t.Errorf("build = %v", err)
		}
	})
	t.Run("changed, and the flag allows it", func(t *testing.T) {
		built, err := build(t.Context(), t, loadKeys(t, Options{IgnoreMAC: true}, with), changed, ".")
		if err != nil || !strings.Contains(decoded(t, built), canary) {
			t.Errorf("build = %v", err)
		}
	})
	t.Run("from no file", func(t *testing.T) {
		d := loadKeys(t, Options{}, with)
		root := tree(t, map[string]string{"kustomization.yaml": "resources: [s.yaml]\n", "s.yaml": good})
		built, err := build(t.Context(), t, nil, root, ".")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Objects(t.Context(), built); err == nil || !strings.Contains(err.Error(), "the MAC does not match") {
			t.Errorf("Objects = %v", err)
		}
	})
	t.Run("annotated", func(t *testing.T) {
		root := tree(t, map[string]string{"kustomization.yaml": "resources: [s.yaml]\ncommonAnnotations: {" + Annotation + ": Disabled}\n", "s.yaml": good})
		built, err := build(t.Context(), t, loadKeys(t, Options{}, nil), root, ".")
		if err != nil || !strings.Contains(decoded(t, built), "ENC[") {
			t.Errorf("build = %v", err)
		}
	})
}

// TestGenerated: the values of a Secret that are documents are opened after the build, in the format of their key.
func TestGenerated(t *testing.T) {
	id, master := ageKeys(t)
	values := map[string]string{
		"a.env":             encode(encryptTo(t, "A="+canary+"\n", formatDotenv, nil, master)),
		"b":                 encode(encryptTo(t, canary+" raw", formatBinary, nil, master)),
		".dockerconfigjson": encode(encryptTo(t, `{"auths":{"a":"`+canary+`"}}`, formatJSON, nil, master)),
		"plain":             encode([]byte("as it was")),
	}
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata:\n")
	for key, value := range values {
		text.WriteString("  " + key + ": " + value + "\n")
	}
	root := tree(t, map[string]string{"kustomization.yaml": "resources: [s.yaml]\n", "s.yaml": text.String()})
	built, err := build(t.Context(), t, loadKeys(t, Options{}, map[string]string{"x.agekey": id}), root, ".")
	if err != nil {
		t.Fatal(err)
	}
	got := built.Resources()[0].GetDataMap()
	for key, want := range map[string]string{
		"a.env": "A=" + canary + "\n", "b": canary + " raw", "plain": "as it was", ".dockerconfigjson": `"` + canary + `"`,
	} {
		if plain, err := decode(got[key]); err != nil || !strings.Contains(plain, want) {
			t.Errorf("%s = %q, %v", key, plain, err)
		}
	}
}

// TestA16_SourcesStayInside: a path that leads out of the source is never read, by name or by link, and cycles end.
func TestA16_SourcesStayInside(t *testing.T) {
	id, master := ageKeys(t)
	outside := tree(t, map[string]string{"x.env": string(encryptTo(t, "A="+canary+"\n", formatDotenv, nil, master))})
	root := tree(t, map[string]string{
		"a/kustomization.yaml": "resources: [../b, ../../..]\nsecretGenerator: [{name: x, envs: [../../../x.env, " + outside + "/x.env, link.env]}]\n",
		"b/kustomization.yaml": "resources: [../a, ../b]\npatches: [{path: 'https://example.com/x'}]\n",
	})
	if err := os.Symlink(filepath.Join(outside, "x.env"), filepath.Join(root, "a/link.env")); err != nil {
		t.Fatal(err)
	}
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		t.Fatal(err)
	}
	overlay := securefs.MakeFsInMemory(disk)
	d := loadKeys(t, Options{}, map[string]string{"x.agekey": id})
	if err := d.Sources(t.Context(), overlay, root, filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	if d.Sensitive() != nil {
		t.Error("a file outside of the source was opened")
	}
}

// FuzzReferences: no kustomization file makes the search for sources fail other than by an error, leave the source or go on
// for ever.
func FuzzReferences(f *testing.F) {
	for _, seed := range []string{
		"resources: [../x, ., a/b]\n", "secretGenerator: [{files: [a=b, =, c], env: x}]\n", "bases: [.]\npatches: [{path: \"\"}]\n",
		"patchesStrategicMerge: [\"a\\nb\"]\n", "a: &a [*a]\n", "resources: [/etc]\n", "{", "resources: [\"\\0\"]",
	} {
		f.Add(seed, "x: 1\nsops:\n    mac: ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]\n")
	}
	f.Fuzz(func(t *testing.T, kustomization, file string) {
		fsys := &watched{FileSystem: filesys.MakeFsInMemory(), t: t}
		for name, text := range map[string]string{"/top/kustomization.yaml": kustomization, "/top/a/b": file, "/top/c": file, "/top/x": file, "/secret": file} {
			if err := fsys.WriteFile(name, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		fsys.armed = true
		d := newDecryptor(&keyring{}, true)
		_ = d.Sources(t.Context(), fsys, "/top", "/top") // most are errors
		if _, looks := detect([]byte(file)); looks {
			for _, in := range []format{formatDotenv, formatINI, formatJSON, formatYAML, formatBinary} {
				if plain, err := d.open(t.Context(), []byte(file), in, in, true); err == nil {
					t.Errorf("opened without a key: %q", plain)
				}
			}
		}
	})
}

// watched is a file system that tells of a read outside of /top.
type watched struct {
	filesys.FileSystem
	t     *testing.T
	armed bool
}

func (w *watched) ReadFile(path string) ([]byte, error) {
	if w.armed && !strings.HasPrefix(filepath.Clean(path), "/top/") {
		w.t.Errorf("%q was read", path)
	}
	return w.FileSystem.ReadFile(path)
}

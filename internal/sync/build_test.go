package sync

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/object"
)

// newStore opens a store in a new directory.
func newStore(t testing.TB) *artifact.Store {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir()) // the generator of the kustomize library resolves links
	if err != nil {
		t.Fatal(err)
	}
	store, err := artifact.Open(artifact.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// commit makes a snapshot of the files of a txtar archive.
func commit(t *testing.T, store *artifact.Store, archive string) *artifact.Snapshot {
	t.Helper()
	w, err := store.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	for _, file := range txtar.Parse([]byte(archive)).Files {
		if err := w.AddFile(file.Name, false, bytes.NewReader(file.Data)); err != nil {
			t.Fatal(err)
		}
	}
	snapshot, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// tree makes a snapshot of a txtar archive in a store of its own.
func tree(t *testing.T, archive string) *artifact.Snapshot {
	t.Helper()
	return commit(t, newStore(t), archive)
}

// kustomization decodes a Kustomization named demo/shop with the given spec.
func kustomization(t *testing.T, spec string) *kustomizev1.Kustomization {
	t.Helper()
	ks := &kustomizev1.Kustomization{}
	if err := yaml.UnmarshalStrict([]byte(spec), &ks.Spec); err != nil {
		t.Fatal(err)
	}
	ks.Namespace, ks.Name = "demo", "shop"
	return ks
}

func build(t *testing.T, ks *kustomizev1.Kustomization, snapshot *artifact.Snapshot) (*Build, error) {
	t.Helper()
	return buildWith(&renderer{strict: true}, ks, snapshot)
}

func buildWith(r *renderer, ks *kustomizev1.Kustomization, snapshot *artifact.Snapshot) (*Build, error) {
	path, err := checkPath(snapshot.FS(), ks.Spec.Path)
	if err != nil {
		return nil, err
	}
	return r.build(context.Background(), ks, snapshot, path)
}

func names(b *Build) []string {
	var refs []string
	for _, u := range b.Objects {
		refs = append(refs, object.RefOf(u).String())
	}
	return refs
}

// TestBuildAsFlux builds what Flux has built in the golden recording: the digest in its status.history is that of the
// same bytes.
func TestBuildAsFlux(t *testing.T) {
	archive, err := os.ReadFile("testdata/shop.txtar")
	if err != nil {
		t.Fatal(err)
	}
	ks := kustomization(t, `{path: ./apps/prod, prune: true, interval: 10m, sourceRef: {kind: GitRepository, name: shop},
		commonMetadata: {labels: {team: shop}}, postBuild: {substitute: {region: eu-1}}}`)
	b, err := build(t, ks, tree(t, string(archive)))
	if err != nil {
		t.Fatal(err)
	}
	if want := "sha256:abb156c6a73960005949b14de10485fafc741eab120f1109eb492a9e7e21acd6"; b.Digest != want {
		t.Errorf("digest %s, Flux's is %s", b.Digest, want)
	}
	want := []string{"Namespace/shop", "ClusterRole/shop:reader", "ConfigMap/shop/plain", "ConfigMap/shop/settings-747dfcb89d", "Deployment/shop/shop"}
	got := names(b)
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	for _, u := range b.Objects {
		labels := map[string]string{
			"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "demo", "team": "shop",
		}
		if diff := cmp.Diff(labels, u.GetLabels()); diff != "" {
			t.Errorf("labels of %s (-want +got):\n%s", object.RefOf(u), diff)
		}
		if u.GetName() == "plain" {
			data, _, _ := unstructured.NestedStringMap(u.Object, "data")
			if diff := cmp.Diff(map[string]string{"region": "eu-1", "default": "none"}, data); diff != "" {
				t.Errorf("data of %s (-want +got):\n%s", object.RefOf(u), diff)
			}
		}
	}
}

// TestBuild holds what builds give, and how they fail.
func TestBuild(t *testing.T) {
	const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: a}\n"
	cm := func(name string) string { return strings.ReplaceAll(configMap, "%s", name) }
	for _, test := range []struct {
		name, spec, files string
		want              []string
		err               string // a part of the error's text that a person needs
	}{{
		name:  "without a kustomization.yaml all manifests below the path are taken",
		spec:  `{path: ./}`,
		files: "-- one.yaml --\n" + cm("one") + "-- sub/two.yaml --\n" + cm("two") + "-- notes.txt --\nno manifest\n",
		want:  []string{"ConfigMap/a/one", "ConfigMap/a/two"},
	}, {
		name:  "a directory with its own kustomization.yaml is included as such",
		spec:  `{}`,
		files: "-- sub/kustomization.yaml --\nnamePrefix: x-\nresources: [two.yaml]\n-- sub/two.yaml --\n" + cm("two"),
		want:  []string{"ConfigMap/a/x-two"},
	}, {
		name:  "the spec's settings are added",
		spec:  `{targetNamespace: b, namePrefix: p-, nameSuffix: -s, patches: [{patch: '[{"op":"add","path":"/data","value":{"k":"v"}}]', target: {kind: ConfigMap}}]}`,
		files: "-- one.yaml --\n" + cm("one"),
		want:  []string{"ConfigMap/b/p-one-s"},
	}, {
		name:  "components",
		spec:  `{path: app, components: [../extra]}`,
		files: "-- app/one.yaml --\n" + cm("one") + "-- extra/kustomization.yaml --\nkind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nresources: [two.yaml]\n-- extra/two.yaml --\n" + cm("two"),
		want:  []string{"ConfigMap/a/one", "ConfigMap/a/two"},
	}, {
		name: "an empty directory builds nothing", spec: `{path: empty}`, files: "-- empty/notes.txt --\nnothing\n",
	}, {
		name: "a missing path", spec: `{path: ./nowhere}`, files: "-- a.txt --\n",
		err: "kustomization path not found: stat nowhere: no such file or directory",
	}, {
		name: "a path out of the source stays inside", spec: `{path: ../../etc}`, files: "-- etc/one.yaml --\n" + cm("one"),
		want: []string{"ConfigMap/a/one"},
	}, {
		name: "broken YAML names the file", spec: `{}`, files: "-- bad.yaml --\na: b: c\n", err: "bad.yaml",
	}, {
		name:  "a variable that is not set",
		spec:  `{postBuild: {substitute: {other: x}}}`,
		files: "-- one.yaml --\n" + cm("one") + "data: {region: '${region}'}\n",
		err:   `post build failed for 'ConfigMap.v1.[noGrp]/one': envsubst error: variable substitution failed: variable not set (strict mode): "region"`,
	}, {
		name:  "TestF46: a CRD is not substituted",
		spec:  `{postBuild: {substitute: {region: x}}}`,
		files: "-- crd.yaml --\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.b.c, annotations: {text: '${unknown}'}}\n",
		want:  []string{"CustomResourceDefinition/a.b.c"},
	}, {
		name:  "an encrypted Secret is not applied as it is",
		spec:  `{}`,
		files: "-- s.yaml --\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: a}\nsops: {mac: x}\n",
		err:   "Secret/a/s is SOPS encrypted, configuring decryption is required",
	}} {
		t.Run(test.name, func(t *testing.T) {
			b, err := build(t, kustomization(t, test.spec), tree(t, test.files))
			switch {
			case err != nil && (test.err == "" || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error %q, want %q", err, test.err)
			case err != nil && strings.Contains(err.Error(), os.TempDir()):
				t.Errorf("the error %q tells where this machine keeps its files", err)
			case err == nil && test.err != "":
				t.Errorf("no error, want %q", test.err)
			case err == nil:
				if diff := cmp.Diff(sorted(test.want), sorted(names(b))); diff != "" {
					t.Errorf("objects (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestA16_BuildStaysInside: nothing outside the source and nothing remote gets into a build.
func TestA16_BuildStaysInside(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(secret, []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stolen}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"relative path out":  "resources: [../../../../../../../../../../../" + secret + "]",
		"absolute path":      "resources: [" + secret + "]",
		"http resource":      "resources: ['http://127.0.0.1:1/x.yaml']",
		"git base":           "resources: ['https://example.com/a/b//c?ref=main']",
		"git over ssh":       "resources: ['git@example.com:a/b.git']",
		"github shorthand":   "resources: ['github.com/a/b/c']",
		"remote component":   "components: ['https://example.com/a/b//c?ref=main']",
		"remote patch":       "resources: [cm.yaml]\npatches: [{path: 'http://127.0.0.1:1/p.yaml'}]",
		"remote schema":      "resources: [cm.yaml]\nopenapi: {path: 'http://127.0.0.1:1/s.json'}",
		"remote file":        "configMapGenerator: [{name: a, files: ['http://127.0.0.1:1/f']}]",
		"file out of it":     "configMapGenerator: [{name: a, files: ['x=" + secret + "']}]",
		"helm chart":         "helmCharts: [{name: a, repo: 'http://127.0.0.1:1'}]",
		"exec plugin":        "generators: [gen.yaml]",
		"symlink out":        "resources: [link.yaml]",
		"remote, one deeper": "resources: [deeper]",
		"transformer":        "resources: [cm.yaml]\ntransformers: [transformer.yaml]",
		"generator":          "generators: [generator.yaml]",
		"inline transformer": "resources: [cm.yaml]\ntransformers: [\"apiVersion: builtin\\nkind: PatchTransformer\\nmetadata: {name: x}\\npath: http://127.0.0.1:1/p.yaml\\n\"]",
		"any user over ssh":  "resources: ['foo@127.0.0.1:org/repo']",
		"any user, by slash": "resources: ['foo@127.0.0.1/org/repo']",
		"host and path":      "resources: ['127.0.0.1:org/repo']",
		"git scheme":         "resources: ['git::127.0.0.1/org/repo']",
		"field in capitals":  "resources: [capitals]",
		"field in old type":  "resources: [longs]",
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, "-- app/kustomization.yaml --\n"+file+"\n-- app/cm.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"+
				"-- app/deeper/kustomization.yaml --\nresources: ['http://127.0.0.1:1/x.yaml']\n"+
				"-- app/capitals/kustomization.yaml --\nRESOURCES: ['http://127.0.0.1:1/x.yaml']\n"+
				"-- app/longs/kustomization.yaml --\nre\u017fources: ['http://127.0.0.1:1/x.yaml']\n"+
				"-- app/transformer.yaml --\napiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: http://127.0.0.1:1/p.yaml\n"+
				"-- app/generator.yaml --\napiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: x}\nfiles: ['a=http://127.0.0.1:1/f']\n"+
				"-- app/gen.yaml --\napiVersion: x/v1\nkind: Gen\nmetadata: {name: g, annotations: {config.kubernetes.io/function: \"exec: {path: /bin/true}\"}}\n")
			if err := os.Symlink(secret, filepath.Join(root.Dir(), "app", "link.yaml")); err != nil {
				t.Fatal(err)
			}
			b, err := build(t, kustomization(t, `{path: app}`), root)
			switch {
			case err == nil:
				t.Errorf("built %v", names(b))
			case strings.Contains(err.Error(), "connection refused"), strings.Contains(err.Error(), "git fetch"):
				t.Errorf("somebody was asked: %v", err)
			}
		})
	}
}

// TestA29_VariablesOfSecrets: an error about a value that came from a Secret does not quote it.
func TestA29_VariablesOfSecrets(t *testing.T) {
	secrets := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret"}}
	remember(secrets, map[string]string{"PASSWORD": "*hunter2canary"})
	for _, text := range []string{
		"envsubst error: YAMLToJSON: yaml: unknown anchor 'hunter2canary' referenced",
		"cannot parse *hunter2canary",
	} {
		if masked := object.MaskText(text, secrets); strings.Contains(masked, "hunter2") {
			t.Errorf("%q still tells the secret", masked)
		}
	}
}

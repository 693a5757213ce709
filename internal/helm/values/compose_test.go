package values_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

var update = flag.Bool("update", false, "write the golden files anew")

// objects are ConfigMaps and Secrets of the namespace demo: "kind/name" → key → value. Each read is counted.
type objects struct {
	data  map[string]map[string][]byte
	reads map[string]int
	err   error
}

func (o *objects) Data(_ context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
	name := kind + "/" + key.Name
	if o.reads == nil {
		o.reads = map[string]int{}
	}
	o.reads[name]++
	if o.err != nil {
		return nil, o.err
	}
	data, ok := o.data[name]
	if !ok || key.Namespace != "demo" {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: strings.ToLower(kind) + "s"}, key.Name)
	}
	return data, nil
}

func object(name, key, value string) *objects {
	return &objects{data: map[string]map[string][]byte{name: {key: []byte(value)}}}
}

// TestCompose runs the golden files of testdata/compose: what is inline (inline.yaml), the references (refs.yaml) and the
// objects, as files Kind/name/key, against the values that come of them and their digest, or the error. The first line of
// each says what it shows.
func TestCompose(t *testing.T) {
	files, err := filepath.Glob("testdata/compose/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := composeArchive(t, archive)
			want := section(archive, "want")
			if *update {
				replace(archive, "want", got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("composed (-want +got):\n%s", diff)
			}
		})
	}
}

func composeArchive(t *testing.T, archive *txtar.Archive) []byte {
	t.Helper()
	src := &objects{data: map[string]map[string][]byte{}}
	var refs []v2.ValuesReference
	for _, file := range archive.Files {
		parts := strings.Split(file.Name, "/")
		if len(parts) < 2 {
			continue
		}
		name := parts[0] + "/" + parts[1]
		if src.data[name] == nil {
			src.data[name] = map[string][]byte{}
		}
		if len(parts) == 3 {
			value := file.Data
			if parts[2] != "values.yaml" {
				value = bytes.TrimSuffix(value, []byte("\n")) // a single value; an archive has whole lines only
			}
			src.data[name][parts[2]] = value
		}
	}
	if err := yaml.UnmarshalStrict(section(archive, "refs.yaml"), &refs); err != nil {
		t.Fatal(err)
	}
	got, err := values.Compose(t.Context(), src, "demo", refs, inlineOf(t, section(archive, "inline.yaml")))
	for name, n := range src.reads {
		if n > 1 {
			t.Errorf("%s was read %d times", name, n)
		}
	}
	if err != nil {
		var fault *values.Error
		if !errors.As(err, &fault) {
			t.Fatalf("not a *values.Error: %v", err)
		}
		return fmt.Appendf(nil, "%s: %v\n", fault.Cause, err)
	}
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(text, "# %s\n", values.Digest(got))
}

func inlineOf(t testing.TB, text []byte) *apiextensionsv1.JSON {
	t.Helper()
	if len(text) == 0 {
		return nil
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return &apiextensionsv1.JSON{Raw: raw}
}

func section(archive *txtar.Archive, name string) []byte {
	for _, file := range archive.Files {
		if file.Name == name {
			return file.Data
		}
	}
	return nil
}

func replace(archive *txtar.Archive, name string, data []byte) {
	for i := range archive.Files {
		if archive.Files[i].Name == name {
			archive.Files[i].Data = data
			return
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: data})
}

// TestUnread: what cannot be read is neither missing nor a fault of the HelmRelease, optional or not.
func TestUnread(t *testing.T) {
	broken := errors.New("connection refused")
	for _, optional := range []bool{false, true} {
		src := &objects{err: broken}
		_, err := values.Compose(t.Context(), src, "demo", []v2.ValuesReference{{Kind: "Secret", Name: "a", Optional: optional}}, nil)
		var fault *values.Error
		if !errors.Is(err, broken) || errors.As(err, &fault) {
			t.Errorf("optional %t: %v is not the source's error", optional, err)
		}
	}
}

// TestNothing: no values are an empty map, not nil, and its digest is that of nothing.
func TestNothing(t *testing.T) {
	for _, inline := range []string{"", "null", "{}"} {
		got, err := values.Compose(t.Context(), &objects{}, "demo", nil, inlineOf(t, []byte(inline)))
		if err != nil || got == nil || len(got) != 0 {
			t.Errorf("inline %q: %v, %v", inline, got, err)
		}
	}
}

package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/cleat-dev/cleat/internal/image"
)

var platform = "linux/" + runtime.GOARCH

// shared is where the tests keep what they only read: a program takes a second to build.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "image-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		shared = filepath.Join(dir, "hello")
		if out, err := compile(shared).CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

// compile builds the program in testdata as the agent is built.
func compile(path string) *exec.Cmd {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	return build
}

func config(binary string) image.Config {
	return image.Config{
		Binary: binary, Program: "/usr/local/bin/hello", Args: []string{"world"}, Platform: platform,
		Env: []string{"LANG=C"}, Ports: []string{"80/tcp"}, Labels: map[string]string{"org.opencontainers.image.title": "hello"},
		Files: []image.File{
			{Path: "/etc/hello/greeting", Mode: 0o644, Content: []byte("hi\n")},
			{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		},
		Created: time.Unix(1_700_000_000, 999),
	}
}

func build(t *testing.T, c image.Config) v1.Image {
	t.Helper()
	img, err := image.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// entry is what a layer says of a file.
type entry struct {
	Mode     int64
	UID, GID int
	Time     int64
	Size     int64
}

// entries reads what is in the tarball of a layer, by name.
func entries(t *testing.T, l v1.Layer) map[string]entry {
	t.Helper()
	content, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	found := map[string]entry{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = entry{h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Size}
	}
}

func TestImageHoldsTheProgramAndItsFilesAndNothingElse(t *testing.T) {
	binary := shared
	layers, err := build(t, config(binary)).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 2 {
		t.Fatalf("the image has %d layers", len(layers))
	}
	size := fileSize(t, binary)
	dir := entry{Mode: 0o755}
	program := entries(t, layers[1])
	bill := program["usr/share/sbom/hello.spdx.json"]
	want := []map[string]entry{
		{"etc/": dir, "etc/hello/": dir, "etc/hello/greeting": {Mode: 0o644, Size: 3}, "tmp/": {Mode: 0o1777}},
		{
			"usr/": dir, "usr/local/": dir, "usr/local/bin/": dir, "usr/local/bin/hello": {Mode: 0o755, Size: size},
			"usr/share/": dir, "usr/share/sbom/": dir, "usr/share/sbom/hello.spdx.json": {Mode: 0o644, Size: bill.Size},
		},
	}
	if diff := cmp.Diff(want, []map[string]entry{entries(t, layers[0]), program}); diff != "" {
		t.Error(diff)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestImageSaysHowItIsRun(t *testing.T) {
	file, err := build(t, config(shared)).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		User: "65532:65532", Entrypoint: []string{"/usr/local/bin/hello"}, Cmd: []string{"world"}, WorkingDir: "/",
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, Labels: map[string]string{"org.opencontainers.image.title": "hello"},
	}
	if diff := cmp.Diff(want, file.Config); diff != "" {
		t.Error(diff)
	}
	if file.OS != "linux" || file.Architecture != runtime.GOARCH || file.Created.Unix() != 1_700_000_000 {
		t.Errorf("the image is of %s/%s, %s", file.OS, file.Architecture, file.Created)
	}
}

// TestSameInputSameDigest builds the program and the image twice, in two places and at two times.
func TestSameInputSameDigest(t *testing.T) {
	first, second := shared, filepath.Join(t.TempDir(), "again")
	if out, err := compile(second).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	later := time.Now().Add(-time.Hour)
	if err := os.Chtimes(second, later, later); err != nil {
		t.Fatal(err)
	}
	var archives [2]bytes.Buffer
	for i, binary := range []string{first, second} {
		if err := image.Save(&archives[i], "registry.test/hello:1", build(t, config(binary))); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two builds of the same differ")
	}
	other := config(first)
	other.Files[0].Content = []byte("ho\n")
	a, errA := build(t, config(first)).Digest()
	b, errB := build(t, other).Digest()
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("a build of something else has the same digest")
	}
}

// TestNewVersionIsOneLayerToPull because what is around the program is the same layer, whenever and for whom it is made.
func TestNewVersionIsOneLayerToPull(t *testing.T) {
	next := config(shared)
	next.Created, next.Version = next.Created.Add(time.Hour), "v2"
	var digests [2][]v1.Hash
	for i, c := range []image.Config{config(shared), next} {
		layers, err := build(t, c).Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			d, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			digests[i] = append(digests[i], d)
		}
	}
	if digests[0][0] != digests[1][0] || digests[0][1] == digests[1][1] {
		t.Errorf("the layers are %v, then %v", digests[0], digests[1])
	}
}

func TestProgramsThatCouldNotStartAreRefused(t *testing.T) {
	dynamic, err := os.Executable() // Tests run with -race, which links C.
	if err != nil {
		t.Fatal(err)
	}
	static := shared
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"amd64": "linux/arm64"}[runtime.GOARCH]
	if other == "" {
		other = "linux/amd64"
	}
	for _, test := range []struct{ name, binary, platform, want string }{
		{"of another processor", static, other, "and not for " + other},
		{"of another system", static, "windows/amd64", "no image can be made for windows/amd64"},
		{"a script", script, platform, "reading the program"},
		{"not there", script + "2", platform, "reading the program"},
		{"dynamic", dynamic, platform, "build it with CGO_ENABLED=0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "dynamic" && !race() {
				t.Skip("this test binary is linked statically; run it with -race")
			}
			c := config(test.binary)
			c.Platform = test.platform
			if _, err := image.Build(c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// unpack writes a tarball to a directory.
func unpack(t *testing.T, archive io.Reader) string {
	t.Helper()
	dir := t.TempDir()
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, 0o755)
		} else {
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSavedLayoutIsReadBack(t *testing.T) {
	img := build(t, config(shared))
	other := config(shared)
	other.Args = []string{"moon"}
	for _, test := range []struct {
		name   string
		images []v1.Image
	}{
		{"one platform", []v1.Image{img}},
		{"two", []v1.Image{img, build(t, other)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var archive bytes.Buffer
			if err := image.Save(&archive, "registry.test/hello:1", test.images...); err != nil {
				t.Fatal(err)
			}
			index, err := layout.ImageIndexFromPath(unpack(t, &archive))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				t.Error(err)
			}
			manifest, err := index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["io.containerd.image.name"] != "registry.test/hello:1" {
				t.Errorf("the layout has %v", manifest.Manifests)
			}
			if got := images(t, index); !slices.Equal(got, digests(t, test.images)) {
				t.Errorf("the layout holds %v", got)
			}
		})
	}
}

// images lists what an index holds, on whatever level.
func images(t *testing.T, index v1.ImageIndex) []v1.Hash {
	t.Helper()
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []v1.Hash
	for _, d := range manifest.Manifests {
		if !d.MediaType.IsIndex() {
			found = append(found, d.Digest)
			continue
		}
		nested, err := index.ImageIndex(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, images(t, nested)...)
	}
	return found
}

func digests(t *testing.T, of []v1.Image) []v1.Hash {
	t.Helper()
	var found []v1.Hash
	for _, img := range of {
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, d)
	}
	return found
}

func TestSavedForDockerIsReadBack(t *testing.T) {
	img := build(t, config(shared))
	path := filepath.Join(t.TempDir(), "hello.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(image.SaveDocker(file, "registry.test/hello:1", img), file.Close()); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("registry.test/hello:1")
	if err != nil {
		t.Fatal(err)
	}
	back, err := tarball.ImageFromPath(path, &tag)
	if err != nil {
		t.Fatal(err)
	}
	want, errWant := img.ConfigName()
	got, errGot := back.ConfigName()
	if err := errors.Join(errWant, errGot); err != nil || got != want {
		t.Errorf("the archive holds %v, want %v (%v)", got, want, err)
	}
}

// TestRootHasTheFilesOfTheLayers is what makes the Dockerfile's image the same as ours.
func TestRootHasTheFilesOfTheLayers(t *testing.T) {
	c := config(shared)
	root := t.TempDir()
	if err := image.WriteRoot(root, c); err != nil {
		t.Fatal(err)
	}
	layers, err := build(t, c).Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		if diff := cmp.Diff(entries(t, l), onDisk(t, filepath.Join(root, string('0'+rune(i))))); diff != "" {
			t.Errorf("layer %d: %s", i, diff)
		}
	}
}

func onDisk(t *testing.T, root string) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	err := filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		e := entry{Mode: int64(info.Mode().Perm()), Time: info.ModTime().Unix()}
		if info.Mode()&fs.ModeSticky != 0 {
			e.Mode |= 0o1000
		}
		if info.IsDir() {
			rel += "/"
		} else {
			e.Size = info.Size()
		}
		found[rel] = e
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// race says whether this test was built with the race detector.
func race() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// dockerImage names the image that `make image` has made, and the archive that `make image-oci` has made of the same commit.
func dockerImage(t *testing.T) (name, archive string) {
	t.Helper()
	name, archive = os.Getenv("CLEAT_IMAGE"), os.Getenv("CLEAT_ARCHIVE")
	if name == "" || archive == "" {
		t.Skip("CLEAT_IMAGE and CLEAT_ARCHIVE name no images to compare; `make image-same` makes them, where there is Docker")
	}
	return name, archive
}

// docker runs Docker's client and returns what it says.
func docker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), cmp.Or(os.Getenv("DOCKER"), "docker"), args...).CombinedOutput()
	return string(out), err
}

// TestDockerfileMakesTheSameImage compares every file, byte for byte, and what a runtime is told.
func TestDockerfileMakesTheSameImage(t *testing.T) {
	name, archive := dockerImage(t)
	saved := filepath.Join(t.TempDir(), "docker.tar")
	if out, err := docker(t, "save", "-o", saved, name); err != nil {
		t.Fatalf("saving %s: %v\n%s", name, err, out)
	}
	theirs, err := tarball.ImageFromPath(saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	ours := onlyImage(t, archive)
	if diff := gocmp.Diff(layers(t, ours), layers(t, theirs)); diff != "" {
		t.Errorf("the files differ (-make image-oci +Dockerfile):\n%s", diff)
	}
	if diff := gocmp.Diff(config(t, ours), config(t, theirs)); diff != "" {
		t.Errorf("the configurations differ (-make image-oci +Dockerfile):\n%s", diff)
	}
}

// TestDockerfileImageRuns starts it as the manifests do: on a read-only root, without capabilities.
func TestDockerfileImageRuns(t *testing.T) {
	name, _ := dockerImage(t)
	out, err := docker(t, "run", "--rm", "--read-only", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges", name, "version")
	_, version, _ := strings.Cut(name, ":")
	if err != nil || !strings.Contains(out, "cleat: "+version) {
		t.Errorf("cleat version: %v\n%s", err, out)
	}
	if out, err := docker(t, "run", "--rm", "--network=none", "--entrypoint=/bin/sh", name, "-c", "true"); err == nil {
		t.Errorf("a shell runs in the image\n%s", out)
	}
}

// file is what a layer says of a file.
type file struct {
	Mode     int64
	UID, GID int
	Time     int64
	Sum      string
}

// layers reads the files of each layer, by name.
func layers(t *testing.T, img v1.Image) []map[string]file {
	t.Helper()
	all, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var found []map[string]file
	for _, l := range all {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, list(t, content))
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func list(t *testing.T, content io.Reader) map[string]file {
	t.Helper()
	found := map[string]file{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		// Older Dockers write what kind of file it is into the mode too, where nobody reads it.
		found[h.Name] = file{h.Mode & 0o7777, h.Uid, h.Gid, h.ModTime.Unix(), hex.EncodeToString(sum.Sum(nil))}
	}
}

// config is what a runtime is told.
func config(t *testing.T, img v1.Image) v1.Config {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return f.Config
}

// onlyImage reads the one image of an archive of a layout.
func onlyImage(t *testing.T, archive string) v1.Image {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", archive, err, bytes.TrimSpace(out))
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%s holds %d images; compare one platform", archive, len(manifest.Manifests))
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

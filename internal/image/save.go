package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Save writes images of one program, one for each platform, as the tarball of an OCI layout. `ctr -n k8s.io images import`,
// `docker load` since Docker 25, `podman load`, skopeo and crane read it. ref is the name that they give it.
func Save(w io.Writer, ref string, images ...v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("reading the name %q: %w", ref, err)
	}
	top, blobs, err := layout(tag, images)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	files := map[string]source{
		"oci-layout": bytesSource([]byte(`{"imageLayoutVersion":"1.0.0"}`)),
		"index.json": bytesSource(top),
	}
	for digest, b := range blobs {
		files["blobs/"+digest.Algorithm+"/"+digest.Hex] = b
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := files[path].writeTar(out, path); err != nil {
			return fmt.Errorf("writing %s of %s: %w", path, ref, err)
		}
	}
	return out.Close()
}

// SaveDocker writes one image as `docker save` does, for a `docker load` that is older than Docker 25.
func SaveDocker(w io.Writer, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("reading the name %q: %w", ref, err)
	}
	return tarball.Write(tag, img, w)
}

// source is something to be written to the tarball.
type source struct {
	size int64
	open func() (io.ReadCloser, error)
}

func bytesSource(b []byte) source {
	return source{int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func (s source) writeTar(out *tar.Writer, path string) error {
	content, err := s.open()
	if err != nil {
		return err
	}
	defer content.Close()
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644, Size: s.size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return err
}

// layout returns index.json and the blobs. Images of several platforms are gathered in an index of their own, which is what a
// registry would hold under the name.
func layout(tag name.Tag, images []v1.Image) ([]byte, map[v1.Hash]source, error) {
	blobs := map[v1.Hash]source{}
	of := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		platform, err := addBlobs(blobs, img)
		if err != nil {
			return nil, nil, err
		}
		of = mutate.AppendManifests(of, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	only := mutate.IndexAddendum{Add: of}
	if len(images) == 1 {
		only.Add = images[0]
	} else if err := addIndex(blobs, of); err != nil {
		return nil, nil, err
	}
	only.Descriptor.Annotations = map[string]string{
		"io.containerd.image.name":          tag.Name(),
		"org.opencontainers.image.ref.name": tag.TagStr(),
	}
	top, err := mutate.AppendManifests(empty.Index, only).RawManifest()
	return top, blobs, err
}

func addIndex(blobs map[v1.Hash]source, index v1.ImageIndex) error {
	raw, err := index.RawManifest()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	blobs[digest] = bytesSource(raw)
	return err
}

// addBlobs adds the manifest, the configuration and the layers of an image, and says what it is for.
func addBlobs(blobs map[v1.Hash]source, img v1.Image) (*v1.Platform, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for i, l := range layers {
		blobs[manifest.Layers[i].Digest] = source{manifest.Layers[i].Size, l.Compressed}
	}
	if err := addMetadata(blobs, img, manifest.Config.Digest); err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return file.Platform(), nil
}

func addMetadata(blobs map[v1.Hash]source, img v1.Image, configDigest v1.Hash) error {
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	blobs[digest], blobs[configDigest] = bytesSource(raw), bytesSource(config)
	return err
}

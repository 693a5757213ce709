package oci

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// errLayer: the artifact does not hold what spec.layerSelector asks for.
var errLayer = errors.New("no such layer")

// platform is the one that is taken of an artifact for several; content for a cluster's API has none.
const platformOS, platformArchitecture = "linux", "amd64"

// image returns the manifest that a digest stands for; of an index it is that of the platform, or the only one.
func (s *session) image(ctx context.Context, d descriptor) (*v1.Manifest, error) {
	for depth := 0; depth < 2; depth++ {
		text, err := s.manifest(ctx, d.Digest)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest %s: %w", d.Digest, err)
		}
		if !d.MediaType.IsIndex() {
			m, err := v1.ParseManifest(bytes.NewReader(text))
			if err != nil {
				return nil, fmt.Errorf("%w: the manifest %s cannot be read", errLayer, d.Digest)
			}
			return m, nil
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%w: the index %s cannot be read", errLayer, d.Digest)
		}
		if d, err = choose(index.Manifests); err != nil {
			return nil, fmt.Errorf("%w: the index %s %w", errLayer, d.Digest, err)
		}
	}
	return nil, fmt.Errorf("%w: indexes name indexes", errLayer)
}

func choose(manifests []v1.Descriptor) (descriptor, error) {
	if len(manifests) == 1 {
		return described(manifests[0]), nil
	}
	for _, m := range manifests {
		if p := m.Platform; p != nil && p.OS == platformOS && p.Architecture == platformArchitecture {
			return described(m), nil
		}
	}
	return descriptor{}, fmt.Errorf("names %d manifests and none for %s/%s", len(manifests), platformOS, platformArchitecture)
}

func described(d v1.Descriptor) descriptor {
	return descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size}
}

// selectLayer returns the first layer of the media type, or the first of all where none is asked for. It is source.ErrLimit
// when that has more than most bytes.
func selectLayer(m *v1.Manifest, mediaType string, most int64) (v1.Descriptor, error) {
	for _, l := range m.Layers {
		if mediaType == "" || l.MediaType == types.MediaType(mediaType) {
			if l.Size < 0 || l.Size > most {
				return l, fmt.Errorf("%w: a layer has %d bytes, at most %d are stored (--artifact-max-size)", source.ErrLimit, l.Size, most)
			}
			return l, nil
		}
	}
	if mediaType == "" {
		return v1.Descriptor{}, fmt.Errorf("%w: the artifact has no layers", errLayer)
	}
	return v1.Descriptor{}, fmt.Errorf("%w: the artifact has no layer of spec.layerSelector.mediaType %q", errLayer, mediaType)
}

// pull downloads a layer into a file that is removed by the returned function. Nothing reads it before its digest is known
// to be right.
func (o *repositories) pull(ctx context.Context, s *session, layer v1.Descriptor) (_ *os.File, remove func(), err error) {
	dir, err := o.store.TempDir("layer-")
	if err != nil {
		return nil, nil, &writeError{fmt.Errorf("downloading a layer: %w", err)}
	}
	f, err := os.OpenFile(filepath.Join(dir, "layer"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, &writeError{errors.Join(fmt.Errorf("downloading a layer: %w", err), os.RemoveAll(dir))}
	}
	remove = func() {
		f.Close()
		_ = os.RemoveAll(dir) // what cannot be removed now is swept when the store is opened next
	}
	if err := s.download(ctx, layer, f); err != nil {
		remove()
		return nil, nil, fmt.Errorf("downloading the layer %s: %w", layer.Digest, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		remove()
		return nil, nil, &writeError{fmt.Errorf("downloading a layer: %w", err)}
	}
	return f, remove, nil
}

// publishLayer makes the layer the object's artifact: as it is, or unpacked and packed again without what is ignored.
func (o *repositories) publishLayer(a *attempt, layer io.Reader) (*meta.Artifact, error) {
	if a.obj.GetLayerOperation() == sourcev1.OCILayerCopy {
		return a.PublishFile(o.store, a.file(), a.revision, layer)
	}
	w, err := o.store.NewWriter()
	if err != nil {
		return nil, source.StoreFault(err)
	}
	defer w.Close()
	snapshot, err := unpack(w, layer, a.obj.Spec.Ignore)
	if err != nil {
		return nil, source.StoreFault(fmt.Errorf("unpacking the layer: %w", err))
	}
	return a.Publish(o.store, a.file(), a.revision, snapshot)
}

func unpack(w *artifact.Writer, layer io.Reader, spec *string) (*artifact.Snapshot, error) {
	if err := addTar(w, layer); err != nil {
		return nil, err
	}
	var ignore source.Ignore
	for _, name := range w.Staged() {
		if path.Base(name) != source.IgnoreFile {
			continue
		}
		text, err := readIgnore(w, name)
		if err != nil {
			return nil, err
		}
		dir := path.Dir(name)
		if dir == "." {
			dir = ""
		}
		if err := ignore.Add(dir, text); err != nil {
			return nil, err
		}
	}
	if err := w.Settle(ignore.Matcher(spec).Ignores); err != nil {
		return nil, err
	}
	return w.Commit()
}

// addTar unpacks a tarball, which the media type of its layer says too little of: the bytes tell how it is compressed.
func addTar(w *artifact.Writer, layer io.Reader) error {
	in := bufio.NewReader(layer)
	begin, _ := in.Peek(4) // an error comes again with the read that follows
	switch {
	case len(begin) == 0:
		return errors.New("it is empty")
	case bytes.HasPrefix(begin, []byte{0x1f, 0x8b}):
		return w.AddTar(in)
	case bytes.HasPrefix(begin, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return errors.New("it is compressed by zstd, which is not understood here; push it with gzip, or without compression")
	}
	return w.AddPlainTar(in)
}

func readIgnore(w *artifact.Writer, name string) (string, error) {
	f, err := w.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, source.MaxIgnoreBytes+1))
	return string(text), err
}

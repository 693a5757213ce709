package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is a file or directory of an image. It belongs to root, so that the program cannot write what it was shipped with.
type File struct {
	Path    string      // absolute, in the image
	Mode    fs.FileMode // fs.ModeDir and fs.ModeSticky are heeded beside the permissions
	Content []byte
	Source  string // a file of this machine that holds the content, when not empty
}

// epoch is the time of every file, whatever the version: files that are the same make the same layer, which a node then has
// already. BuildKit takes the time for no difference either, and would leave that of an older build.
func epoch() time.Time { return time.Unix(0, 0).UTC() }

// layer is what changes together.
type layer struct {
	what  string // for the history of the image
	files []File // sorted by path, every directory before what is in it
}

// layers are what the image consists of, the lowest first.
func (c Config) layers() ([]layer, error) {
	if err := checkStatic(c.Binary, c.Platform); err != nil {
		return nil, err
	}
	bill, err := c.bill()
	if err != nil {
		return nil, err
	}
	program := []File{
		{Path: c.Program, Mode: 0o755, Source: c.Binary},
		{Path: "/usr/share/sbom/" + c.name() + ".spdx.json", Mode: 0o644, Content: bill},
	}
	found := []layer{{what: c.name() + " and its bill of materials", files: withParents(program)}}
	if len(c.Files) > 0 {
		found = append([]layer{{what: "the files around " + c.name(), files: withParents(c.Files)}}, found...)
	}
	return found, nil
}

// withParents adds the directories that files are in, and sorts.
func withParents(files []File) []File {
	named := map[string]File{}
	for _, f := range files {
		f.Path = path.Clean(f.Path)
		named[f.Path] = f
	}
	for _, f := range files {
		for dir := path.Dir(path.Clean(f.Path)); dir != "/" && dir != "."; dir = path.Dir(dir) {
			if _, ok := named[dir]; !ok {
				named[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			}
		}
	}
	sorted := make([]File, 0, len(named))
	for _, f := range named {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return sorted
}

// pack compresses the layer once and keeps it, because its digest, its size and its bytes are all asked for.
func (l layer) pack() (v1.Layer, error) {
	open := func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(l.writeTar(w)) }() // Ends with the pipe: whoever opens it reads or closes it.
		return r, nil
	}
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer),
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
}

func (l layer) writeTar(w io.Writer) error {
	out := tar.NewWriter(w)
	for _, f := range l.files {
		if err := f.writeTar(out); err != nil {
			return fmt.Errorf("packing %s: %w", f.Path, err)
		}
	}
	return out.Close()
}

func (f File) writeTar(out *tar.Writer) error {
	content, size, err := f.open()
	if err != nil {
		return err
	}
	defer content.Close()
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: f.unixMode(), Size: size, ModTime: epoch(), Format: tar.FormatPAX,
	}
	if f.Mode.IsDir() {
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return err
}

// unixMode has the sticky bit where Unix has it, and not where Go does.
func (f File) unixMode() int64 {
	mode := int64(f.Mode.Perm())
	if f.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}

func (f File) open() (io.ReadCloser, int64, error) {
	if f.Source == "" {
		return io.NopCloser(bytes.NewReader(f.Content)), int64(len(f.Content)), nil
	}
	file, err := os.Open(f.Source)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

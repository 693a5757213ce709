package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// WriteRoot writes the layers to dir, each to a directory of its own: dir/0 is the lowest. The Dockerfile copies them from
// there, so that an image that Docker builds has the files, modes and times of one that Build makes.
func WriteRoot(dir string, c Config) error {
	layers, err := c.layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		if err := l.writeDir(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return fmt.Errorf("writing %s: %w", l.what, err)
		}
	}
	return nil
}

func (l layer) writeDir(root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	for _, f := range l.files {
		if err := f.write(filepath.Join(root, filepath.FromSlash(f.Path))); err != nil {
			return err
		}
	}
	// Only now: a directory is changed by what is written into it.
	for _, f := range append([]File{{Path: "/"}}, l.files...) {
		if err := os.Chtimes(filepath.Join(root, filepath.FromSlash(f.Path)), epoch(), epoch()); err != nil {
			return err
		}
	}
	return nil
}

// write sets the mode apart from creating the file, because the umask applies to that.
func (f File) write(path string) error {
	if f.Mode.IsDir() {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		return os.Chmod(path, f.Mode)
	}
	content, _, err := f.open()
	if err != nil {
		return err
	}
	defer content.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode.Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, content); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chmod(path, f.Mode)
}

package artifact

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fluxcd/pkg/apis/meta"
)

// PublishFile makes the bytes that content yields the object's artifact as they are: a chart, an index, a layer, somebody
// else's tarball. The digest is that of the bytes. Acquire unpacks them when they are a tarball, OpenFile reads them. It is
// ErrLimit when there are more of them than one source may store; on an error what was published before still is.
func (s *Store) PublishFile(o Object, file, revision string, content io.Reader) (_ *meta.Artifact, err error) {
	dir, err := s.TempDir("file-")
	if err != nil {
		return nil, fmt.Errorf("storing a file: %w", err)
	}
	defer func() {
		os.RemoveAll(dir) // the published name is another link to the file
		if IsFull(err) {
			s.makeRoom()
		}
	}()
	name := filepath.Join(dir, "content")
	p, err := s.receive(name, content)
	if err != nil {
		return nil, fmt.Errorf("storing a file: %w", err)
	}
	return s.publish(o, file, revision, name, p)
}

// receive writes content to a file and flushes it to disk.
func (s *Store) receive(name string, content io.Reader) (p public, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return public{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := &meter{w: f, sum: sha256.New()}
	if _, err := io.Copy(out, io.LimitReader(content, s.limits.Bytes+1)); err != nil {
		return public{}, err
	}
	if out.n > s.limits.Bytes {
		return public{}, fmt.Errorf("%w: the file is larger than %d bytes", ErrLimit, s.limits.Bytes)
	}
	return public{out.digest(), out.n}, f.Sync()
}

// PublishStored makes bytes that the store has already the object's artifact, under whatever other name they were
// published; nothing is copied. The error is ErrNotFound when it does not have them. It is for those who know the digest
// because they had the content written, or have seen to it that the object may have what others published, see HasIn.
func (s *Store) PublishStored(o Object, file, revision, digest string) (*meta.Artifact, error) {
	// A link of our own keeps the bytes while the name we found them by may be collected.
	dir, err := s.TempDir("file-")
	if err != nil {
		return nil, fmt.Errorf("storing a file: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "content")
	found, p := s.lookUp(digest)
	if found == "" {
		return nil, fmt.Errorf("digest %q: %w", digest, ErrNotFound)
	}
	if err := os.Link(filepath.Join(s.dir, filepath.FromSlash(found)), name); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", digest, ErrNotFound, err)
	}
	return s.publish(o, file, revision, name, p)
}

// OpenFile opens the bytes of a digest that are published for the object; they can be read to the end whatever is removed
// meanwhile. The error is ErrNotFound when the object has none. Like Acquire it may be asked with a digest from a status.
func (s *Store) OpenFile(o Object, digest string) (*os.File, error) {
	if !s.Has(o, digest) {
		return nil, fmt.Errorf("digest %q of %s %s/%s: %w", digest, o.Kind, o.Namespace, o.Name, ErrNotFound)
	}
	return s.OpenWritten(digest)
}

// OpenWritten does the same with what anybody has published, for those who know the digest because they had the content
// written.
func (s *Store) OpenWritten(digest string) (*os.File, error) {
	found, _ := s.lookUp(digest)
	if found == "" {
		return nil, fmt.Errorf("digest %q: %w", digest, ErrNotFound)
	}
	f, err := s.root.Open(found)
	if err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", digest, ErrNotFound, err)
	}
	return f, nil
}

// lookUp returns a path under which the digest is published, or "".
func (s *Store) lookUp(digest string) (string, public) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.published {
		if p.digest == digest {
			return name, p
		}
	}
	return "", public{}
}

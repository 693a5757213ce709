package artifact

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The names under which Flux serves what it stores. The link to the newest of an object has a fixed name.
const (
	tarballSuffix = ".tar.gz"
	chartSuffix   = ".tgz"
	indexSuffix   = ".yaml"
	latestTarball = "latest" + tarballSuffix
	latestIndex   = "index" + indexSuffix
)

// latest returns the path of the link beside an artifact that points to the newest of its object.
func latest(name string) string {
	if path.Ext(name) == indexSuffix {
		return path.Join(path.Dir(name), latestIndex)
	}
	return path.Join(path.Dir(name), latestTarball)
}

func isArtifact(name string) bool {
	return strings.HasSuffix(name, tarballSuffix) || strings.HasSuffix(name, chartSuffix) || strings.HasSuffix(name, indexSuffix)
}

// Object names the Kubernetes object whose artifact is published.
type Object struct{ Kind, Namespace, Name string }

// dir is not cleaned: a name that leads elsewhere is that of no object, and what is done with it fails.
func (o Object) dir() string { return strings.ToLower(o.Kind) + "/" + o.Namespace + "/" + o.Name }

// Publish makes the snapshot the object's artifact: its tarball gets a name (file, such as <sha>.tar.gz) in the object's
// directory and latest.tar.gz points to it. The snapshot must be pinned. On an error what was published before still is.
func (s *Store) Publish(o Object, file, revision string, snapshot *Snapshot) (*meta.Artifact, error) {
	tarball := filepath.Join(s.snapshotDir(snapshot.Digest), tarballName)
	return s.publish(o, file, revision, tarball, public{snapshot.Digest, snapshot.Size})
}

// publish gives the bytes of a file below the storage directory a public name, tells the subscribers, and returns the
// artifact for the status.
func (s *Store) publish(o Object, file, revision, from string, p public) (*meta.Artifact, error) {
	name := path.Join(o.dir(), file)
	if path.Dir(name) != o.dir() || strings.Count(name, "/") != 3 || CheckPath(name) != nil || strings.HasPrefix(file, ".") ||
		!isArtifact(name) || name == latest(name) {
		return nil, fmt.Errorf("publishing %s %s/%s: %w: %q", o.Kind, o.Namespace, o.Name, ErrPath, name)
	}
	subscribers, err := s.link(name, from, p)
	if err != nil {
		return nil, fmt.Errorf("publishing %s: %w", name, err)
	}
	for _, f := range subscribers {
		f(p.digest)
	}
	return &meta.Artifact{
		Digest: p.digest, Path: name, URL: s.URL(name), Revision: revision,
		LastUpdateTime: metav1.NewTime(s.now().UTC().Truncate(1e9)), Size: &p.size,
	}, nil
}

// URL returns where Handler serves a path of the storage.
func (s *Store) URL(name string) string { return "http://" + s.address + "/" + name }

func (s *Store) added(name string, p public) []func(string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published[name] = p
	return slices.Clone(s.subscribers)
}

// link links a file to its public name, and the public "latest" to that. Both names change by a rename, so a reader finds
// the old or the new file and never a part of one.
func (s *Store) link(name, from string, p public) ([]func(string), error) {
	s.names.Lock()
	defer s.names.Unlock()
	dir := filepath.Join(s.dir, filepath.FromSlash(path.Dir(name)))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	// The age that retention counts is that of the publication, not that of the bytes.
	now := s.now()
	if err := os.Chtimes(from, now, now); err != nil {
		return nil, err
	}
	if err := s.replace(filepath.Join(dir, path.Base(name)), func(tmp string) error { return os.Link(from, tmp) }); err != nil {
		return nil, err
	}
	point := func(tmp string) error { return os.Symlink(path.Base(name), tmp) }
	if err := s.replace(filepath.Join(dir, path.Base(latest(name))), point); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return s.added(name, p), nil
}

// replace gives a new file or link the name by a rename.
func (s *Store) replace(name string, create func(tmp string) error) error {
	dir, err := s.TempDir("name-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "new")
	if err := create(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// Has reports whether the digest is one that is published for the object.
func (s *Store) Has(o Object, digest string) bool { return s.has(o.dir()+"/", digest) }

// HasIn reports whether the digest is one that is published for any object of the namespace, where everybody may read it.
func (s *Store) HasIn(namespace, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.published {
		if parts := strings.SplitN(name, "/", 3); p.digest == digest && parts[1] == namespace {
			return true
		}
	}
	return false
}

// has looks among the artifacts below a directory.
func (s *Store) has(dir, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.published {
		if p.digest == digest && strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

// Holds reports whether the artifact of the object's status can still be downloaded. After a restart with an empty volume it
// cannot; nor is it held when what the status names is another object's.
func (s *Store) Holds(o Object, a *meta.Artifact) bool {
	if a == nil || path.Dir(a.Path) != o.dir() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, known := s.published[a.Path]
	if !known || p.digest != a.Digest {
		return false
	}
	info, err := s.root.Stat(a.Path)
	return err == nil && info.Size() == p.size
}

// IsLatest reports whether file, with that digest, is the newest artifact of the object, which is never collected, and can
// still be downloaded.
func (s *Store) IsLatest(o Object, file, digest string) bool {
	name := path.Join(o.dir(), file)
	current, err := s.root.Readlink(latest(name))
	return err == nil && path.Base(current) == file && s.Holds(o, &meta.Artifact{Path: name, Digest: digest})
}

// Objects lists every object of a kind that has artifacts in the storage, so that those of objects deleted while no agent
// ran can be removed.
func (s *Store) Objects(kind string) []Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[Object]bool{}
	for name := range s.published {
		if parts := strings.Split(name, "/"); parts[0] == strings.ToLower(kind) {
			found[Object{Kind: kind, Namespace: parts[1], Name: parts[2]}] = true
		}
	}
	var objects []Object
	for o := range found {
		objects = append(objects, o)
	}
	slices.SortFunc(objects, func(a, b Object) int { return strings.Compare(a.dir(), b.dir()) })
	return objects
}

// Remove removes all that is published for an object. Snapshots that are being read stay until they are released.
func (s *Store) Remove(o Object) error {
	if err := CheckPath(o.dir()); err != nil {
		return err
	}
	if err := s.removeDir(o.dir()); err != nil {
		return fmt.Errorf("removing the artifacts of %s %s/%s: %w", o.Kind, o.Namespace, o.Name, err)
	}
	return s.collectSnapshots()
}

func (s *Store) removeDir(dir string) error {
	s.names.Lock()
	defer s.names.Unlock()
	s.mu.Lock()
	for name := range s.published {
		if path.Dir(name) == dir {
			delete(s.published, name)
		}
	}
	s.mu.Unlock()
	return s.root.RemoveAll(filepath.FromSlash(dir))
}

// loadPublished finds the artifacts on the volume, ours and Flux's, and computes their digests.
func (s *Store) loadPublished() error {
	return fs.WalkDir(s.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir // ours, or lost+found's kind: not a kind of object
		case d.IsDir() && strings.Count(name, "/") >= 3:
			return fs.SkipDir // deeper than any artifact
		case !d.Type().IsRegular() || strings.Count(name, "/") != 3 || !isArtifact(name):
			return nil // a directory on the way, a link, or a file that nobody calls an artifact
		}
		p, err := digestOf(s.root, name)
		if errors.Is(err, fs.ErrPermission) {
			return nil // somebody else's file; it is neither served nor removed
		}
		s.published[name] = p
		return err
	})
}

func digestOf(root *os.Root, name string) (public, error) {
	f, err := root.Open(name)
	if err != nil {
		return public{}, err
	}
	defer f.Close()
	out := &meter{w: io.Discard, sum: sha256.New()}
	if _, err := io.Copy(out, f); err != nil {
		return public{}, err
	}
	return public{out.digest(), out.n}, nil
}

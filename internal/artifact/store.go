package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

const (
	ownDir       = ".cleat"
	treeName     = "tree"
	tarballName  = "artifact.tar.gz"
	manifestName = "manifest.json"
)

// ErrNotFound says that the store holds neither a snapshot nor a tarball of that digest. Its source must be fetched again.
var ErrNotFound = errors.New("not in the artifact storage")

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Options of a store.
type Options struct {
	// Dir is the storage directory, on one file system. One process uses it at a time.
	Dir string
	// Address is the host, and port unless it is 80, under which Handler is reached from inside the cluster.
	Address string
	// Limits of a snapshot; the zero value means DefaultLimits.
	Limits Limits
	// RetentionTTL and RetentionRecords say how long and how many superseded tarballs of an object stay downloadable.
	// Zero values mean Flux's defaults, 60 s and 2.
	RetentionTTL     time.Duration
	RetentionRecords int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Store is the content-addressed store. All its methods may be called concurrently.
type Store struct {
	dir     string
	address string
	limits  Limits
	ttl     time.Duration
	records int
	now     func() time.Time
	root    *os.Root

	names sync.Mutex // held while public names change on disk; taken before mu

	mu          sync.Mutex
	snapshots   map[string]*entry   // by digest
	published   map[string]public   // by path below dir
	building    map[string]struct{} // digests being rebuilt from a tarball
	dirs        map[string]int64    // name given to Dir → bytes in it when they were last counted
	built       *sync.Cond          // on mu: building has shrunk
	subscribers []func(digest string)
}

// entry is a snapshot and the number of those who must not lose it. It exists exactly as long as its directory.
type entry struct {
	snapshot *Snapshot
	pins     int
}

// public is what is known of a published file.
type public struct {
	digest string
	size   int64
}

// manifest is manifest.json: what cannot be told from the tree without reading all of it.
type manifest struct {
	Size  int64           `json:"size"`  // of the tarball
	Bytes int64           `json:"bytes"` // of all files
	Files map[string]File `json:"files"`
}

// Open opens the store, sweeps what an earlier process left half-written, and reads the tarballs that are there (their
// digests are computed, about 0.5 s per GiB).
func Open(o Options) (*Store, error) {
	s := &Store{
		dir: o.Dir, address: o.Address, limits: o.Limits, ttl: o.RetentionTTL, records: o.RetentionRecords, now: o.Now,
		snapshots: map[string]*entry{}, published: map[string]public{}, building: map[string]struct{}{},
		dirs: map[string]int64{},
	}
	s.built = sync.NewCond(&s.mu)
	if s.limits == (Limits{}) {
		s.limits = DefaultLimits
	}
	if s.ttl == 0 {
		s.ttl = 60 * time.Second
	}
	if s.records == 0 {
		s.records = 2
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("opening the artifact storage %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := os.RemoveAll(s.tmp()); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(s.tmp(), 0o700), os.MkdirAll(s.snapshotDir(""), 0o755)); err != nil {
		return err
	}
	if err := s.forgetAfterBoot(); err != nil {
		return err
	}
	if s.root, err = os.OpenRoot(s.dir); err != nil {
		return err
	}
	if err := s.loadPublished(); err != nil {
		return err
	}
	return s.loadSnapshots()
}

// forgetAfterBoot drops all trees when the machine has started anew since they were written. The files of a tree are not
// flushed one by one, because that costs more than writing them; after a power failure they may be empty, and the
// tarballs, which are flushed, give them back.
func (s *Store) forgetAfterBoot() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		id = nil // not Linux: nothing is known about the machine, so the trees are always dropped
	}
	mark := filepath.Join(s.dir, ownDir, "boot")
	if last, err := os.ReadFile(mark); err == nil && id != nil && string(last) == string(id) {
		return nil
	}
	if err := os.RemoveAll(s.snapshotDir("")); err != nil {
		return err
	}
	if err := os.MkdirAll(s.snapshotDir(""), 0o755); err != nil {
		return err
	}
	return os.WriteFile(mark, id, 0o600)
}

func (s *Store) loadSnapshots() error {
	found, err := os.ReadDir(s.snapshotDir(""))
	if err != nil {
		return err
	}
	for _, d := range found {
		digest := "sha256:" + d.Name()
		var m manifest
		data, err := os.ReadFile(filepath.Join(s.snapshotDir(digest), manifestName))
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil || !digestPattern.MatchString(digest) {
			// The tree is a cache; what cannot be read is built again from its tarball.
			if err := os.RemoveAll(filepath.Join(s.snapshotDir(""), d.Name())); err != nil {
				return err
			}
			continue
		}
		s.snapshots[digest] = &entry{snapshot: &Snapshot{
			Digest: digest, Size: m.Size, dir: s.treeDir(digest), files: m.Files, bytes: m.Bytes,
		}}
	}
	return nil
}

// Dir returns a directory below the storage for another package's own durable files, made if need be. Nothing in it is
// ever touched by the store; what it holds is counted in the metrics under its name.
func (s *Store) Dir(name string) (string, error) {
	s.mu.Lock()
	s.dirs[name] += 0
	s.mu.Unlock()
	dir := filepath.Join(s.dir, ownDir, name)
	return dir, os.MkdirAll(dir, 0o700)
}

// TempDir makes a directory that is swept when the store is opened next; the caller removes it when it is done.
func (s *Store) TempDir(prefix string) (string, error) { return os.MkdirTemp(s.tmp(), prefix) }

func (s *Store) tmp() string { return filepath.Join(s.dir, ownDir, "tmp") }

// snapshotDir returns the directory of a digest, or that of all snapshots for "".
func (s *Store) snapshotDir(digest string) string {
	if digest == "" {
		return filepath.Join(s.dir, ownDir, "snapshots")
	}
	return filepath.Join(s.dir, ownDir, "snapshots", digest[len("sha256:"):])
}

func (s *Store) treeDir(digest string) string { return filepath.Join(s.snapshotDir(digest), treeName) }

// Subscribe makes f be called with each digest that becomes available by Publish, after it can be acquired. The calls come
// on the publisher's goroutine: f must not block; it wakes whoever waits for the digest. Subscribe before the first Publish.
func (s *Store) Subscribe(f func(digest string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = append(s.subscribers, f)
}

// Acquire returns the snapshot of a digest that is published for the object, and a function that must be called when it is no
// longer read; until then nothing removes it. A snapshot that has no directory is made from a published tarball of that
// digest. The error is ErrNotFound when the object has none, and another one when what was published cannot be unpacked: to
// fetch it again would not help.
//
// The digest may come from a status: what others have published is not found by it. Whoever may write the status of one object
// would otherwise read what is in any namespace, if only he knew, or guessed, its digest.
func (s *Store) Acquire(o Object, digest string) (*Snapshot, func(), error) {
	if !s.Has(o, digest) {
		return nil, nil, fmt.Errorf("digest %q of %s %s/%s: %w", digest, o.Kind, o.Namespace, o.Name, ErrNotFound)
	}
	return s.AcquireWritten(digest)
}

// AcquireWritten does the same with a snapshot that anybody has published or holds. It is for those who know the digest because
// they had the content written, and not from what somebody says.
func (s *Store) AcquireWritten(digest string) (*Snapshot, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if e, ok := s.snapshots[digest]; ok {
			if err := s.pin(e); err != nil {
				return nil, nil, fmt.Errorf("opening snapshot %s: %w", digest, err)
			}
			return e.snapshot, sync.OnceFunc(func() { s.release(e) }), nil
		}
		name := s.tarballOf(digest)
		if name == "" {
			return nil, nil, fmt.Errorf("digest %q: %w", digest, ErrNotFound)
		}
		if _, busy := s.building[digest]; busy {
			s.built.Wait()
			continue
		}
		s.building[digest] = struct{}{}
		s.mu.Unlock()
		w, err := s.rebuild(digest, name)
		s.mu.Lock()
		delete(s.building, digest)
		s.built.Broadcast()
		if errors.Is(err, errDamaged) {
			// A file that is no longer what was published is as good as none: the source writes it anew.
			delete(s.published, name)
			return nil, nil, fmt.Errorf("digest %q: %w: %w", digest, ErrNotFound, err)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("digest %q: %w", digest, err)
		}
		e := w.pinned
		w.pinned = nil  // the pin of the writer becomes the caller's
		defer w.Close() // under the lock: what has not failed makes no room
		return e.snapshot, sync.OnceFunc(func() { s.release(e) }), nil
	}
}

// tarballOf returns the path of a published tarball of the digest, or "". The caller holds s.mu.
func (s *Store) tarballOf(digest string) string {
	for name, p := range s.published {
		if p.digest == digest && path.Ext(name) != indexSuffix {
			return name
		}
	}
	return ""
}

// adopt moves a staged directory to the place of its snapshot, or finds the one that is there, and pins it.
func (s *Store) adopt(staged string, snapshot *Snapshot) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.snapshots[snapshot.Digest]; ok {
		return e, s.pin(e)
	}
	place := s.snapshotDir(snapshot.Digest)
	if err := os.Rename(staged, place); err != nil {
		return nil, err
	}
	if err := syncDir(s.snapshotDir("")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(place))
	}
	snapshot.dir = s.treeDir(snapshot.Digest)
	e := &entry{snapshot: snapshot}
	s.snapshots[snapshot.Digest] = e
	return e, s.pin(e)
}

// pin is called with s.mu held.
func (s *Store) pin(e *entry) error {
	if e.pins == 0 {
		root, err := os.OpenRoot(e.snapshot.dir)
		if err != nil {
			return err
		}
		e.snapshot.root = root
	}
	e.pins++
	return nil
}

func (s *Store) release(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.pins--; e.pins == 0 {
		e.snapshot.root.Close()
		e.snapshot.root = nil
	}
}

// Snapshot is one immutable set of files. It is valid until it is released, and may be read concurrently.
type Snapshot struct {
	// Digest is "sha256:" and the hash of the tarball: the same as status.artifact.digest.
	Digest string
	// Size of the tarball in bytes.
	Size int64

	dir   string
	root  *os.Root
	files map[string]File
	bytes int64 // of all files

	listing sync.Once
	dirs    map[string][]string // by List
}

// Dir returns the directory of the files. Nobody may write to it: it is shared by all readers of the digest.
func (s *Snapshot) Dir() string { return s.dir }

// FS returns the files as a file system that cannot be left by any path or link.
func (s *Snapshot) FS() fs.FS { return s.root.FS() }

// File returns what the manifest says about the file of a slash-separated path; ok is false when there is no such file.
func (s *Snapshot) File(path string) (f File, ok bool) {
	f, ok = s.files[path]
	return f, ok
}

// Files returns the manifest: slash-separated path → content. It must not be modified.
func (s *Snapshot) Files() map[string]File { return s.files }

// List returns the names in the directory of a slash-separated path, "." for the top, in the order of their bytes; ok is
// false when there is no file anywhere below that path. The list must not be modified.
func (s *Snapshot) List(path string) (names []string, ok bool) {
	s.listing.Do(func() { s.dirs = directories(s.files) })
	names, ok = s.dirs[path]
	return names, ok
}

// directories returns, for each directory on the way to a file, what is in it.
func directories(files map[string]File) map[string][]string {
	dirs := map[string][]string{}
	for file := range files {
		for name := file; name != "."; {
			dir := path.Dir(name)
			_, known := dirs[dir]
			dirs[dir] = append(dirs[dir], path.Base(name))
			if known {
				break // and so are the directories above it
			}
			name = dir
		}
	}
	for _, names := range dirs {
		slices.Sort(names)
	}
	return dirs
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

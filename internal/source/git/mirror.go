package git

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	keyName = "key"
	// maxCommits is how often a mirror is brought up to date before it is cloned afresh: every time leaves some objects
	// that nothing names any more, and nothing else ever packs or prunes them.
	maxCommits = 200
	// haveCommits is how many of its newest commits a mirror shows a server. The last one is what the next resembles.
	haveCommits = 4
	// mirrorLife is how long a mirror stays that nobody asks for: its object is gone, or has new credentials.
	mirrorLife = 24 * time.Hour
)

// mirrors are the bare repositories below one directory.
type mirrors struct {
	dir string
	key []byte // of the HMAC that names directories

	mu    sync.Mutex
	known map[string]*mirror
	work  source.Running // everything that runs detached from its caller
}

// mirror is one bare repository. Everything but its name is guarded by turn.
type mirror struct {
	dir  string
	turn chan struct{} // holds one token: who has it may use the mirror

	storage *mirrorStorage  // nil while nobody has the turn
	commits []plumbing.Hash // those whose whole tree is in storage, oldest first; also the file "shallow"
	used    time.Time       // when the directory was last marked as in use
}

type mirrorStorage struct{ *filesystem.Storage }

// openMirrors uses the mirrors in dir. They are named by an HMAC of URL, credentials and ref under a random key: a plain
// hash would let whoever reads the volume try out passwords.
func openMirrors(dir string) (*mirrors, error) {
	file := filepath.Join(dir, keyName)
	key, err := os.ReadFile(file)
	if err == nil && len(key) == sha256.Size {
		return &mirrors{dir: dir, key: key, known: map[string]*mirror{}}, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Without the key none of the old names can be found again.
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	key = make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails
	return &mirrors{dir: dir, key: key, known: map[string]*mirror{}}, os.WriteFile(file, key, 0o600)
}

// get returns the mirror of (URL, credentials, ref).
func (m *mirrors) get(remote Remote, ref Ref) (*mirror, error) {
	what, err := json.Marshal(struct {
		Remote
		Ref Ref
	}{remote.lasting(), ref})
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, m.key)
	mac.Write(what)
	name := hex.EncodeToString(mac.Sum(nil))

	m.mu.Lock()
	defer m.mu.Unlock()
	mi, ok := m.known[name]
	if !ok {
		mi = &mirror{dir: filepath.Join(m.dir, name), turn: make(chan struct{}, 1)}
		mi.turn <- struct{}{}
		m.known[name] = mi
	}
	return mi, nil
}

// collect removes the mirrors that nobody has used for a while.
func (m *mirrors) collect(now time.Time) error {
	found, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range found {
		if d.IsDir() {
			errs = append(errs, m.collectOne(d.Name(), now))
		}
	}
	return errors.Join(errs...)
}

func (m *mirrors) collectOne(name string, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	mi, ok := m.known[name]
	if ok {
		select {
		case <-mi.turn:
			defer func() { mi.turn <- struct{}{} }()
		default:
			return nil // it is in use right now
		}
	}
	info, err := os.Stat(filepath.Join(m.dir, name))
	if err != nil || now.Sub(info.ModTime()) < mirrorLife {
		return nil // used lately, or gone meanwhile
	}
	if ok {
		return mi.discard()
	}
	return os.RemoveAll(filepath.Join(m.dir, name))
}

// take waits for the mirror to be free.
func (mi *mirror) take(ctx context.Context) error {
	select {
	case <-mi.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give lets the next one have the mirror. Nothing of it stays in memory: a thousand mirrors with their indexes, caches and
// open packs would cost more than opening one takes.
func (mi *mirror) give() {
	mi.close()
	mi.turn <- struct{}{}
}

func (mi *mirror) close() {
	if mi.storage != nil {
		mi.storage.Close() // an error would be about descriptors that only were read from
		mi.storage = nil
	}
}

// open makes the mirror ready, creating it if need be.
func (mi *mirror) open(now time.Time) error {
	if mi.storage == nil {
		if err := os.MkdirAll(mi.dir, 0o700); err != nil {
			return err
		}
		s := filesystem.NewStorageWithOptions(osfs.New(mi.dir, osfs.WithBoundOS()), cache.NewObjectLRU(16<<20),
			filesystem.Options{ExclusiveAccess: true, KeepDescriptors: true, LargeObjectThreshold: 1 << 20})
		if err := s.Init(); err != nil {
			return err
		}
		commits, err := s.Shallow()
		if err != nil {
			return fmt.Errorf("%w: %w", errMirror, err)
		}
		mi.storage, mi.commits = &mirrorStorage{s}, commits
	}
	// The time of the directory is what collect goes by; once an hour is often enough for it.
	if now.Sub(mi.used) > time.Hour {
		mi.used = now
		return os.Chtimes(mi.dir, now, now)
	}
	return nil
}

// discard throws the repository away; the next fetch clones it afresh.
func (mi *mirror) discard() error {
	mi.close()
	mi.commits, mi.used = nil, time.Time{}
	return os.RemoveAll(mi.dir)
}

// has reports whether the whole tree of a commit is here.
func (mi *mirror) has(commit plumbing.Hash) bool { return slices.Contains(mi.commits, commit) }

// hasAll reports whether all of a target is here: for an annotated tag that is the tag as well.
func (mi *mirror) hasAll(t target) bool {
	return mi.has(t.commit) && mi.hasTag(t.tag)
}

// hasTag reports whether an annotated tag is here, or there is none.
func (mi *mirror) hasTag(hash plumbing.Hash) bool {
	if hash == plumbing.ZeroHash {
		return true
	}
	_, err := mi.storage.EncodedObject(plumbing.AnyObject, hash)
	return err == nil
}

// haves returns the newest commits that are here in full.
func (mi *mirror) haves() []plumbing.Hash {
	return slices.Clone(mi.commits[max(0, len(mi.commits)-haveCommits):])
}

// add records that the whole tree of a commit is here. The file is replaced by a rename: of a half-written list some hash
// could be believed.
func (mi *mirror) add(commit plumbing.Hash) error {
	if mi.has(commit) {
		return nil
	}
	commits := append(slices.Clone(mi.commits), commit)
	var text []byte
	for _, c := range commits {
		text = append(text, c.String()+"\n"...)
	}
	tmp := filepath.Join(mi.dir, "shallow.new")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(mi.dir, "shallow")); err != nil {
		return err
	}
	mi.commits = commits
	return nil
}

// commit reads one commit.
func (mi *mirror) commit(hash plumbing.Hash) (*object.Commit, error) {
	c, err := object.GetCommit(mi.storage, hash)
	if err != nil {
		return nil, fmt.Errorf("reading commit %s: %w", hash, err)
	}
	return c, nil
}

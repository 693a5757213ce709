package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Start collects garbage every retention period until the context ends. Its error, if any, is that of the last collection;
// those before are retried by the next.
func (s *Store) Start(ctx context.Context) error {
	tick := time.NewTicker(s.ttl)
	defer tick.Stop()
	var err error
	for {
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
			err = s.Collect()
		}
	}
}

// Collect removes superseded artifacts as Flux does: never the newest of an object; of the others those older than the
// retention time, and the oldest of those above the number of records. Then it removes snapshots that no artifact names and
// nobody reads.
func (s *Store) Collect() error { return s.collect(s.ttl, s.records) }

// makeRoom removes every superseded artifact, however young, because the disk is full: to have the newest of all sources
// counts for more than to have what some client may still be about to download (faults.md F31). What cannot be removed now is
// removed by the next collection.
func (s *Store) makeRoom() { _ = s.collect(0, 1) }

// IsFull reports whether an error means that there is no room on the disk.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (s *Store) collect(ttl time.Duration, records int) error {
	s.mu.Lock()
	byDir := map[string][]string{}
	for name := range s.published {
		byDir[path.Dir(name)] = append(byDir[path.Dir(name)], name)
	}
	s.mu.Unlock()
	var errs []error
	for _, names := range byDir {
		errs = append(errs, s.collectArtifacts(names, ttl, records))
	}
	return errors.Join(append(errs, s.collectSnapshots(), s.countDirs())...)
}

type superseded struct {
	name    string
	written time.Time
}

func (s *Store) collectArtifacts(names []string, ttl time.Duration, records int) error {
	var old []superseded
	current, _ := s.root.Readlink(latest(names[0]))
	for _, name := range names {
		info, err := s.root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Remove was faster
		}
		if err != nil {
			return err
		}
		if path.Base(name) != path.Base(current) {
			old = append(old, superseded{name, info.ModTime()})
		}
	}
	slices.SortFunc(old, func(a, b superseded) int {
		return cmp.Or(b.written.Compare(a.written), cmp.Compare(a.name, b.name))
	})
	if current == "" && len(old) > 0 {
		old = old[1:] // no link tells which is the newest, so the youngest is taken for it
	}
	for i, t := range old {
		// The newest counts as one record.
		if s.now().Sub(t.written) <= ttl && i < records-1 {
			continue
		}
		if err := s.unpublish(t.name, current); err != nil {
			return fmt.Errorf("collecting %s: %w", t.name, err)
		}
	}
	return nil
}

// unpublish removes an artifact unless it has become the newest since it was judged.
func (s *Store) unpublish(name, current string) error {
	s.names.Lock()
	defer s.names.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, _ := s.root.Readlink(latest(name)); now != current {
		return nil // the next collection judges again
	}
	delete(s.published, name)
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// collectSnapshots removes the snapshots that are neither named by a tarball nor pinned. A directory is moved away under
// the lock and removed after it, so that nobody waits for a large tree.
func (s *Store) collectSnapshots() error {
	trash, err := s.TempDir("trash-")
	if err != nil {
		return err
	}
	s.mu.Lock()
	named := map[string]bool{}
	for _, p := range s.published {
		named[p.digest] = true
	}
	var errs []error
	for digest, e := range s.snapshots {
		if named[digest] || e.pins > 0 {
			continue
		}
		if err := os.Rename(s.snapshotDir(digest), filepath.Join(trash, digest[len("sha256:"):])); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.snapshots, digest)
	}
	s.mu.Unlock()
	return errors.Join(append(errs, os.RemoveAll(trash))...)
}

package artifact

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	bytesDesc = prometheus.NewDesc("cleat_storage_bytes",
		"Bytes on disk below the storage directory: artifacts are what is downloaded, snapshots what is read inside the agent.",
		[]string{"content"}, nil)
	itemsDesc = prometheus.NewDesc("cleat_storage_items",
		"How many artifacts and snapshots the storage holds; equal bytes under several names count once.",
		[]string{"content"}, nil)
)

// Usage is what the store has on disk, as metrics. Files are counted by their size; bytes that several names share, as the
// artifact and the snapshot of one digest do, are counted once.
func (s *Store) Usage() prometheus.Collector { return usage{s} }

type usage struct{ store *Store }

// Describe implements prometheus.Collector.
func (u usage) Describe(ch chan<- *prometheus.Desc) {
	ch <- bytesDesc
	ch <- itemsDesc
}

// Collect implements prometheus.Collector. It touches no disk.
func (u usage) Collect(ch chan<- prometheus.Metric) {
	bytes, items := u.store.held()
	for content, n := range bytes {
		ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(n), content)
	}
	for content, n := range items {
		ch <- prometheus.MustNewConstMetric(itemsDesc, prometheus.GaugeValue, float64(n), content)
	}
}

// held returns bytes and numbers by what they are.
func (s *Store) held() (bytes, items map[string]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tarballs := map[string]int64{}
	bytes = map[string]int64{"artifacts": 0, "snapshots": 0}
	for _, p := range s.published {
		tarballs[p.digest] = p.size
	}
	for digest, e := range s.snapshots {
		tarballs[digest] = e.snapshot.Size
		bytes["snapshots"] += e.snapshot.bytes
	}
	for _, size := range tarballs {
		bytes["artifacts"] += size
	}
	for name, size := range s.dirs {
		bytes[name] = size
	}
	return bytes, map[string]int64{"artifacts": int64(len(tarballs)), "snapshots": int64(len(s.snapshots))}
}

// countDirs counts what other packages keep below the storage directory.
func (s *Store) countDirs() error {
	s.mu.Lock()
	names := make([]string, 0, len(s.dirs))
	for name := range s.dirs {
		names = append(names, name)
	}
	s.mu.Unlock()
	var errs []error
	for _, name := range names {
		size, err := sizeOf(filepath.Join(s.dir, ownDir, name))
		errs = append(errs, err)
		s.mu.Lock()
		s.dirs[name] = size
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

func sizeOf(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // its owner was faster
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil // likewise
		}
		return err
	})
	return size, err
}

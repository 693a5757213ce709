package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// atOnce is how many revisions are read in one request. A history of more, which needs a maxHistory of its own, is
// looked at by its labels, and only what is needed of it is read.
const atOnce = 32

// Revisions is what is known of one release: what Observe has read, and what a Driver has written since. It is safe for
// concurrent use: the SDK fails a release from another goroutine than the one that works on it.
type Revisions struct {
	name    string
	secrets Secrets
	// stub is the chart of those releases of a history that were not decoded.
	stub *chart.Chart

	mu    sync.Mutex
	known map[int]*record
	// charts is how charts that went through here are stored, by the pointer the SDK passes around: most writes change
	// no more than a status, and parts of a chart that Helm 3's type does not have survive a rollback to it.
	charts map[*chart.Chart]json.RawMessage
}

// Observe reads what is stored of the named release.
func Observe(ctx context.Context, secrets Secrets, name string) (*Revisions, error) {
	r := &Revisions{
		name:    name,
		secrets: secrets,
		stub:    &chart.Chart{Metadata: &chart.Metadata{}},
		known:   map[int]*record{},
		charts:  map[*chart.Chart]json.RawMessage{},
	}
	labels := map[string]string{"owner": "helm", "name": name}
	list, more, err := secrets.List(ctx, labels, atOnce)
	if err != nil {
		return nil, fmt.Errorf("listing the revisions of release %s: %w", name, err)
	}
	for _, secret := range list {
		if version, ok := versionOf(secret.Name, name); ok {
			r.known[version] = newRecord(secret.ObjectMeta, version)
			r.known[version].data = present(secret.Data[releaseKey])
		}
	}
	if !more {
		return r, nil
	}
	return r, r.complete(ctx, labels)
}

// complete adds the revisions that had no room in the first list, which is sorted by name: v10 comes before v2.
func (r *Revisions) complete(ctx context.Context, labels map[string]string) error {
	headers, err := r.secrets.Headers(ctx, labels)
	if err != nil {
		return fmt.Errorf("listing the revisions of release %s: %w", r.name, err)
	}
	for _, header := range headers {
		version, ok := versionOf(header.Name, r.name)
		if ok && r.known[version] == nil {
			r.known[version] = newRecord(header, version)
		}
	}
	return nil
}

// present returns data that is not nil, which would mean that it was not read yet.
func present(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// Headers returns what the labels say of all revisions, newest first, corrupt ones among them.
func (r *Revisions) Headers() []Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	var headers []Header
	for _, rec := range r.newestFirst() {
		headers = append(headers, rec.Header)
	}
	return headers
}

// Corrupt returns the names, sorted, of those Secrets that were looked into and hold no release.
func (r *Revisions) Corrupt() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, rec := range r.known {
		if rec.corrupt != nil {
			names = append(names, rec.meta.Name)
		}
	}
	slices.Sort(names)
	return names
}

// History returns up to limit revisions, newest first, all when it is 0, and the names of those Secrets among them that
// hold no release. None at all is no error.
func (r *Revisions) History(ctx context.Context, limit int) (releases []*Release, corrupt []string, err error) {
	releases, err = r.collect(ctx, limit, func(*record) bool { return true })
	return releases, r.Corrupt(), err
}

// Last returns the newest revision that can be read, or driver.ErrReleaseNotFound.
func (r *Revisions) Last(ctx context.Context) (*Release, error) {
	return only(r.collect(ctx, 1, func(*record) bool { return true }))
}

// Deployed returns the newest revision that is labelled as deployed and can be read, or driver.ErrReleaseNotFound.
func (r *Revisions) Deployed(ctx context.Context) (*Release, error) {
	return only(r.collect(ctx, 1, func(rec *record) bool { return rec.Status == release.StatusDeployed }))
}

func only(releases []*Release, err error) (*Release, error) {
	if err == nil && len(releases) == 0 {
		return nil, driver.ErrReleaseNotFound
	}
	if err != nil {
		return nil, err
	}
	return releases[0], nil
}

// Get returns one revision: driver.ErrReleaseNotFound when there is none, a *CorruptError when it cannot be read.
func (r *Revisions) Get(ctx context.Context, version int) (*Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.known[version]
	if !ok {
		return nil, driver.ErrReleaseNotFound
	}
	if err := r.load(ctx, rec); err != nil {
		return nil, err
	}
	if rec.corrupt != nil {
		return nil, rec.corrupt
	}
	return shared(rec), nil
}

// collect returns up to limit of those revisions that are wanted and can be read, newest first.
func (r *Revisions) collect(ctx context.Context, limit int, wanted func(*record) bool) ([]*Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var releases []*Release
	for _, rec := range r.newestFirst() {
		if !wanted(rec) {
			continue
		}
		if err := r.load(ctx, rec); err != nil {
			return nil, err
		}
		if rec.release == nil {
			continue // Corrupt, or deleted in the meantime.
		}
		releases = append(releases, shared(rec))
		if len(releases) == limit {
			break
		}
	}
	return releases, nil
}

func shared(rec *record) *Release {
	return &Release{Release: copyOf(rec.release.Release), Method: rec.release.Method}
}

// newestFirst is called with mu held.
func (r *Revisions) newestFirst() []*record {
	records := make([]*record, 0, len(r.known))
	for _, rec := range r.known {
		records = append(records, rec)
	}
	slices.SortFunc(records, func(a, b *record) int { return cmp.Compare(b.Version, a.Version) })
	return records
}

// load reads and decodes a revision, unless that is done. It is called with mu held.
func (r *Revisions) load(ctx context.Context, rec *record) error {
	if rec.release != nil || rec.corrupt != nil {
		return nil //nolint:nilerr // what is corrupt stays so, and is no fault of this call
	}
	if rec.data == nil {
		secret, err := r.secrets.Get(ctx, rec.meta.Name)
		if apierrors.IsNotFound(err) {
			// It went after it was listed, as the oldest of a history do.
			delete(r.known, rec.Version)
			return nil //nolint:nilerr // a revision that is gone is none
		}
		if err != nil {
			return fmt.Errorf("reading revision %d of release %s: %w", rec.Version, r.name, err)
		}
		*rec = *newRecord(secret.ObjectMeta, rec.Version)
		rec.data = present(secret.Data[releaseKey])
	}
	rec.decode(r.name)
	if rec.release != nil {
		r.charts[rec.release.Chart] = rec.doc[chartField]
	}
	return nil
}

// RemoveCorrupt deletes the Secrets that Corrupt names. It is for when the release is gone, and they would stay behind.
func (r *Revisions) RemoveCorrupt(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.newestFirst() {
		if rec.corrupt == nil {
			continue
		}
		if err := r.remove(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the Secret of a revision. That it is gone already is what is wanted. It is called with mu held.
func (r *Revisions) remove(ctx context.Context, rec *record) error {
	err := r.secrets.Delete(ctx, rec.meta)
	switch {
	case err == nil || apierrors.IsNotFound(err):
		delete(r.known, rec.Version)
		return nil
	case apierrors.IsConflict(err):
		return &ConflictError{Secret: rec.meta.Name, Err: err}
	default:
		return fmt.Errorf("deleting revision %d of release %s: %w", rec.Version, r.name, err)
	}
}

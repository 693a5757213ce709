package storage

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

// Operation is what the storage has to know of the action that it serves.
type Operation struct {
	// Rendered is the chart that the SDK is given, whose templates are final texts (internal/helm/render); Chart is the one
	// it was made of, which is stored in its place. Both nil: charts are stored as they are given.
	Rendered, Chart *chart.Chart
	// Method is how the objects of new revisions are applied.
	Method Method
}

// Driver is the storage of one release as Helm's SDK wants it, for one operation. It answers from the Revisions and adds to
// them what it writes. It knows of no other release: an action asks for none.
type Driver struct {
	ctx       context.Context // kept, since the SDK's methods take none
	revisions *Revisions
	operation Operation
}

var _ driver.Driver = (*Driver)(nil)

// Driver returns the storage for an operation. All requests are made with ctx, each with a deadline of its own besides. It
// should outlive the operation's own context: a cancelled operation still has to record that it failed.
func (r *Revisions) Driver(ctx context.Context, operation Operation) *Driver {
	return &Driver{ctx: ctx, revisions: r, operation: operation}
}

// Name returns what Helm calls this kind of storage.
func (d *Driver) Name() string { return driver.SecretsDriverName }

// Get returns the revision that is stored under a key.
func (d *Driver) Get(key string) (*release.Release, error) {
	version, ok := versionOf(key, d.revisions.name)
	if !ok {
		return nil, driver.ErrReleaseNotFound
	}
	rel, err := d.revisions.Get(d.ctx, version)
	if err != nil {
		return nil, err
	}
	return rel.Release, nil
}

// List returns the revisions of this release that pass the filter.
func (d *Driver) List(filter func(*release.Release) bool) ([]*release.Release, error) {
	releases, _, err := d.revisions.History(d.ctx, 0)
	if err != nil {
		return nil, err
	}
	var out []*release.Release
	for _, rel := range releases {
		if filter(rel.Release) {
			out = append(out, rel.Release)
		}
	}
	return out, nil
}

// Query returns the revisions that have the labels, without the corrupt ones.
//
// The SDK asks for the whole history in order to count it and to find the newest. So of those that were not decoded yet only
// the newest is; of the others it gets name, version and status. A status is asked for in order to work with what has it,
// and all of those are decoded.
func (d *Driver) Query(labels map[string]string) ([]*release.Release, error) {
	whole := true
	for key := range labels {
		whole = whole && (key == "name" || key == "owner")
	}
	out, err := d.revisions.query(d.ctx, labels, whole)
	if err == nil && len(out) == 0 {
		err = driver.ErrReleaseNotFound
	}
	return out, err
}

// query returns the revisions that have the labels, newest first.
func (r *Revisions) query(ctx context.Context, labels map[string]string, headersDo bool) ([]*release.Release, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*release.Release
	for _, rec := range r.newestFirst() {
		if !hasLabels(rec, r.name, labels) {
			continue
		}
		if headersDo && len(out) > 0 && rec.release == nil && rec.corrupt == nil {
			out = append(out, r.stubOf(rec))
			continue
		}
		if err := r.load(ctx, rec); err != nil {
			return nil, err
		}
		if rec.release != nil {
			out = append(out, copyOf(rec.release.Release))
		}
	}
	return out, nil
}

func hasLabels(rec *record, name string, labels map[string]string) bool {
	own := map[string]string{"name": name, "owner": "helm", "status": string(rec.Status), "version": strconv.Itoa(rec.Version)}
	for key, want := range labels {
		got, system := own[key]
		if !system {
			got = rec.meta.Labels[key]
		}
		if got != want {
			return false
		}
	}
	return true
}

// stubOf returns a revision of which only the labels have been looked at.
func (r *Revisions) stubOf(rec *record) *release.Release {
	return &release.Release{
		Name:    r.name,
		Version: rec.Version,
		Info:    &release.Info{Status: rec.Status},
		Chart:   r.stub,
		Labels:  customLabels(rec.meta.Labels),
	}
}

// Create stores a new revision: driver.ErrReleaseExists when there is one already. A corrupt Secret of its name is
// overwritten: there is nothing in it to lose, and it would be in the way for ever.
func (d *Driver) Create(key string, rel *release.Release) error {
	r := d.revisions
	if key != Key(r.name, rel.Version) {
		return driver.ErrInvalidKey
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := &record{Header: Header{Version: rel.Version}, meta: metav1.ObjectMeta{Name: key}}
	if there, exists := r.known[rel.Version]; exists {
		if err := r.load(d.ctx, there); err != nil {
			return err
		}
		if there.release != nil {
			return driver.ErrReleaseExists
		}
		if there.corrupt != nil {
			rec.meta = there.meta
		}
	}
	before, err := d.newDocument()
	if err != nil {
		return err
	}
	enc, err := d.encode(rel, before)
	if err != nil {
		return err
	}
	return d.write(rec, rel, d.operation.Method, enc, "createdAt")
}

// Update stores a revision anew: driver.ErrReleaseNotFound when it is not known. If its Secret has been deleted meanwhile,
// it is created again: what is on the cluster is to be on record.
func (d *Driver) Update(key string, rel *release.Release) error {
	r := d.revisions
	if key != Key(r.name, rel.Version) {
		return driver.ErrInvalidKey
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.known[rel.Version]
	if !ok {
		return driver.ErrReleaseNotFound
	}
	if err := r.load(d.ctx, rec); err != nil {
		return err
	}
	if rec.release == nil {
		return rec.corrupt
	}
	if rel.Chart == r.stub {
		full := copyOf(rec.release.Release)
		full.Info.Status, full.Info.Description = rel.Info.Status, rel.Info.Description
		rel = full
	}
	enc, err := d.encode(rel, rec.doc)
	if err != nil {
		return err
	}
	return d.write(rec, rel, rec.release.Method, enc, "modifiedAt")
}

// Delete deletes a revision and returns what it was. One that is corrupt is deleted, too.
func (d *Driver) Delete(key string) (*release.Release, error) {
	r := d.revisions
	r.mu.Lock()
	defer r.mu.Unlock()
	version, ok := versionOf(key, r.name)
	rec := r.known[version]
	if !ok || rec == nil {
		return nil, driver.ErrReleaseNotFound
	}
	was := r.stubOf(rec)
	if rec.release != nil {
		was = copyOf(rec.release.Release)
	}
	return was, r.remove(d.ctx, rec)
}

// write stores a release under a record and remembers it. It is called with mu held.
func (d *Driver) write(rec *record, rel *release.Release, method Method, enc encoded, stamp string) error {
	secret := &corev1.Secret{ObjectMeta: *rec.meta.DeepCopy(), Type: secretType, Data: map[string][]byte{releaseKey: enc.data}}
	secret.Labels = labelsOf(rel, stamp)
	if err := d.put(secret); err != nil {
		return err
	}
	stored := copyOf(rel)
	stored.Chart = d.original(rel.Chart)
	stored.Config = values.AsStored(rel.Config)
	stored.Labels = customLabels(rel.Labels)
	*rec = *newRecord(secret.ObjectMeta, rel.Version)
	rec.release, rec.doc = &Release{Release: stored, Method: method}, enc.doc
	d.revisions.known[rel.Version] = rec
	return nil
}

// put creates the Secret, or updates it if it was read or written before.
func (d *Driver) put(secret *corev1.Secret) error {
	secrets, name := d.revisions.secrets, secret.Name
	var err error
	if secret.ResourceVersion != "" {
		if err = secrets.Update(d.ctx, secret); !apierrors.IsNotFound(err) {
			return refused(name, err)
		}
		secret.UID, secret.ResourceVersion = "", ""
	}
	return refused(name, secrets.Create(d.ctx, secret))
}

func refused(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err):
		return &ConflictError{Secret: name, Err: err}
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("creating Secret '%s': %w", name, driver.ErrReleaseExists)
	default:
		return fmt.Errorf("writing Secret '%s': %w", name, err)
	}
}

func labelsOf(rel *release.Release, stamp string) map[string]string {
	labels := customLabels(rel.Labels)
	maps.Copy(labels, map[string]string{
		"name":    rel.Name,
		"owner":   "helm",
		"status":  rel.Info.Status.String(),
		"version": strconv.Itoa(rel.Version),
		stamp:     strconv.FormatInt(time.Now().Unix(), 10),
	})
	return labels
}

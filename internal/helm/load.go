package helm

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/helm/charts"
)

// chartRevisionReason: the revision of the artifact does not go with the chart. It is Flux's word.
const chartRevisionReason = "ChartMutateError"

// load reads the chart, unless it is in memory already: all releases of a chart share it.
func (r *Reconciler) load(ctx context.Context, a *attempt) error {
	chart, err := r.readChart(ctx, a)
	switch {
	case errors.Is(err, artifact.ErrNotFound):
		return r.lost(a)
	case errors.Is(err, charts.ErrInvalid): // its source has to offer another one, which wakes us
		return api.Faultf(v2.ArtifactFailedReason, api.RetryInterval, "could not load chart: %w", err)
	case err != nil:
		return api.Faultf(v2.ArtifactFailedReason, api.RetryBackoff, "could not load chart: %w", err)
	}
	a.ociDigest, a.chart = "", chart
	if a.source.kind == api.OCIRepositoryKind.Kind {
		a.chart, a.ociDigest, err = chart.WithRevision(a.source.artifact.Revision, !r.Options.DisableChartDigestTracking)
		if err != nil {
			return api.Faultf(chartRevisionReason, api.RetryInterval, "could not mutate chart with source revision: %w", err)
		}
	}
	a.attempted = true
	return nil
}

// readChart asks whether the source has published the digest before it is looked for: it comes from a status, and a digest is no
// key to what others have published (docs/adr/0015-a-digest-is-no-key.md).
func (r *Reconciler) readChart(ctx context.Context, a *attempt) (*charts.Chart, error) {
	object, digest := a.source.object(), a.source.artifact.Digest
	r.missing.Join(a.key, digest)
	if !r.Snapshots.Has(object, digest) {
		return nil, artifact.ErrNotFound
	}
	r.missing.Leave(a.key)
	return r.Charts.Load(ctx, digest, func() (fs.FS, func(), error) {
		snapshot, release, err := r.Snapshots.Acquire(object, digest)
		if err != nil {
			return nil, nil, err
		}
		return snapshot.FS(), release, nil
	})
}

// lost has a source fetched again whose artifact is not in the storage. A release that was made of it is none the worse for that
// (faults.md F32).
func (r *Reconciler) lost(a *attempt) error {
	if kind, ok := sourceKind(a.source.kind); ok {
		r.Lost(kind, a.source.key)
	}
	missing := api.Faultf(v2.ArtifactFailedReason, api.RetryWoken,
		"the artifact of revision %s is not in the storage, waiting for %s to fetch it again", a.source.artifact.Revision, a.source.name())
	if !a.releasedFrom() {
		return missing // it is news that somebody waits for
	}
	return a.unlessReleased(missing, r.Options.Dependency)
}

// releasedFrom says whether the newest release was made of what the source offers, as far as the status tells.
func (a *attempt) releasedFrom() bool {
	if a.source.kind == api.OCIRepositoryKind.Kind {
		latest := a.hr.Status.History.Latest()
		return latest != nil && latest.OCIDigest != "" && strings.HasSuffix(a.source.artifact.Revision, latest.OCIDigest)
	}
	return a.hr.Status.LastAttemptedRevision == a.source.artifact.Revision
}

package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// source finds the artifact that the source offers now.
func (r *Reconciler) source(ctx context.Context, a *attempt) error {
	current, err := r.currentArtifact(ctx, a.ks)
	switch {
	case apierrors.IsNotFound(err):
		// The watch on sources wakes us when it is created.
		return api.Faultf(meta.ArtifactFailedReason, api.RetryInterval, "source '%s/%s' not found", a.ks.Spec.SourceRef.Kind, sourceOf(a.ks))
	case err != nil:
		return api.Faultf(meta.ArtifactFailedReason, api.RetryBackoff, "reading source '%s/%s': %w", a.ks.Spec.SourceRef.Kind, sourceOf(a.ks), err)
	case current == nil:
		return a.unlessApplied(api.Faultf(meta.ArtifactFailedReason, api.RetryWoken,
			"Source artifact not found, it has not been fetched yet"), r.Options.Dependency)
	}
	a.artifact = current
	return nil
}

// currentArtifact reads the source's artifact from the cache; it is nil while there is none.
func (r *Reconciler) currentArtifact(ctx context.Context, ks *kustomizev1.Kustomization) (*meta.Artifact, error) {
	kind, ok := sourceKind(ks.Spec.SourceRef.Kind)
	if !ok {
		return nil, fmt.Errorf("a Kustomization cannot read the kind %s", ks.Spec.SourceRef.Kind)
	}
	undecoded := api.Undecoded(kind)
	if err := r.read(ctx, sourceOf(ks), undecoded); err != nil {
		return nil, err
	}
	return artifactOf(undecoded)
}

// artifactOf returns what a source offers. Nothing else of it is decoded, so that a bad field elsewhere hides nothing.
func artifactOf(undecoded *unstructured.Unstructured) (*meta.Artifact, error) {
	var source struct {
		Status struct {
			Artifact *meta.Artifact `json:"artifact"`
		} `json:"status"`
	}
	if err := api.Decode(undecoded, &source); err != nil {
		return nil, err
	}
	return source.Status.Artifact, nil
}

// unlessApplied is the fault of a source that has nothing to read at the moment, for instance because the storage was lost
// and it is being fetched again. Who has applied something from it before stays as it is: what is on the cluster is no
// worse for it, and the source itself tells of the trouble (faults.md F25, F32).
func (a *attempt) unlessApplied(fault error, until time.Duration) error {
	ready := reconcile.Condition(a.ks, meta.ReadyCondition)
	if ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == a.ks.Generation {
		return &reconcile.Waiting{After: until, Quiet: true}
	}
	return fault
}

// sourceObject names the source as the storage does: only what that one has published may be read by it.
func sourceObject(ks *kustomizev1.Kustomization) artifact.Object {
	key := sourceOf(ks)
	return artifact.Object{Kind: ks.Spec.SourceRef.Kind, Namespace: key.Namespace, Name: key.Name}
}

// fetch takes hold of the snapshot. Nothing is copied: it is a directory that is shared by all who read that revision.
func (r *Reconciler) fetch(_ context.Context, a *attempt) error {
	r.missing.Join(a.key, a.artifact.Digest)
	snapshot, release, err := r.Snapshots.Acquire(sourceObject(a.ks), a.artifact.Digest)
	if errors.Is(err, artifact.ErrNotFound) {
		if kind, ok := sourceKind(a.ks.Spec.SourceRef.Kind); ok {
			r.Lost(kind, sourceOf(a.ks))
		}
		missing := api.Faultf(meta.ArtifactFailedReason, api.RetryWoken,
			"the artifact of revision %s is not in the storage, waiting for the source to fetch it again", a.artifact.Revision)
		if a.artifact.Revision != a.ks.Status.LastAppliedRevision {
			return missing // it is news that somebody waits for
		}
		return a.unlessApplied(missing, r.Options.Dependency)
	}
	r.missing.Leave(a.key)
	if err != nil {
		return api.Faultf(meta.ArtifactFailedReason, api.RetryBackoff, "opening the artifact of revision %s: %w", a.artifact.Revision, err)
	}
	path, err := checkPath(snapshot.FS(), a.ks.Spec.Path)
	if err != nil {
		release()
		return api.Faultf(meta.ArtifactFailedReason, api.RetryInterval, "%w", err)
	}
	a.snapshot, a.release, a.path, a.attempted = snapshot, release, path, true
	return nil
}

package helm

import (
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// Keys of event annotations, as Flux's notification providers look for them.
const (
	revisionKey   = api.HelmOwnerGroup + "/revision"
	tokenKey      = api.HelmOwnerGroup + "/token"
	appVersionKey = api.HelmOwnerGroup + "/app-version"
	ociDigestKey  = api.HelmOwnerGroup + "/oci-digest"
)

// Reasons of the events about HelmCharts, as Flux words them.
const (
	chartCreated    = "HelmChartCreated"
	chartConfigured = "HelmChartConfigured"
	chartDeleted    = "HelmChartDeleted"
)

// chartEvent tells that the HelmChart of spec.chart was created or configured.
func chartEvent(reason string, hr *v2.HelmRelease) reconcile.Event {
	kind, source := referenceOf(hr)
	return reconcile.Event{
		Type: corev1.EventTypeNormal, Reason: reason,
		Message: fmt.Sprintf("%s HelmChart/%s with SourceRef '%s/%s'", strings.TrimPrefix(reason, "HelmChart"), chartKey(hr), kind, source),
	}
}

// chartDeletedEvent tells that a HelmChart is not needed any more.
func chartDeletedEvent(key types.NamespacedName) reconcile.Event {
	return reconcile.Event{Type: corev1.EventTypeNormal, Reason: chartDeleted, Message: "Deleted HelmChart/" + key.String()}
}

// stepEvent tells what came of an action. What Helm itself has said lately is told with a failure, unless it is that of a test, of
// which Helm says no more than which objects it has made.
func (a *attempt) stepEvent(s step) reconcile.Event {
	e := reconcile.Event{Type: corev1.EventTypeNormal, Reason: s.Reason, Message: s.Message, Metadata: snapshotMetadata(s.Release)}
	if s.Release == nil {
		e.Metadata = a.metadata()
	}
	if s.Err != nil {
		e.Type = corev1.EventTypeWarning
		if s.Logs != "" && s.Kind != Test {
			e.Message += "\n\nLast Helm logs:\n\n" + s.Logs
		}
	}
	return e
}

// driftEvent tells of drift that was found. It has no metadata, as in Flux.
func driftEvent(message string) reconcile.Event {
	return reconcile.Event{Type: corev1.EventTypeWarning, Reason: v2.DriftDetectedReason, Message: message}
}

// snapshotMetadata are the annotations of events about a release.
func snapshotMetadata(s *v2.Snapshot) map[string]string {
	if s == nil {
		return nil
	}
	return eventMetadata(s.ChartVersion, s.ConfigDigest, s.AppVersion, s.OCIDigest)
}

func eventMetadata(revision, token, appVersion, ociDigest string) map[string]string {
	metadata := map[string]string{}
	for key, value := range map[string]string{revisionKey: revision, tokenKey: token, appVersionKey: appVersion, ociDigestKey: ociDigest} {
		if value != "" {
			metadata[key] = value
		}
	}
	return metadata
}

// orphanedReason: a deleted HelmRelease has left its release on the cluster.
const orphanedReason = "Orphaned"

// orphanedEvent tells that an object is deleted whose release stays, and why.
func orphanedEvent(release, why string) reconcile.Event {
	return reconcile.Event{
		Type: corev1.EventTypeWarning, Reason: orphanedReason, Message: fmt.Sprintf("%s; the release %s stays on the cluster", why, release),
	}
}

package helm

import (
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// attempt is one run for one HelmRelease. Each field says what sets it.
type attempt struct {
	hr    *v2.HelmRelease
	run   *reconcile.Run[*v2.HelmRelease]
	key   types.NamespacedName
	began time.Time
	asked asked
	// Begin: the action that an earlier run has begun and that is for what is asked now, with what it was begun with.
	operation *operation

	source source // source
	inputs        // values, chart, or the operation that is taken up

	cluster *kube.Cluster // connect: where to act
	user    string        // connect: as whom; empty for the agent itself

	last     Action // release: what was decided last
	state    State  // release: what that was decided by
	reported []step // release: the actions that ended in this attempt, for conditions and events
}

// asked is what an object asked for, besides what its source offers.
type asked struct {
	uid         types.UID
	generation  int64
	requestedAt string
	// values counts the changes of what the object's values come from.
	values uint64
}

// source is where the chart comes from.
type source struct {
	kind     string // HelmChart, OCIRepository or ExternalArtifact
	key      types.NamespacedName
	artifact *meta.Artifact
}

package helm

import (
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// attempt is one run for one HelmRelease. Each field says what sets it.
type attempt struct {
	hr    *v2.HelmRelease
	run   *reconcile.Run[*v2.HelmRelease]
	key   types.NamespacedName
	began time.Time
	asked asked
	// Begin: somebody asks, once and by hand, for an upgrade although nothing has changed, or for the failures to be forgotten.
	force, reset bool
	// Begin: the action that an earlier run has begun and that is for what is asked now, with what it was begun with.
	operation *operation

	understanding                     // validate
	annotated     []depend.Dependency // validate: depended on by annotation
	charted       *charted            // template: the HelmChart of spec.chart
	source        source              // source
	inputs                            // values, load, or the operation that is taken up
	attempted     bool                // load: the chart and the values count as attempted

	cluster *kube.Cluster // connect: where to act
	user    string        // connect: as whom; empty for the agent itself

	intended bool      // release: what is attempted is on record
	forgiven bool      // release: failures were counted for something else, and are to be dropped
	policy   Policy    // release: that of the last action, when nothing is left to do, or nothing now
	next     string    // release: when what has failed is tried again; the end of a message
	drift    *drifting // release: what has drifted; nil when nobody has looked
	found    []found   // release: the same, for the record

	last      Action // release: what was decided last
	state     State  // release: what that was decided by
	reported  []step // release: the actions that ended in this attempt, for conditions and events
	tallied   int    // release, report: how many of these are in the conditions
	announced int    // report: how many of these have had their event
}

// asked is what an object asked for, besides what its source offers. A mere request to look is none of it: what is under way
// need not be begun again for that.
type asked struct {
	uid        types.UID
	generation int64
	// values counts the changes of what the object's values come from.
	values uint64
}

// source is where the chart comes from.
type source struct {
	kind     string // HelmChart, OCIRepository or ExternalArtifact
	key      types.NamespacedName
	artifact *meta.Artifact
}

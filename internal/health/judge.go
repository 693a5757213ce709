package health

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/fluxcd/pkg/apis/kustomize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/expr"
)

// maxChecks is how many kinds one Judge may have expressions for.
const maxChecks = 128

// Judge says how healthy objects are by the expressions of spec.healthCheckExprs. It has nothing to say about kinds for which
// there are none; a nil Judge has nothing to say at all. It may be used by many at once.
type Judge struct {
	// Digest is the same for the same expressions, so that those who ask for the same can share what was found.
	Digest string
	// by the kind; a Kind that is empty stands for all of the group.
	by map[schema.GroupKind]verdicts
}

// verdicts are the expressions for one kind. The first that is true decides; failed and inProgress may be nil.
type verdicts struct {
	inProgress, failed, current *expr.Expr
}

// NewJudge understands the expressions, and says which of them it could not. Without any the Judge is nil.
func NewJudge(checks []kustomize.CustomHealthCheck) (*Judge, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	if len(checks) > maxChecks {
		return nil, fmt.Errorf("spec.healthCheckExprs has %d entries, more than %d", len(checks), maxChecks)
	}
	j := &Judge{by: map[schema.GroupKind]verdicts{}}
	for i, check := range checks {
		gv, err := schema.ParseGroupVersion(check.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("spec.healthCheckExprs[%d].apiVersion: %w", i, err)
		}
		gk := schema.GroupKind{Group: gv.Group, Kind: check.Kind}
		if _, twice := j.by[gk]; twice {
			return nil, fmt.Errorf("spec.healthCheckExprs[%d] is the second one for the kind %q of the group %q", i, gk.Kind, gk.Group)
		}
		var v verdicts
		for _, part := range []struct {
			name, text string
			required   bool
			into       **expr.Expr
		}{
			{"inProgress", check.InProgress, false, &v.inProgress},
			{"failed", check.Failed, false, &v.failed},
			{"current", check.Current, true, &v.current},
		} {
			if part.text == "" && !part.required {
				continue
			}
			if *part.into, err = expr.Parse(part.text); err != nil {
				return nil, fmt.Errorf("spec.healthCheckExprs[%d].%s: %w", i, part.name, err)
			}
		}
		j.by[gk] = v
	}
	text, err := json.Marshal(checks)
	if err != nil {
		return nil, fmt.Errorf("encoding spec.healthCheckExprs: %w", err)
	}
	digest := sha256.Sum256(text)
	j.Digest = hex.EncodeToString(digest[:])
	return j, nil
}

// Same says whether two Judges come to the same about every object, because they have the same expressions.
func (j *Judge) Same(other *Judge) bool {
	if j == nil || other == nil {
		return j == other
	}
	return j.Digest == other.Digest
}

// Judges says whether there are expressions for a kind.
func (j *Judge) Judges(gk schema.GroupKind) bool {
	if j == nil {
		return false
	}
	_, kind := j.by[gk]
	_, group := j.by[schema.GroupKind{Group: gk.Group}]
	return kind || group
}

// Of returns the health of an object that exists. As in Flux, what the object's controller has not observed yet is in progress;
// then inProgress, failed and current are asked in this order, and without a true one the object is in progress. An
// expression that does not come to an end, because a field is missing or it does too much, leaves the health unknown, which
// is waited out like progress and says why.
func (j *Judge) Of(u *unstructured.Unstructured) Result {
	gk := u.GroupVersionKind().GroupKind()
	if !j.Judges(gk) {
		return Of(u)
	}
	v, ok := j.by[gk]
	if !ok {
		v = j.by[schema.GroupKind{Group: gk.Group}]
	}
	if observed, ok, err := unstructured.NestedInt64(u.Object, "status", "observedGeneration"); ok && err == nil && observed != u.GetGeneration() {
		return Result{Status: InProgress, Message: "its controller has not observed the generation yet"}
	}
	for _, part := range []struct {
		name   string
		expr   *expr.Expr
		status Status
	}{
		{"inProgress", v.inProgress, InProgress},
		{"failed", v.failed, Failed},
		{"current", v.current, Current},
	} {
		if part.expr == nil {
			continue
		}
		is, err := part.expr.True(u.Object)
		switch {
		case err != nil && gk == schema.GroupKind{Kind: "Secret"}:
			return Result{Status: Unknown, Message: part.name + " cannot be evaluated"} // the error could quote a value
		case err != nil:
			return Result{Status: Unknown, Message: part.name + " cannot be evaluated: " + err.Error()}
		case is:
			return Result{Status: part.status, Message: part.name + " is true"}
		}
	}
	return Result{Status: InProgress, Message: "neither inProgress, failed nor current is true"}
}

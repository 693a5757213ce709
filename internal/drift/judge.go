package drift

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// Op is what is to be done about an object.
type Op string

const (
	// Leave: nothing.
	Leave Op = "leave"
	// Report: it is told, and nothing else.
	Report Op = "report"
	// Create: it is applied, for there is none.
	Create Op = "create"
	// Apply: it is applied over what is there.
	Apply Op = "apply"
)

// Reason says why an Op is the one; nothing is ever left without one.
type Reason string

const (
	// NotDeclared: nobody wants it. What is still there is the owner's own run to prune.
	NotDeclared Reason = "NotDeclared"
	// Suspended: the owner asks to be left alone.
	Suspended Reason = "Suspended"
	// Deleting: the owner is being deleted, and what it has applied goes with it or stays behind.
	Deleting Reason = "Deleting"
	// Outdated: the owner asks for something else than what was applied; the run that applies that looks at every object.
	Outdated Reason = "Outdated"
	// TurnedOff: the mode is Off.
	TurnedOff Reason = "TurnedOff"
	// Marked: an annotation or label, in Git or in the cluster, says to leave the object alone.
	Marked Reason = "Marked"
	// Terminating: it is being deleted. Once it has gone it is missing.
	Terminating Reason = "Terminating"
	// Foreign: its owner labels name somebody else now.
	Foreign Reason = "Foreign"
	// OnlyCreated: an annotation in Git says that it is applied when it is not there, and never again.
	OnlyCreated Reason = "OnlyCreated"
	// AsDeclared: an apply would change nothing.
	AsDeclared Reason = "AsDeclared"
	// Missing: it is declared and not there.
	Missing Reason = "Missing"
	// Changed: what is declared of it is otherwise.
	Changed Reason = "Changed"
	// Traces: all is as declared, but it carries traces of kubectl that the owner's next run clears off.
	Traces Reason = "Traces"
)

// Verdict is what Judge says of one object.
type Verdict struct {
	Op     Op
	Reason Reason
	// Detail is what Reason leaves open, for people: whose it is, which mark it carries. It may be empty.
	Detail string
	// Differences are what an apply would change, sorted by path; only with the reason Changed.
	Differences []Difference
	// Omitted is how many more there are.
	Omitted int
}

// Drifted says whether the object is not as it was left in a way that is worth telling.
func (v Verdict) Drifted() bool { return v.Reason == Missing || v.Reason == Changed }

// Policy is all that Judge goes by beside the object itself.
type Policy struct {
	Mode Mode
	// Owner is who applied the object, and Labels are how the object says so.
	Owner  types.NamespacedName
	Labels object.OwnerLabels
	// Manager is the field manager of what was applied.
	Manager object.Manager
	// Held says why nothing may be done for the owner at all: Suspended, Deleting or Outdated. It is empty when it may.
	Held Reason
	// Mark is what in Git says to leave the object alone, as people know it: `kustomize.toolkit.fluxcd.io/reconcile=disabled`.
	Mark string
	// IfNotPresent: an annotation in Git says that the object is only ever created.
	IfNotPresent bool
	// Force: it may be made anew when it cannot be changed.
	Force bool
	// Ignored are the JSON pointers of fields that others may change.
	Ignored []string
	// Overridden says whose fields an apply takes away; nil for nobody's.
	Overridden func(manager, operation string) bool
	// Hide keeps from being told what is secret.
	Hide Hider
}

// Judge decides what is to become of one object. It is pure, and asked again about what is as declared, it says so again.
//
//	declared  live
//	   –       –    Leave: nothing is wanted, and nothing is there
//	   –      yes   Leave: what is no longer declared is pruned by the owner's own run
//	  yes      –    Create
//	  yes     yes   Apply if it would change anything
//
// Mode Warn makes a Report of either. declared is the object as the API server would have it after an apply, which a dry-run
// tells: only then is what it defaults and normalises no difference. Without a live object it is as it stands in Git.
func Judge(declared, live *unstructured.Unstructured, policy Policy) Verdict {
	if declared == nil {
		return Verdict{Op: Leave, Reason: NotDeclared}
	}
	if v, left := heldBack(policy); left {
		return v
	}
	if live == nil {
		return policy.act(Verdict{Op: Create, Reason: Missing})
	}
	if v, left := leftAlone(live, policy); left {
		return v
	}
	if !policy.keepsTraces(declared, live) {
		declared = withoutOverridden(declared, policy.Overridden)
	}
	differences, omitted := Differences(declared, live, policy)
	switch {
	case len(differences) > 0:
		return policy.act(Verdict{Op: Apply, Reason: Changed, Differences: differences, Omitted: omitted})
	case !policy.keepsTraces(declared, live) && traced(live, policy.Overridden):
		return Verdict{Op: Leave, Reason: Traces} // a finalizer that somebody has set by hand goes with them: that has time
	default:
		return Verdict{Op: Leave, Reason: AsDeclared}
	}
}

// act is the verdict in the mode of the policy.
func (p Policy) act(v Verdict) Verdict {
	if p.Mode == Warn {
		v.Op = Report
	}
	return v
}

// inGit says where a mark is.
const inGit = " in Git"

// heldBack says whether the object is left alone whatever it is like.
func heldBack(p Policy) (Verdict, bool) {
	switch {
	case p.Held != "":
		return Verdict{Op: Leave, Reason: p.Held}, true
	case p.Mode == Off:
		return Verdict{Op: Leave, Reason: TurnedOff}, true
	case p.Mark != "":
		return Verdict{Op: Leave, Reason: Marked, Detail: p.Mark + inGit}, true
	}
	return Verdict{}, false
}

// leftAlone says whether a live object is not to be touched, however it differs.
func leftAlone(live *unstructured.Unstructured, p Policy) (Verdict, bool) {
	owner := p.Labels.Of(live)
	nobody := types.NamespacedName{}
	switch mark := p.markOf(live); {
	case live.GetDeletionTimestamp() != nil:
		return Verdict{Op: Leave, Reason: Terminating, Detail: awaiting(live)}, true
	case owner != p.Owner && owner != nobody:
		return Verdict{Op: Leave, Reason: Foreign, Detail: fmt.Sprintf("it belongs to %s now", owner)}, true
	case owner == nobody && p.other(live) != nobody:
		return Verdict{Op: Leave, Reason: Foreign, Detail: fmt.Sprintf("it belongs to %s now", p.other(live))}, true
	case mark != "":
		return Verdict{Op: Leave, Reason: Marked, Detail: mark + " in the cluster"}, true
	case p.IfNotPresent:
		return Verdict{Op: Leave, Reason: OnlyCreated}, true
	}
	return Verdict{}, false
}

// other returns the owner that a live object names of the kind that the policy is not about.
func (p Policy) other(live *unstructured.Unstructured) types.NamespacedName {
	if labels := object.HelmReleaseLabels(); p.Labels != labels {
		return labels.Of(live)
	}
	return object.KustomizationLabels().Of(live)
}

// markOf returns the mark by which an object of a kind of owner asks to be left alone; empty when it does not.
func (p Policy) markOf(u *unstructured.Unstructured) string {
	if !p.released() {
		return MarkOf(u)
	}
	if object.Marked(u, api.DriftDetectionMark, api.Disabled) {
		return api.DriftDetectionMark + "=" + api.Disabled
	}
	return ""
}

// released says whether the policy is about objects of a HelmRelease. The annotations for Kustomizations mean nothing to it.
func (p Policy) released() bool { return p.Labels == object.HelmReleaseLabels() }

// MarkOf returns the label or annotation by which an object asks to be left alone; empty when it does not.
func MarkOf(u *unstructured.Unstructured) string {
	for key, value := range map[string]string{api.ReconcileAnnotation: api.Disabled, api.SSAAnnotation: kustomizev1.IgnoreValue} {
		if object.Marked(u, key, value) {
			return key + "=" + strings.ToLower(value)
		}
	}
	return ""
}

// awaiting names the finalizers that hold up a deletion (faults.md F10).
func awaiting(live *unstructured.Unstructured) string {
	finalizers := live.GetFinalizers()
	if len(finalizers) == 0 {
		return "it is being deleted"
	}
	slices.Sort(finalizers)
	return "it is being deleted and waits for " + strings.Join(finalizers, ", ")
}

// keepsTraces says whether an apply leaves what kubectl has written beside what is declared.
func (p Policy) keepsTraces(declared, live *unstructured.Unstructured) bool {
	return p.Overridden == nil ||
		object.Marked(declared, api.SSAAnnotation, kustomizev1.MergeValue) || object.Marked(live, api.SSAAnnotation, kustomizev1.MergeValue)
}

// traced says whether a live object has entries of managers whose fields an apply takes away.
func traced(live *unstructured.Unstructured, overridden func(manager, operation string) bool) bool {
	return slices.ContainsFunc(managersOf(live), func(m manager) bool { return m.Subresource == "" && overridden(m.Manager, m.Operation) })
}

// For is the policy for one object as it is declared; rules are the fields that others may change of whichever objects.
func (p Policy) For(declared *unstructured.Unstructured, rules jsondiff.CompiledIgnoreRules) Policy {
	p.Mark = p.markOf(declared)
	if !p.released() {
		// A value that cannot be understood was refused before it was applied.
		p.Mode, _ = ParseMode(declared.GetAnnotations(), p.Mode)
		p.Force = object.Marked(declared, api.ForceAnnotation, api.Enabled)
		p.IfNotPresent = object.Marked(declared, api.SSAAnnotation, kustomizev1.IfNotPresentValue)
	}
	for selector, paths := range rules {
		if selector.MatchUnstructured(declared) {
			p.Ignored = append(slices.Clip(p.Ignored), paths...)
		}
	}
	return p
}

// Summary is one line of what the verdict found, the same for the same: for events and conditions.
func (v Verdict) Summary() string {
	switch v.Reason {
	case Missing:
		return "it was deleted"
	case Changed:
		lines := make([]string, 0, len(v.Differences))
		for _, d := range v.Differences {
			lines = append(lines, d.String())
		}
		if v.Omitted > 0 {
			lines = append(lines, fmt.Sprintf("%d more", v.Omitted))
		}
		return cmp.Or(strings.Join(lines, "; "), "what differs could not be told by a dry-run")
	default:
		return cmp.Or(v.Detail, string(v.Reason))
	}
}

package notify

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"sync"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// The limits of the patterns of users (faults.md A28). Go's patterns never go back, so that a match takes at most the length
// of the message times the size of the pattern.
const (
	maxPatterns      = 100
	maxPatternLength = 1024
	maxPatternSize   = 500  // instructions of one
	maxListSize      = 2000 // and of a list
)

// The annotations by which an Alert asks for fewer messages, or for more of a status (docs/adr/0038).
const (
	onAnnotation    = "cleat.dev/on"
	onTransitions   = "transitions"
	groupAnnotation = "cleat.dev/group-by"
	groupRevision   = "revision"
	// pendingAnnotation, set to "true", has commits shown as pending while they are rolled out.
	pendingAnnotation = "cleat.dev/pending"
)

// rule is an Alert, understood once for all events that will come.
type rule struct {
	alert            *alerting.Alert
	include, exclude []*regexp.Regexp
	transitions      bool
	grouped          bool
	pending          bool
	// invalid says why the Alert matches nothing.
	invalid error
	told    *sync.Once // of invalid
	// size is how many instructions its patterns have, and slow that somebody was told that they take too much time.
	size int
	slow *sync.Once
}

func (r *rule) key() types.NamespacedName {
	return types.NamespacedName{Namespace: r.alert.Namespace, Name: r.alert.Name}
}

func (r *rule) provider() types.NamespacedName {
	return types.NamespacedName{Namespace: r.alert.Namespace, Name: r.alert.Spec.ProviderRef.Name}
}

// newRule understands an Alert as it is cached.
func newRule(u *unstructured.Unstructured, noCrossNamespace bool) *rule {
	r := &rule{alert: &alerting.Alert{}, told: &sync.Once{}, slow: &sync.Once{}}
	if err := api.Decode(u, r.alert); err != nil {
		r.alert = &alerting.Alert{}
		r.alert.Namespace, r.alert.Name, r.alert.UID = u.GetNamespace(), u.GetName(), u.GetUID()
		r.invalid = err
	}
	r.alert.SetGroupVersionKind(api.AlertKind)
	if r.invalid == nil {
		r.invalid = r.understand(noCrossNamespace)
	}
	return r
}

func (r *rule) understand(noCrossNamespace bool) (err error) {
	var sizes [2]int
	if r.include, sizes[0], err = patterns("spec.inclusionList", r.alert.Spec.InclusionList); err != nil {
		return err
	}
	if r.exclude, sizes[1], err = patterns("spec.exclusionList", r.alert.Spec.ExclusionList); err != nil {
		return err
	}
	r.size = sizes[0] + sizes[1]
	if r.transitions, err = r.asks(onAnnotation, onTransitions); err != nil {
		return err
	}
	if r.grouped, err = r.asks(groupAnnotation, groupRevision); err != nil {
		return err
	}
	if r.pending, err = r.asks(pendingAnnotation, "true"); err != nil {
		return err
	}
	if i := slices.IndexFunc(r.alert.Spec.EventSources, r.elsewhere); noCrossNamespace && i >= 0 {
		return fmt.Errorf("spec.eventSources[%d].namespace is another namespace, which --no-cross-namespace-refs forbids", i)
	}
	return nil
}

func (r *rule) elsewhere(s notificationv1.CrossNamespaceObjectReference) bool {
	return s.Namespace != "" && s.Namespace != r.alert.Namespace
}

// asks says whether the annotation has the one value that it may have.
func (r *rule) asks(annotation, value string) (bool, error) {
	switch given := r.alert.Annotations[annotation]; given {
	case value:
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fmt.Errorf("the annotation %s is %q, and may be %q only", annotation, given, value)
	}
}

var errPattern = fmt.Errorf("is too large a pattern: at most %d bytes, and repetitions that amount to %d instructions", maxPatternLength, maxPatternSize)

// patterns understands a list, and says how large it is.
func patterns(field string, texts []string) (out []*regexp.Regexp, total int, err error) {
	if len(texts) > maxPatterns {
		return nil, 0, fmt.Errorf("%s has more than %d patterns", field, maxPatterns)
	}
	out = make([]*regexp.Regexp, 0, len(texts))
	for i, text := range texts {
		p, size, err := pattern(text)
		if err != nil {
			return nil, 0, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		if total += size; total > maxListSize {
			return nil, 0, fmt.Errorf("%s[%d]: the patterns amount to more than %d instructions", field, i, maxListSize)
		}
		out = append(out, p)
	}
	return out, total, nil
}

// pattern understands a pattern, and says how large it is.
func pattern(text string) (p *regexp.Regexp, size int, err error) {
	if len(text) > maxPatternLength {
		return nil, 0, errPattern
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, 0, err
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, 0, err
	}
	if len(program.Inst) > maxPatternSize {
		return nil, 0, errPattern
	}
	p, err = regexp.Compile(text)
	return p, len(program.Inst), err
}

// severe says whether the severity is one that the Alert wants.
func (r *rule) severe(s reconcile.Severity) bool {
	return r.alert.Spec.EventSeverity != string(reconcile.SeverityError) || s == reconcile.SeverityError
}

// maxWork bounds what it takes to match one message, in instructions of the patterns times bytes. With patterns of 500 instructions,
// which are many, the longest message that Kubernetes takes is matched whole.
const maxWork = 20_000_000

// lists says whether the message is one that the lists of patterns let pass. Of a message that is too long for them only the
// beginning counts.
func (r *rule) lists(message string) bool {
	message = message[:min(len(message), maxWork/max(r.size, 1))]
	matches := func(p *regexp.Regexp) bool { return p.MatchString(message) }
	if len(r.include) > 0 && !slices.ContainsFunc(r.include, matches) {
		return false
	}
	return !slices.ContainsFunc(r.exclude, matches)
}

// labeled returns the labels of the object of an event; nil when it has gone.
type labeled func(context.Context) (labels.Set, error)

// errSource means: the labels of an object cannot be had, so that nobody knows whether they match.
var errSource = errors.New("reading the labels of the object")

// about says whether the Alert has asked for events about the object.
func (r *rule) about(ctx context.Context, n incoming, of labeled) (bool, error) {
	var errs error
	for _, s := range r.alert.Spec.EventSources {
		if !r.names(s, n) {
			continue
		}
		if s.Name != "*" || len(s.MatchLabels) == 0 {
			return true, nil
		}
		has, err := of(ctx)
		if err != nil {
			errs = fmt.Errorf("%w: %w", errSource, err)
			continue
		}
		if has != nil && labels.SelectorFromSet(s.MatchLabels).Matches(has) {
			return true, nil
		}
	}
	return false, errs
}

// names says whether the object is of the kind, namespace and name of a source.
func (r *rule) names(s notificationv1.CrossNamespaceObjectReference, n incoming) bool {
	o := n.InvolvedObject
	switch {
	case s.Kind != o.Kind || s.Name != "*" && s.Name != o.Name:
		return false
	case s.APIVersion != "" && schema.FromAPIVersionAndKind(s.APIVersion, s.Kind).Group != n.group():
		return false
	case s.Namespace == "*":
		return true // newRule has seen to it that this is allowed
	case s.Namespace == "":
		return o.Namespace == r.alert.Namespace
	}
	return o.Namespace == s.Namespace
}

package values

import (
	"context"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
)

// The kinds of object that values may come from.
const (
	ConfigMap = "ConfigMap"
	Secret    = "Secret"
)

// Source reads what values may come from.
type Source interface {
	// Data returns the data of the ConfigMap or Secret, an error that apierrors.IsNotFound knows when there is none. The
	// caller does not change it.
	Data(ctx context.Context, kind string, key types.NamespacedName) (map[string][]byte, error)
}

// Compose returns the values of a release whose HelmRelease is in the given namespace: each reference in turn over those
// before it, then what is inline over all of them. A reference with a targetPath is laid over what is inline, too; see
// overlay. It returns an empty map when there are none.
//
// An *Error says what is wrong with a reference or with what it names. Any other error is the Source's: it could not be
// read. The context carries the deadline of all reads.
func Compose(ctx context.Context, src Source, namespace string, refs []v2.ValuesReference, inline *apiextensionsv1.JSON) (map[string]any, error) {
	room := budget(maxBytes)
	own, err := parseInline(inline, &room)
	if err != nil {
		return nil, err
	}
	reader := reader{source: src, namespace: namespace, read: map[object]content{}}
	result := map[string]any{}
	for _, ref := range refs {
		text, found, err := reader.text(ctx, ref)
		if err != nil {
			return nil, err
		}
		if !found {
			continue // It is optional, and there is nothing.
		}
		laid, fault := overlay(result, own, ref, text, &room)
		if fault != nil {
			return nil, fault.at(namespace, ref)
		}
		result = laid
	}
	return merge(result, own), nil
}

// overlay lays one reference over the values so far.
//
// What is inline comes after all references, but a reference with a targetPath is meant to replace it: so what is inline is
// merged first, the path is set in the result, and what is inline is merged once more at the end of Compose. merge
// shares the maps and lists that only one side has, so a path that leads into such a part of what is inline changes it
// there, for good; where both sides have a part, or the path is a single key, what is inline has the last word. This is
// what Flux computes, to the letter: another rule would change the values of releases that change hands.
func overlay(values, inline map[string]any, ref v2.ValuesReference, text []byte, room *budget) (map[string]any, *Error) {
	if ref.TargetPath == "" {
		parsed, err := parseYAML(text, ref.Kind == Secret, room)
		if err != nil {
			return nil, err
		}
		return merge(values, parsed), nil
	}
	values = merge(values, inline)
	return values, set(values, ref.TargetPath, string(text), ref.Literal, room)
}

// object is one that values come from, content what was read of it: each is read once, so that all references to it see the
// same.
type object struct{ kind, name string }

type content struct {
	data  map[string][]byte
	found bool
}

type reader struct {
	source    Source
	namespace string
	read      map[object]content
}

// text returns what a reference names, and false when that is not there and need not be.
func (r reader) text(ctx context.Context, ref v2.ValuesReference) ([]byte, bool, error) {
	if err := checkRef(ref); err != nil {
		return nil, false, err.at(r.namespace, ref)
	}
	c, err := r.content(ctx, object{ref.Kind, ref.Name})
	if err != nil {
		return nil, false, err
	}
	text, has := c.data[ref.GetValuesKey()]
	switch {
	case has:
		return text, true, nil
	case ref.Optional:
		// Flux's API says that a missing key is an error even so; Flux itself takes it for nothing, and releases rely on it.
		return nil, false, nil
	case !c.found:
		return nil, false, (&Error{Cause: MissingObject}).at(r.namespace, ref)
	default:
		return nil, false, (&Error{Cause: MissingKey}).at(r.namespace, ref)
	}
}

func (r reader) content(ctx context.Context, o object) (content, error) {
	if c, known := r.read[o]; known {
		return c, nil
	}
	key := types.NamespacedName{Namespace: r.namespace, Name: o.name}
	data, err := r.source.Data(ctx, o.kind, key)
	if err != nil && !apierrors.IsNotFound(err) {
		return content{}, fmt.Errorf("reading %s '%s' for values: %w", o.kind, key, err)
	}
	c := content{data: data, found: err == nil}
	r.read[o] = c
	return c, nil
}

// checkRef refuses what the API server would, had it been asked: a name goes into the path of a request, and must not lead
// it to another object.
func checkRef(ref v2.ValuesReference) *Error {
	if ref.Kind != ConfigMap && ref.Kind != Secret {
		return &Error{Cause: InvalidReference, Detail: fmt.Sprintf("kind %q is neither ConfigMap nor Secret", ref.Kind)}
	}
	if reasons := validation.NameIsDNSSubdomain(ref.Name, false); len(reasons) > 0 {
		return &Error{Cause: InvalidReference, Detail: fmt.Sprintf("%q is no name of a %s", ref.Name, ref.Kind)}
	}
	return nil
}

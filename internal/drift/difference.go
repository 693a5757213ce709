package drift

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fluxcd/pkg/ssa/normalize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

// What is kept of the differences of one object is bounded.
const (
	maxDifferences = 20
	maxValue       = 200 // bytes of a value
)

// Difference is one field that is not as declared. Values are JSON, cut where they are long, and masked where they are
// secret; an empty one means that there is no such field.
type Difference struct {
	Path     string `json:"path"`
	Declared string `json:"declared,omitempty"`
	Live     string `json:"live,omitempty"`
	// By are those who have written what is live, newest first. It is empty when managedFields name nobody: who removes a
	// field leaves no trace there.
	By []Author `json:"by,omitempty"`
}

func (d Difference) String() string {
	text := fmt.Sprintf("%s is %s, declared is %s", d.Path, orNothing(d.Live), orNothing(d.Declared))
	if len(d.By) > 0 {
		text += " (" + d.By[0].String() + ")"
	}
	return text
}

func orNothing(value string) string {
	if value == "" {
		return "not there"
	}
	return value
}

// Differences returns what an apply would change: where live is not as declared, which is how the API server would have it.
// Of the metadata only labels and annotations count, and nothing of the status. There are at most maxDifferences, sorted by
// path, and how many were left out.
func Differences(declared, live *unstructured.Unstructured, policy Policy) (differences []Difference, omitted int) {
	if alike(declared, live) {
		return nil, 0 // Most are, and to find that out costs no copy.
	}
	w := &walk{managers: managersOf(live), applied: policy.Manager}
	for _, m := range append(managersOf(declared), w.managers...) {
		w.shapes = append(w.shapes, m.fields)
	}
	want, is := comparable(declared, policy.Ignored), comparable(live, policy.Ignored)
	policy.Hide.both(want, is)
	w.compare(nil, w.shapes, want.Object, is.Object)
	slices.SortStableFunc(w.found, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	if extra := len(w.found) - maxDifferences; extra > 0 {
		return w.found[:maxDifferences], extra
	}
	return w.found, 0
}

// alike says whether two objects are the same in all that counts, as they stand.
func alike(a, b *unstructured.Unstructured) bool {
	for _, field := range []string{"labels", "annotations"} {
		x, _, _ := unstructured.NestedFieldNoCopy(a.Object, "metadata", field)
		y, _, _ := unstructured.NestedFieldNoCopy(b.Object, "metadata", field)
		if !equal(x, y) {
			return false
		}
	}
	for _, pair := range [][2]map[string]any{{a.Object, b.Object}, {b.Object, a.Object}} {
		for key, value := range pair[0] {
			if key != "metadata" && key != "status" && !equal(value, pair[1][key]) {
				return false
			}
		}
	}
	return true
}

// comparable returns a copy of what counts of an object.
func comparable(u *unstructured.Unstructured, ignored []string) *unstructured.Unstructured {
	out := u.DeepCopy()
	metadata := map[string]any{}
	for _, field := range []string{"labels", "annotations"} {
		if values, ok, _ := unstructured.NestedMap(out.Object, "metadata", field); ok {
			metadata[field] = values
		}
	}
	delete(out.Object, "metadata")
	delete(out.Object, "status")
	if err := normalize.DryRunUnstructured(out); err != nil {
		// An object that does not fit its own kind is compared as it is.
		out.Object = maps.Clone(u.Object)
		out = out.DeepCopy()
		delete(out.Object, "status")
	}
	out.Object["metadata"] = metadata
	delete(out.Object, "status")
	for _, pointer := range ignored {
		out.Object, _ = without(out.Object, pointers(pointer)).(map[string]any)
	}
	return out
}

// pointers splits a JSON pointer (RFC 6901).
func pointers(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
	}
	return parts
}

// without returns a value without what a JSON pointer points to.
func without(value any, path []string) any {
	switch v := value.(type) {
	case map[string]any:
		if len(path) == 1 {
			delete(v, path[0])
		} else if child, ok := v[path[0]]; ok {
			v[path[0]] = without(child, path[1:])
		}
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(v) {
			return value
		}
		if len(path) == 1 {
			return slices.Delete(v, i, i+1)
		}
		v[i] = without(v[i], path[1:])
	}
	return value
}

// walk goes through two values side by side.
type walk struct {
	managers []manager
	applied  object.Manager
	shapes   []node // of all managers: they tell by which keys the items of a list are told apart
	found    []Difference
}

func (w *walk) compare(path []step, shapes []node, want, is any) {
	if equal(want, is) || empty(want) && empty(is) {
		return
	}
	switch want := want.(type) {
	case map[string]any:
		if is, ok := is.(map[string]any); ok {
			w.compareMaps(path, shapes, want, is)
			return
		}
	case []any:
		if is, ok := is.([]any); ok {
			w.compareLists(path, shapes, want, is)
			return
		}
	}
	w.differs(path, want, is)
}

// empty says whether a value is as good as none: the API server leaves either out.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func (w *walk) compareMaps(path []step, shapes []node, want, is map[string]any) {
	both := maps.Clone(want)
	maps.Copy(both, is)
	for _, key := range keysOf(both) {
		w.compare(extend(path, step{kind: 'f', field: key}), below(shapes, "f:"+key), want[key], is[key])
	}
}

func (w *walk) compareLists(path []step, shapes []node, want, is []any) {
	if names := keyNames(shapes); len(names) > 0 {
		w.compareItems(path, shapes, names, want, is)
		return
	}
	if isSet(shapes) {
		w.compareSets(path, want, is)
		return
	}
	if len(want) != len(is) {
		w.differs(path, want, is)
		return
	}
	for i := range want {
		w.compare(extend(path, step{kind: 'i', index: i}), nil, want[i], is[i])
	}
}

// compareItems compares lists whose items have keys. That they are in another order is a difference of the list.
func (w *walk) compareItems(path []step, shapes []node, names []string, want, is []any) {
	before := len(w.found)
	matched := 0
	for _, item := range want {
		s := step{kind: 'k', keys: keysFrom(item, names)}
		other := find(is, s.keys, names)
		if other != nil {
			matched++
		}
		w.compare(extend(path, s), w.under(shapes, s), item, other)
	}
	for _, item := range is {
		s := step{kind: 'k', keys: keysFrom(item, names)}
		if find(want, s.keys, names) == nil {
			w.compare(extend(path, s), w.under(shapes, s), nil, item)
		}
	}
	if len(w.found) == before && matched == len(want) { // equal one by one, and yet not as a whole
		w.differs(path, keysOnly(want, names), keysOnly(is, names))
	}
}

func (w *walk) under(shapes []node, s step) []node {
	var out []node
	for _, n := range shapes {
		if child, ok := s.in(n); ok {
			out = append(out, child)
		}
	}
	return out
}

func (w *walk) compareSets(path []step, want, is []any) {
	has := func(list []any, item any) bool {
		return slices.ContainsFunc(list, func(other any) bool { return equal(item, other) })
	}
	before := len(w.found)
	for _, item := range want {
		if !has(is, item) {
			w.differs(extend(path, step{kind: 'v', value: item}), item, nil)
		}
	}
	for _, item := range is {
		if !has(want, item) {
			w.differs(extend(path, step{kind: 'v', value: item}), nil, item)
		}
	}
	if len(w.found) == before {
		w.differs(path, want, is) // in another order
	}
}

// differs notes a difference.
func (w *walk) differs(path []step, want, is any) {
	w.found = append(w.found, Difference{
		Path: render(path), Declared: show(want), Live: show(is), By: authorsOf(w.managers, w.applied, path),
	})
}

func extend(path []step, s step) []step { return append(slices.Clip(path), s) }

// keyNames returns the names of the keys by which the items of a list are told apart; nothing when they are not.
func keyNames(shapes []node) []string {
	for _, n := range shapes {
		for _, key := range keysOf(n) {
			text, ok := strings.CutPrefix(key, "k:")
			if !ok {
				continue
			}
			var keys map[string]any
			if json.Unmarshal([]byte(text), &keys) == nil && len(keys) > 0 {
				return keysOf(keys)
			}
		}
	}
	return nil
}

func isSet(shapes []node) bool {
	return slices.ContainsFunc(shapes, func(n node) bool {
		return slices.ContainsFunc(keysOf(n), func(key string) bool { return strings.HasPrefix(key, "v:") })
	})
}

func keysFrom(item any, names []string) map[string]any {
	m, _ := item.(map[string]any)
	keys := make(map[string]any, len(names))
	for _, name := range names {
		if v, ok := m[name]; ok {
			keys[name] = v
		}
	}
	return keys
}

func keysOnly(items []any, names []string) []any {
	out := make([]any, 0, len(items))
	for _, item := range items {
		out = append(out, keysFrom(item, names))
	}
	return out
}

func find(items []any, keys map[string]any, names []string) any {
	for _, item := range items {
		if equal(keysFrom(item, names), keys) {
			return item
		}
	}
	return nil
}

var plainField = regexp.MustCompile(`^[A-Za-z0-9_$-]+$`)

// render writes a path as people do: spec.template.spec.containers[name=app].image.
func render(path []step) string {
	var out strings.Builder
	for _, s := range path {
		switch s.kind {
		case 'f':
			if !plainField.MatchString(s.field) {
				fmt.Fprintf(&out, "[%q]", s.field)
				continue
			}
			if out.Len() > 0 {
				out.WriteByte('.')
			}
			out.WriteString(s.field)
		case 'k':
			parts := make([]string, 0, len(s.keys))
			for _, key := range keysOf(s.keys) {
				parts = append(parts, fmt.Sprintf("%s=%v", key, s.keys[key]))
			}
			fmt.Fprintf(&out, "[%s]", strings.Join(parts, ","))
		case 'v':
			fmt.Fprintf(&out, "[%s]", show(s.value))
		case 'i':
			fmt.Fprintf(&out, "[%d]", s.index)
		}
	}
	return out.String()
}

// show writes a value, not too long.
func show(value any) string {
	if value == nil {
		return ""
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Sprintf("%T", value)
	}
	text := strings.TrimSuffix(out.String(), "\n")
	if len(text) <= maxValue {
		return text
	}
	cut := maxValue
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

func keysOf(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// equal compares JSON values. A number is the same whether it was decoded as an integer or not.
func equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key, v := range a {
			other, ok := b[key]
			if !ok || !equal(v, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	}
	x, numeric := number(a)
	y, too := number(b)
	if numeric && too {
		return x == y
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

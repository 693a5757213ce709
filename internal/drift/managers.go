package drift

import (
	"encoding/json"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

// Author is who has written a field, as managedFields have it.
type Author struct {
	Manager     string `json:"manager"`
	Operation   string `json:"operation,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	// Time is when the manager wrote last, to the second, as the API server has it.
	Time string `json:"time,omitempty"`
}

func (a Author) String() string {
	if a.Subresource != "" {
		return a.Manager + " by " + a.Subresource
	}
	return a.Manager
}

// manager is an entry of managedFields: an author, and a fieldsV1 set as a tree; see object.OwnedDigest for its keys.
type manager struct {
	Author
	fields node
}

type node = map[string]any

// managersOf reads managedFields in place.
func managersOf(u *unstructured.Unstructured) []manager {
	metadata, _ := u.Object["metadata"].(map[string]any)
	entries, _ := metadata["managedFields"].([]any)
	managers := make([]manager, 0, len(entries))
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		fields, _ := entry["fieldsV1"].(map[string]any)
		text := func(key string) string {
			s, _ := entry[key].(string)
			return s
		}
		managers = append(managers, manager{
			Author: Author{Manager: text("manager"), Operation: text("operation"), Subresource: text("subresource"), Time: text("time")},
			fields: fields,
		})
	}
	return managers
}

// step is one step of a path into an object.
type step struct {
	// field of a map; or, of a list, the item with these keys, the item with this value, or the one at this index.
	field string
	keys  map[string]any
	value any
	index int
	kind  byte // as in a key of fieldsV1: f, k, v or i
}

// in returns what a tree holds under a step.
func (s step) in(n node) (node, bool) {
	switch s.kind {
	case 'f':
		child, ok := n["f:"+s.field]
		return asNode(child), ok
	case 'k', 'v':
		for key, child := range n {
			if s.named(key) {
				return asNode(child), true
			}
		}
	}
	return nil, false // an item by its index: nobody owns one, only the list as a whole
}

// named says whether a key of fieldsV1 means the item.
func (s step) named(key string) bool {
	text, ok := strings.CutPrefix(key, string(s.kind)+":")
	if !ok {
		return false
	}
	var want any
	if json.Unmarshal([]byte(text), &want) != nil {
		return false
	}
	if s.kind == 'v' {
		return equal(want, s.value)
	}
	return equal(want, s.keys)
}

func asNode(v any) node {
	n, _ := v.(node)
	return n
}

// owns says whether a tree covers a path: that very field, or as a whole what it is in.
func owns(n node, path []step) bool {
	for _, s := range path {
		child, ok := s.in(n)
		if !ok {
			return false
		}
		if len(child) == 0 {
			return true
		}
		n = child
	}
	return true
}

// authorsOf returns who owns a path, but for who applied it by that name, newest first.
func authorsOf(managers []manager, applied object.Manager, path []step) []Author {
	var authors []Author
	for _, m := range managers {
		if m.Manager == applied.Name && m.Subresource == "" && (m.Operation == "Apply" || applied.Updates) {
			continue // That is us: it was ours, and it is to be ours again.
		}
		if owns(m.fields, path) {
			authors = append(authors, m.Author)
		}
	}
	slices.SortStableFunc(authors, func(a, b Author) int { return strings.Compare(b.Time, a.Time) })
	return authors
}

// withoutOverridden returns the object without the fields that only managers have whose fields an apply takes away. The API
// server does not tell in a dry-run, since an apply clears their entries off first.
func withoutOverridden(u *unstructured.Unstructured, overridden func(manager, operation string) bool) *unstructured.Unstructured {
	managers := managersOf(u)
	theirs, others := []node{}, []node{}
	for _, m := range managers {
		if m.Subresource == "" && overridden(m.Manager, m.Operation) {
			theirs = append(theirs, m.fields)
			continue
		}
		others = append(others, m.fields)
	}
	if len(theirs) == 0 {
		return u
	}
	out := u.DeepCopy()
	for _, fields := range theirs {
		out.Object, _ = take(out.Object, fields, others).(map[string]any)
	}
	return out
}

// take returns a value without what a tree owns of it and no other does.
func take(value any, fields node, others []node) any {
	for _, key := range keysOf(fields) {
		if key == "." {
			continue
		}
		inner := asNode(fields[key])
		shared := below(others, key)
		_, exists := inner["."]
		if len(shared) == 0 && (len(inner) == 0 || exists) {
			value = drop(value, key)
			continue
		}
		value = replace(value, key, func(child any) any { return take(child, inner, shared) })
	}
	return value
}

// below returns what trees hold under a key.
func below(trees []node, key string) []node {
	var out []node
	for _, n := range trees {
		if child, ok := n[key]; ok {
			out = append(out, asNode(child))
		}
	}
	return out
}

// drop returns a map or list without what a key of fieldsV1 names.
func drop(value any, key string) any {
	switch v := value.(type) {
	case map[string]any:
		delete(v, strings.TrimPrefix(key, "f:"))
	case []any:
		return slices.DeleteFunc(v, func(item any) bool { return means(key, item) })
	}
	return value
}

// replace changes what a key of fieldsV1 names.
func replace(value any, key string, by func(any) any) any {
	switch v := value.(type) {
	case map[string]any:
		name := strings.TrimPrefix(key, "f:")
		if child, ok := v[name]; ok {
			v[name] = by(child)
		}
	case []any:
		for i, item := range v {
			if means(key, item) {
				v[i] = by(item)
			}
		}
	}
	return value
}

// means says whether a key of fieldsV1 names an item of a list.
func means(key string, item any) bool {
	if len(key) < 2 {
		return false
	}
	var want any
	if json.Unmarshal([]byte(key[2:]), &want) != nil {
		return false
	}
	switch key[0] {
	case 'v':
		return equal(want, item)
	case 'k':
		m, ok := item.(map[string]any)
		keys, _ := want.(map[string]any)
		for name, v := range keys {
			if !equal(m[name], v) {
				return false
			}
		}
		return ok && len(keys) > 0
	}
	return false
}

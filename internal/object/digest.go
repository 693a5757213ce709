package object

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Digest identifies the content of something: equal digests, equal content.
type Digest [sha256.Size]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// DigestOf returns the digest of a desired object as a whole. The order of map keys does not count.
func DigestOf(u *unstructured.Unstructured) Digest {
	return sha256.Sum256(appendValue(nil, u.Object))
}

// DigestOfText returns the digest of a text.
func DigestOfText(text string) Digest { return sha256.Sum256([]byte(text)) }

// Manager is who owns fields of an object, in the words of its managedFields.
type Manager struct {
	Name string
	// Updates says that what it wrote without server-side apply is its own too.
	Updates bool
}

// owns says whether an entry of managedFields is of the manager. What it wrote to a subresource is status, not wanted by Git.
func (m Manager) owns(entry map[string]any) bool {
	return entry["manager"] == m.Name && isNone(entry["subresource"]) &&
		(entry["operation"] == "Apply" || m.Updates && entry["operation"] == "Update")
}

// OwnedDigest returns the digest of the fields of a live object that manager owns, names and values.
// It is what tells drift from the noise of status updates: fields of others do not count, a field that somebody took
// over or removed does. It returns false when the manager owns nothing.
//
// It runs at every watch event, so it reads the object in place and copies nothing but scalars.
func OwnedDigest(live *unstructured.Unstructured, manager Manager) (Digest, bool) {
	m, _ := live.Object["metadata"].(map[string]any)
	entries, _ := m["managedFields"].([]any)
	var buf []byte
	owns := false
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		if !manager.owns(entry) {
			continue
		}
		fields, ok := entry["fieldsV1"].(map[string]any)
		if !ok || len(fields) == 0 {
			continue
		}
		owns = true
		buf = appendOwned(buf, fields, live.Object)
	}
	if !owns {
		return Digest{}, false
	}
	return sha256.Sum256(buf), true
}

func isNone(v any) bool { return v == nil || v == "" }

// appendOwned writes what a fieldsV1 set covers of value. The keys of a set are:
//
//	.          the value itself, apart from what is in it
//	f:<name>   a field of a map
//	k:<keys>   the item of a list of maps that has these keys, a JSON object
//	v:<value>  the item of a set with this value, JSON
//	i:<index>  the item of a list at this position
//
// A set that covers nothing inside its value owns the value as a whole.
func appendOwned(buf []byte, fields map[string]any, value any) []byte {
	for _, key := range sortedKeys(fields) {
		buf = appendString(buf, key)
		if key == "." {
			continue // Existence alone: the name of the parent has been written.
		}
		child, ok := lookup(value, key)
		if !ok {
			buf = append(buf, '-')
			continue
		}
		inner, _ := fields[key].(map[string]any)
		if len(inner) == 0 {
			buf = appendValue(buf, child)
			continue
		}
		buf = append(buf, '(')
		buf = appendOwned(buf, inner, child)
		buf = append(buf, ')')
	}
	return buf
}

// lookup finds the part of value that one key of a fieldsV1 set names.
func lookup(value any, key string) (any, bool) {
	kind, rest, ok := strings.Cut(key, ":")
	if !ok {
		return nil, false
	}
	switch kind {
	case "f":
		m, _ := value.(map[string]any)
		v, ok := m[rest]
		return v, ok
	case "k":
		return find(value, rest, hasKeys)
	case "v":
		return find(value, rest, equalJSON)
	case "i":
		items, _ := value.([]any)
		i, err := strconv.Atoi(rest)
		if err != nil || i < 0 || i >= len(items) {
			return nil, false
		}
		return items[i], true
	default:
		// A kind of key that does not exist yet: it still counts by its name.
		return nil, false
	}
}

// find returns the first item of a list that matches what the text says in JSON.
func find(value any, text string, match func(item, want any) bool) (any, bool) {
	items, ok := value.([]any)
	if !ok {
		return nil, false
	}
	var want any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		return nil, false
	}
	for _, item := range items {
		if match(item, want) {
			return item, true
		}
	}
	return nil, false
}

func hasKeys(item, want any) bool {
	m, ok := item.(map[string]any)
	if !ok {
		return false
	}
	keys, ok := want.(map[string]any)
	if !ok {
		return false
	}
	for name, v := range keys {
		if got, ok := m[name]; !ok || !equalJSON(got, v) {
			return false
		}
	}
	return true
}

func equalJSON(a, b any) bool {
	return slices.Equal(appendValue(nil, a), appendValue(nil, b))
}

// appendValue writes a JSON value in one canonical form: sorted keys, and numbers by their value, since the same number
// is an int64 when Kubernetes decodes it and a float64 when encoding/json does.
func appendValue(buf []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(buf, 'n')
	case bool:
		return strconv.AppendBool(buf, v)
	case string:
		return appendString(buf, v)
	case int64:
		return appendInteger(buf, v)
	case int:
		return appendInteger(buf, int64(v))
	case float64:
		if i := int64(v); float64(i) == v {
			return appendInteger(buf, i)
		}
		return append(strconv.AppendFloat(append(buf, '#'), v, 'g', -1, 64), ';')
	case map[string]any:
		buf = append(buf, '{')
		for _, key := range sortedKeys(v) {
			buf = appendString(buf, key)
			buf = appendValue(buf, v[key])
		}
		return append(buf, '}')
	case []any:
		buf = append(buf, '[')
		for _, item := range v {
			buf = appendValue(buf, item)
		}
		return append(buf, ']')
	default:
		return appendOther(buf, v)
	}
}

// appendOther writes the values that a manifest read by something else than a JSON decoder may hold.
func appendOther(buf []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		// Not JSON at all, so the API server will refuse the object; its digest only has to be some digest.
		return append(buf, '?')
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		return append(buf, '?')
	}
	return appendValue(buf, plain)
}

func appendInteger(buf []byte, i int64) []byte {
	return append(strconv.AppendInt(append(buf, '#'), i, 10), ';')
}

// appendString writes the length first, so that no text can be taken for structure.
func appendString(buf []byte, s string) []byte {
	buf = strconv.AppendInt(buf, int64(len(s)), 10)
	buf = append(buf, '"')
	return append(buf, s...)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

package render

import (
	"fmt"
	"reflect"

	"helm.sh/helm/v3/pkg/chartutil"
)

const (
	// maxValue is how many bytes a mapping or list may stand for that a function walks: what is in it twice counts twice, as it is
	// written twice.
	maxValue = 8 << 20
	// maxValueDepth ends the walk of what contains itself. Charts do make such mappings, to pass their context along; it is only
	// walking them that has no end.
	maxValueDepth = 1000
	// nodeBytes is what a value counts beside its text, and about what it takes in a mapping.
	nodeBytes = 32
)

// weight is how much of something a function would walk.
type weight struct {
	bytes, nodes int64
	endless      bool // deeper than maxValueDepth
}

func (w *weight) tooMuch() bool { return w.endless || w.bytes > maxValue }

// add counts a value with all that is in it, but no more than makes it too much.
func (w *weight) add(value any, depth int64) {
	if w.tooMuch() {
		return
	}
	if depth > maxValueDepth {
		w.endless = true
		return
	}
	w.node(depth)
	switch v := value.(type) {
	case nil, bool, int, int64, float64:
	case string:
		w.bytes += int64(len(v))
	case map[string]any:
		w.mapping(v, depth)
	case chartutil.Values:
		w.mapping(v, depth)
	case []any:
		for _, below := range v {
			w.add(below, depth+1)
			if w.tooMuch() {
				return
			}
		}
	default:
		w.reflected(reflect.ValueOf(value), depth)
	}
}

// node counts one value; the deeper it is, the further it is indented where it is written out.
func (w *weight) node(depth int64) {
	w.nodes++
	w.bytes += nodeBytes + 2*depth
}

func (w *weight) mapping(m map[string]any, depth int64) {
	for key, below := range m {
		w.bytes += int64(len(key))
		w.add(below, depth+1)
		if w.tooMuch() {
			return
		}
	}
}

// reflected counts what the templates of a chart seldom have.
func (w *weight) reflected(v reflect.Value, depth int64) {
	switch v.Kind() {
	case reflect.String:
		w.bytes += int64(v.Len())
	case reflect.Map:
		for each := v.MapRange(); each.Next() && !w.tooMuch(); {
			w.inner(each.Key(), depth)
			w.inner(each.Value(), depth)
		}
	case reflect.Slice, reflect.Array:
		switch v.Type().Elem().Kind() {
		case reflect.Uint8:
			w.bytes += 4 * int64(v.Len()) // as a list of numbers
		case reflect.Int, reflect.Bool, reflect.Int64, reflect.Float64:
			w.bytes += (nodeBytes + 2*depth) * int64(v.Len())
			w.nodes += int64(v.Len())
		default:
			for i := 0; i < v.Len() && !w.tooMuch(); i++ {
				w.inner(v.Index(i), depth)
			}
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			w.inner(v.Elem(), depth)
		}
	case reflect.Struct:
		for i := 0; i < v.NumField() && !w.tooMuch(); i++ {
			w.inner(v.Field(i), depth)
		}
	default: // numbers and such take what their node does
	}
}

func (w *weight) inner(v reflect.Value, depth int64) {
	if v.CanInterface() {
		w.add(v.Interface(), depth+1)
		return
	}
	if depth >= maxValueDepth {
		w.endless = true
		return
	}
	w.node(depth)
	w.reflected(v, depth+1)
}

// walk counts that a function walks the values, and refuses if they are too much for that.
func (m *meter) walk(what string, values ...any) error {
	var w weight
	for _, value := range values {
		if text, ok := value.(string); ok {
			w.bytes += int64(len(text)) // which nobody walks; how long it may be is checked where it is made
			continue
		}
		w.add(value, 0)
	}
	switch {
	case w.endless:
		return m.stop("%s: a value is nested more than %d deep, or contains itself", what, maxValueDepth)
	case w.bytes > maxValue && w.nodes > 0:
		return m.stop("%s: the values stand for more than %d bytes", what, maxValue)
	}
	return m.step(1 + w.nodes + w.bytes>>10)
}

// guard is called on what is about to be printed.
func (m *meter) guard(v reflect.Value) (reflect.Value, error) {
	for v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return v, nil
	}
	if v.CanInterface() {
		if _, ok := v.Interface().(fmt.Stringer); ok {
			return v, nil // it is printed in its own way, which for none that a template can get at is by walking
		}
	}
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.Array, reflect.Struct, reflect.Pointer:
		var w weight
		w.node(0)
		w.reflected(v, 0)
		if w.tooMuch() {
			return v, m.stop("a value that is too large, or contains itself, is printed or walked")
		}
		return v, m.step(1 + w.nodes + w.bytes>>10)
	default:
		return v, nil
	}
}

// count is called on what a method has made.
func (m *meter) count(v reflect.Value) (reflect.Value, error) { return v, m.made(v) }

// made counts a value that has been made: the text, or the places of a list or mapping.
func (m *meter) made(v reflect.Value) error {
	for v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		return m.text(int64(v.Len()))
	case reflect.Slice:
		return m.take(int64(v.Len()) * int64(v.Type().Elem().Size()))
	case reflect.Map:
		return m.take(int64(v.Len()) * 64)
	default:
		return nil
	}
}

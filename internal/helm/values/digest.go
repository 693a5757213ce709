package values

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"
	goyaml "go.yaml.in/yaml/v2"
	"sigs.k8s.io/yaml"
)

// Digest returns the digest of values as Flux writes it into a HelmRelease's status, `sha256:…`: that of their YAML with the
// keys of each map in the order of their bytes, or that of nothing when there are none. The library and its major version
// are Flux's, since the digest depends on where they break a line and what they put into quotes.
func Digest(values map[string]any) string {
	digester := digest.SHA256.Digester()
	if len(values) > 0 {
		document := yaml.JSONObjectToYAMLObject(AsStored(values))
		sortMap(document)
		if err := goyaml.NewEncoder(digester.Hash()).Encode(document); err != nil {
			// The hash takes everything, and values are plain JSON, all of which can be written. A digest that is none makes the
			// release differ from what is recorded, which is the safe side.
			return ""
		}
	}
	return digester.Digest().String()
}

// AsStored returns values as they are read back from a release, where every number is a float64. One that was set at a path
// is an int64 until then, and beyond 2⁵³ not the same number: a digest that told them apart would find the release
// changed by being stored.
func AsStored(values map[string]any) map[string]any {
	out := make(map[string]any, len(values))
	for key, value := range values {
		out[key] = valueAsStored(value)
	}
	return out
}

func valueAsStored(value any) any {
	switch value := value.(type) {
	case int64:
		return float64(value)
	case map[string]any:
		if value == nil {
			return nil
		}
		return AsStored(value)
	case []any:
		if value == nil {
			return nil
		}
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = valueAsStored(item)
		}
		return out
	default:
		return value
	}
}

func sortMap(m goyaml.MapSlice) {
	slices.SortFunc(m, func(a, b goyaml.MapItem) int { return cmp.Compare(a.Key.(string), b.Key.(string)) })
	for _, item := range m {
		sortWithin(item.Value)
	}
}

func sortWithin(value any) {
	switch value := value.(type) {
	case goyaml.MapSlice:
		sortMap(value)
	case []any:
		for _, item := range value {
			sortWithin(item)
		}
	}
}

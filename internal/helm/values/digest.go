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
		document := yaml.JSONObjectToYAMLObject(values)
		sortMap(document)
		if err := goyaml.NewEncoder(digester.Hash()).Encode(document); err != nil {
			// The hash takes everything, and values are plain JSON, all of which can be written. A digest that is none makes the
			// release differ from what is recorded, which is the safe side.
			return ""
		}
	}
	return digester.Digest().String()
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

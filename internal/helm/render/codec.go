package render

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"
	goyaml "sigs.k8s.io/yaml/goyaml.v3"
)

// These functions are Helm's. An error in them is no error of the template: writing gives nothing then, or the text of the
// error, and reading gives a mapping with the key Error, or a list of the error.

func toYAML(v any) string {
	text, err := yaml.Marshal(v)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

func toYAMLPretty(v any) string {
	var out bytes.Buffer
	encoder := goyaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(v); err != nil {
		return ""
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(text)
}

func toTOML(v any) string {
	var out bytes.Buffer
	if err := toml.NewEncoder(&out).Encode(v); err != nil {
		return err.Error()
	}
	return out.String()
}

func mappingBy(unmarshal func(string, any) error) func(string) map[string]any {
	return func(text string) map[string]any {
		m := map[string]any{}
		if err := unmarshal(text, &m); err != nil {
			if m == nil {
				m = map[string]any{} // a text of null has put nil there before the error
			}
			m["Error"] = err.Error()
		}
		return m
	}
}

func listBy(unmarshal func(string, any) error) func(string) []any {
	return func(text string) []any {
		list := []any{}
		if err := unmarshal(text, &list); err != nil {
			return []any{err.Error()}
		}
		return list
	}
}

func readYAML(text string, into any) error { return yaml.Unmarshal([]byte(text), into) }
func readJSON(text string, into any) error { return json.Unmarshal([]byte(text), into) }
func readTOML(text string, into any) error { return toml.Unmarshal([]byte(text), into) }

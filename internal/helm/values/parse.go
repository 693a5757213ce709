package values

import (
	"errors"
	"regexp"
	"strings"

	goyaml "go.yaml.in/yaml/v3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// parseInline returns what spec.values holds.
func parseInline(inline *apiextensionsv1.JSON, room *budget) (map[string]any, error) {
	if inline == nil {
		return nil, nil
	}
	// It is not secret, but neither is it anything that a condition needs to repeat.
	parsed, fault := parseYAML(inline.Raw, true, room)
	if fault != nil {
		return nil, fault
	}
	return parsed, nil
}

// parseYAML reads a YAML map as Helm does: by way of JSON, so that all numbers are float64. The text of a secret is not
// quoted by the error.
func parseYAML(text []byte, secret bool, room *budget) (map[string]any, *Error) {
	size, err := expandedSize(text, int(*room))
	if err == nil && !room.take(size) {
		return nil, tooLarge()
	}
	var parsed map[string]any
	if err == nil {
		err = yaml.Unmarshal(text, &parsed)
	}
	if err != nil {
		return nil, &Error{Cause: InvalidYAML, Detail: describe(err, secret)}
	}
	return parsed, nil
}

var lineOf = regexp.MustCompile(`\bline \d+`)

// describe says what is wrong with a YAML text. The parsers quote what they do not like, so of a secret only the line is
// told.
func describe(err error, secret bool) string {
	if !secret {
		return "not a YAML map: " + shorten(err.Error())
	}
	if line := lineOf.FindString(err.Error()); line != "" {
		return "not a YAML map: see " + line
	}
	return "not a YAML map"
}

// maxQuoted is how much of what a parser says fits into a condition that people read.
const maxQuoted = 300

func shorten(text string) string {
	if len(text) <= maxQuoted {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuoted], "") + "…"
}

var errRecursive = errors.New("an anchor contains itself")

// expandedSize returns how many bytes a YAML text amounts to once its aliases are replaced by what they stand for, or
// something more than limit: a kilobyte of aliases of aliases can stand for terabytes. Nothing is expanded to find out.
func expandedSize(text []byte, limit int) (int, error) {
	if len(text) > limit {
		return len(text), nil
	}
	var doc goyaml.Node
	if err := goyaml.Unmarshal(text, &doc); err != nil {
		return 0, err
	}
	m := measure{limit: limit, anchors: map[*goyaml.Node]int{}}
	return m.size(&doc)
}

// measure adds up the sizes of nodes; those of anchors are worked out once.
type measure struct {
	limit   int
	anchors map[*goyaml.Node]int // −1 while it is being worked out
}

func (m measure) size(node *goyaml.Node) (int, error) {
	if node.Kind == goyaml.AliasNode {
		return m.size(node.Alias)
	}
	if known, ok := m.anchors[node]; ok {
		if known < 0 {
			return 0, errRecursive
		}
		return known, nil
	}
	if node.Anchor != "" {
		m.anchors[node] = -1
	}
	total := len(node.Value) + nodeBytes
	for _, child := range node.Content {
		size, err := m.size(child)
		if err != nil {
			return 0, err
		}
		if total = total + size; total > m.limit {
			total = m.limit + 1 // Enough is known, and it must not overflow.
		}
	}
	if node.Anchor != "" {
		m.anchors[node] = total
	}
	return total, nil
}

package kustomizer

import (
	"fmt"
	"regexp"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

// documents matches what separates YAML documents.
var documents = regexp.MustCompile(`(?m)^---.*$`)

// MayAlias says whether a text can hold both an anchor and an alias, which a quoted text within it may write with escapes.
func MayAlias(text string) bool {
	escapes := strings.Contains(text, `\`)
	return (escapes || strings.Contains(text, "&")) && (escapes || strings.Contains(text, "*"))
}

// textsWithin is how many texts within texts are looked at. One that is all of its document is within itself without end.
const textsWithin = 2

// Aliased returns how many bytes the aliases of a YAML text stand for, or somewhat more than most. The library copies what an
// alias stands for, so that a few hundred bytes can be any number of gigabytes; and an alias within its own anchor has no
// end, which would be that of this process: Go cannot recover from a stack that overflows.
//
// Texts within the text count, since patches and plugins are written so. What is no YAML has no aliases: the library says
// what is wrong with it, or it is the text of a ConfigMap.
func Aliased(text string, most int) (int, error) { return aliasedIn(text, most, textsWithin) }

func aliasedIn(text string, most, within int) (int, error) {
	if within < 0 {
		return 0, nil
	}
	sum := 0
	for _, document := range documents.Split(strings.ReplaceAll(text, "\r\n", "\n"), -1) {
		decoder := yamlv3.NewDecoder(strings.NewReader(document))
		for sum <= most {
			var root yamlv3.Node
			if decoder.Decode(&root) != nil {
				break
			}
			e := expansion{most: most, sizes: map[*yamlv3.Node]int{}}
			e.size(&root)
			if e.endless != "" {
				return 0, fmt.Errorf("the YAML anchor %q contains itself", e.endless)
			}
			sum += e.aliased
			for _, inner := range e.texts {
				aliased, err := aliasedIn(inner, most, within-1)
				if err != nil {
					return 0, err
				}
				sum += aliased
			}
		}
	}
	return sum, nil
}

// expansion measures one YAML document with its aliases expanded, each anchor once.
type expansion struct {
	most    int
	sizes   map[*yamlv3.Node]int // of anchors; -1 while it is measured
	aliased int
	texts   []string // scalars that may be YAML with aliases
	endless string   // an anchor within itself
}

// nodeBytes is what a node counts beside its text.
const nodeBytes = 16

func (e *expansion) size(n *yamlv3.Node) int {
	if n.Kind == yamlv3.AliasNode {
		size, known := e.sizes[n.Alias]
		if !known || size < 0 {
			e.endless = n.Value
			return 0
		}
		e.aliased = min(e.aliased+size, e.most+1)
		return size
	}
	if n.Anchor != "" {
		e.sizes[n] = -1
	}
	size := nodeBytes + len(n.Value)
	if n.Kind == yamlv3.ScalarNode && strings.ContainsAny(n.Value, "\n{[") && MayAlias(n.Value) {
		e.texts = append(e.texts, n.Value)
	}
	for _, child := range n.Content {
		size = min(size+e.size(child), e.most+1)
	}
	if n.Anchor != "" {
		e.sizes[n] = size
	}
	return size
}

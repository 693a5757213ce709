package values

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/strvals"
)

// set sets the value at a path as `helm --set path=value` does: numbers, booleans and null are what they look like, {a,b} is
// a list, and a comma begins another path. A value in quotes is a string, as by --set-string; a literal one is a string in
// which no character means anything, while the path keeps its escapes.
//
// What the library says about a value is not repeated, since it quotes it.
func set(values map[string]any, path, value string, literal bool, room *budget) *Error {
	assign := assignment(path, value, literal)
	if !room.take(assign.cost()) {
		return tooLarge()
	}
	if assign.into(values) == nil {
		return nil
	}
	if err := assignment(path, "x", true).into(map[string]any{}); err != nil {
		return &Error{Cause: InvalidPath, Detail: err.Error()}
	}
	if assign.into(map[string]any{}) != nil {
		return &Error{Cause: InvalidValue, Detail: "it is not in the form that `helm --set` reads, where commas and braces " +
			"have a meaning; `literal: true` sets it as it is"}
	}
	return &Error{Cause: InvalidValue, Detail: "the path leads through a value that is not of the kind it expects"}
}

// assigned is what Helm's parser of --set is given.
type assigned struct {
	text string
	// quoted is true when every value in it is a string.
	quoted bool
}

// verbatim escapes what has a meaning within a value.
var verbatim = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`)

func assignment(path, value string, literal bool) assigned {
	if literal {
		return assigned{path + "=" + verbatim.Replace(value), true}
	}
	if isWithin(value, `'`) || isWithin(value, `"`) {
		return assigned{path + "=" + strings.Trim(value, `'"`), true}
	}
	return assigned{path + "=" + value, false}
}

func isWithin(value, quote string) bool {
	return strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote)
}

// into parses the assignment into values. The library recovers from its own panics inside keys and not everywhere.
func (a assigned) into(values map[string]any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unable to parse it: %v", r)
		}
	}()
	if a.quoted {
		return strvals.ParseIntoString(a.text, values)
	}
	return strvals.ParseInto(a.text, values)
}

var index = regexp.MustCompile(`\[(\d+)\]`)

// cost returns how many bytes the assignment may take: a list is filled up to the index that is set, `a[65535]=x` makes
// 65536 items, and each further one after a comma copies it.
func (a assigned) cost() int {
	total := len(a.text)
	for pair := range strings.SplitSeq(a.text, ",") {
		key, _, _ := strings.Cut(pair, "=")
		for _, match := range index.FindAllStringSubmatch(key, -1) {
			n, err := strconv.Atoi(match[1])
			if err != nil || n > strvals.MaxIndex {
				continue // The library refuses it before it makes anything.
			}
			if total += indexBytes + n*nodeBytes; total > maxBytes {
				return total
			}
		}
	}
	return total
}

package render

import (
	"math"
	"reflect"
	"regexp/syntax"
	"strings"
)

// bound is about how many bytes a function makes or takes, or how many bytes of text would be as much work as it does. A sum that
// has overflowed is negative, and as good as too large.
type bound func(args []any) int64

// newBounds returns those of the functions that can make much of little.
func newBounds() map[string]bound {
	return map[string]bound{
		"repeat": func(a []any) int64 { return times(number(a, 0), length(a, 1)) },
		"indent": indented, "nindent": indented,
		"replace": func(a []any) int64 {
			return length(a, 2) + times(1+occurrences(str(a, 2), str(a, 0)), length(a, 1))
		},
		"until":        func(a []any) int64 { return times(8, absolute(number(a, 0))) },
		"untilStep":    func(a []any) int64 { return stepped(number(a, 0), number(a, 1), number(a, 2)) },
		"seq":          sequence,
		"randAlphaNum": characters, "randAlpha": characters, "randAscii": characters, "randNumeric": characters, "randBytes": characters,
		"wrap":     func(a []any) int64 { return times(3, length(a, 1)) },
		"wrapWith": func(a []any) int64 { return times(2+length(a, 1), length(a, 2)) },
		"join": func(a []any) int64 {
			return times(length(a, 0)+16, listed(a[1:]))
		},
		"split":      func(a []any) int64 { return times(128, 1+occurrences(str(a, 1), str(a, 0))) },
		"splitn":     func(a []any) int64 { return times(128, 1+occurrences(str(a, 2), str(a, 0))) },
		"splitList":  func(a []any) int64 { return times(16, 1+occurrences(str(a, 1), str(a, 0))) },
		"regexMatch": matching, "mustRegexMatch": matching,
		"regexFind": matching, "mustRegexFind": matching,
		"regexFindAll": matching, "mustRegexFindAll": matching,
		"regexSplit": matching, "mustRegexSplit": matching,
		"regexReplaceAll": replacing, "mustRegexReplaceAll": replacing,
		"regexReplaceAllLiteral": replacing, "mustRegexReplaceAllLiteral": replacing,
		"uniq": squared, "mustUniq": squared, "without": product, "mustWithout": product,
		"trimAll":    func(a []any) int64 { return times(length(a, 0), length(a, 1)) / 256 },
		"trimall":    func(a []any) int64 { return times(length(a, 0), length(a, 1)) / 256 },
		"abbrev":     func(a []any) int64 { return times(4, length(a, 1)) },
		"abbrevboth": func(a []any) int64 { return times(4, length(a, 2)) },
		"fromYaml":   parsing, "fromYamlArray": parsing, "fromJson": parsing, "fromJsonArray": parsing, "mustFromJson": parsing, "fromToml": parsing,
		"printf": formatted,
	}
}

func times(a, b int64) int64 {
	if a <= 0 || b <= 0 {
		return 0
	}
	if a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}

func str(args []any, i int) string {
	if i >= len(args) {
		return ""
	}
	s, _ := args[i].(string)
	return s
}

func length(args []any, i int) int64 { return int64(len(str(args, i))) }

func number(args []any, i int) int64 {
	if i >= len(args) {
		return 0
	}
	if n := reflect.ValueOf(args[i]); n.CanInt() {
		return n.Int()
	}
	return 0
}

func absolute(n int64) int64 {
	if n < 0 {
		return -max(n, -math.MaxInt64)
	}
	return n
}

// occurrences is how often sep is in text; the empty one is between all characters.
func occurrences(text, sep string) int64 { return int64(strings.Count(text, sep)) }

func indented(a []any) int64 {
	return length(a, 1) + times(number(a, 0), 1+occurrences(str(a, 1), "\n"))
}

func characters(a []any) int64 { return times(4, number(a, 0)) }

// stepped is how many bytes a list of numbers takes.
func stepped(start, stop, step int64) int64 {
	if start > 1<<40 || start < -1<<40 || stop > 1<<40 || stop < -1<<40 {
		return math.MaxInt64
	}
	if step = absolute(step); step == 0 {
		return 0
	}
	return times(8, 1+absolute(stop-start)/step)
}

// sequence is how many bytes sprig's seq needs: the numbers as a list, and several times as text.
func sequence(a []any) int64 {
	switch len(a) {
	case 1:
		return times(8, stepped(1, number(a, 0), 1))
	case 2:
		return times(8, stepped(number(a, 0), number(a, 1), 1))
	case 3:
		return times(8, stepped(number(a, 0), number(a, 2), number(a, 1)))
	}
	return 0 // it gives the empty text for any other number of arguments
}

// perMatch is how many steps of a regular expression are as much as one byte.
const perMatch = 64

// matching: a regular expression is tried on a text in time that is the product of how long both are, as programs.
func matching(a []any) int64 {
	expression, text := str(a, 0), length(a, 1)
	// A repetition makes up to a thousand instructions of one: if that cannot be much either, it need not be known better.
	if most := times(1000*int64(len(expression)), 1+text); most/perMatch < 1<<16 {
		return text
	}
	return times(1+instructions(expression)/perMatch, 1+text)
}

// instructions is how many a regular expression has when it has been compiled, or none if it cannot be.
func instructions(expression string) int64 {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0
	}
	return int64(len(program.Inst))
}

func replacing(a []any) int64 {
	work := matching(a)
	// Each match may be nothing between two characters, and the replacement may hold the match as often as it has room for.
	made := times(1+length(a, 1), length(a, 2))
	if strings.Contains(str(a, 2), "$") {
		made = max(made, times(1+length(a, 1), 1+length(a, 2)))
	}
	return max(work, made/16)
}

// listed is how many values there are, with those in lists.
func listed(args []any) int64 {
	n := int64(0)
	for _, arg := range args {
		n++
		if v := reflect.ValueOf(arg); v.IsValid() && v.Kind() == reflect.Slice {
			n += int64(v.Len())
		}
	}
	return n
}

// squared: each of a list is compared with all the others.
func squared(a []any) int64 { return times(listed(a), listed(a)) / 16 }

// product: each of a list is compared with each of the other arguments, which cannot be told apart here if the list is long.
func product(a []any) int64 {
	if v := reflect.ValueOf(a[0]); v.IsValid() && v.Kind() == reflect.Slice {
		return times(int64(v.Len()), int64(len(a))) / 16
	}
	return squared(a)
}

// parsing: a character may become a value, for which the parser and the result need some hundred bytes.
func parsing(a []any) int64 {
	text := str(a, 0)
	values := int64(0)
	for i := range len(text) {
		switch text[i] {
		case '\n', ',', ':', '[', '{', '-', '*', '=':
			values++
		}
	}
	return length(a, 0) + times(40, values)
}

// mostWidth is what fmt takes at most for a width or precision.
const mostWidth = 1_000_000

// formatted is how much longer than its arguments a formatted text may be.
func formatted(a []any) int64 {
	format := str(a, 0)
	total, again := int64(len(format)), int64(0)
	args := int64(0)
	for _, arg := range a[1:] {
		if s, ok := arg.(string); ok {
			args += int64(len(s))
		}
	}
	for {
		_, after, found := strings.Cut(format, "%")
		if !found {
			return total + times(again, args)
		}
		end := strings.IndexFunc(after, func(r rune) bool { return !strings.ContainsRune("+-# 0123456789.*[]", r) })
		if end < 0 {
			end = len(after)
		}
		total += widths(after[:end])
		if strings.Contains(after[:end], "[") {
			again++
		}
		format = after[min(end+1, len(after)):]
	}
}

// widths is the sum of the numbers in a verb.
func widths(verb string) int64 {
	sum, n := int64(0), int64(0)
	for i := range len(verb) {
		switch c := verb[i]; {
		case c == '*':
			sum += mostWidth
		case c >= '0' && c <= '9':
			n = min(10*n+int64(c-'0'), mostWidth)
		default:
			sum, n = sum+n, 0
		}
	}
	return sum + n
}

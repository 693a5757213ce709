package storage

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"github.com/gobwas/glob"
	"helm.sh/helm/v3/pkg/chart"
)

// withoutUnused returns a copy of a chart that has only those of its files that its templates use, and the names of the
// others, sorted. Nothing renders a chart again that comes from storage, so what is left out is missed by nobody but who
// reads the release.
func withoutUnused(c *chart.Chart) (*chart.Chart, []string) {
	uses := usesOf(c)
	trimmed := *c
	trimmed.Files = nil
	var dropped []string
	for _, file := range c.Files {
		if uses.has(file.Name) {
			trimmed.Files = append(trimmed.Files, file)
			continue
		}
		dropped = append(dropped, file.Name)
	}
	slices.Sort(dropped)
	return &trimmed, dropped
}

// uses is what the templates of a chart may ask of its files.
type uses struct {
	// literals are the texts in those templates that mention files at all: whatever path they ask for is among them, or
	// begins with one of them, or matches one as a pattern; or else it comes from the values.
	literals []string
	globs    []glob.Glob
}

var (
	mentionsFiles = regexp.MustCompile(`\.Files\b`)
	literal       = regexp.MustCompile("\"((?:[^\"\\\\\n]|\\\\.)*)\"|`([^`]*)`")
)

// usesOf looks into the templates of a chart and of those it depends on, which may hold named templates for it.
func usesOf(c *chart.Chart) uses {
	var u uses
	for _, template := range templatesOf(c) {
		if mentionsFiles.Match(template) {
			u.add(template)
		}
	}
	return u
}

func templatesOf(c *chart.Chart) [][]byte {
	var texts [][]byte
	for _, file := range c.Templates {
		texts = append(texts, file.Data)
	}
	for _, dependency := range c.Dependencies() {
		texts = append(texts, templatesOf(dependency)...)
	}
	return texts
}

func (u *uses) add(template []byte) {
	for _, match := range literal.FindAllSubmatch(template, -1) {
		text := string(bytes.Join(match[1:], nil))
		// What printf fills in is unknown; what comes before it is not.
		text, _, _ = strings.Cut(text, "%")
		if text == "" {
			continue
		}
		u.literals = append(u.literals, text)
		if g, err := glob.Compile(text, '/'); err == nil {
			u.globs = append(u.globs, g)
		}
	}
}

func (u *uses) has(file string) bool {
	for _, text := range u.literals {
		if strings.HasPrefix(file, text) {
			return true
		}
	}
	return slices.ContainsFunc(u.globs, func(g glob.Glob) bool { return g.Match(file) })
}

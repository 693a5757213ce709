package render

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/gobwas/glob"
	"helm.sh/helm/v3/pkg/chart"
)

// files are what .Files is in a template: the files of a chart that are no templates, by name.
type files map[string][]byte

func newFiles(from []*chart.File) files {
	f := make(files, len(from))
	for _, each := range from {
		f[each.Name] = each.Data
	}
	return f
}

// GetBytes returns the contents of a file, or nothing.
func (f files) GetBytes(name string) []byte {
	if data, ok := f[name]; ok {
		return data
	}
	return []byte{}
}

// Get returns the contents of a file as text.
func (f files) Get(name string) string { return string(f.GetBytes(name)) }

// errGlob: matching the pattern could take very long.
var errGlob = errors.New("the pattern has too many wildcards for so many files")

// Glob returns the files whose names match. With a pattern that is none it returns all, as Helm does.
func (f files) Glob(pattern string) (files, error) {
	if f.matching(pattern) > 1e8 {
		return nil, fmt.Errorf("%w: %.100q: %w", ErrLimit, pattern, errGlob)
	}
	g, err := glob.Compile(pattern, '/')
	if err != nil {
		g = glob.MustCompile("**")
	}
	found := files{}
	for name, data := range f {
		if g.Match(name) {
			found[name] = data
		}
	}
	return found, nil
}

// matching is about how many steps it takes to match all names. The matcher looks for the middle one of the parts between
// wildcards at every place of the name, and then on either side.
func (f files) matching(pattern string) float64 {
	parts := 1 + strings.Count(pattern, "*") + strings.Count(pattern, "?") + strings.Count(pattern, "[")
	alternatives := 1 + strings.Count(pattern, ",")*(1+strings.Count(pattern, "{"))
	power := math.Ceil(math.Log2(float64(parts)))
	steps := 0.0
	for name := range f {
		steps += math.Pow(float64(len(name)), power) * float64(alternatives)
	}
	return steps
}

// AsConfig returns the files as data of a ConfigMap, in YAML.
func (f files) AsConfig() (string, error) {
	return f.data(func(text []byte) string { return string(text) })
}

// AsSecrets returns the files as data of a Secret, in YAML.
func (f files) AsSecrets() (string, error) { return f.data(base64.StdEncoding.EncodeToString) }

func (f files) data(encode func([]byte) string) (string, error) {
	if f == nil {
		return "", nil
	}
	size := 0
	data := make(map[string]string, len(f))
	for name, text := range f {
		if size += len(text); size > maxValue {
			return "", fmt.Errorf("%w: the files have more than %d bytes", ErrLimit, maxValue)
		}
		data[path.Base(name)] = encode(text)
	}
	return toYAML(data), nil
}

// Lines returns the lines of a file.
func (f files) Lines(name string) []string {
	if len(f[name]) == 0 {
		return []string{}
	}
	return strings.Split(strings.TrimSuffix(string(f[name]), "\n"), "\n")
}

package charts

import (
	"slices"

	"helm.sh/helm/v3/pkg/chart"
)

// Chart is a chart that nobody may change. All of its methods may be called concurrently.
type Chart struct {
	digest  string
	tree    *chart.Chart
	version string // instead of the one in the tree, unless empty
	bytes   int64
	of      *Chart // that this one is another version of, so that the store knows it is in use
}

// Of returns a Chart of what has been read in another way, of a release in storage for instance. The chart must not be changed
// afterwards. Charts of the same digest must have the same files.
func Of(digest string, c *chart.Chart) *Chart {
	return &Chart{digest: digest, tree: c, bytes: weigh(c)}
}

// Digest is that of the artifact the chart was read from. The files of two charts with the same digest are the same.
func (c *Chart) Digest() string { return c.digest }

// Name is that in Chart.yaml.
func (c *Chart) Name() string { return c.tree.Name() }

// Metadata is a copy of what Chart.yaml says.
func (c *Chart) Metadata() *chart.Metadata {
	m := copyMetadata(c.tree.Metadata)
	if c.version != "" {
		m.Version = c.version
	}
	return m
}

// Copy returns the chart with the charts inside it, for somebody who changes metadata, values or what is inside what. The
// contents of the files are shared and must not be changed.
func (c *Chart) Copy() *chart.Chart {
	fresh := copyTree(c.tree)
	if c.version != "" {
		fresh.Metadata.Version = c.version
	}
	return fresh
}

func copyTree(c *chart.Chart) *chart.Chart {
	fresh := &chart.Chart{
		Metadata:  copyMetadata(c.Metadata),
		Lock:      c.Lock, // which nobody writes to
		Templates: slices.Clone(c.Templates),
		Values:    CopyValues(c.Values),
		Schema:    c.Schema,
		Files:     slices.Clone(c.Files),
	}
	for _, inner := range c.Dependencies() {
		fresh.AddDependency(copyTree(inner))
	}
	return fresh
}

// copyMetadata copies what processing the dependencies of a chart, or a template that sorts a list, writes to.
func copyMetadata(m *chart.Metadata) *chart.Metadata {
	fresh := *m
	fresh.Keywords, fresh.Sources = slices.Clone(m.Keywords), slices.Clone(m.Sources)
	fresh.Dependencies = nil
	for _, d := range m.Dependencies {
		if d != nil {
			own := *d
			own.ImportValues = slices.Clone(d.ImportValues)
			d = &own
		}
		fresh.Dependencies = append(fresh.Dependencies, d)
	}
	return &fresh
}

// CopyValues returns values that share no mapping and no list with those given.
func CopyValues(values map[string]any) map[string]any {
	if values == nil {
		return nil
	}
	fresh := make(map[string]any, len(values))
	for key, value := range values {
		fresh[key] = copyValue(value)
	}
	return fresh
}

func copyValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return CopyValues(v)
	case []any:
		if v == nil {
			return v
		}
		fresh := make([]any, len(v))
		for i := range v {
			fresh[i] = copyValue(v[i])
		}
		return fresh
	}
	return value
}

// weigh estimates the memory that a chart takes: the files, and several times what the values were written in, for maps.
func weigh(c *chart.Chart) int64 {
	n := int64(4096 + len(c.Schema))
	for _, files := range [][]*chart.File{c.Templates, c.Files} {
		for _, f := range files {
			n += int64(len(f.Data) + len(f.Name) + 64)
		}
	}
	n += weighValue(c.Values)
	for _, inner := range c.Dependencies() {
		n += weigh(inner)
	}
	return n
}

func weighValue(value any) int64 {
	n := int64(16)
	switch v := value.(type) {
	case map[string]any:
		for key, below := range v {
			n += int64(len(key)) + 48 + weighValue(below)
		}
	case []any:
		for _, below := range v {
			n += weighValue(below)
		}
	case string:
		n += int64(len(v))
	}
	return n
}

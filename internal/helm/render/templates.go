package render

import (
	"cmp"
	"container/list"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"text/template"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// source is a template of a chart, and what it is run with.
type source struct {
	name  string // with the path from the outermost chart
	base  string // of the templates of its chart
	text  []byte
	scope map[string]any // which all templates of a chart share
}

// collect returns the templates of a chart and all charts inside it in Helm's order: from the deepest path to the top, and there
// from z to a. Of two that define the same, the later one wins.
func collect(c *chart.Chart, values chartutil.Values) []source {
	var all []source
	scope(c, values, &all)
	slices.SortFunc(all, func(a, b source) int {
		return cmp.Or(
			cmp.Compare(strings.Count(b.name, "/"), strings.Count(a.name, "/")),
			strings.Compare(b.name, a.name),
		)
	})
	return all
}

// scope returns what the templates of a chart see, and adds them to those found: their part of the values of the chart around it.
func scope(c *chart.Chart, around chartutil.Values, found *[]source) map[string]any {
	inner := map[string]any{}
	about := struct {
		chart.Metadata
		IsRoot bool
	}{*c.Metadata, c.IsRoot()}
	own := map[string]any{
		"Chart":        about,
		"Files":        newFiles(c.Files),
		"Release":      around["Release"],
		"Capabilities": around["Capabilities"],
		"Values":       chartutil.Values{},
		"Subcharts":    inner,
	}
	if c.IsRoot() {
		own["Values"] = around["Values"]
	} else if values, err := around.Table("Values." + c.Name()); err == nil {
		own["Values"] = values // otherwise there are none for it
	}
	for _, child := range c.Dependencies() {
		inner[child.Name()] = scope(child, own, found)
	}
	at := c.ChartFullPath()
	for _, t := range c.Templates {
		if t == nil || strings.EqualFold(c.Metadata.Type, "library") && !isPartial(t.Name) {
			continue
		}
		*found = append(*found, source{path.Join(at, t.Name), path.Join(at, "templates"), t.Data, own})
	}
	return own
}

// isPartial says that a template is only there to be included.
func isPartial(name string) bool { return strings.HasPrefix(path.Base(name), "_") }

// parsed keeps the templates of charts as they have been parsed, for the charts used last.
type parsed struct {
	stubs template.FuncMap
	most  int64 // bytes of text

	mu    sync.Mutex
	kept  *list.List // of *parsedChart, the one used last in front
	known map[string]*list.Element
	bytes int64
}

// parsedChart is one combination of a chart with those of its dependencies that are enabled.
type parsedChart struct {
	key   string
	bytes int64
	once  sync.Once
	set   *template.Template
	err   error
}

// keptText is how many bytes of text parsed templates are kept of. Parsed they take some ten times that.
const keptText = 16 << 20

func newParsed(stubs template.FuncMap) *parsed {
	return &parsed{stubs: stubs, most: keptText, kept: list.New(), known: map[string]*list.Element{}}
}

// get returns the templates, parsed and with the nodes that count. They must be cloned before they are run.
func (p *parsed) get(digest string, sources []source) (*template.Template, error) {
	c := p.entry(digest, sources)
	c.once.Do(func() { c.set, c.err = p.parse(sources) })
	return c.set, c.err
}

func (p *parsed) entry(digest string, sources []source) *parsedChart {
	names := sha256.New()
	size := int64(0)
	for _, s := range sources {
		fmt.Fprintf(names, "%s\n", s.name)
		size += int64(len(s.text))
	}
	key := fmt.Sprintf("%s %x", digest, names.Sum(nil))
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := p.known[key]; at != nil {
		p.kept.MoveToFront(at)
		return at.Value.(*parsedChart)
	}
	c := &parsedChart{key: key, bytes: size}
	p.known[key] = p.kept.PushFront(c)
	p.bytes += size
	for p.bytes > p.most && p.kept.Len() > 1 {
		dropped := p.kept.Remove(p.kept.Back()).(*parsedChart)
		delete(p.known, dropped.key)
		p.bytes -= dropped.bytes
	}
	return c
}

func (p *parsed) parse(sources []source) (set *template.Template, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("parsing the templates failed: %v", cause)
		}
	}()
	set = template.New("gotpl").Funcs(p.stubs)
	for _, s := range sources {
		if countBlocks(string(s.text)) > maxBlocks {
			return nil, fmt.Errorf("%w: %s: it has more than %d blocks", ErrLimit, s.name, maxBlocks)
		}
		if _, err := set.New(s.name).Parse(string(s.text)); err != nil {
			return nil, parseError(s.name, err)
		}
	}
	instrument(set)
	return set, nil
}

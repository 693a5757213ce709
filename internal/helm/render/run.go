package render

import (
	"fmt"
	"strings"
	"text/template"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

const (
	// maxIncluded is how often a template may be included within itself; Helm's own number.
	maxIncluded = 1000
	// maxTpls is how deep texts may be run as templates within each other: each has a set of all templates of its own.
	maxTpls = 200
	// maxTplText is how long a text may be that is run as a template.
	maxTplText = 1 << 20
	// noValue is what text/template prints for nothing.
	noValue = "<no value>"
)

// run renders the templates of a chart to texts by file. The values are those that Helm's ToRenderValues makes for it.
func (r *Renderer) run(digest string, c *chart.Chart, values chartutil.Values, f *functions) (rendered map[string]string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			rendered, err = nil, fmt.Errorf("rendering template failed: %v", cause)
		}
	}()
	sources := collect(c, values)
	shared, err := r.parsed.get(digest, sources)
	if err != nil {
		return nil, err
	}
	set, err := shared.Clone()
	if err != nil {
		return nil, err
	}
	// A clone does not take over the option, see https://github.com/golang/go/issues/43022.
	set.Option("missingkey=zero").Funcs(f.bind())
	set.Funcs(template.FuncMap{"include": f.include(set), "tpl": f.tpl(set)})
	rendered = make(map[string]string, len(sources))
	for _, s := range sources {
		if isPartial(s.name) {
			continue
		}
		s.scope["Template"] = chartutil.Values{"Name": s.name, "BasePath": s.base}
		text, err := f.execute(set, s.name, s.scope)
		if err != nil {
			return nil, execError(s.name, f.meter.over, err)
		}
		if f.meter.output += int64(len(text)); f.meter.output > f.meter.limits.Output {
			return nil, fmt.Errorf("%s: %w", s.name, f.meter.stop("the templates render more than %d bytes", f.meter.limits.Output))
		}
		rendered[s.name] = strings.ReplaceAll(text, noValue, "")
	}
	return rendered, nil
}

// execute runs one template of the set.
func (f *functions) execute(set *template.Template, name string, data any) (string, error) {
	out := &buffer{meter: f.meter}
	err := set.ExecuteTemplate(out, name, data)
	return out.String(), err
}

// include is the function that runs a template within another and gives its text.
func (f *functions) include(set *template.Template) func(string, any) (string, error) {
	return func(name string, data any) (string, error) {
		if f.included[name] > maxIncluded {
			return "", fmt.Errorf("rendering template has a nested reference name: %s: unable to execute template", name)
		}
		f.included[name]++
		defer func() { f.included[name]-- }()
		text, err := f.execute(set, name, data)
		return text, f.shorten(err)
	}
}

// tpl is the function that runs a text as a template, which sees all templates around it. What it defines is seen by itself only.
func (f *functions) tpl(around *template.Template) func(string, any) (string, error) {
	return func(text string, data any) (string, error) {
		if !strings.Contains(text, "{{") {
			return strings.ReplaceAll(text, noValue, ""), f.meter.text(int64(len(text)))
		}
		switch {
		case len(text) > maxTplText:
			return "", f.meter.stop("tpl: the text is longer than %d bytes", maxTplText)
		case countBlocks(text) > maxBlocks:
			return "", f.meter.stop("tpl: the text has more than %d blocks", maxBlocks)
		case f.meter.tpls == maxTpls:
			return "", f.meter.stop("tpl is called more than %d deep within itself", maxTpls)
		}
		f.meter.tpls++
		defer func() { f.meter.tpls-- }()
		if err := f.meter.step(int64(len(text)) + int64(len(around.Templates()))); err != nil {
			return "", err
		}
		set, err := around.Clone()
		if err != nil {
			return "", fmt.Errorf("cannot clone template: %w", err)
		}
		set.Option("missingkey=zero")
		set.Funcs(template.FuncMap{"include": f.include(set), "tpl": f.tpl(set)})
		set, err = set.New(around.Name()).Parse(text)
		if err != nil {
			return "", fmt.Errorf("cannot parse template %q: %w", text, err)
		}
		instrument(set)
		out := &buffer{meter: f.meter}
		if err := set.Execute(out, data); err != nil {
			return "", f.shorten(fmt.Errorf("error during tpl function execution for %q: %w", text, err))
		}
		return strings.ReplaceAll(out.String(), noValue, ""), nil
	}
}

// maxErrorText is how long the text of an error may become on its way up.
const maxErrorText = 32 << 10

// shorten returns an error without most of where it came through: each template on the way up says so, with all that was said
// below, and thousands of them would take hundreds of megabytes. What a limit says is not told by them at all.
func (f *functions) shorten(err error) error {
	if err == nil || f.meter.over != nil {
		return f.meter.over
	}
	text := err.Error()
	if len(text) <= maxErrorText {
		return err
	}
	return &shortened{"…" + strings.ToValidUTF8(text[len(text)-maxErrorText/2:], ""), innermost(err)}
}

// shortened is the end of the text of an error, and what it began with.
type shortened struct {
	text string
	err  error
}

func (s *shortened) Error() string { return s.text }
func (s *shortened) Unwrap() error { return s.err }

package render

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"

	"github.com/cleat-dev/cleat/internal/helm/charts"
)

// Request is what a release is to be made of.
type Request struct {
	Chart *charts.Chart
	// Values are those of the user, composed. They are not changed.
	Values  map[string]any
	Release chartutil.ReleaseOptions
	// Capabilities of the cluster; nil means Helm's default ones.
	Capabilities *chartutil.Capabilities
	// Lookup reads the cluster for templates; nil finds nothing.
	Lookup Lookup
	// AllowDNS lets templates look up the addresses of hosts (the gate AllowDNSLookups).
	AllowDNS bool
	// SkipSchemaValidation leaves out values.schema.json.
	SkipSchemaValidation bool
	// Previous is the release whose values are kept (preserveValues), or nil.
	Previous *Previous
	// Post is what is done to the manifests afterwards.
	Post PostRender
	// Limits are those of this rendering; zero values mean DefaultLimits.
	Limits Limits
}

// Previous is what a release was made of.
type Previous struct {
	Chart  *chart.Chart
	Config map[string]any
}

// Result is a release before it is installed.
type Result struct {
	// Literal is the chart for Helm's SDK: it renders to exactly Manifest and Hooks, whatever the values. Its name, version and
	// everything else in Chart.yaml are those of the chart, but for the dependencies: they are in it already.
	Literal *chart.Chart
	// Stored is the chart to be stored with the release in place of Literal: as it was, with its dependencies and values as they
	// were taken into account.
	Stored *chart.Chart
	// Values are those to be stored as the config of the release. An upgrade has to be run with these and ResetValues.
	Values map[string]any
	// Manifest is that of the release, as the SDK will make it of Literal.
	Manifest string
	// Hooks are those of the release.
	Hooks []*release.Hook
	// Notes are for whoever has installed it.
	Notes string
}

// Renderer renders charts, each of which it parses once. It may be used concurrently.
type Renderer struct {
	library *library
	parsed  *parsed
}

// New returns a Renderer that has seen no chart yet.
func New() *Renderer {
	l := newLibrary()
	return &Renderer{library: l, parsed: newParsed(l.stubs)}
}

// notesFile is the template whose text is for people.
const notesFile = "NOTES.txt"

// Render renders and post-renders a chart. The error is ErrLimit when that takes too much, ErrSchema when the values are wrong,
// and that of the context when nobody wants it any more; otherwise it says in Helm's words what is wrong, and where.
func (r *Renderer) Render(ctx context.Context, q Request) (*Result, error) {
	limits := q.Limits.orDefault()
	m := newMeter(ctx, limits)
	c, config, values, err := prepare(q)
	if err != nil {
		return nil, err
	}
	if !q.SkipSchemaValidation {
		if err := validate(ctx, m.end, c, valuesOf(values)); err != nil {
			return nil, err
		}
	}
	if err := compatible(c, q.Capabilities); err != nil {
		return nil, err
	}
	f := &functions{library: r.library, meter: m, lookup: q.Lookup, dns: q.AllowDNS, included: map[string]int{}}
	files, err := r.run(q.Chart.Digest(), c, values, f)
	if err != nil {
		return nil, err
	}
	notes := takeNotes(c, files)
	if files, err = q.Post.apply(ctx, m, files); err != nil {
		return nil, fmt.Errorf("error while running post render on files: %w", err)
	}
	result := &Result{Stored: c, Values: config, Notes: notes}
	if result.Literal, err = literal(c, files, notes); err != nil {
		return nil, err
	}
	result.Hooks, result.Manifest, err = sorted(files)
	return result, err
}

// prepare returns a copy of the chart as it is after its dependencies were processed, the values to be stored, and those to render
// with.
func prepare(q Request) (c *chart.Chart, config map[string]any, values chartutil.Values, err error) {
	c, config = q.Chart.Copy(), q.Values
	if q.Previous != nil {
		if config, err = preserve(c, config, q.Previous); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := chartutil.ProcessDependenciesWithMerge(c, config); err != nil {
		return nil, nil, nil, err
	}
	values, err = chartutil.ToRenderValuesWithSchemaValidation(c, config, q.Release, q.Capabilities, true)
	return c, config, values, err
}

// preserve gives the chart the values that the release was made with, and returns those of the user over the ones he gave then: what
// Helm does for --reuse-values. Like Helm's, a value that is null now hides the one of then.
func preserve(c *chart.Chart, values map[string]any, before *Previous) (map[string]any, error) {
	// Copies, because coalescing writes to both sides.
	config := charts.CopyValues(before.Config)
	old, err := chartutil.CoalesceValues(before.Chart, config)
	if err != nil {
		return nil, fmt.Errorf("failed to rebuild old values: %w", err)
	}
	c.Values = old
	return chartutil.CoalesceTables(charts.CopyValues(values), config), nil
}

// valuesOf are the values in what a template is run with.
func valuesOf(top chartutil.Values) map[string]any {
	switch values := top["Values"].(type) {
	case chartutil.Values:
		return values
	case map[string]any:
		return values
	}
	return nil
}

// compatible checks what the chart says of the clusters it is for.
func compatible(c *chart.Chart, capabilities *chartutil.Capabilities) error {
	if capabilities == nil {
		capabilities = chartutil.DefaultCapabilities
	}
	have := capabilities.KubeVersion.String()
	if want := c.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, have) {
		return fmt.Errorf("chart requires kubeVersion: %s which is incompatible with Kubernetes %s", want, have)
	}
	return nil
}

// takeNotes takes the notes of all charts out of the files, and returns those of the outermost.
func takeNotes(c *chart.Chart, files map[string]string) string {
	notes := files[path.Join(c.Name(), "templates", notesFile)]
	for name := range files {
		if strings.HasSuffix(name, notesFile) {
			delete(files, name)
		}
	}
	return notes
}

// sorted returns the hooks and the manifest that Helm makes of files.
func sorted(files map[string]string) ([]*release.Hook, string, error) {
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, "", err
	}
	var text strings.Builder
	for _, m := range manifests {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	return hooks, text.String(), nil
}

// errLiteral: what was rendered cannot be passed through Helm's SDK unchanged.
var errLiteral = errors.New("the manifests cannot be passed to Helm")

// literal returns a chart whose templates are the texts of files, with the paths that these have below the outermost chart.
func literal(c *chart.Chart, files map[string]string, notes string) (*chart.Chart, error) {
	about := *c.Metadata
	about.Dependencies = nil
	made := &chart.Chart{Metadata: &about}
	if notes != "" {
		// In the notes it is the same as nothing, which Helm makes of it.
		notes = strings.ReplaceAll(notes, noValue, "")
		made.Templates = append(made.Templates, &chart.File{Name: "templates/" + notesFile, Data: escaped(notes)})
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		below, ok := strings.CutPrefix(name, c.Name()+"/")
		if !ok {
			below = "../" + name // from a post-renderer: it lies beside the chart
		}
		switch {
		case path.Join(c.Name(), below) != name || strings.HasSuffix(name, notesFile):
			return nil, fmt.Errorf("%w: %q is no name for a file of manifests", errLiteral, name)
		case strings.Contains(text, noValue):
			return nil, fmt.Errorf("%w: %s contains the text %q, which Helm leaves out", errLiteral, name, noValue)
		}
		made.Templates = append(made.Templates, &chart.File{Name: below, Data: escaped(text)})
	}
	return made, nil
}

// escaped is a template that renders to the text.
func escaped(text string) []byte { return []byte(strings.ReplaceAll(text, "{{", `{{"{{"}}`)) }

package render

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"
)

// ErrSchema means that the values are not what the chart's values.schema.json asks for, or that is no schema.
var ErrSchema = errors.New("values don't meet the specifications of the schema(s) in the following chart(s)")

const (
	// maxSchema is how many bytes a schema may have. Each of its patterns may need a thousand times as much.
	maxSchema = 1 << 20
	// maxSchemaNesting is how deep it may be nested: it is walked with as much stack.
	maxSchemaNesting = 500
	// maxSchemaSteps is how many schemas may be tried on values: a schema that refers to another twice, which does so in turn,
	// is small and is tried without end.
	maxSchemaSteps = 1_000_000
	// maxPatterns is how many instructions the patterns of a schema may have together.
	maxPatterns = 1_000_000
	// maxMatching is how many instructions may be tried on characters.
	maxMatching = 2_000_000_000

	schemaURL = "file:///values.schema.json"
)

// validate checks the values of a chart, and of the charts inside it, by their schemas. It does what Helm does, but reads no
// schema from elsewhere, and ends.
func validate(ctx context.Context, end time.Time, c *chart.Chart, values map[string]any) error {
	var found strings.Builder
	if err := (&validation{ctx: ctx, end: end}).chart(c, values, &found); err != nil {
		return err
	}
	if found.Len() > 0 {
		return fmt.Errorf("%w:\n%s", ErrSchema, found.String())
	}
	return nil
}

// validation counts what the schemas of one chart take.
type validation struct {
	ctx             context.Context
	end             time.Time
	steps, matching int64
	patterns        int64
}

// overrun is what ends a validation from within the library, which has no other way.
type overrun struct{ err error }

func (v *validation) chart(c *chart.Chart, values map[string]any, found *strings.Builder) error {
	if c.Schema != nil {
		err := v.schema(c.Schema, values)
		if errors.Is(err, ErrLimit) || v.ctx.Err() != nil {
			return fmt.Errorf("the schema of %s: %w", c.Name(), err)
		}
		if err != nil {
			fmt.Fprintf(found, "%s:\n%s", c.Name(), err)
		}
	}
	for _, inner := range c.Dependencies() {
		below, ok := values[inner.Name()]
		if !ok || below == nil {
			continue // no values, nothing to check
		}
		m, ok := below.(map[string]any)
		if !ok {
			fmt.Fprintf(found, "%s:\ninvalid type for values: expected object (map), got %T\n", inner.Name(), below)
			continue
		}
		if err := v.chart(inner, m, found); err != nil {
			return err
		}
	}
	return nil
}

func (v *validation) schema(text []byte, values map[string]any) (err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case overrun:
			err = cause.err
		default:
			err = fmt.Errorf("unable to validate schema: %v\n", cause) //nolint:staticcheck // Helm's own words, with its line feed
		}
	}()
	if len(text) > maxSchema {
		return fmt.Errorf("%w: it has more than %d bytes", ErrLimit, maxSchema)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if nested(document, 0) || nested(values, 0) {
		return fmt.Errorf("%w: it, or the values, are nested more than %d deep", ErrLimit, maxSchemaNesting)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(nowhere{})
	compiler.UseRegexpEngine(v.pattern)
	compiler.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: "urn:cleat:counted",
		Compile: func(*jsonschema.CompilerContext, map[string]any) (jsonschema.SchemaExt, error) {
			v.step()
			return counted{v}, nil
		},
	})
	compiler.AssertVocabs()
	if err := compiler.AddResource(schemaURL, document); err != nil {
		return err
	}
	schema, err := compiler.Compile(schemaURL)
	if err != nil {
		return err
	}
	if err := schema.Validate(values); err != nil {
		return told(err)
	}
	return nil
}

// told is the error of the library as Helm prints it, in an order that is the same every time.
func told(err error) error {
	if found, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		sortCauses(found)
	}
	text := strings.TrimPrefix(err.Error(), "jsonschema validation failed with '"+schemaURL+"#'\n")
	return errors.New(text + "\n")
}

func sortCauses(e *jsonschema.ValidationError) {
	for _, cause := range e.Causes {
		sortCauses(cause)
	}
	slices.SortStableFunc(e.Causes, func(a, b *jsonschema.ValidationError) int {
		return cmp.Or(
			slices.Compare(a.InstanceLocation, b.InstanceLocation),
			strings.Compare(a.SchemaURL, b.SchemaURL),
			slices.Compare(a.ErrorKind.KeywordPath(), b.ErrorKind.KeywordPath()),
		)
	})
}

// nested says whether a document is deeper than it may be.
func nested(value any, depth int) bool {
	if depth > maxSchemaNesting {
		return true
	}
	switch v := value.(type) {
	case map[string]any:
		for _, below := range v {
			if nested(below, depth+1) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(below any) bool { return nested(below, depth+1) })
	}
	return false
}

// nowhere is where schemas are loaded from that are not in the chart. A URN that nobody resolves allows everything, as in Helm.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) {
	if strings.HasPrefix(url, "urn:") {
		return true, nil
	}
	return nil, errors.New("schemas are not loaded from outside the chart: put it into values.schema.json under $defs")
}

// counted is called for each schema that is tried on a value.
type counted struct{ v *validation }

func (c counted) Validate(*jsonschema.ValidatorContext, any) { c.v.step() }

func (v *validation) step() {
	if v.steps++; v.steps > maxSchemaSteps {
		panic(overrun{fmt.Errorf("%w: it takes more than %d steps", ErrLimit, maxSchemaSteps)})
	}
	if v.steps%betweenChecks == 0 {
		v.check()
	}
}

func (v *validation) check() {
	if err := v.ctx.Err(); err != nil {
		panic(overrun{err})
	}
	if time.Now().After(v.end) {
		panic(overrun{fmt.Errorf("%w: it takes too long", ErrLimit)})
	}
}

// pattern compiles the pattern of a schema.
func (v *validation) pattern(expression string) (jsonschema.Regexp, error) {
	size := instructions(expression)
	if v.patterns += size; v.patterns > maxPatterns {
		panic(overrun{fmt.Errorf("%w: its patterns are too large together", ErrLimit)})
	}
	compiled, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	return &countedPattern{compiled, v, size}, nil
}

// countedPattern counts what matching takes: as many steps as both the pattern and the text are long.
type countedPattern struct {
	*regexp.Regexp
	v    *validation
	size int64
}

func (p *countedPattern) MatchString(text string) bool {
	if p.v.matching += times(1+p.size, 1+int64(len(text))); p.v.matching > maxMatching || p.v.matching < 0 {
		panic(overrun{fmt.Errorf("%w: its patterns take too long", ErrLimit)})
	}
	p.v.check()
	return p.Regexp.MatchString(text)
}

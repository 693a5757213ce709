package render

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

const (
	// mostMemory is what one rendering may add to the heap. The race detector's own is not in it.
	mostMemory = 512 << 20
	// mostTime is what a bomb may take under the race detector, which makes it about ten times slower.
	mostTime = 40 * time.Second
)

// peak returns how much the heap grew while f ran, as seen every few milliseconds.
func peak(f func()) uint64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	done, most := make(chan struct{}), make(chan uint64)
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		highest := uint64(0)
		for {
			select {
			case <-ticker.C:
				runtime.ReadMemStats(&now)
				highest = max(highest, now.HeapAlloc)
			case <-done:
				most <- highest
				return
			}
		}
	}()
	f()
	close(done)
	if highest := <-most; highest > before.HeapAlloc {
		return highest - before.HeapAlloc
	}
	return 0
}

// TestA14_TemplateBombs: each of these charts would take all memory, all time, or the process, in Helm's engine.
func TestA14_TemplateBombs(t *testing.T) {
	const cycle = `{{ $d := dict "a" 1 }}{{ $_ := set $d "self" $d }}`
	const doubled = `{{ $d := dict "a" "some text" }}{{ range until 60 }}{{ $d = dict "l" $d "r" $d }}{{ end }}`
	const long = `{{ $s := repeat 1000000 "0123456789" }}`
	bombs := map[string]string{
		"nested loops":                `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`,
		"nested loops with output":    `{{ range until 100000 }}{{ range until 100000 }}0123456789{{ end }}{{ end }}`,
		"a loop of a number":          `{{ range 1000000000000 }}{{ end }}`,
		"a loop with a long body":     `{{ range until 1000000 }}` + strings.Repeat(`{{ $x := 1 }}`, 20000) + `{{ end }}`,
		"a loop with an alternative":  `{{ range until 100000 }}{{ range list }}{{ else }}{{ range until 100000 }}{{ end }}{{ end }}{{ end }}`,
		"until":                       `{{ range until 1000000000 }}{{ end }}`,
		"until, downwards":            `{{ until -9223372036854775808 }}`,
		"untilStep":                   `{{ untilStep 0 1000000000 1 }}`,
		"seq":                         `{{ seq 1000000000 }}`,
		"seq, in steps":               `{{ seq 0 2 900000000000000000 }}`,
		"repeat":                      `{{ repeat 1000000000 "0123456789" }}`,
		"repeat of repeat":            `{{ repeat 4000 (repeat 4000 "0123456789") }}`,
		"repeat in a loop":            `{{ range until 100000 }}{{ $x := repeat 1000000 "0123456789" }}{{ end }}`,
		"text kept":                   `{{ $l := list }}{{ range until 100000 }}{{ $l = append $l (repeat 1000000 "0123456789") }}{{ end }}`,
		"indent":                      `{{ indent 100000000 "a\nb" }}`,
		"nindent":                     `{{ nindent 1000000 (repeat 100000 "\n") }}`,
		"replace":                     long + `{{ replace "0" $s $s }}`,
		"replace nothing":             long + `{{ replace "" "0123456789" $s }}`,
		"join":                        long + `{{ join $s (until 1000) }}`,
		"split":                       long + `{{ split "" $s }}`,
		"splitList":                   `{{ $l := list }}{{ range until 1000 }}{{ $l = append $l (splitList "" (repeat 1000000 "a")) }}{{ end }}`,
		"printf width":                `{{ printf "` + strings.Repeat("%900000d", 1000) + `" 1 }}`,
		"printf width by argument":    `{{ printf "` + strings.Repeat("%[1]*d", 1000) + `" 900000 1 }}`,
		"printf again":                long + `{{ printf "` + strings.Repeat("%[1]s", 1000) + `" $s }}`,
		"print often":                 long + `{{ $x := print ` + strings.Repeat("$s ", 10000) + `}}`,
		"cat often":                   long + `{{ $x := cat ` + strings.Repeat("$s ", 10000) + `}}`,
		"list of texts":               long + `{{ $x := list ` + strings.Repeat("$s ", 10000) + `| join "" }}`,
		"doubled text":                `{{ $s := "0123456789" }}{{ range until 100 }}{{ $s = print $s $s }}{{ end }}`,
		"doubled list":                `{{ $l := list 1 }}{{ range until 100 }}{{ $l = concat $l $l }}{{ end }}`,
		"regexReplaceAll":             long + `{{ regexReplaceAll "" $s $s }}`,
		"regexReplaceAll of itself":   long + `{{ regexReplaceAll ".*" $s "` + strings.Repeat("$0", 1000) + `" }}`,
		"regex with repetitions":      long + `{{ regexMatch "` + strings.Repeat("(0|1|2|3){500}", 100) + `x" $s }}`,
		"randAlphaNum":                `{{ randAlphaNum 1000000000 }}`,
		"randBytes":                   `{{ randBytes 1000000000 }}`,
		"wrapWith":                    long + `{{ wrapWith 1 $s $s }}`,
		"trimAll":                     `{{ $s := repeat 1000000 "é" }}{{ trimAll $s $s }}`,
		"uniq":                        `{{ uniq (until 1000000) }}`,
		"without":                     `{{ without (until 1000000) ` + strings.Repeat("1 ", 1000) + `}}`,
		"derivePassword":              `{{ range until 100000 }}{{ derivePassword 1 "long" "p" "u" "example.com" }}{{ end }}`,
		"keys in a loop":              `{{ $d := dict }}{{ range until 10000 }}{{ $_ := set $d (toString .) 1 }}{{ end }}{{ range until 1000000 }}{{ $_ := set $d "x" (keys $d) }}{{ end }}`,
		"include itself":              `{{ define "x" }}{{ include "x" . }}{{ include "y" . }}{{ end }}{{ define "y" }}{{ include "z" . }}{{ end }}{{ define "z" }}{{ include "w" . }}{{ end }}{{ define "w" }}{{ include "y" . }}{{ end }}{{ include "y" . }}`,
		"template itself":             `{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
		"include twice":               `{{ define "x" }}{{ if gt . 0 }}{{ include "x" (sub . 1 | int) }}{{ include "x" (sub . 1 | int) }}{{ end }}{{ end }}{{ include "x" 100 }}`,
		"tpl itself":                  `{{ tpl .Values.tpl . }}`,
		"tpl long":                    `{{ tpl (repeat 1000000 "{{ 1 }}") . }}`,
		"tpl in a loop":               `{{ range until 10000000 }}{{ tpl "{{ $.x }}" (dict "x" 1) }}{{ end }}`,
		"tpl nested blocks":           `{{ tpl (print (repeat 100000 "{{ if 1 }}") (repeat 100000 "{{ end }}")) . }}`,
		"nested blocks":               strings.Repeat("{{ if 1 }}", 200_000) + strings.Repeat("{{ end }}", 200_000),
		"alternatives":                "{{ if 0 }}" + strings.Repeat("{{else if 0}}", 200_000) + "{{ end }}",
		"cycle, printed":              cycle + `{{ $d }}`,
		"cycle, printed in a list":    cycle + `{{ list $d }}`,
		"cycle, print":                cycle + `{{ print $d }}`,
		"cycle, printf":               cycle + `{{ printf "%v" $d | trunc 5 }}`,
		"cycle, quote":                cycle + `{{ quote $d }}`,
		"cycle, toYaml":               cycle + `{{ toYaml $d }}`,
		"cycle, toYamlPretty":         cycle + `{{ toYamlPretty $d }}`,
		"cycle, toToml":               cycle + `{{ toToml $d }}`,
		"cycle, toJson":               cycle + `{{ toJson $d }}`,
		"cycle, deepCopy":             cycle + `{{ deepCopy $d | len }}`,
		"cycle, merge":                cycle + `{{ merge (dict) $d | len }}`,
		"cycle, int":                  cycle + `{{ int $d }}`,
		"cycle, add":                  cycle + `{{ add 1 $d }}`,
		"cycle, eq":                   cycle + `{{ eq $d $d }}`,
		"cycle, ne":                   cycle + `{{ ne $d 1 }}`,
		"cycle, html":                 cycle + `{{ html $d }}`,
		"cycle, as key":               cycle + `{{ dict $d 1 | len }}`,
		"cycle, joined":               cycle + `{{ join "" (list $d) }}`,
		"cycle, by merge":             `{{ $d := dict "a" 1 }}{{ $_ := merge $d (dict "self" $d) }}{{ toYaml $d }}`,
		"cycle, of values":            `{{ $_ := set .Values "root" $ }}{{ .Values.YAML }}`,
		"cycle, values printed":       `{{ $_ := set .Values "root" $ }}{{ .Values }}`,
		"cycle, from include":         cycle + `{{ define "p" }}{{ . }}{{ end }}{{ include "p" $d }}`,
		"doubled, toYaml":             doubled + `{{ toYaml $d }}`,
		"doubled, printed":            doubled + `{{ $d }}`,
		"doubled, deepCopy":           doubled + `{{ deepCopy $d | len }}`,
		"doubled, YAML of values":     doubled + `{{ $_ := set .Values "d" $d }}{{ .Values.YAML }}`,
		"doubled, YAML of a variable": doubled + `{{ $_ := set .Values "d" $d }}{{ $v := .Values }}{{ $v.YAML | len }}`,
		"doubled, YAML of a chain":    doubled + `{{ $_ := set .Values "d" $d }}{{ (.Values).YAML | len }}{{ with .Values }}{{ len .YAML }}{{ end }}`,
		"aliases":                     `{{ fromYaml "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]" | toYaml | len }}{{ range until 1000000000 }}{{ end }}`,
		"fromYaml of much":            `{{ fromYaml (repeat 4000000 "[],") }}`,
		"fromJson of much":            `{{ fromJsonArray (print "[" (repeat 5000000 "[],") "1]") | len }}`,
		"files kept":                  `{{ $l := list }}{{ range until 1000 }}{{ $l = append $l ($.Files.Get "large") }}{{ end }}`,
		"files kept, without a pipe":  `{{ $l := list }}{{ range until 1000 }}{{ $f := $.Files.Get "large" }}{{ $l = append $l $f }}{{ end }}`,
		"lines kept":                  `{{ $l := list }}{{ range until 1000 }}{{ $l = append $l ($.Files.Lines "large") }}{{ end }}`,
		"config kept":                 `{{ $l := list }}{{ range until 1000 }}{{ $l = append $l $.Files.AsConfig }}{{ end }}`,
		"glob":                        `{{ .Files.Glob "` + strings.Repeat("*a", 60) + `b" | len }}`,
	}
	for name, template := range bombs {
		t.Run(name, func(t *testing.T) {
			c := load(t, fstest.MapFS{
				"Chart.yaml":             {Data: []byte(aboutWeb)},
				"values.yaml":            {Data: []byte(`tpl: "{{ tpl .Values.tpl . }}"`)},
				"templates/x.yaml":       {Data: []byte("kind: X\n" + template)},
				"large":                  {Data: []byte(strings.Repeat("x\n", 2<<20))},
				strings.Repeat("a", 250): {Data: []byte("x")},
			})
			var err error
			begin := time.Now()
			grown := peak(func() {
				_, err = New().Render(context.Background(), Request{Chart: c, Release: someRelease, Limits: Limits{Time: 3 * time.Second}})
			})
			if !errors.Is(err, ErrLimit) {
				t.Errorf("%.300v", err)
			} else if !strings.Contains(err.Error(), "web/templates/x.yaml") {
				t.Errorf("the error does not say where: %v", err)
			}
			if took := time.Since(begin); took > mostTime {
				t.Errorf("it took %s", took)
			}
			if grown > mostMemory {
				t.Errorf("it took %d MiB", grown>>20)
			}
			t.Logf("%s, %d MiB: %.200v", time.Since(begin).Round(time.Millisecond), grown>>20, err)
		})
	}
}

// The same failure has the same text, whatever else the machine does: no times in it, no order of a map.
func TestLimitsSayWhichAndWhere(t *testing.T) {
	c := expressionChart(t, "kind: X\ntext: |\n  {{ range until 1000 }}\n  {{ include \"helper\" $ }}{{ end }}")
	for limit, says := range map[Limits]string{
		{Steps: 50}:           "the templates take more than 50 steps",
		{Memory: 100}:         "more than 100 bytes on the way",
		{Output: 500}:         "more than 500 bytes",
		{Depth: 1}:            "more than 1 deep",
		{Time: 1, Steps: 1e6}: "take longer than 1ns",
	} {
		_, err := New().Render(context.Background(), Request{Chart: c, Release: someRelease, Limits: limit})
		if !errors.Is(err, ErrLimit) || !strings.Contains(fmt.Sprint(err), says) || !strings.Contains(fmt.Sprint(err), "web/templates/x.yaml") {
			t.Errorf("%+v: %v, want %q", limit, err, says)
		}
	}
	if _, err := New().Render(context.Background(), Request{Chart: c, Release: someRelease}); err != nil {
		t.Errorf("within the limits: %v", err)
	}
}

// A template that includes itself ends where Helm ends it. The error does not tell each of a thousand times.
func TestEndlessIncludeEndsAsInHelm(t *testing.T) {
	_, err := New().Render(context.Background(), Request{Chart: expressionChart(t, `{{ define "loop" }}{{ include "loop" . }}{{ end }}{{ include "loop" . }}`), Release: someRelease})
	if err == nil || !strings.HasSuffix(err.Error(), "rendering template has a nested reference name: loop: unable to execute template") || len(err.Error()) > 2*maxErrorText {
		t.Errorf("%.500v", err)
	}
}

// A rendering that nobody wants any more ends, and is no failure of the chart.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := expressionChart(t, `{{ range until 1000000 }}{{ lookup "v1" "Pod" "a" "b" }}{{ end }}`)
	_, err := New().Render(ctx, Request{Chart: c, Release: someRelease, Lookup: func(context.Context, string, string, string, string) (map[string]any, error) {
		cancel()
		return nil, nil
	}})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrLimit) {
		t.Error(err)
	}
}

// TestA14_Schemas: whatever a schema says, checking values by it ends, and reads nothing from elsewhere.
func TestA14_Schemas(t *testing.T) {
	doubling := func(n int) string {
		var defs []string
		for i := range n {
			defs = append(defs, fmt.Sprintf(`"d%d": {"allOf": [{"$ref": "#/definitions/d%d"}, {"$ref": "#/definitions/d%d"}]}`, i, i+1, i+1))
		}
		return `{"definitions": {` + strings.Join(defs, ",") + fmt.Sprintf(`, "d%d": {"type": "object"}}, "$ref": "#/definitions/d0"}`, n)
	}
	for name, c := range map[string]struct {
		schema string
		want   error // ErrLimit, ErrSchema, or nil
		values map[string]any
	}{
		"fine":                   {`{"type": "object"}`, nil, nil},
		"not JSON":               {`{`, ErrSchema, nil},
		"no schema":              {`{"type": 5}`, ErrSchema, nil},
		"refers to itself":       {`{"$ref": "#"}`, ErrSchema, nil},
		"refers in a circle":     {`{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}`, ErrSchema, nil},
		"recursive, as it may":   {`{"properties": {"a": {"$ref": "#"}}, "additionalProperties": {"type": "string"}}`, nil, map[string]any{"a": map[string]any{"a": map[string]any{"b": "x"}}}},
		"doubling":               {doubling(60), ErrLimit, nil},
		"doubling, 2020-12":      {strings.ReplaceAll(doubling(60), "definitions", "$defs"), ErrLimit, nil},
		"doubling, draft-04":     {`{"$schema": "http://json-schema.org/draft-04/schema#",` + doubling(60)[1:], ErrLimit, nil},
		"from a server":          {`{"$ref": "http://127.0.0.1:1/schema.json"}`, ErrSchema, nil},
		"from a metadata server": {`{"$ref": "https://169.254.169.254/latest"}`, ErrSchema, nil},
		"from a file":            {`{"$ref": "file:///etc/passwd"}`, ErrSchema, nil},
		"from beside":            {`{"$ref": "other.json"}`, ErrSchema, nil},
		"its own dialect":        {`{"$schema": "http://127.0.0.1:1/dialect"}`, ErrSchema, nil},
		"a URN":                  {`{"$ref": "urn:example:x"}`, nil, nil},
		"nested":                 {strings.Repeat(`{"not":`, 5000) + "true" + strings.Repeat("}", 5000), ErrLimit, nil},
		"large":                  {`{"description": "` + strings.Repeat("x", 2<<20) + `"}`, ErrLimit, nil},
		"large pattern":          {`{"properties": {"a": {"pattern": "` + strings.Repeat("(xxxxxxxx){1000}", 200) + `"}}}`, ErrLimit, nil},
		"many patterns":          {`{"patternProperties": {` + manyPatterns(300) + `}}`, ErrLimit, nil},
		"long matching":          {`{"properties": {"a": {"items": {"pattern": "^(a|b|c|d){900}$"}}}}`, ErrLimit, map[string]any{"a": listOf(strings.Repeat("a", 1<<20), 5)}},
		"large maxLength":        {`{"properties": {"a": {"maxLength": 99999999999999999999, "pattern": "^.{0,1000}$"}}}`, nil, map[string]any{"a": "x"}},
		"catastrophic elsewhere": {`{"properties": {"a": {"pattern": "^(a+)+$"}}}`, ErrSchema, map[string]any{"a": strings.Repeat("a", 10000) + "b"}},
		"no pattern":             {`{"properties": {"a": {"pattern": "["}}}`, ErrSchema, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ch := load(t, fstest.MapFS{
				"Chart.yaml": {Data: []byte(aboutWeb)}, "values.schema.json": {Data: []byte(c.schema)}, "templates/x.yaml": {Data: []byte("kind: X")},
			})
			var err error
			begin := time.Now()
			grown := peak(func() {
				_, err = New().Render(context.Background(), Request{Chart: ch, Values: c.values, Release: someRelease, Limits: Limits{Time: 3 * time.Second}})
			})
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%.400v, want %v", err, c.want)
			}
			if took := time.Since(begin); took > mostTime || grown > mostMemory {
				t.Errorf("it took %s and %d MiB", took, grown>>20)
			}
			if c.want != nil && !strings.Contains(fmt.Sprint(err), "web") {
				t.Errorf("the error does not name the chart: %.300v", err)
			}
			q := Request{Chart: ch, Values: c.values, Release: someRelease, SkipSchemaValidation: true}
			if _, err := New().Render(context.Background(), q); err != nil {
				t.Errorf("without validation: %v", err)
			}
		})
	}
}

func manyPatterns(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"x{1000}y{1000}z{1000}%d(abcdefgh){500}": {}`, i))
	}
	return strings.Join(all, ",")
}

func listOf(value any, n int) []any {
	var all []any
	for range n {
		all = append(all, value)
	}
	return all
}

// The errors of a schema come in the same order every time.
func TestSchemaErrorsAreSteady(t *testing.T) {
	c := load(t, fstest.MapFS{
		"Chart.yaml":         {Data: []byte(aboutWeb)},
		"values.schema.json": {Data: []byte(`{"additionalProperties": {"type": "string", "minLength": 5}, "patternProperties": {"^a": {"enum": [1]}, "^b": {"enum": [2]}}}`)},
	})
	values := map[string]any{}
	for _, name := range strings.Split("abcdefghij", "") {
		values[name] = 5
	}
	first := ""
	for range 20 {
		_, err := New().Render(context.Background(), Request{Chart: c, Values: values, Release: someRelease})
		if first == "" {
			first = fmt.Sprint(err)
		}
		if !errors.Is(err, ErrSchema) || err.Error() != first {
			t.Fatalf("%v\nthen %v", first, err)
		}
	}
}

// TestA15_NothingFromOutside: env and expandenv are no functions; a host is looked up only where that is allowed.
func TestA15_NothingFromOutside(t *testing.T) {
	t.Setenv("SECRET", "hunter2")
	for _, template := range []string{`{{ env "SECRET" }}`, `{{ expandenv "$SECRET" }}`, `{{ tpl "{{ env \"SECRET\" }}" . }}`, `{{ tpl "{{ expandenv \"$SECRET\" }}" . }}`} {
		_, err := New().Render(context.Background(), Request{Chart: expressionChart(t, template), Release: someRelease})
		if err == nil || !strings.Contains(err.Error(), "not defined") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", template, err)
		}
	}
	for dns, want := range map[bool]string{false: "at: []", true: "at: [127.0.0.1]"} {
		q := Request{Chart: expressionChart(t, `at: [{{ getHostByName "127.0.0.1" }}]`), Release: someRelease, AllowDNS: dns}
		got, err := New().Render(context.Background(), q)
		if err != nil || !strings.Contains(got.Manifest, want) {
			t.Errorf("DNS allowed %v: %v, %v", dns, got, err)
		}
	}
}

// A15: lookup asks whoever the reconciler says, and what that refuses is an error of the template.
func TestA15_LookupIsTheCallers(t *testing.T) {
	refused := errors.New("pods is forbidden")
	asked := ""
	q := Request{
		Chart: expressionChart(t, `name: {{ (lookup "v1" "Secret" "apps" "db").metadata.name }}{{ range (lookup "v1" "Pod" "" "").items }}{{ . }}{{ end }}`),
		Lookup: func(_ context.Context, apiVersion, kind, namespace, name string) (map[string]any, error) {
			asked += fmt.Sprintf("%s %s %s/%s;", apiVersion, kind, namespace, name)
			if kind == "Pod" {
				return nil, refused
			}
			return map[string]any{"metadata": map[string]any{"name": name}}, nil
		},
	}
	_, err := New().Render(context.Background(), q)
	if !errors.Is(err, refused) || asked != "v1 Secret apps/db;v1 Pod /;" {
		t.Errorf("%v after %s", err, asked)
	}
}

// Every function that sprig has is classified, so that a new one is judged before anybody's template calls it; and all the
// others are what text/template and Helm have.
func TestFunctionsAreClassified(t *testing.T) {
	l := newLibrary()
	for name := range l.plain {
		if l.classes[name] == "" {
			t.Errorf("%s has no class", name)
		}
	}
	bounds := 0
	for name, class := range l.classes {
		_, plain := l.plain[name]
		_, bound := l.bounds[name]
		switch {
		case class == classAbsent && l.stubs[name] != nil:
			t.Errorf("%s can be called", name)
		case class == classGrowing && !bound:
			t.Errorf("%s has no bound", name)
		case class != classOwn && class != classGrowing && bound:
			t.Errorf("%s has a bound that is not used", name)
		case class != classOwn && !plain:
			t.Errorf("there is no %s", name)
		}
		if bound {
			bounds++
		}
	}
	if bounds != len(l.bounds) {
		t.Error("there are bounds for functions that are not there")
	}
}

// Charts that make a mapping within itself, to pass it along, and never walk it, render.
func TestCyclesMayBeMade(t *testing.T) {
	c := expressionChart(t, `{{ $_ := set .Values.map "context" $ }}{{ $x := dict "values" .Values.map "root" $ }}name: {{ include "n" $x }}
{{ define "n" }}{{ .root.Values.map.context.Values.text }}{{ hasKey .values "context" }}{{ len .values }}{{ if .values }}{{ pick .values "a" | toJson }}{{ end }}{{ end }}`)
	got, err := New().Render(context.Background(), Request{Chart: c, Release: someRelease})
	if err != nil || !strings.Contains(got.Manifest, `name: hellotrue3{"a":1}`) {
		t.Errorf("%+v, %v", got, err)
	}
}

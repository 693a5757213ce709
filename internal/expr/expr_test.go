package expr

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func object() map[string]any {
	return map[string]any{
		"kind": "Cluster",
		"spec": map[string]any{"replicas": int64(3), "share": 0.5, "names": []any{"a", "b"}},
		"status": map[string]any{
			"phase": "Ready", "ready": int64(3), "done": true,
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}, map[string]any{"type": "Synced", "status": "False"}},
		},
	}
}

// outcome is what came of running an expression.
type outcome string

const (
	yes    outcome = "true"
	no     outcome = "false"
	failed outcome = "error"
)

func run(e *Expr, vars map[string]any) outcome {
	is, err := e.True(vars)
	switch {
	case err != nil:
		return failed
	case is:
		return yes
	}
	return no
}

func TestParse(t *testing.T) {
	for text, want := range map[string]outcome{
		`status.phase == 'Ready'`: yes,
		`status.phase != 'Ready'`: no,
		`status.ready == spec.replicas && has(status.done) && !has(status.reason)`:                                  yes,
		`status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')`:                                      yes,
		`status.conditions.filter(c, c.type == 'Synced').all(c, c.status == 'True')`:                                no,
		`status.conditions.exists_one(c, c.status in ['True', 'Unknown'])`:                                          yes,
		`status.?reason.orValue('none') == 'none'`:                                                                  yes,
		`status.?phase.optMap(p, p + '!').orValue('') == 'Ready!'`:                                                  yes,
		`spec.share < 1 && spec.replicas >= 3.0`:                                                                    yes,
		`'%s is %d'.format([status.phase, status.ready]) == 'Ready is 3'`:                                           yes,
		`spec.names.join('-').replace('a', 'c').split('-')[0].indexOf('c') == 0`:                                    yes,
		`'a-b-a'.replace('a', 'x', 1) == 'x-b-a' && 'aba'.lastIndexOf('a') == 2 && 'aba'.indexOf('a', 1) == 2`:      yes,
		`sets.contains(spec.names, ['a']) && sets.equivalent(spec.names, ['b', 'a']) && !sets.intersects([1], [2])`: yes,
		`status.phase.matches('^R.*y$') && matches(status.phase, 'ead')`:                                            yes,
		`base64.decode('YQ==') == b'a'`:                                                                             yes,
		`timestamp('2026-11-24T00:00:00Z').getFullYear() == 2026`:                                                   yes,
		`{'a': [1, 2]} == {'a': [1, 2]} && [1] != [2] && 'a' in {'a': 1} && 'ready' in status && !('x' in status)`:  yes,
		`status.done`:                 yes,
		`status.phase`:                failed, // of the wrong type
		`status.missing == 'x'`:       failed,
		`nothing.at.all`:              failed,
		`status.phase > 1`:            failed,
		`status.phase.matches(1)`:     failed,
		`status.phase.matches('(')`:   failed,
		`[1].matches('a')`:            failed,
		`nosuch(status)`:              failed,
		`status.missing == 1 || true`: yes, // as in CEL: one side is enough
	} {
		e, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := run(e, object()); got != want {
			_, err := e.True(object())
			t.Errorf("%s: %s (%v), want %s", text, got, err, want)
		}
		if first, second := run(e, object()), run(e, object()); first != second {
			t.Errorf("%s: first %s, then %s", text, first, second)
		}
	}
}

func TestCompile(t *testing.T) {
	for text, want := range map[string]outcome{
		`dep.status.phase == self.status.phase`:                                 yes,
		`dep.status.conditions.exists(c, c.type == 'Synced' && c.status == '')`: no,
		`dep.metadata.labels['a'] == 'b'`:                                       failed,
		`dep.status.phase.matches('^R') && dep.spec.names.join('').size() == 2`: yes,
		`size(dep.spec.names) == 2 && 'a' in dep.spec.names`:                    yes,
	} {
		e, err := Compile(text, "self", "dep")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := run(e, map[string]any{"self": object(), "dep": object()}); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestValue: what one expression comes to is what another works with.
func TestValue(t *testing.T) {
	names, err := CompileValue(`dep.spec.names.map(n, n + '!')`, "dep")
	if err != nil {
		t.Fatal(err)
	}
	value, err := names.Value(map[string]any{"dep": object()})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Compile(`vars.names == ['a!', 'b!'] && vars.names.join('').size() == 4`, "vars")
	if err != nil {
		t.Fatal(err)
	}
	if got := run(e, map[string]any{"vars": map[string]any{"names": value}}); got != yes {
		t.Errorf("it is %s", got)
	}
	if _, err := CompileValue(`other.name`, "dep"); err == nil {
		t.Error("a variable that there is not was taken")
	}
}

// TestRefused: what cannot be understood is found before it runs, and told in one line.
func TestRefused(t *testing.T) {
	for text, says := range map[string]string{
		` `:                                ErrEmpty.Error(),
		`status.`:                          "1:8",
		`status.phase = 'Ready'`:           "1:14",
		`a &&`:                             "1:5",
		strings.Repeat("(", 300):           "",
		strings.Repeat("a.", 2048) + "abc": ErrTooLong.Error(),
		"optional.of(1)" + strings.Repeat(".optMap(x, x)", 100): ErrManyOptional.Error(), // would be 2^100 long
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("parsing %.40q: %v, which does not say %q", text, err, says)
		}
	}
	for text, says := range map[string]string{
		`dep.status.phase`: "true or false",
		`1 + 1`:            "int",
		`other.status.ok == true && dep.status.x == 'y'`: "other",
		`dep.`:                    "1:5",
		`'a' + 1 == 'a1'`:         "overload",
		strings.Repeat("-", 5000): ErrTooLong.Error(),
	} {
		_, err := Compile(text, "self", "dep")
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("compiling %.40q: %v, which does not say %q", text, err, says)
		}
	}
	if _, err := Parse(strings.Repeat(" ", MaxLength) + "1"); !errors.Is(err, ErrTooLong) {
		t.Errorf("one byte too long: %v", err)
	}
}

// TestA28_Bombs: an expression whose work or memory explodes ends with an error, soon (faults.md A28).
func TestA28_Bombs(t *testing.T) {
	long, numbers := strings.Repeat("a", 1<<20), make([]any, 200_000)
	for i := range numbers {
		numbers[i] = int64(i)
	}
	vars := map[string]any{"data": map[string]any{"long": long, "half": long[:1<<19] + "b", "numbers": numbers}}
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	for name, text := range map[string]string{
		"loops in loops": ten + ".all(a, " + ten + ".all(b, " + ten + ".all(c, " + ten + ".all(d, " + ten + ".all(e, " + ten + ".all(f, " +
			ten + ".all(g, a + b + c + d + e + f + g >= 0)))))))",
		"a loop over much":        `data.numbers.all(a, data.numbers.all(b, a + b >= 0))`,
		"a string doubled":        `['` + strings.Repeat("a", 100) + `']` + strings.Repeat(".map(x, x+x)", 200) + `.size() == 1`,
		"a list doubled":          `[[1]]` + strings.Repeat(".map(x, x+x)", 200) + `[0].all(x, x == 1)`,
		"a list nested":           `[[1]]` + strings.Repeat(".map(x, [x, x])", 60) + ` == [[1]]` + strings.Repeat(".map(x, [x, x])", 60),
		"nested, in a list":       `[[1]]` + strings.Repeat(".map(x, [x, x])", 60) + `[0] in [[[1]]` + strings.Repeat(".map(x, [x, x])", 60) + `[0]]`,
		"replace":                 `'a'` + strings.Repeat(".replace('a', 'aaaaaaaaaa')", 100) + ` == 'a'`,
		"replace much by much":    `data.long.replace('a', data.half) == 'a'`,
		"replace nothing":         `data.long.replace('', data.half) == 'a'`,
		"join":                    `data.long.split('').join(data.half) == 'a'`,
		"format":                  `'%s%s'.format([data.numbers, data.numbers]) == 'a'`,
		"format's precision":      `'%.999999999f'.format([1.0]) == 'a'`,
		"base64":                  `base64.encode(bytes(` + strings.Repeat("base64.encode(bytes(", 100) + `data.long` + strings.Repeat("))", 100) + `)) == 'a'`,
		"search":                  `data.long.indexOf(data.half) == 1`,
		"search backwards":        `data.long.lastIndexOf(data.half) == 1`,
		"a pattern of the object": `data.long.matches(data.half)`,
		"a large pattern":         `data.long.matches('` + strings.Repeat("(a?){1000}", 100) + `b')`,
		"sets":                    `sets.equivalent(data.numbers, data.numbers)`,
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			is, err := e.True(vars)
			if err == nil {
				t.Errorf("it came to %t", is)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// FuzzParse: whatever somebody writes, it is understood or refused, and runs to the same end twice.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`status.phase == 'Ready'`, `status.`, `[1].map(x, [x, x])`, `'%.9f'.format([spec.share])`, `spec.names.join(',').matches('a|b')`,
		`status.?reason.orValue('none') in spec.names`, `sets.contains(spec.names, ['a'])`, `base64.decode('!')`, `"\ud800"`, `a ? b : c`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Parse(text)
		if (err == nil) == (e == nil) {
			t.Fatalf("both or neither of an expression and an error: %v", err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			return
		}
		if first, second := run(e, object()), run(e, object()); first != second {
			t.Errorf("first %s, then %s", first, second)
		}
	})
}

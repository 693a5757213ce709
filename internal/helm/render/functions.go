package render

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// class says what is to be feared of a function of sprig's or of text/template's own.
type class string

const (
	// classCheap: it looks at the top of its arguments only and makes nothing.
	classCheap class = "cheap"
	// classMaking: it looks at the top of its arguments only and makes a list or a mapping of them.
	classMaking class = "making"
	// classWalking: it may walk, compare, print or copy all that is in its arguments.
	classWalking class = "walking"
	// classGrowing: besides, what it makes may be much larger than its arguments; bounds has a bound for it.
	classGrowing class = "growing"
	// classOwn: it is replaced by one of ours.
	classOwn class = "own"
	// classAbsent: it reads what is outside the chart (faults.md A15).
	classAbsent class = "absent"
)

// newClasses returns every function that templates may call, so that one that comes with a new version of sprig fails a test
// before anybody's template calls it.
func newClasses() map[string]class {
	of := map[string]class{}
	for c, names := range map[class]string{
		classAbsent: "env expandenv",
		classOwn: "include tpl required fail lookup getHostByName toYaml toYamlPretty fromYaml fromYamlArray toJson fromJson " +
			"fromJsonArray toToml fromToml dict eq ne print println printf",
		classCheap: "hello get set unset hasKey first mustFirst last mustLast default empty coalesce all any ternary typeOf typeIs " +
			"typeIsLike kindOf kindIs dig now uuidv4",
		classMaking: "keys values pick omit pluck list tuple append push mustAppend mustPush prepend mustPrepend rest mustRest initial " +
			"mustInitial concat reverse mustReverse slice mustSlice chunk mustChunk compact mustCompact",
		classWalking: "ago date date_in_zone date_modify dateInZone dateModify duration durationRound htmlDate htmlDateInZone " +
			"must_date_modify mustDateModify mustToDate toDate unixEpoch trunc trim upper lower title untitle substr " +
			"trimSuffix trimPrefix nospace initials swapcase shuffle snakecase camelcase kebabcase contains hasPrefix hasSuffix quote " +
			"squote cat plural sha1sum sha256sum sha512sum adler32sum toString atoi int64 int float64 toDecimal toStrings add1 add sub " +
			"div mod mul randInt add1f addf subf divf mulf biggest max min maxf minf ceil floor round sortAlpha toPrettyJson toRawJson " +
			"mustToJson mustToPrettyJson mustToRawJson deepCopy mustDeepCopy deepEqual base dir clean ext isAbs osBase osClean osDir " +
			"osExt osIsAbs b64enc b64dec b32enc b32dec merge mergeOverwrite mustMerge mustMergeOverwrite " +
			"has mustHas bcrypt htpasswd derivePassword genPrivateKey buildCustomCert genCA genCAWithKey genSelfSignedCert " +
			"genSelfSignedCertWithKey genSignedCert genSignedCertWithKey encryptAES decryptAES semver semverCompare " +
			"regexQuoteMeta urlParse urlJoin html js urlquery",
		classGrowing: "repeat indent nindent replace until untilStep seq randAlphaNum randAlpha randAscii randNumeric randBytes wrap " +
			"wrapWith join split splitList splitn regexMatch mustRegexMatch regexFindAll mustRegexFindAll regexFind mustRegexFind " +
			"regexReplaceAll mustRegexReplaceAll regexReplaceAllLiteral mustRegexReplaceAllLiteral regexSplit mustRegexSplit uniq " +
			"mustUniq without mustWithout trimAll trimall mustFromJson abbrev abbrevboth",
	} {
		for name := range strings.FieldsSeq(names) {
			of[name] = c
		}
	}
	return of
}

// plainFunctions are those of sprig, and of text/template that walk their arguments, as they are.
func plainFunctions() map[string]any {
	all := map[string]any(sprig.TxtFuncMap())
	all["html"], all["js"], all["urlquery"] = template.HTMLEscaper, template.JSEscaper, template.URLQueryEscaper
	return all
}

// library is what all renderings share of the functions. Nothing in it is changed.
type library struct {
	classes map[string]class
	plain   map[string]any
	bounds  map[string]bound
	stubs   template.FuncMap // what templates are parsed with: every name that there is
}

func newLibrary() *library {
	l := &library{classes: newClasses(), plain: plainFunctions(), bounds: newBounds()}
	l.stubs = stubs(l.classes)
	return l
}

func stubs(classes map[string]class) template.FuncMap {
	f := template.FuncMap{}
	for name, class := range classes {
		if class != classAbsent {
			f[name] = func() string { return "" }
		}
	}
	for _, name := range []string{enterName, leaveName, againName, guardName, countName} {
		f[name] = func() string { return "" }
	}
	return f
}

// Lookup reads an object of the cluster for a template, or a list of them when the name is empty.
type Lookup func(ctx context.Context, apiVersion, kind, namespace, name string) (map[string]any, error)

// functions are those of one rendering.
type functions struct {
	*library

	meter    *meter
	lookup   Lookup // nil: finds nothing
	dns      bool
	included map[string]int
}

// bind returns all functions, under the meter; include and tpl, which are bound to a template besides, are not among them.
func (f *functions) bind() template.FuncMap {
	all := template.FuncMap{}
	for name, function := range f.plain {
		switch f.classes[name] {
		case classCheap:
			all[name] = function
		case classMaking:
			all[name] = f.wrap(name, function, false)
		case classWalking, classGrowing:
			all[name] = f.wrap(name, function, true)
		case classOwn, classAbsent, "":
		}
	}
	for name, function := range f.own() {
		all[name] = function
	}
	m := f.meter
	all[enterName], all[leaveName], all[againName], all[guardName], all[countName] = m.enter, m.leave, m.again, m.guard, m.count
	return all
}

// own are the functions that are Helm's, and sprig's that are done in another way.
func (f *functions) own() map[string]any {
	wrapped := map[string]any{
		"toYaml": toYAML, "toYamlPretty": toYAMLPretty, "toJson": toJSON, "toToml": toTOML,
		"fromYaml": mappingBy(readYAML), "fromJson": mappingBy(readJSON), "fromToml": mappingBy(readTOML),
		"fromYamlArray": listBy(readYAML), "fromJsonArray": listBy(readJSON),
		"print": fmt.Sprint, "println": fmt.Sprintln, "printf": fmt.Sprintf,
	}
	for name, function := range wrapped {
		wrapped[name] = f.wrap(name, function, true)
	}
	wrapped["required"], wrapped["fail"], wrapped["lookup"], wrapped["getHostByName"] = required, fail, f.look, f.host
	wrapped["dict"], wrapped["eq"], wrapped["ne"] = f.dict, f.equal, f.unequal
	return wrapped
}

// warning is around what a chart says to whoever installs it; the rest of the error is left out then.
func warning(text string) error { return errors.New(warnStart + text + warnEnd) }

func required(warn string, value any) (any, error) {
	if value == nil || value == "" {
		return value, warning(warn)
	}
	return value, nil
}

func fail(message string) (string, error) { return "", warning(message) }

func (f *functions) look(apiVersion, kind, namespace, name string) (map[string]any, error) {
	if f.lookup == nil {
		return map[string]any{}, nil
	}
	if err := f.meter.check(); err != nil {
		return nil, err
	}
	found, err := f.lookup(f.meter.ctx, apiVersion, kind, namespace, name)
	if err != nil {
		return map[string]any{}, err
	}
	if found == nil {
		found = map[string]any{} // as Helm has it for what there is not
	}
	return found, f.meter.walk("lookup", found)
}

// host asks the DNS if that is allowed. A name that there is not is the empty text; sprig's own panics then.
func (f *functions) host(name string) (string, error) {
	if !f.dns {
		return "", nil
	}
	ctx, cancel := context.WithDeadline(f.meter.ctx, f.meter.end)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil || len(found) == 0 {
		return "", f.meter.check()
	}
	return found[rand.IntN(len(found))], nil
}

// dict is the function that charts call most: its values are not looked at.
func (f *functions) dict(pairs ...any) (map[string]any, error) {
	if err := f.meter.take(64 * int64(len(pairs))); err != nil {
		return nil, err
	}
	made := make(map[string]any, (len(pairs)+1)/2)
	for i := 0; i < len(pairs); i += 2 {
		key, ok := pairs[i].(string)
		if !ok {
			if err := f.meter.walk("dict", pairs[i]); err != nil {
				return nil, err
			}
			key = text(pairs[i])
		}
		made[key] = ""
		if i+1 < len(pairs) {
			made[key] = pairs[i+1]
		}
	}
	return made, nil
}

// text is how sprig makes a text of anything.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	}
	return fmt.Sprint(value)
}

// equal is text/template's function, whose errors print what cannot be compared.
func (f *functions) equal(a reflect.Value, others ...reflect.Value) (bool, error) {
	if is, ok := sameScalar(a, others); ok {
		return is, nil
	}
	return f.compared("eq", a, others)
}

func (f *functions) unequal(a, b reflect.Value) (bool, error) {
	if is, ok := sameScalar(a, []reflect.Value{b}); ok {
		return !is, nil
	}
	return f.compared("ne", a, []reflect.Value{b})
}

// sameScalar compares what is nearly always compared: texts, numbers and truth values of one kind. ok is false for anything else.
func sameScalar(a reflect.Value, others []reflect.Value) (is, ok bool) {
	if a = inside(a); !a.IsValid() || len(others) == 0 {
		return false, false
	}
	for _, b := range others {
		if b = inside(b); !b.IsValid() || a.Kind() != b.Kind() {
			return false, false
		}
		switch a.Kind() {
		case reflect.String:
			is = is || a.String() == b.String()
		case reflect.Bool:
			is = is || a.Bool() == b.Bool()
		case reflect.Int, reflect.Int64:
			is = is || a.Int() == b.Int()
		case reflect.Float64:
			is = is || a.Float() == b.Float()
		default:
			return false, false
		}
	}
	return is, true
}

func inside(v reflect.Value) reflect.Value {
	if v.IsValid() && v.Kind() == reflect.Interface {
		return v.Elem()
	}
	return v
}

// compared leaves it to text/template, once it is known that what it may print has an end.
func (f *functions) compared(name string, a reflect.Value, others []reflect.Value) (bool, error) {
	args := append([]reflect.Value{a}, others...)
	data := make([]any, len(args))
	var call strings.Builder
	for i, v := range args {
		if v.IsValid() && v.CanInterface() {
			data[i] = v.Interface()
		}
		fmt.Fprintf(&call, " (index . %d)", i)
	}
	if err := f.meter.walk(name, data...); err != nil {
		return false, err
	}
	t, err := template.New(name).Parse("{{" + name + call.String() + "}}")
	if err != nil {
		return false, err
	}
	var out strings.Builder
	if err := t.Execute(&out, data); err != nil {
		return false, innermost(err)
	}
	return out.String() == "true", nil
}

// innermost is the error of a function, without where it was called.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// wrap returns the function with its work and what it makes counted. Those that walk their arguments are called only if that has an
// end, and those that grow them only within their bound.
func (f *functions) wrap(name string, function any, walks bool) any {
	m := f.meter
	inner := reflect.ValueOf(function)
	kind := inner.Type()
	bound := f.bounds[name]
	call := inner.Call
	if kind.IsVariadic() {
		call = inner.CallSlice
	}
	return reflect.MakeFunc(kind, func(args []reflect.Value) []reflect.Value {
		if err := errors.Join(m.step(1), m.check()); err != nil {
			panic(m.over) // text/template makes an error of it
		}
		if walks {
			if err := m.admit(name, args); err != nil {
				panic(err)
			}
		}
		if bound != nil {
			if size := bound(plainArgs(args)); size > m.limits.Output || size < 0 {
				panic(m.stop("%s: what it would make or take is more than %d bytes", name, m.limits.Output))
			}
		}
		results := call(args)
		if err := m.made(results[0]); err != nil {
			panic(err)
		}
		return results
	}).Interface()
}

// admit looks at the arguments of a function that walks them.
func (m *meter) admit(name string, args []reflect.Value) error {
	texts := int64(0)
	for _, arg := range args {
		switch arg.Kind() {
		case reflect.String:
			texts += int64(arg.Len())
		case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		case reflect.Slice: // the last ones, mostly
			for i := range arg.Len() {
				n, err := m.admitOne(name, arg.Index(i))
				if err != nil {
					return err
				}
				texts += n
			}
		default:
			n, err := m.admitOne(name, arg)
			if err != nil {
				return err
			}
			texts += n
		}
	}
	if texts > m.limits.Output {
		return m.stop("%s: its arguments have more than %d bytes", name, m.limits.Output)
	}
	return m.step(1 + texts>>8)
}

// admitOne returns how long a text is, or walks what is none.
func (m *meter) admitOne(name string, arg reflect.Value) (int64, error) {
	if arg = inside(arg); !arg.IsValid() {
		return 0, nil
	}
	switch arg.Kind() {
	case reflect.String:
		return int64(arg.Len()), nil
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
		return 0, nil
	default:
	}
	if !arg.CanInterface() {
		return 0, nil
	}
	return 0, m.walk(name, arg.Interface())
}

// plainArgs are the arguments with those of a variadic function in a row.
func plainArgs(args []reflect.Value) []any {
	plain := make([]any, 0, len(args))
	for _, arg := range args {
		switch v := arg.Interface().(type) {
		case []any:
			plain = append(plain, v...)
		case []int:
			for _, n := range v {
				plain = append(plain, n)
			}
		default:
			plain = append(plain, v)
		}
	}
	return slices.Clip(plain)
}

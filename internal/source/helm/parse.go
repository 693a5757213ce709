package helm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/source"
)

// errShape: the file may be an index, but not one that can be cut into pieces that mean the same by themselves.
var errShape = errors.New("the index is not written in the form in which Helm writes it")

// readIndex hands the charts of an index to the sink and returns the rest of it.
//
// An index is read piece by piece when it is JSON, or YAML in the block style in which Helm writes it. Whatever is unusual
// about it makes it errShape; then again is called, and a file that is small enough is read as a whole by Helm's parser.
func readIndex(in *os.File, to sink, again func() error) (header, error) {
	info, err := in.Stat()
	if err != nil {
		return header{}, err
	}
	head, err := readPieces(in, to)
	if !errors.Is(err, errShape) {
		return head, err
	}
	if info.Size() > maxWhole {
		return header{}, fmt.Errorf("%w: %w, and is larger than %d bytes; write it with `helm repo index`", errIndex, errShape, maxWhole)
	}
	if err := again(); err != nil {
		return header{}, err
	}
	return readWhole(in.Name(), to)
}

func readPieces(in io.ReadSeeker, to sink) (header, error) {
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return header{}, err
	}
	r := bufio.NewReaderSize(in, 64<<10)
	first, err := r.Peek(1)
	switch {
	case errors.Is(err, io.EOF):
		return header{}, fmt.Errorf("%w: it is empty", errIndex)
	case err != nil:
		return header{}, err
	case first[0] == '{':
		return readJSON(r, to)
	}
	return readYAML(r, to)
}

// readWhole leaves it to Helm to make sense of the file.
func readWhole(name string, to sink) (header, error) {
	index, err := repo.LoadIndexFile(name)
	switch {
	case errors.Is(err, repo.ErrNoAPIVersion):
		return header{}, fmt.Errorf("%w: it has no apiVersion", errIndex)
	case err != nil:
		return header{}, fmt.Errorf("%w: it is neither YAML nor JSON of an index, check spec.url", errIndex)
	}
	for name, versions := range index.Entries {
		if err := to.name(name, versions == nil); err != nil {
			return header{}, err
		}
		for _, v := range versions {
			if err := to.version(v); err != nil {
				return header{}, err
			}
		}
	}
	return header{index, index.Entries != nil}, nil
}

// allowance is a reader that fails when more than n bytes are read before it is renewed.
type allowance struct {
	r io.Reader
	n int
}

func (a *allowance) renew() { a.n = 2 * maxItem } // a decoder reads ahead by less than what it has read

func (a *allowance) Read(p []byte) (int, error) {
	if a.n <= 0 {
		return 0, fmt.Errorf("%w: one entry of the index is larger than %d bytes", source.ErrLimit, maxItem)
	}
	n, err := a.r.Read(p[:min(len(p), a.n)])
	a.n -= n
	return n, err
}

// readJSON reads the form in which indexes are stored, and some repositories serve them.
func readJSON(r io.Reader, to sink) (header, error) {
	capped := &allowance{r: r}
	capped.renew()
	s := &jsonIndex{dec: json.NewDecoder(capped), capped: capped, to: to}
	head, err := s.index()
	switch {
	case err == nil, errors.Is(err, source.ErrLimit), errors.Is(err, errIndex):
		return head, err
	case isSyntax(err):
		return header{}, errShape // what is no JSON may still be YAML
	}
	return header{}, err
}

func isSyntax(err error) bool {
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	return errors.As(err, &syntax) || errors.As(err, &kind) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, errShape)
}

type jsonIndex struct {
	dec    *json.Decoder
	capped *allowance
	to     sink
	head   header
}

// topLevel are the keys of an index beside its charts.
var topLevel = []string{"serverInfo", "apiVersion", "generated", "publicKeys", "annotations"}

func (s *jsonIndex) index() (header, error) {
	rest := map[string]json.RawMessage{}
	err := s.object(func(key string) error {
		if key == "entries" {
			return s.charts()
		}
		for _, known := range append([]string{"entries"}, topLevel...) {
			if key != known && strings.EqualFold(key, known) {
				return errShape // encoding/json takes it for the known one
			}
		}
		if _, twice := rest[key]; twice {
			return errShape
		}
		var value json.RawMessage
		if err := s.dec.Decode(&value); err != nil {
			return err
		}
		if rest[key] = value; len(rest) > 100 {
			return errShape
		}
		return nil
	})
	if err != nil {
		return header{}, err
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return header{}, errShape
	}
	text, err := json.Marshal(rest)
	if err != nil {
		return header{}, err
	}
	s.head.IndexFile = &repo.IndexFile{}
	return s.head, json.Unmarshal(text, s.head.IndexFile)
}

// object reads an object whose values are read by value.
func (s *jsonIndex) object(value func(key string) error) error {
	switch t, err := s.dec.Token(); {
	case err != nil:
		return err
	case t != json.Delim('{'):
		return errShape
	}
	for s.dec.More() {
		s.capped.renew()
		t, err := s.dec.Token()
		if err != nil {
			return err
		}
		if err := value(t.(string)); err != nil { // a decoder lets nothing else be a key
			return err
		}
	}
	_, err := s.dec.Token()
	return err
}

func (s *jsonIndex) charts() error {
	if s.head.entries {
		return errShape // twice
	}
	s.head.entries = true
	return s.object(func(name string) error {
		t, err := s.dec.Token()
		switch {
		case err != nil:
			return err
		case t == nil:
			return s.to.name(name, true)
		case t != json.Delim('['):
			return errShape
		}
		if err := s.to.name(name, false); err != nil {
			return err
		}
		for s.dec.More() {
			s.capped.renew()
			var v *repo.ChartVersion
			if err := s.dec.Decode(&v); err != nil {
				return err
			}
			if err := s.to.version(v); err != nil {
				return err
			}
		}
		_, err = s.dec.Token()
		return err
	})
}

// yamlIndex cuts YAML in block style into entries by indentation, and has each parsed by itself.
//
// That this cannot change the meaning follows from two facts. A line that is indented no deeper than the dash of an entry
// is inside a scalar or a flow collection only if a quote or bracket is still open; then the piece before it does not parse
// by itself, and the file is errShape. And what a piece can refer to elsewhere, an alias, does not parse without its anchor.
type yamlIndex struct {
	to   sink
	head header

	rest    bytes.Buffer // all that is outside of entries
	item    bytes.Buffer // the entry that is being read
	charts  int          // indentation of the names of charts; -1 until the first
	dash    int          // indentation of the dashes of the current chart; -1 until the first
	current string       // the chart whose entries are being read
	begun   bool         // the sink knows of current
	within  bool         // the lines belong to entries
	ended   bool         // the current line has an end; the last of a file may have none, which a block scalar tells
}

var (
	topKey    = regexp.MustCompile(`^([A-Za-z]+):(?: .*)?$`)
	chartName = regexp.MustCompile(`^( *)([A-Za-z0-9][A-Za-z0-9._-]*|"[A-Za-z0-9._ -]+"|'[A-Za-z0-9._ -]+'):(?: +(\[\]))? *$`)
	anchor    = regexp.MustCompile(`(?m)(^|[:\-\[,{] *)&[^\s,\[\]{}]`)
	alias     = regexp.MustCompile(`(?m)(^|[:\-\[,{] *)\*[^\s,\[\]{}]`)
	// notNames are plain scalars that YAML does not take for strings, or may not: words, and what has the letters of numbers.
	notNames = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null|[0-9][0-9a-fox._tz-]*)$`)
)

func readYAML(r *bufio.Reader, to sink) (header, error) {
	y := &yamlIndex{to: to, charts: -1, dash: -1}
	for begun := false; ; {
		line, ended, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return header{}, err
		}
		if line == "---" && !begun {
			begun = true
			continue
		}
		y.ended = ended
		begun = begun || (line != "" && line[0] != '#')
		if err := y.line(line); err != nil {
			return header{}, err
		}
	}
	if err := y.endChart(); err != nil {
		return header{}, err
	}
	y.head.IndexFile = &repo.IndexFile{}
	if yaml.UnmarshalStrict(y.rest.Bytes(), y.head.IndexFile) != nil || y.head.Entries != nil {
		return header{}, errShape
	}
	return y.head, nil
}

// readLine returns a line without its end, and whether it had one.
func readLine(r *bufio.Reader) (text string, ended bool, err error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxItem {
			return "", false, fmt.Errorf("%w: one line of the index is larger than %d bytes", source.ErrLimit, maxItem)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			return "", false, err
		}
		line, ended = bytes.CutSuffix(line, []byte("\n"))
		if ended {
			line = bytes.TrimSuffix(line, []byte("\r"))
		}
		if bytes.ContainsAny(line, "\r\x00\uFEFF") {
			return "", false, errShape // YAML takes a lone carriage return for the end of a line
		}
		return string(line), ended, nil
	}
}

func (y *yamlIndex) line(line string) error {
	indent := len(line) - len(strings.TrimLeft(line, " "))
	text := line[indent:]
	switch {
	case text == "":
		return y.keep(line) // an empty line can be part of a scalar
	case indent == 0 && (!y.within || text[0] != '-'):
		return y.top(line)
	case !y.within:
		return y.keep(line)
	case y.charts < 0 && text[0] != '#':
		y.charts = indent
	}
	switch {
	case y.dash >= 0 && indent > y.dash, text[0] == '#':
		return y.keep(line)
	case indent == y.charts && text[0] != '-':
		return y.chart(line)
	case text[0] == '-' && (len(text) == 1 || text[1] == ' ') && indent >= y.charts && (y.dash < 0 || y.dash == indent):
		if y.current == "" {
			return errShape
		}
		if err := y.endItem(); err != nil {
			return err
		}
		y.dash = indent
		return y.keep(line)
	}
	return errShape
}

// keep adds a line to the piece that it belongs to.
func (y *yamlIndex) keep(line string) error {
	piece := &y.rest
	if y.within {
		if y.dash < 0 {
			if trimmed := strings.TrimLeft(line, " "); trimmed == "" || trimmed[0] == '#' {
				return nil // before the first entry of a chart
			}
			return errShape
		}
		piece = &y.item
	}
	if piece.Len()+len(line) > maxItem {
		return fmt.Errorf("%w: one entry of the index is larger than %d bytes", source.ErrLimit, maxItem)
	}
	piece.WriteString(line)
	if y.ended {
		piece.WriteByte('\n')
	}
	return nil
}

// top begins something outside of the charts, or the charts.
func (y *yamlIndex) top(line string) error {
	if line[0] == '#' {
		return y.keep(line)
	}
	if line[0] == '-' && !y.within {
		return y.keep(line) // a list under a key of the top level need not be indented
	}
	key := topKey.FindStringSubmatch(line)
	if key == nil {
		return errShape
	}
	if err := y.endChart(); err != nil {
		return err
	}
	y.within = false
	if key[1] != "entries" {
		return y.keep(line)
	}
	if y.head.entries {
		return errShape // twice
	}
	switch value := strings.TrimSpace(strings.TrimPrefix(line, "entries:")); value {
	case "":
		y.within = true
	case "{}":
		y.head.entries = true
	default:
		return errShape
	}
	return nil
}

// chart begins a chart.
func (y *yamlIndex) chart(line string) error {
	if err := y.endChart(); err != nil {
		return err
	}
	m := chartName.FindStringSubmatch(line)
	if m == nil || notNames.MatchString(m[2]) {
		return errShape
	}
	y.head.entries = true
	y.current, y.dash, y.begun = strings.Trim(m[2], `"'`), -1, false
	if m[3] == "" {
		return nil
	}
	name := y.current
	y.current = "" // it can have no entries
	return y.to.name(name, false)
}

func (y *yamlIndex) endChart() error {
	if err := y.endItem(); err != nil {
		return err
	}
	if y.current != "" && !y.begun {
		if err := y.to.name(y.current, true); err != nil {
			return err
		}
	}
	y.current, y.dash = "", -1
	return nil
}

// endItem parses the entry that has been read.
func (y *yamlIndex) endItem() error {
	if y.item.Len() == 0 {
		return nil
	}
	defer y.item.Reset()
	if anchor.Match(y.item.Bytes()) && alias.Match(y.item.Bytes()) {
		return errShape // aliases can make much of little
	}
	var versions []*repo.ChartVersion
	if yaml.UnmarshalStrict(y.item.Bytes(), &versions) != nil || len(versions) != 1 {
		return errShape
	}
	if !y.begun {
		if err := y.to.name(y.current, false); err != nil {
			return err
		}
		y.begun = true
	}
	return y.to.version(versions[0])
}

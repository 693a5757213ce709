package chartfile

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/artifact"
)

var (
	// ErrInvalid: the files are no chart that could be used.
	ErrInvalid = errors.New("invalid chart")
	// ErrLimit: the chart is larger than a chart may be.
	ErrLimit = errors.New("over the limit")
)

// Limits bound what is read of one chart; the agent's flags set them.
type Limits struct {
	Archive int64 // bytes of a packaged chart (--helm-chart-max-size)
	File    int64 // bytes of one file in a chart (--helm-chart-file-max-size)
}

// DefaultLimits are Flux's.
var DefaultLimits = Limits{Archive: 10 << 20, File: 5 << 20}

const (
	// MaxExpanded, MaxFiles and MaxNested bound a chart with all the charts inside it. Helm takes twice the bytes, and as many
	// again for each archive inside an archive; but what it installs has to fit, compressed, into a Secret of 1 MiB.
	MaxExpanded = 50 << 20
	MaxFiles    = 20_000
	MaxNested   = 10

	// Name is the file in which a chart says what it is.
	Name = "Chart.yaml"

	chartsDir = "charts/"
)

// Inspect reads what a packaged chart says of itself, and checks everything else about it without keeping it. Such a chart
// is published in the bytes in which it came; its files reach no disk here.
func (l Limits) Inspect(archive []byte) (*chart.Metadata, error) {
	files, err := l.unpack(archive, func(name string) bool { return name == Name })
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(files, func(f *loader.BufferedFile) bool { return f.Name == Name })
	if i < 0 {
		return nil, fmt.Errorf("%w: it has no %s", ErrInvalid, Name)
	}
	var m chart.Metadata
	if err := yaml.Unmarshal(files[i].Data, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, Name, err)
	}
	if m.APIVersion == "" {
		m.APIVersion = chart.APIVersionV1 // as Helm does, for charts of Helm 2
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &m, nil
}

// Load reads a packaged chart in full.
func (l Limits) Load(archive []byte) (*chart.Chart, error) {
	files, err := l.unpack(archive, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	return assemble(files)
}

func (l Limits) unpack(archive []byte, keep func(string) bool) ([]*loader.BufferedFile, error) {
	if int64(len(archive)) > l.Archive {
		return nil, fmt.Errorf("%w: the chart is larger than %d bytes (--helm-chart-max-size)", ErrLimit, l.Archive)
	}
	r := &reading{limits: l, keep: keep}
	return r.archive(bytes.NewReader(archive), 0)
}

// assemble leaves to Helm what files make a chart of.
func assemble(files []*loader.BufferedFile) (*chart.Chart, error) {
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	order(c)
	return c, nil
}

// order sorts the charts inside a chart, which Helm's loader returns in the order of a map. Of two that would serve a dependency
// Helm takes the first.
func order(c *chart.Chart) {
	inner := slices.Clone(c.Dependencies())
	slices.SortFunc(inner, func(a, b *chart.Chart) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.Metadata.Version, b.Metadata.Version))
	})
	c.SetDependencies(inner...)
	for _, below := range inner {
		order(below)
	}
}

// reading counts what is read of one chart and the archives inside it.
type reading struct {
	limits Limits
	keep   func(name string) bool
	bytes  int64
	files  int
}

// archive reads a gzip-compressed tarball (faults.md A01 to A04). The names of the files are without the directory that all
// of a chart lies in. An archive inside it becomes a directory of the same name, so that its files are counted with the others.
func (r *reading) archive(in io.Reader, depth int) ([]*loader.BufferedFile, error) {
	if depth > MaxNested {
		return nil, tooDeep()
	}
	zr, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no gzip-compressed tarball", ErrInvalid)
	}
	defer zr.Close()
	// The padding and headers of a tarball count as well, since reading them takes time.
	capped := &io.LimitedReader{R: zr, N: 2 * MaxExpanded}
	tr := tar.NewReader(capped)
	var files []*loader.BufferedFile
	seen := map[string]bool{}
	for {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF) && capped.N > 0:
			return files, nil
		case capped.N <= 0:
			return nil, tooLarge()
		case err != nil:
			return nil, fmt.Errorf("%w: it is no gzip-compressed tarball: %w", ErrInvalid, err)
		}
		name, regular, err := r.entry(h)
		if err != nil {
			return nil, err
		}
		if !regular {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("%w: %q comes twice", ErrInvalid, name)
		}
		seen[name] = true
		files, err = r.file(files, name, tr, depth)
		if err != nil {
			return nil, err
		}
	}
}

func tooLarge() error {
	return fmt.Errorf("%w: the chart expands to more than %d bytes", ErrLimit, MaxExpanded)
}

func tooMany() error { return fmt.Errorf("%w: the chart has more than %d files", ErrLimit, MaxFiles) }

func tooDeep() error {
	return fmt.Errorf("%w: charts are nested more than %d deep", ErrLimit, MaxNested)
}

// entry checks a header. regular is false for what is dropped.
func (r *reading) entry(h *tar.Header) (name string, regular bool, err error) {
	if r.files++; r.files > MaxFiles {
		return "", false, tooMany()
	}
	full := strings.TrimPrefix(strings.ReplaceAll(h.Name, `\`, "/"), "./") // some were packaged on Windows
	if h.Typeflag == tar.TypeDir {
		full = strings.TrimSuffix(full, "/")
		if full == "" || full == "." {
			return "", false, nil // what the chart's directory lies in
		}
	}
	// Checked before the type, so that not even what is dropped has a name that points outside.
	if err := artifact.CheckPath(full); err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink, tar.TypeLink:
		return "", false, fmt.Errorf("%w: %q is a link, a chart holds files only", ErrInvalid, full)
	default:
		return "", false, nil // a directory, or something that is no part of a chart
	}
	_, name, ok := strings.Cut(full, "/")
	if !ok {
		return "", false, fmt.Errorf("%w: %q does not lie in the chart's directory", ErrInvalid, full)
	}
	if h.Size > r.limits.File {
		return "", false, fmt.Errorf("%w: %q is larger than %d bytes (--helm-chart-file-max-size)", ErrLimit, name, r.limits.File)
	}
	return name, true, nil
}

// file reads one file, or what is in it if it is an archive.
func (r *reading) file(files []*loader.BufferedFile, name string, in io.Reader, depth int) ([]*loader.BufferedFile, error) {
	if !r.keep(name) && !isPackaged(name) {
		n, err := io.Copy(io.Discard, in)
		return files, r.count(n, err)
	}
	data, err := io.ReadAll(io.LimitReader(in, r.limits.File+1))
	if err := r.count(int64(len(data)), err); err != nil {
		return nil, err
	}
	return r.nest(files, name, data, depth)
}

func (r *reading) count(n int64, err error) error {
	if err != nil {
		return fmt.Errorf("%w: it is no gzip-compressed tarball: %w", ErrInvalid, err)
	}
	if r.bytes += n; r.bytes > MaxExpanded {
		return tooLarge()
	}
	return nil
}

// nest adds a file; a packaged chart in charts/ is added file by file, as if it had been unpacked there.
func (r *reading) nest(files []*loader.BufferedFile, name string, data []byte, depth int) ([]*loader.BufferedFile, error) {
	if strings.Count("/"+name, "/"+chartsDir) > MaxNested {
		return nil, tooDeep()
	}
	if !isPackaged(name) {
		data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
		return append(files, &loader.BufferedFile{Name: name, Data: data}), nil
	}
	inner, err := r.archive(bytes.NewReader(data), depth+1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, f := range inner {
		// Not the archive's own name, which Helm would take for an archive, nor that of a directory beside it.
		f.Name = strings.TrimSuffix(name, ".tgz") + ":tgz/" + f.Name
	}
	return append(files, inner...), nil
}

// isPackaged reports whether Helm takes the file for a packaged chart inside the chart.
func isPackaged(name string) bool {
	base, below := strings.CutPrefix(name, chartsDir)
	return below && !strings.Contains(base, "/") && path.Ext(base) == ".tgz" && !strings.ContainsAny(base[:1], "_.")
}

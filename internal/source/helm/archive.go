package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/ignore"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/artifact"

	"github.com/cleat-dev/cleat/internal/source"
)

// errChart: the files are no chart that could be used.
var errChart = errors.New("invalid chart")

// Limits bound what is taken from others; the agent's flags set them.
type Limits struct {
	Index int64 // bytes of an index (--helm-index-max-size)
	Chart int64 // bytes of a packaged chart (--helm-chart-max-size)
	File  int64 // bytes of one file in a chart (--helm-chart-file-max-size)
}

// DefaultLimits are Flux's.
var DefaultLimits = Limits{Index: 50 << 20, Chart: 10 << 20, File: 5 << 20}

const (
	// maxExpanded, maxFiles and maxNested bound a chart with all the charts inside it. Helm takes twice the bytes, and as many
	// again for each archive inside an archive; but what it installs has to fit, compressed, into a Secret of 1 MiB.
	maxExpanded = 50 << 20
	maxFiles    = 20_000
	maxNested   = 10

	chartFile  = "Chart.yaml"
	lockFile   = "Chart.lock"
	valuesFile = "values.yaml"
	chartsDir  = "charts/"
)

// inspect reads what a packaged chart says of itself, and checks everything else about it without keeping it. Such a chart
// is published in the bytes in which it came; its files reach no disk here.
func (l Limits) inspect(archive []byte) (*chart.Metadata, error) {
	files, err := l.unpack(archive, func(name string) bool { return name == chartFile })
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(files, func(f *loader.BufferedFile) bool { return f.Name == chartFile })
	if i < 0 {
		return nil, fmt.Errorf("%w: it has no %s", errChart, chartFile)
	}
	var m chart.Metadata
	if err := yaml.Unmarshal(files[i].Data, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errChart, chartFile, err)
	}
	if m.APIVersion == "" {
		m.APIVersion = chart.APIVersionV1 // as Helm does, for charts of Helm 2
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errChart, err)
	}
	return &m, nil
}

// load reads a packaged chart in full.
func (l Limits) load(archive []byte) (*chart.Chart, error) {
	files, err := l.unpack(archive, func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	return assemble(files)
}

func (l Limits) unpack(archive []byte, keep func(string) bool) ([]*loader.BufferedFile, error) {
	if int64(len(archive)) > l.Chart {
		return nil, fmt.Errorf("%w: the chart is larger than %d bytes (--helm-chart-max-size)", source.ErrLimit, l.Chart)
	}
	r := &reading{limits: l, keep: keep}
	return r.archive(bytes.NewReader(archive), 0)
}

// assemble leaves to Helm what files make a chart of.
func assemble(files []*loader.BufferedFile) (*chart.Chart, error) {
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errChart, err)
	}
	return c, nil
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
	if depth > maxNested {
		return nil, fmt.Errorf("%w: charts are nested more than %d deep", source.ErrLimit, maxNested)
	}
	zr, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no gzip-compressed tarball", errChart)
	}
	defer zr.Close()
	// The padding and headers of a tarball count as well, since reading them takes time.
	capped := &io.LimitedReader{R: zr, N: 2 * maxExpanded}
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
			return nil, fmt.Errorf("%w: it is no gzip-compressed tarball: %w", errChart, err)
		}
		name, regular, err := r.entry(h)
		if err != nil {
			return nil, err
		}
		if !regular {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("%w: %q comes twice", errChart, name)
		}
		seen[name] = true
		files, err = r.file(files, name, tr, depth)
		if err != nil {
			return nil, err
		}
	}
}

func tooLarge() error {
	return fmt.Errorf("%w: the chart expands to more than %d bytes", source.ErrLimit, maxExpanded)
}

// entry checks a header. regular is false for what is dropped.
func (r *reading) entry(h *tar.Header) (name string, regular bool, err error) {
	if r.files++; r.files > maxFiles {
		return "", false, fmt.Errorf("%w: the chart has more than %d files", source.ErrLimit, maxFiles)
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
		return "", false, fmt.Errorf("%w: %w", errChart, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeSymlink, tar.TypeLink:
		return "", false, fmt.Errorf("%w: %q is a link, a chart holds files only", errChart, full)
	default:
		return "", false, nil // a directory, or something that is no part of a chart
	}
	_, name, ok := strings.Cut(full, "/")
	if !ok {
		return "", false, fmt.Errorf("%w: %q does not lie in the chart's directory", errChart, full)
	}
	if h.Size > r.limits.File {
		return "", false, fmt.Errorf("%w: %q is larger than %d bytes (--helm-chart-file-max-size)", source.ErrLimit, name, r.limits.File)
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
		return fmt.Errorf("%w: it is no gzip-compressed tarball: %w", errChart, err)
	}
	if r.bytes += n; r.bytes > maxExpanded {
		return tooLarge()
	}
	return nil
}

// nest adds a file; a packaged chart in charts/ is added file by file, as if it had been unpacked there.
func (r *reading) nest(files []*loader.BufferedFile, name string, data []byte, depth int) ([]*loader.BufferedFile, error) {
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

// directory reads a chart from the files of a snapshot. names are all files of the snapshot; dir is "." for its root.
func (l Limits) directory(fsys fs.FS, names []string, dir string) (*chart.Chart, error) {
	prefix := dir + "/"
	if dir == "." {
		prefix = ""
	}
	rules, err := ignoreRules(fsys, path.Join(dir, ignore.HelmIgnore))
	if err != nil {
		return nil, err
	}
	r := &reading{limits: l, keep: func(string) bool { return true }}
	var files []*loader.BufferedFile
	names = slices.Clone(names)
	slices.Sort(names)
	for _, full := range names {
		name, below := strings.CutPrefix(full, prefix)
		if !below || ignored(rules, name) {
			continue
		}
		if r.files++; r.files > maxFiles {
			return nil, fmt.Errorf("%w: the chart has more than %d files", source.ErrLimit, maxFiles)
		}
		data, err := readFile(fsys, full, l.File)
		if err != nil {
			return nil, err
		}
		if err := r.count(int64(len(data)), nil); err != nil {
			return nil, err
		}
		if files, err = r.nest(files, name, data, 0); err != nil {
			return nil, err
		}
	}
	return assemble(files)
}

// readFile reads a file of a snapshot, whose size it bounds.
func readFile(fsys fs.FS, name string, most int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: %q is larger than %d bytes", source.ErrLimit, name, most)
	}
	return data, err
}

func ignoreRules(fsys fs.FS, name string) (*ignore.Rules, error) {
	rules := ignore.Empty()
	text, err := readFile(fsys, name, 1<<20)
	switch {
	case err == nil:
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errChart, name, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rules.AddDefaults()
	return rules, nil
}

// ignored asks for each directory on the way as well, because what lies in an ignored one is.
func ignored(rules *ignore.Rules, name string) bool {
	for i := range name {
		if name[i] == '/' && rules.Ignore(name[:i], info{path.Base(name[:i]), true}) {
			return true
		}
	}
	return rules.Ignore(name, info{path.Base(name), false})
}

// info is as much of a file as ignore rules look at.
type info struct {
	name string
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) IsDir() bool        { return i.dir }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return 0 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }

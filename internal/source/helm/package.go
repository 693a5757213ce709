package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"helm.sh/helm/v3/pkg/chart"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/chartfile"
	"github.com/cleat-dev/cleat/internal/source"
)

// errValues: a values file cannot be used.
var errValues = errors.New("invalid values files")

// pack writes a chart as `helm package` does, but for the time, which is the same for every file and every run: equal
// charts are equal bytes.
func (l Limits) pack(c *chart.Chart) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", chartfile.ErrInvalid, err)
	}
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	p := &packer{tar: tar.NewWriter(zw)}
	if err := p.chart(c, ""); err != nil {
		return nil, fmt.Errorf("packaging %q: %w", c.Name(), err)
	}
	if err := p.tar.Close(); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	if int64(out.Len()) > l.Chart {
		return nil, fmt.Errorf("%w: the packaged chart is larger than %d bytes (--helm-chart-max-size)", source.ErrLimit, l.Chart)
	}
	return out.Bytes(), nil
}

type packer struct{ tar *tar.Writer }

// chart writes the files of a chart in Helm's order, and then, sorted, the charts inside it.
func (p *packer) chart(c *chart.Chart, at string) error {
	at = path.Join(at, c.Name()) // which Validate has found to be one plain name
	about := *c.Metadata
	if about.APIVersion == chart.APIVersionV1 {
		about.Dependencies = nil // these are in requirements.yaml, which is one of the files
	}
	if err := p.yaml(path.Join(at, chartfile.Name), about); err != nil {
		return err
	}
	if c.Lock != nil && about.APIVersion == chart.APIVersionV2 {
		if err := p.yaml(path.Join(at, lockFile), c.Lock); err != nil {
			return err
		}
	}
	for _, f := range c.Raw {
		if f.Name == valuesFile {
			if err := p.file(path.Join(at, f.Name), f.Data); err != nil {
				return err
			}
		}
	}
	if c.Schema != nil {
		if !json.Valid(c.Schema) {
			return fmt.Errorf("%w: values.schema.json is not JSON", chartfile.ErrInvalid)
		}
		if err := p.file(path.Join(at, "values.schema.json"), c.Schema); err != nil {
			return err
		}
	}
	for _, f := range slices.Concat(c.Templates, c.Files) {
		if err := p.file(path.Join(at, f.Name), f.Data); err != nil {
			return err
		}
	}
	inner := slices.Clone(c.Dependencies())
	// Helm's loader returns them in the order of a map.
	slices.SortFunc(inner, func(a, b *chart.Chart) int {
		return strings.Compare(a.Name()+" "+a.Metadata.Version, b.Name()+" "+b.Metadata.Version)
	})
	return p.nested(inner, path.Join(at, chartsDir))
}

// nested writes the charts inside a chart. Two of the same name, which an alias tells apart, need two directories.
func (p *packer) nested(charts []*chart.Chart, at string) error {
	for i, c := range charts {
		if err := c.Validate(); err != nil {
			return fmt.Errorf("%w: %w", chartfile.ErrInvalid, err)
		}
		if i > 0 && charts[i-1].Name() == c.Name() {
			packed, err := (Limits{Chart: chartfile.MaxExpanded}).pack(c)
			if err != nil {
				return err
			}
			if err := p.file(path.Join(at, c.Name()+"-"+c.Metadata.Version+".tgz"), packed); err != nil {
				return err
			}
			continue
		}
		if err := p.chart(c, at); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) yaml(name string, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	return p.file(name, text)
}

func (p *packer) file(name string, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := p.tar.Write(data)
	return err
}

// withBuild returns a version with the build metadata.
func withBuild(version, build string) (string, error) {
	if build == "" {
		return version, nil
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return "", fmt.Errorf("%w: its version %q is no version", chartfile.ErrInvalid, version)
	}
	with, err := v.SetMetadata(build)
	if err != nil {
		return "", fmt.Errorf("%w: %q is no build metadata for its version: %w", chartfile.ErrInvalid, build, err)
	}
	return with.String(), nil
}

// setValues makes the values the chart's own.
func setValues(c *chart.Chart, values map[string]any) error {
	text, err := yaml.Marshal(values)
	if err != nil {
		return err
	}
	c.Values = values
	for _, f := range c.Raw {
		if f.Name == valuesFile {
			f.Data = text
			return nil
		}
	}
	c.Raw = append(c.Raw, &chart.File{Name: valuesFile, Data: text})
	return nil
}

// mergeValues reads values files and merges them in their order. What read does not find is left out or an error. It
// returns the names of those it found.
func mergeValues(names []string, ignoreMissing bool, read func(name string) ([]byte, error)) (map[string]any, []string, error) {
	merged := map[string]any{}
	var found []string
	for _, name := range names {
		at, err := inside(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %q of spec.valuesFiles %w", errValues, name, err)
		}
		text, err := read(at)
		if errors.Is(err, fs.ErrNotExist) {
			if ignoreMissing {
				continue
			}
			return nil, nil, fmt.Errorf("%w: there is no %q of spec.valuesFiles; set spec.ignoreMissingValuesFiles if that is intended", errValues, name)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %q: %w", errValues, name, err)
		}
		values := map[string]any{}
		if err := yaml.Unmarshal(text, &values); err != nil {
			return nil, nil, fmt.Errorf("%w: %q is not a YAML mapping: %w", errValues, name, err)
		}
		merged = overlay(merged, values)
		found = append(found, name)
	}
	return merged, found, nil
}

// overlay returns base with over on top: mappings are merged, everything else replaced.
func overlay(base, over map[string]any) map[string]any {
	for key, value := range over {
		below, isMap := base[key].(map[string]any)
		above, both := value.(map[string]any)
		if isMap && both {
			value = overlay(below, above)
		}
		base[key] = value
	}
	return base
}

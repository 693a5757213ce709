package helm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/chartfile"
)

// errDependency: a chart that is needed cannot be had.
var errDependency = errors.New("building dependencies")

// maxDependencies is how many charts one chart may need that are not in its charts/.
const maxDependencies = 100

// dependencies brings into a chart what it names and does not have in its charts/.
type dependencies struct {
	limits Limits
	tree   tree
	remote func(url, name, version string) (*chart.Chart, error)
	count  int
	bytes  int64
}

// weigh counts what a chart adds. All of them together have to fit into what one may be: they become one.
func (d *dependencies) weigh(c *chart.Chart) error {
	for _, f := range c.Raw {
		d.bytes += int64(len(f.Data))
	}
	if d.bytes > chartfile.MaxExpanded {
		return fmt.Errorf("%w: the chart expands to more than %d bytes", chartfile.ErrLimit, chartfile.MaxExpanded)
	}
	return nil
}

// build adds what the chart at a path of the tree needs. Where there is a Chart.lock, it says which versions.
func (d *dependencies) build(c *chart.Chart, at string, depth int) error {
	if depth > chartfile.MaxNested {
		return fmt.Errorf("%w: charts need each other more than %d deep", errDependency, chartfile.MaxNested)
	}
	for _, need := range c.Metadata.Dependencies {
		if satisfied(c, need) {
			continue
		}
		if d.count++; d.count > maxDependencies {
			return fmt.Errorf("%w: more than %d are needed", errDependency, maxDependencies)
		}
		got, err := d.get(c, need, at, depth)
		if err != nil {
			return fmt.Errorf("%w: %q, which %s needs: %w", errDependency, need.Name, path.Join(at, chartfile.Name), err)
		}
		c.AddDependency(got)
	}
	return nil
}

// satisfied reports whether the chart has what it needs. Of several charts of one name, which have aliases, the versions
// tell which is which; a single one is taken to be the one that is meant, as in Flux.
func satisfied(c *chart.Chart, need *chart.Dependency) bool {
	same := 0
	for _, other := range c.Metadata.Dependencies {
		if other.Name == need.Name {
			same++
		}
	}
	return slices.ContainsFunc(c.Dependencies(), func(has *chart.Chart) bool {
		return has.Name() == need.Name && (same == 1 || allows(need.Version, has.Metadata.Version))
	})
}

func allows(constraint, version string) bool {
	if constraint == "" {
		return true
	}
	allowed, err := semver.NewConstraint(constraint)
	if err != nil {
		return false
	}
	v, err := semver.NewVersion(version)
	return err == nil && (allowed.Check(v) || constraint == version)
}

func (d *dependencies) get(c *chart.Chart, need *chart.Dependency, at string, depth int) (*chart.Chart, error) {
	want := need
	if c.Lock != nil {
		i := slices.IndexFunc(c.Lock.Dependencies, func(l *chart.Dependency) bool {
			return l != nil && l.Name == need.Name && allows(need.Version, l.Version)
		})
		if i < 0 {
			return nil, errors.New("the Chart.lock is out of step with Chart.yaml, run `helm dependency update` and commit the result")
		}
		want = c.Lock.Dependencies[i]
	}
	var got *chart.Chart
	var err error
	switch scheme, _, _ := strings.Cut(want.Repository, "://"); {
	case want.Repository == "":
		return nil, fmt.Errorf("it names no repository, and there is no charts/%s", need.Name)
	case scheme == "file":
		got, err = d.local(strings.TrimPrefix(want.Repository, "file://"), at, depth)
	case scheme == "http" || scheme == "https" || scheme == "oci":
		if got, err = d.remote(want.Repository, want.Name, want.Version); err == nil {
			err = d.weigh(got)
		}
	default:
		return nil, fmt.Errorf("its repository must begin with https://, oci:// or file://; an alias means nothing here")
	}
	switch {
	case err != nil:
		return nil, err
	case got.Name() != need.Name:
		return nil, fmt.Errorf("%w: its Chart.yaml has the name %q", chartfile.ErrInvalid, got.Name())
	case !allows(need.Version, got.Metadata.Version):
		return nil, fmt.Errorf("%w: its version %s is not in %q", errNoChart, got.Metadata.Version, need.Version)
	}
	return got, nil
}

// local reads a chart from the same source: never from anywhere else on this machine (faults.md A13).
func (d *dependencies) local(name, at string, depth int) (*chart.Chart, error) {
	if path.IsAbs(name) || strings.ContainsRune(name, '\\') {
		return nil, fmt.Errorf("file://%s is not a path relative to the chart", name)
	}
	dir := path.Join(at, name)
	if !fs.ValidPath(dir) {
		return nil, fmt.Errorf("file://%s leads out of the source", name)
	}
	if slices.Contains(d.tree.names, dir) {
		archive, err := chartfile.ReadFile(d.tree.fs, dir, d.limits.Chart)
		if err != nil {
			return nil, err
		}
		c, err := d.limits.files().Load(archive)
		if err != nil {
			return nil, err
		}
		return c, d.weigh(c)
	}
	if !slices.Contains(d.tree.names, path.Join(dir, chartfile.Name)) {
		return nil, fmt.Errorf("there is no chart at %q", dir)
	}
	c, err := d.limits.files().Source(d.tree.fs, d.tree.names, dir)
	if err != nil {
		return nil, err
	}
	if err := d.weigh(c); err != nil {
		return nil, err
	}
	return c, d.build(c, dir, depth+1)
}

// describe reads the Chart.yaml of a directory.
func (l Limits) describe(s tree) (*chart.Metadata, error) {
	name := path.Join(s.at, chartfile.Name)
	text, err := chartfile.ReadFile(s.fs, name, l.File)
	if err != nil {
		return nil, err
	}
	var m chart.Metadata
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", chartfile.ErrInvalid, name, err)
	}
	if m.APIVersion == "" {
		m.APIVersion = chart.APIVersionV1
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", chartfile.ErrInvalid, name, err)
	}
	return &m, nil
}

// repositoryOf returns the HelmRepository of a URL in the namespace, or one that holds nothing but the URL.
func (c *charts) repositoryOf(ctx context.Context, namespace, url string) (*sourcev1.HelmRepository, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(sourcev1.GroupVersion.WithKind(sourcev1.HelmRepositoryKind + "List"))
	if err := c.Edge.Reader.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("looking for a HelmRepository of the URL: %w", err)
	}
	var found *unstructured.Unstructured
	for i := range list.Items {
		u := &list.Items[i]
		at, _, _ := unstructured.NestedString(u.Object, "spec", "url")
		if sameURL(at, url) && (found == nil || u.GetName() < found.GetName()) {
			found = u
		}
	}
	r := &sourcev1.HelmRepository{}
	if found == nil {
		r.Namespace, r.Spec.URL = namespace, url
		return r, nil
	}
	return r, api.Decode(found, r)
}

func sameURL(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// download reads the index of a repository that no object has stored.
func (x *Indexes) download(ctx context.Context, f *Fetcher, r remote) (*Lookup, error) {
	dir, err := x.store.TempDir("index-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name, revision, err := f.index(ctx, r, "", dir)
	if err != nil {
		return nil, err
	}
	return x.get(ctx, "fetched "+revision, func() (*Lookup, error) {
		in, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		return canonical(ctx, in, io.Discard, dir)
	})
}

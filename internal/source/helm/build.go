package helm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"helm.sh/helm/v3/pkg/chart"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/chartfile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/oci"
)

// errMetadata: the version cannot be given the build metadata that the spec asks for.
var errMetadata = errors.New("invalid build metadata")

// fromIndex reads a chart that the index of a repository lists.
func (c *charts) fromIndex(ctx context.Context, a *chartAttempt) (build, error) {
	if a.obj.Spec.Verify != nil {
		return build{}, api.Faultf(api.UnsupportedReason, api.RetryNever,
			"spec.verify is for charts in a registry, and the HelmRepository %q is not of type oci; remove it to go on", a.repository.Name)
	}
	lookup, err := c.Indexes.Lookup(ctx, a.sourceObject(), a.from.Digest)
	if err != nil {
		return build{}, err
	}
	release, err := lookup.Find(a.obj.Spec.Chart, a.obj.Spec.Version)
	if err != nil {
		return build{}, err
	}
	return c.fromArchive(a, pulled{name: a.obj.Spec.Chart, version: release.Version, get: func() ([]byte, error) {
		r, err := remoteOf(ctx, c.Secrets, a.repository)
		if err != nil {
			return nil, err
		}
		return c.pull(ctx, r, release)
	}})
}

// fromRegistry reads a chart from a registry.
func (c *charts) fromRegistry(ctx context.Context, a *chartAttempt) (build, error) {
	at, err := c.inRegistry(ctx, a.repository, a.obj.Spec.Chart)
	if err != nil {
		return build{}, err
	}
	verify := a.obj.Spec.Verify
	if verify != nil {
		at.Verify = verification(verify)
	}
	at.Asked = a.asked()
	ctx, cancel := context.WithTimeout(ctx, source.Timeout(a.repository.Spec.Timeout))
	defer cancel()
	version, err := c.registryVersion(ctx, at, a.obj.Spec.Version)
	if err != nil {
		return build{}, err
	}
	p := pulled{name: path.Base(a.obj.Spec.Chart), version: version}
	p.get = func() ([]byte, error) { return c.Registry.Pull(ctx, at, tagOf(version), c.Fetcher.limits.Chart) }
	if verify != nil {
		// The signature is looked at in every run: whoever takes a key out of the Secret wants to hear of it.
		archive, err := p.get()
		if err != nil {
			return build{}, err
		}
		p.get = func() ([]byte, error) { return archive, nil }
	}
	b, err := c.fromArchive(a, p)
	b.verified = verify != nil && err == nil
	return b, err
}

// verification says in the words of an OCIRepository what a HelmChart asks for.
func verification(v *sourcev1.HelmChartVerification) *sourcev1.OCIRepositoryVerification {
	return &sourcev1.OCIRepositoryVerification{Provider: v.Provider, SecretRef: v.SecretRef, MatchOIDCIdentity: v.MatchOIDCIdentity}
}

// inRegistry says how a chart of a repository of type oci is reached.
func (c *charts) inRegistry(ctx context.Context, r *sourcev1.HelmRepository, name string) (oci.Chart, error) {
	switch {
	case c.Registry == nil:
		return oci.Chart{}, api.Faultf(api.UnsupportedReason, api.RetryNever,
			"the HelmRepository %q is of type oci, which this agent is not set up for; use an OCIRepository", r.Name)
	case !strings.HasPrefix(r.Spec.URL, sourcev1.OCIRepositoryPrefix):
		return oci.Chart{}, api.Faultf(sourcev1.URLInvalidReason, api.RetryInterval,
			"the HelmRepository %q is of type oci, and its spec.url does not begin with %s", r.Name, sourcev1.OCIRepositoryPrefix)
	case !fs.ValidPath(name):
		return oci.Chart{}, fmt.Errorf("%w: %q is no name of a chart in a registry", errNoChart, name)
	}
	data, tls, err := secretsOf(ctx, c.Secrets, r)
	if err != nil {
		return oci.Chart{}, err
	}
	return oci.Chart{
		URL: strings.TrimSuffix(r.Spec.URL, "/") + "/" + name, Insecure: r.Spec.Insecure, Secret: data, Provider: r.Spec.Provider, TLS: tls,
		Namespace: r.Namespace,
	}, nil
}

// registryVersion returns the newest version in a registry that the constraint allows. An exact version needs no list.
func (c *charts) registryVersion(ctx context.Context, at oci.Chart, constraint string) (string, error) {
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(constraint, "v")); err == nil {
		return constraint, nil
	}
	tags, err := c.Registry.Tags(ctx, at)
	if err != nil {
		return "", err
	}
	i, err := newest(len(tags), constraint, func(i int) string { return versionOf(tags[i]) }, func(i, than int) bool { return tags[i] > tags[than] })
	if err != nil {
		return "", fmt.Errorf("chart %q: %w", at.URL, err)
	}
	return versionOf(tags[i]), nil
}

// pulled is a packaged chart of a known version that is yet to be read.
type pulled struct {
	name, version string
	get           func() ([]byte, error)
}

// fromArchive reads a packaged chart of a repository. Without values files it is served as it is.
func (c *charts) fromArchive(a *chartAttempt, p pulled) (build, error) {
	metadata := a.buildMetadata()
	version, err := withBuild(p.version, metadata)
	if err != nil {
		return build{}, fmt.Errorf("%w: %w", errMetadata, err)
	}
	b := build{name: p.name, version: version, packaged: metadata != "", valuesFiles: a.obj.Status.ObservedValuesFiles}
	if a.upToDate(p.name, version) {
		a.artifact = a.Stored
		return b, nil
	}
	b.valuesFiles = nil
	archive, err := p.get()
	if err != nil {
		return build{}, err
	}
	if metadata == "" {
		_, err := c.Fetcher.limits.files().Inspect(archive)
		b.archive = archive
		return b, err
	}
	return c.repackage(a, b, func() (*chart.Chart, error) { return c.Fetcher.limits.files().Load(archive) }, nil)
}

// pull downloads a chart, unless the storage has what somebody else has downloaded from the same repository with the same
// credentials: then whoever asks might have done it himself.
func (c *charts) pull(ctx context.Context, r remote, release Release) ([]byte, error) {
	what := r.key() + " " + release.Digest
	if release.Digest != "" && c.pulls.has(what) {
		if f, err := c.Store.OpenWritten("sha256:" + strings.ToLower(release.Digest)); err == nil {
			defer f.Close()
			return io.ReadAll(io.LimitReader(f, c.Fetcher.limits.Chart+1))
		}
	}
	archive, err := c.Fetcher.chart(ctx, r, release)
	if err == nil {
		c.pulls.add(what)
	}
	return archive, err
}

// fromSnapshot reads a chart in a repository of files: a directory, or a packaged chart.
func (c *charts) fromSnapshot(ctx context.Context, a *chartAttempt) (build, error) {
	snapshot, release, err := c.Store.Acquire(a.sourceObject(), a.from.Digest)
	if err != nil {
		return build{}, err
	}
	defer release()
	at, err := inside(a.obj.Spec.Chart)
	if err != nil {
		return build{}, fmt.Errorf("%w: the path %q %w", errNoChart, a.obj.Spec.Chart, err)
	}
	s := tree{snapshot.FS(), slices.Collect(maps.Keys(snapshot.Files())), at}
	if _, ok := snapshot.File(at); ok {
		return c.fromFile(a, s)
	}
	if _, ok := snapshot.File(path.Join(at, chartfile.Name)); !ok {
		return build{}, fmt.Errorf("%w: the %s has neither %s nor a packaged chart at %q", errNoChart, a.obj.Spec.SourceRef.Kind, path.Join(at, chartfile.Name), a.obj.Spec.Chart)
	}
	return c.fromDirectory(ctx, a, s)
}

// tree is the files of a snapshot, and where in them the chart is.
type tree struct {
	fs    fs.FS
	names []string
	at    string
}

// inside returns a path of the spec as one of the snapshot, whose root "/" and "." stand for.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if !fs.ValidPath(clean) || strings.ContainsRune(name, '\\') {
		return "", errors.New("leads out of the source")
	}
	return clean, nil
}

// fromFile reads a packaged chart.
func (c *charts) fromFile(a *chartAttempt, s tree) (build, error) {
	limits := c.Fetcher.limits
	archive, err := chartfile.ReadFile(s.fs, s.at, limits.Chart)
	if err != nil {
		return build{}, err
	}
	about, err := limits.files().Inspect(archive)
	if err != nil {
		return build{}, err
	}
	b, done, err := a.start(about, false)
	switch {
	case err != nil || done:
		return b, err
	case !b.packaged:
		b.archive = archive
		return b, nil
	}
	return c.repackage(a, b, func() (*chart.Chart, error) { return limits.files().Load(archive) }, &s)
}

// fromDirectory packages a chart with what it depends on.
func (c *charts) fromDirectory(ctx context.Context, a *chartAttempt, s tree) (build, error) {
	limits := c.Fetcher.limits
	about, err := limits.describe(s)
	if err != nil {
		return build{}, err
	}
	b, done, err := a.start(about, true)
	if err != nil || done {
		return b, err
	}
	return c.repackage(a, b, func() (*chart.Chart, error) {
		ch, err := limits.files().Source(s.fs, s.names, s.at)
		if err != nil {
			return nil, err
		}
		d := &dependencies{limits: limits, tree: s, remote: func(url, name, version string) (*chart.Chart, error) {
			return c.dependency(ctx, a.obj.Namespace, url, name, version)
		}}
		return ch, d.build(ch, s.at, 0)
	}, &s)
}

// start begins a build of a chart that says this of itself. done means that the stored artifact is up to date.
func (a *chartAttempt) start(about *chart.Metadata, directory bool) (b build, done bool, err error) {
	metadata := a.buildMetadata()
	version, err := withBuild(about.Version, metadata)
	if err != nil {
		return build{}, false, fmt.Errorf("%w: %w", errMetadata, err)
	}
	b = build{name: about.Name, version: version, packaged: directory || metadata != ""}
	if a.upToDate(b.name, version) {
		a.artifact, b.valuesFiles = a.Stored, a.obj.Status.ObservedValuesFiles
		return b, true, nil
	}
	return b, false, nil
}

// repackage loads a chart, changes what the spec wants changed, and packs it. Values files are looked for in s, or in the
// chart if there is none.
func (c *charts) repackage(a *chartAttempt, b build, load func() (*chart.Chart, error), s *tree) (build, error) {
	ch, err := load()
	if err != nil {
		return build{}, err
	}
	ch.Metadata.Version = b.version
	read := func(name string) ([]byte, error) {
		for _, f := range ch.Raw {
			if f.Name == name {
				return f.Data, nil
			}
		}
		return nil, fs.ErrNotExist
	}
	if s != nil {
		read = func(name string) ([]byte, error) { return chartfile.ReadFile(s.fs, name, c.Fetcher.limits.File) }
	}
	values, found, err := mergeValues(a.obj.Spec.ValuesFiles, a.obj.Spec.IgnoreMissingValuesFiles, read)
	if err != nil {
		return build{}, err
	}
	if len(found) > 0 {
		if err := setValues(ch, values); err != nil {
			return build{}, err
		}
	}
	b.valuesFiles, b.name = found, ch.Name()
	b.archive, err = c.Fetcher.limits.pack(ch)
	return b, err
}

// dependency reads a chart that another names by its repository. Credentials are those of the HelmRepository with that URL
// in the namespace; without one there are none.
func (c *charts) dependency(ctx context.Context, namespace, url, name, version string) (*chart.Chart, error) {
	r, err := c.repositoryOf(ctx, namespace, url)
	if err != nil {
		return nil, err
	}
	var archive []byte
	if strings.HasPrefix(url, sourcev1.OCIRepositoryPrefix) {
		archive, err = c.registryDependency(ctx, r, name, version)
	} else {
		archive, err = c.indexDependency(ctx, r, name, version)
	}
	if err != nil {
		return nil, err
	}
	return c.Fetcher.limits.files().Load(archive)
}

func (c *charts) registryDependency(ctx context.Context, r *sourcev1.HelmRepository, name, version string) ([]byte, error) {
	at, err := c.inRegistry(ctx, r, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, source.Timeout(r.Spec.Timeout))
	defer cancel()
	if version, err = c.registryVersion(ctx, at, version); err != nil {
		return nil, err
	}
	return c.Registry.Pull(ctx, at, tagOf(version), c.Fetcher.limits.Chart)
}

func (c *charts) indexDependency(ctx context.Context, r *sourcev1.HelmRepository, name, version string) ([]byte, error) {
	remote, err := remoteOf(ctx, c.Secrets, r)
	if err != nil {
		return nil, err
	}
	var lookup *Lookup
	err = artifact.ErrNotFound
	if a := r.Status.Artifact; a != nil {
		lookup, err = c.Indexes.Lookup(ctx, artifact.Object{Kind: sourcev1.HelmRepositoryKind, Namespace: r.Namespace, Name: r.Name}, a.Digest)
	}
	if errors.Is(err, artifact.ErrNotFound) {
		lookup, err = c.Indexes.download(ctx, c.Fetcher, remote)
	}
	if err != nil {
		return nil, err
	}
	release, err := lookup.Find(name, version)
	if err != nil {
		return nil, err
	}
	return c.Fetcher.chart(ctx, remote, release)
}

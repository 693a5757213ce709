package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/cleat-dev/cleat/internal/source"
)

// errReference: spec.ref cannot be used as it is.
var errReference = errors.New("invalid reference")

const (
	defaultTag = "latest"
	// maxExpression bounds what is compiled for a user. Go's regular expressions take linear time, but any amount of memory.
	maxExpression = 1 << 10
)

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// parseRepository reads spec.url. insecure is spec.insecure.
func parseRepository(url string, insecure bool) (name.Repository, error) {
	path, ok := strings.CutPrefix(url, sourcev1.OCIRepositoryPrefix)
	if !ok {
		return name.Repository{}, fmt.Errorf("%w: it must begin with %s", source.ErrURL, sourcev1.OCIRepositoryPrefix)
	}
	if strings.ContainsAny(path, "@?#") {
		return name.Repository{}, fmt.Errorf("%w: it must be oci://HOST/PATH, without user, digest or query", source.ErrURL)
	}
	options := []name.Option{}
	if insecure {
		options = append(options, name.Insecure)
	}
	repository, err := name.NewRepository(path, options...)
	if err != nil {
		// What the parser says repeats the URL. That is the user's own and holds no secret, as is checked above.
		return name.Repository{}, fmt.Errorf("%w: it must be oci://HOST/PATH, without a tag, which belongs into spec.ref: %w", source.ErrURL, err)
	}
	if !fs.ValidPath(repository.RepositoryStr()) {
		// Such a path is one thing to who looks for its credentials, and another to a server that resolves it.
		return name.Repository{}, fmt.Errorf("%w: the path must not have parts that are empty, \".\" or \"..\"", source.ErrURL)
	}
	return repository, nil
}

// selector says which of a repository's artifacts is wanted: a digest, else the highest version in a range, else a tag.
type selector struct {
	digest string
	tag    string
	semver *semver.Constraints
	filter *regexp.Regexp // nil lets every tag through
}

func parseSelector(ref *sourcev1.OCIRepositoryRef) (selector, error) {
	switch {
	case ref == nil:
		return selector{tag: defaultTag}, nil
	case ref.Digest != "":
		if !digestPattern.MatchString(ref.Digest) {
			return selector{}, fmt.Errorf("%w: spec.ref.digest %q is not sha256: and 64 hexadecimal digits", errReference, ref.Digest)
		}
		return selector{digest: ref.Digest}, nil
	case ref.SemVer != "":
		return parseRange(ref.SemVer, ref.SemverFilter)
	case ref.Tag != "":
		if _, err := name.NewTag("example.com/a:" + ref.Tag); err != nil {
			return selector{}, fmt.Errorf("%w: spec.ref.tag %q is not a tag", errReference, ref.Tag)
		}
		return selector{tag: ref.Tag}, nil
	}
	return selector{tag: defaultTag}, nil
}

func parseRange(versions, filter string) (selector, error) {
	if len(versions) > maxExpression || len(filter) > maxExpression {
		return selector{}, fmt.Errorf("%w: spec.ref.semver or semverFilter is longer than %d bytes", errReference, maxExpression)
	}
	var s selector
	var err error
	if s.semver, err = semver.NewConstraint(versions); err != nil {
		return s, fmt.Errorf("%w: spec.ref.semver %q is not a range of versions", errReference, versions)
	}
	if filter == "" {
		return s, nil
	}
	if s.filter, err = regexp.Compile(filter); err != nil {
		return s, fmt.Errorf("%w: spec.ref.semverFilter: %w", errReference, err)
	}
	return s, nil
}

// highest returns the tag of the highest version in the range. A registry's tags cannot hold the "+" of a version, so
// Helm writes "_" for it. Among tags of equal precedence the choice is arbitrary but always the same.
func (s selector) highest(tags []string) (string, error) {
	var best *semver.Version
	var tag string
	for _, t := range tags {
		if s.filter != nil && !s.filter.MatchString(t) {
			continue
		}
		v, err := semver.StrictNewVersion(strings.TrimPrefix(strings.Replace(t, "_", "+", 1), "v"))
		if err != nil || !s.semver.Check(v) {
			continue
		}
		if best == nil || v.GreaterThan(best) || v.Equal(best) && t < tag {
			best, tag = v, t
		}
	}
	if best == nil {
		return "", fmt.Errorf("no tag matches spec.ref.semver %q", s.semver)
	}
	return tag, nil
}

// revision is how an artifact is named in a status.
func revision(tag, digest string) string {
	if tag == "" {
		return digest
	}
	return tag + "@" + digest
}

// sortedKeys lists keys so that they can be told in a message that is always the same.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

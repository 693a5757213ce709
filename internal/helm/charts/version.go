package charts

import (
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// trackedDigits is how much of a digest becomes part of a version.
const trackedDigits = 12

// WithRevision returns the chart as it is installed from an OCIRepository whose artifact has the revision `TAG@ALGORITHM:HEX` or
// `ALGORITHM:HEX`, and that digest. The tag must be the chart's version, in which registries write `_` for `+`. So that a tag
// that was pushed again is an upgrade, the first digits of the digest become the build metadata of the version, in place of what
// was there; unless track is false, which is the gate DisableChartDigestTracking.
func (c *Chart) WithRevision(revision string, track bool) (_ *Chart, digest string, err error) {
	about := c.Metadata()
	version, err := semver.NewVersion(about.Version)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %q: its version %q is no version", ErrInvalid, about.Name, about.Version)
	}
	tag, digest, tagged := strings.Cut(revision, "@")
	if !tagged {
		digest = revision
	} else if err := sameVersion(tag, version); err != nil {
		return nil, "", err
	}
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || algorithm == "" || len(hex) < trackedDigits || strings.ContainsAny(hex, ":@") {
		return nil, "", fmt.Errorf("%w: the artifact revision %q does not end in a digest", ErrRevision, revision)
	}
	if !track {
		return c, digest, nil
	}
	tracked, err := version.SetMetadata(hex[:trackedDigits])
	if err != nil {
		return nil, "", fmt.Errorf("%w: the artifact revision %q does not end in a digest: %w", ErrRevision, revision, err)
	}
	own := *c
	own.version, own.of = tracked.String(), c
	return &own, digest, nil
}

func sameVersion(tag string, version *semver.Version) error {
	tagged, err := semver.NewVersion(strings.ReplaceAll(tag, "_", "+"))
	if err != nil {
		return fmt.Errorf("%w: the tag %q of the artifact is no version, so it cannot be compared with the chart's, %s",
			ErrRevision, tag, version.Original())
	}
	if !tagged.Equal(version) {
		return fmt.Errorf("%w: the tag %q of the artifact is not the chart's version, %s", ErrRevision, tag, version.Original())
	}
	return nil
}

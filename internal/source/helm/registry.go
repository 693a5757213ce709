package helm

import (
	"context"
	"strings"

	"github.com/cleat-dev/cleat/internal/source/oci"
)

// Registry reads charts from container registries; oci.Charts does. Its methods may be called concurrently.
type Registry interface {
	// Tags lists the tags of a chart's repository.
	Tags(ctx context.Context, at oci.Chart) ([]string, error)
	// Pull finds out the digest of a tag, verifies it if at asks for that, and returns the archive of that digest. It is
	// source.ErrLimit when the archive is larger than most bytes.
	Pull(ctx context.Context, at oci.Chart, tag string, most int64) ([]byte, error)
}

// tagOf writes a version as a tag, which cannot hold a "+".
func tagOf(version string) string { return strings.ReplaceAll(version, "+", "_") }

// versionOf is the inverse.
func versionOf(tag string) string { return strings.ReplaceAll(tag, "_", "+") }

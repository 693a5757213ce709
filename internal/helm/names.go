package helm

import (
	"crypto/sha256"
	"encoding/hex"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

const (
	// maxReleaseName is how long the name of a release may be: Helm puts it into names and labels.
	maxReleaseName = 53
	// keptName is what is left of a longer one.
	keptName = 40
	// nameDigest is how much of the whole name's digest makes the shortened one unique.
	nameDigest = 12
)

// releaseName is the name of a HelmRelease's release.
func releaseName(hr *v2.HelmRelease) string { return shorten(hr.GetReleaseName()) }

// shorten makes a name short enough for Helm as Flux does: a release that was made under the name must be found under it.
func shorten(name string) string {
	if len(name) <= maxReleaseName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:keptName] + "-" + hex.EncodeToString(sum[:])[:nameDigest]
}

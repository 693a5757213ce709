package helm

import (
	"encoding/json"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/opencontainers/go-digest"
)

// postRenderersDigest identifies spec.postRenderers as Flux does in status.observedPostRenderersDigest; empty without any.
func postRenderersDigest(hr *v2.HelmRelease) string {
	if hr.Spec.PostRenderers == nil {
		return ""
	}
	return digestOf(hr.Spec.PostRenderers)
}

// commonMetadataDigest identifies spec.commonMetadata as Flux does in status.observedCommonMetadataDigest; empty without any.
func commonMetadataDigest(hr *v2.HelmRelease) string {
	if hr.Spec.CommonMetadata == nil {
		return ""
	}
	return digestOf(hr.Spec.CommonMetadata)
}

// digestOf is the digest of what json.Encoder writes, with the line break at its end.
func digestOf(value any) string {
	digester := digest.Canonical.Digester()
	if err := json.NewEncoder(digester.Hash()).Encode(value); err != nil {
		return "" // a hash takes everything, and the fields of a spec are JSON
	}
	return digester.Digest().String()
}

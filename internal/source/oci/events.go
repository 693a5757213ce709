package oci

import (
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactMessage tells of new content in Flux's words.
func artifactMessage(a *meta.Artifact, url string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "stored artifact with revision '%s' from '%s'", a.Revision, url)
	if source := a.Metadata[ocispec.AnnotationSource]; source != "" {
		fmt.Fprintf(&b, ", origin source '%s'", source)
	}
	if revision := a.Metadata[ocispec.AnnotationRevision]; revision != "" {
		fmt.Fprintf(&b, ", origin revision '%s'", revision)
	}
	return b.String()
}

// storedMessage is what Ready=True says of this kind.
func storedMessage(a *meta.Artifact) string {
	return fmt.Sprintf("stored artifact for digest '%s'", a.Revision)
}

func newRevision(a *attempt) string {
	return fmt.Sprintf("new revision '%s' for '%s'", a.revision, a.obj.Spec.URL)
}

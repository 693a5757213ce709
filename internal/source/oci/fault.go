package oci

import (
	"errors"
	"path"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// fault says under which reason an error is reported, and what makes it worth trying again.
func fault(err error) error {
	switch {
	case errors.Is(err, errReference):
		return &api.Fault{Reason: sourcev1.OCIPullFailedReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, errPolicy):
		return &api.Fault{Reason: sourcev1.VerificationError, Retry: api.RetryBackoff, Err: err}
	case errors.Is(err, errLayer), errors.Is(err, source.ErrLimit):
		return &api.Fault{Reason: sourcev1.OCILayerOperationFailedReason, Retry: api.RetryInterval, Err: err}
	}
	return source.FetchFault(err, sourcev1.OCIPullFailedReason)
}

// latest is the path under which the newest artifact is served.
func latest(file string) string { return path.Join(path.Dir(file), "latest.tar.gz") }

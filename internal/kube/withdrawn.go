package kube

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/cleat-dev/cleat/internal/api"
)

// Withdrawn says whether an error means that the rights or the way to a cluster are not there any more, rather than that they
// cannot be used just now.
func Withdrawn(err error) bool {
	return apierrors.IsNotFound(err) || errors.Is(err, ErrIdentity) || errors.Is(err, ErrKubeconfig) || errors.Is(err, ErrFeatureGate)
}

// RetryOf says what makes it worth trying again to reach a cluster as somebody: somebody has to change something, or something
// has to pass.
func RetryOf(err error) api.Retry {
	switch {
	case errors.Is(err, ErrFeatureGate):
		return api.RetryNever
	case Withdrawn(err), apierrors.IsForbidden(err):
		return api.RetryInterval
	}
	return api.RetryBackoff
}

package kube

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/api"
)

// What somebody has to change waits for that; what passes is tried again; and only what is withdrawn lets a deletion go.
func TestA21_RetryOf(t *testing.T) {
	resource := schema.GroupResource{Resource: "secrets"}
	for _, test := range []struct {
		err       error
		retry     api.Retry
		withdrawn bool
	}{
		{ErrIdentity, api.RetryInterval, true},
		{ErrKubeconfig, api.RetryInterval, true},
		{ErrFeatureGate, api.RetryNever, true},
		{apierrors.NewNotFound(resource, "kubeconfig"), api.RetryInterval, true},
		{apierrors.NewForbidden(resource, "kubeconfig", nil), api.RetryInterval, false},
		{ErrUnreachable, api.RetryBackoff, false},
		{apierrors.NewServiceUnavailable("starting"), api.RetryBackoff, false},
		{errors.New("connection refused"), api.RetryBackoff, false},
	} {
		err := fmt.Errorf("spec.kubeConfig: %w", test.err)
		if got := RetryOf(err); got != test.retry {
			t.Errorf("%v: retry %s, want %s", err, got, test.retry)
		}
		if got := Withdrawn(err); got != test.withdrawn {
			t.Errorf("%v: withdrawn %t", err, got)
		}
	}
}

package helm

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/helm/values"
)

// valuesFailedReason: the values cannot be put together. It is Flux's word.
const valuesFailedReason = "ValuesError"

// compose puts the values together. They come from the HelmRelease's own namespace, and are read with the agent's rights, as
// in Flux: what a tenant refers to there the tenant's release may hold (faults.md A20).
func (r *Reconciler) compose(ctx context.Context, a *attempt) error {
	composed, err := values.Compose(ctx, objects{r.Live}, a.key.Namespace, a.hr.Spec.ValuesFrom, a.hr.Spec.Values)
	if err != nil {
		return api.Faultf(valuesFailedReason, retryOfValues(err), "%w", err)
	}
	a.values, a.configDigest = composed, values.Digest(composed)
	return nil
}

// retryOfValues says what mends an error of values.
func retryOfValues(err error) api.Retry {
	var fault *values.Error
	if !errors.As(err, &fault) {
		return api.RetryBackoff
	}
	switch fault.Cause {
	case values.InvalidPath, values.InvalidReference:
		return api.RetryNever // only the spec can mend that
	case values.MissingObject, values.MissingKey, values.InvalidYAML, values.InvalidValue, values.TooLarge:
		// If the object is watched, its change wakes the HelmRelease; not all are (--watch-configs-label-selector).
		if fault.Ref.Name == "" { // it is what is inline
			return api.RetryNever
		}
		return api.RetryBackoff
	}
	return api.RetryBackoff
}

// objects reads what values come from, past any cache.
type objects struct{ client client.Reader }

// Data implements values.Source.
func (o objects) Data(ctx context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
	if kind == values.Secret {
		secret := &corev1.Secret{}
		err := o.client.Get(ctx, key, secret)
		return secret.Data, err
	}
	configMap := &corev1.ConfigMap{}
	if err := o.client.Get(ctx, key, configMap); err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(configMap.Data)+len(configMap.BinaryData))
	for name, content := range configMap.Data {
		data[name] = []byte(content)
	}
	for name, content := range configMap.BinaryData {
		data[name] = content
	}
	return data, nil
}

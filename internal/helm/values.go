package helm

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/helm/values"
)

// valuesFailedReason: the values cannot be put together. It is Flux's word.
const valuesFailedReason = "ValuesError"

// compose puts the values together. They come from the HelmRelease's own namespace, and are read with the agent's rights, as
// in Flux: what a tenant refers to there the tenant's release may hold (faults.md A20).
func (r *Reconciler) compose(ctx context.Context, a *attempt) error {
	read := &objects{client: r.Live}
	composed, err := values.Compose(ctx, read, a.key.Namespace, a.hr.Spec.ValuesFrom, a.hr.Spec.Values)
	if err != nil {
		return api.Faultf(valuesFailedReason, retryOfValues(err), "%w", err)
	}
	a.values, a.configDigest, a.secrets = composed, values.Digest(composed), read.secrets
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
type objects struct {
	client client.Reader
	// secrets is what of that no record may show.
	secrets []string
}

// Data implements values.Source.
func (o *objects) Data(ctx context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
	if kind == values.Secret {
		secret := &corev1.Secret{}
		err := o.client.Get(ctx, key, secret)
		for _, content := range secret.Data {
			o.secrets = append(o.secrets, textsIn(content)...)
		}
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

// shortText is what is too short to be a secret, and stands everywhere.
const shortText = 4

// textsIn returns the texts within a file of values, or the whole when it is none.
func textsIn(content []byte) []string {
	var tree any
	if err := yaml.Unmarshal(content, &tree); err != nil {
		return []string{string(content)}
	}
	var texts []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, value := range v {
				walk(value)
			}
		case []any:
			for _, value := range v {
				walk(value)
			}
		case string:
			if len(v) >= shortText {
				texts = append(texts, v)
			}
		}
	}
	walk(tree)
	return texts
}

package helm

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	source := objects{r.Live, map[string]map[string][]byte{}}
	composed, err := values.Compose(ctx, source, a.key.Namespace, a.hr.Spec.ValuesFrom, a.hr.Spec.Values)
	if err != nil {
		return api.Faultf(valuesFailedReason, retryOfValues(err), "%w", err)
	}
	a.values, a.configDigest, a.secret = composed, values.Digest(composed), source.secret(a.hr.Spec.ValuesFrom)
	return nil
}

// leastSecret is how long a value must be to be masked: shorter ones are seldom secret, and are part of many a name.
const leastSecret = 6

// secret returns the single values that came from Secrets, as one Secret: templates that fail quote what they were given
// (faults.md A29).
func (o objects) secret(refs []v2.ValuesReference) *unstructured.Unstructured {
	found := map[string]any{}
	for _, ref := range refs {
		text := o.secrets[ref.Name][ref.GetValuesKey()]
		var parsed any
		if ref.Kind != values.Secret || text == nil {
			continue
		}
		if ref.TargetPath != "" || yaml.Unmarshal(text, &parsed) != nil {
			parsed = string(text)
		}
		leaves(parsed, found)
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": found}}
}

// leaves adds the single values within a value, by themselves.
func leaves(value any, to map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			leaves(inner, to)
		}
	case []any:
		for _, inner := range v {
			leaves(inner, to)
		}
	case nil, bool:
		// It is no secret.
	case float64: // as templates print it, and as it was written
		leaves(fmt.Sprint(v), to)
		leaves(strconv.FormatFloat(v, 'f', -1, 64), to)
	default:
		if text := fmt.Sprint(v); len(text) >= leastSecret {
			to[text] = text
		}
	}
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

// objects reads what values come from, past any cache, and keeps what the Secrets hold.
type objects struct {
	client  client.Reader
	secrets map[string]map[string][]byte
}

// Data implements values.Source.
func (o objects) Data(ctx context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
	if kind == values.Secret {
		secret := &corev1.Secret{}
		err := o.client.Get(ctx, key, secret)
		o.secrets[key.Name] = secret.Data
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

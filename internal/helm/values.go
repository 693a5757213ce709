package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	source := &objects{r.Live, map[string]map[string][]byte{}}
	composed, err := values.Compose(ctx, source, a.key.Namespace, a.hr.Spec.ValuesFrom, a.hr.Spec.Values)
	if err != nil {
		return api.Faultf(valuesFailedReason, retryOfValues(err), "%w", err)
	}
	a.values, a.configDigest, a.secrets = composed, values.Digest(composed), source.texts(a.hr.Spec.ValuesFrom)
	return nil
}

// leastSecret and leastMasked are how long a text from a Secret must be to be hidden in records, and in errors: shorter ones are
// seldom secret, and are part of many a name.
const leastSecret, leastMasked = 4, 6

// texts returns the single values that came from Secrets, each as it may be printed.
func (o *objects) texts(refs []v2.ValuesReference) []string {
	var found []string
	for _, ref := range refs {
		text := o.secrets[ref.Name][ref.GetValuesKey()]
		var parsed any
		if ref.Kind != values.Secret || text == nil {
			continue
		}
		if ref.TargetPath != "" || yaml.Unmarshal(text, &parsed) != nil {
			parsed = string(text)
		}
		found = leaves(found, parsed)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// leaves adds the single values within a value.
func leaves(to []string, value any) []string {
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			to = leaves(to, inner)
		}
	case []any:
		for _, inner := range v {
			to = leaves(to, inner)
		}
	case nil, bool:
		// It is no secret.
	case float64: // as templates print it, and as it was written; a short number stands in many places
		for _, text := range []string{fmt.Sprint(v), strconv.FormatFloat(v, 'f', -1, 64)} {
			if len(text) >= leastMasked {
				to = append(to, text)
			}
		}
	default:
		if text := fmt.Sprint(v); len(text) >= leastSecret {
			to = append(to, text)
		}
	}
	return to
}

// secret holds the values that came from Secrets, for masking errors by: templates that fail quote what they were given
// (faults.md A29).
func (in *inputs) secret() *unstructured.Unstructured {
	found := map[string]any{}
	for _, text := range in.secrets {
		if len(text) >= leastMasked {
			found[text] = text
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": found}}
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
func (o *objects) Data(ctx context.Context, kind string, key types.NamespacedName) (map[string][]byte, error) {
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

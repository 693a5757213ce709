package decrypt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/getsops/sops/v3/logging"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// provider is the one value of spec.decryption.provider.
const provider = "sops"

// Options are the flags that concern decryption.
type Options struct {
	// Namespace is the agent's own, where AgeSecret and VaultConfigMap are.
	Namespace string
	// AgeSecret names the Secret whose age keys serve Kustomizations that name no Secret.
	AgeSecret string
	// VaultConfigMap names the ConfigMap that lists the Vault servers that may be spoken to.
	VaultConfigMap string
	// DefaultServiceAccount is who speaks to clouds and Vaults for a Kustomization that names nobody. Empty means the agent.
	DefaultServiceAccount string
	// ObjectIdentity allows a Kustomization to speak to clouds as a ServiceAccount of its namespace.
	ObjectIdentity bool
	// IgnoreMAC opens documents whose message authentication code does not fit, as Flux does.
	IgnoreMAC bool
}

// Loader reads the keys of Kustomizations.
type Loader struct {
	client  client.Client // for tokens of ServiceAccounts
	options Options
}

// NewLoader returns a Loader that has the tokens of ServiceAccounts issued by c. It silences the loggers of sops, which
// are global and write comments of the documents to standard error, and opens the gate of fluxcd/pkg/auth, global too.
func NewLoader(c client.Client, options Options) *Loader {
	logging.SetLevel(logrus.PanicLevel)
	if options.ObjectIdentity {
		auth.EnableObjectLevelWorkloadIdentity()
	}
	return &Loader{client: c, options: options}
}

// Load reads the keys of ks by from, which so learns what they come from. It returns nil when ks asks for no decryption; all methods of a nil Decryptor do nothing.
func (l *Loader) Load(ctx context.Context, from client.Reader, ks *kustomizev1.Kustomization) (*Decryptor, error) {
	asked := ks.Spec.Decryption
	if asked == nil {
		return nil, nil
	}
	if asked.Provider != provider {
		return nil, api.Faultf(api.UnsupportedReason, api.RetryNever, "spec.decryption.provider: %q is not known, only %q is", asked.Provider, provider)
	}
	if asked.ServiceAccountName != "" && !l.options.ObjectIdentity {
		return nil, api.Faultf(meta.FeatureGateDisabledReason, api.RetryNever,
			"to use spec.decryption.serviceAccountName enable the feature gate %s of the agent", auth.FeatureGateObjectLevelWorkloadIdentity)
	}
	data, origin, err := l.secret(ctx, from, ks)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(data, asked.SecretRef == nil, l.options.DefaultServiceAccount != "")
	if err != nil {
		return nil, api.Faultf(meta.BuildFailedReason, api.RetryInterval, "the decryption Secret '%s': %w", origin, err)
	}
	if err := l.trust(ctx, from, keys); err != nil {
		return nil, err
	}
	who := l.identity(ks)
	who.complete(keys)
	d := newDecryptor(keys, !l.options.IgnoreMAC)
	d.digest = digestOf(data, keys.vaults, asked.ServiceAccountName, l.options)
	return d, nil
}

// secret returns the data of the Secret that holds the keys of ks: the one it names in its own namespace, and never one of
// another (faults.md A20), or else the agent's global one.
func (l *Loader) secret(ctx context.Context, from client.Reader, ks *kustomizev1.Kustomization) (map[string][]byte, types.NamespacedName, error) {
	var key types.NamespacedName
	switch {
	case ks.Spec.Decryption.SecretRef != nil:
		key = types.NamespacedName{Namespace: ks.Namespace, Name: ks.Spec.Decryption.SecretRef.Name}
	case l.options.AgeSecret != "":
		key = types.NamespacedName{Namespace: l.options.Namespace, Name: l.options.AgeSecret}
	default: // a cloud's keys, by workload identity
		return nil, key, nil
	}
	var secret corev1.Secret
	if err := from.Get(ctx, key, &secret); err != nil {
		return nil, key, api.Faultf(meta.BuildFailedReason, api.RetryBackoff, "reading the decryption Secret '%s': %w", key, err)
	}
	return secret.Data, key, nil
}

// digestOf identifies what a Decryptor was made from. Each part is written with its length, so that no two sets of parts
// look alike.
func digestOf(data map[string][]byte, vaults map[string]string, serviceAccount string, options Options) string {
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		writePart(sum, key)
		writePart(sum, string(data[key]))
	}
	for _, address := range slices.Sorted(maps.Keys(vaults)) {
		writePart(sum, address)
		writePart(sum, vaults[address])
	}
	writePart(sum, serviceAccount)
	writePart(sum, fmt.Sprintf("%+v", options))
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

func writePart(to hash.Hash, part string) {
	fmt.Fprintf(to, "%d:%s", len(part), part)
}

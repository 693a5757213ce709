package drift

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Where the record of an owner is kept: a ConfigMap beside it, which whoever may read the namespace may read
// (docs/adr/0030-the-record-of-drift.md).
const (
	// RecordLabel is on every such ConfigMap.
	RecordLabel = "cleat.dev/record"
	recordKind  = "drift"
	ownerKey    = "owner"
	recordKey   = "records"
)

// errForeign says that somebody else has a ConfigMap of that name.
var errForeign = errors.New("a ConfigMap of that name is not the agent's")

// ConfigMaps keeps records in ConfigMaps.
type ConfigMaps struct {
	Client client.Client
	// Kinds are the kinds of owners, by their names.
	Kinds map[string]schema.GroupVersionKind
	// UID returns the UID of an owner, which the ConfigMap goes with.
	UID func(ctx context.Context, owner Owner) (types.UID, error)
}

// recordName is the name of an owner's ConfigMap.
func recordName(owner Owner) string {
	name := strings.ToLower(owner.Kind) + "-" + owner.Name
	const suffix = "-drift"
	if len(name)+len(suffix) > 253 {
		sum := sha256.Sum256([]byte(name))
		name = strings.TrimRight(name[:180], ".-") + "-" + hex.EncodeToString(sum[:16])
	}
	return name + suffix
}

// Load implements Keeper.
func (c ConfigMaps) Load(ctx context.Context, owner Owner) ([]Record, error) {
	kept := &corev1.ConfigMap{}
	key := types.NamespacedName{Namespace: owner.Namespace, Name: recordName(owner)}
	switch err := c.Client.Get(ctx, key, kept); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading ConfigMap/%s: %w", key, err)
	}
	_, records, err := ReadRecords(kept)
	if err != nil {
		return nil, fmt.Errorf("ConfigMap/%s: %w", key, err)
	}
	return records, nil
}

// ReadRecords returns what a ConfigMap holds of whose drift, `Kind/namespace/name`. It is an error when it is none of ours.
func ReadRecords(kept *corev1.ConfigMap) (owner string, records []Record, err error) {
	if kept.Labels[RecordLabel] != recordKind {
		return "", nil, errForeign
	}
	if err := json.Unmarshal([]byte(kept.Data[recordKey]), &records); err != nil {
		return "", nil, fmt.Errorf("the record of drift cannot be read: %w", err)
	}
	owner = kept.Data[ownerKey]
	if parts := strings.Split(owner, "/"); len(parts) != 3 || parts[1] != kept.Namespace {
		return "", nil, fmt.Errorf("the record of drift is not of an owner in its namespace, but of %q", owner)
	}
	return owner, records, nil
}

// Save implements Keeper. The ConfigMap goes with its owner.
func (c ConfigMaps) Save(ctx context.Context, owner Owner, records []Record) error {
	text, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("encoding the record of drift: %w", err)
	}
	key := types.NamespacedName{Namespace: owner.Namespace, Name: recordName(owner)}
	kept := &corev1.ConfigMap{}
	err = c.Client.Get(ctx, key, kept)
	switch {
	case err == nil && kept.Labels[RecordLabel] != recordKind:
		return fmt.Errorf("ConfigMap/%s: %w", key, errForeign)
	case err != nil && !apierrors.IsNotFound(err):
		return fmt.Errorf("reading ConfigMap/%s: %w", key, err)
	}
	data := map[string]string{ownerKey: owner.Kind + "/" + owner.NamespacedName.String(), recordKey: string(text)}
	if err == nil {
		kept.Data = data
		if err := c.Client.Update(ctx, kept); err != nil {
			return fmt.Errorf("writing ConfigMap/%s: %w", key, err)
		}
		return nil
	}
	uid, err := c.UID(ctx, owner)
	if err != nil {
		return fmt.Errorf("reading %s/%s: %w", owner.Kind, owner.NamespacedName, err)
	}
	kind := c.Kinds[owner.Kind]
	kept = &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace, Name: key.Name, Labels: map[string]string{RecordLabel: recordKind},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: owner.Name, UID: uid}},
		},
		Data: data,
	}
	if err := c.Client.Create(ctx, kept); err != nil {
		return fmt.Errorf("creating ConfigMap/%s: %w", key, err)
	}
	return nil
}

// RecordsOf selects the ConfigMaps that hold records.
func RecordsOf() client.MatchingLabels { return client.MatchingLabels{RecordLabel: recordKind} }

package kube

import (
	"strings"
	"unicode/utf8"
	"unique"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

// Observation is all that is kept of an object in the cluster.
type Observation struct {
	UID             types.UID
	ResourceVersion string
	Generation      int64
	// Owned is the digest of the fields that Owner.Manager owns; zero when it owns none.
	Owned object.Digest
	// Unclean says that an apply would first clear traces of kubectl off the object, as Flux does, and with them the
	// fields that kubectl added.
	Unclean bool
	Health  health.Result
	// Owner is the one that the owner labels name; the zero value when there is none.
	Owner types.NamespacedName
}

// maxMessage bounds the health message of an Observation, in bytes. Controllers quote whole error pages in conditions.
const maxMessage = 256

// observe reduces an object to its Observation, as judge sees it. It keeps no reference into the object.
func (k Owner) observe(u *unstructured.Unstructured, judge *health.Judge) Observation {
	owned, _ := object.OwnedDigest(u, k.Manager)
	h := judge.Of(u)
	h.Message = intern(truncate(h.Message))
	owner := k.Labels.Of(u)
	return Observation{
		UID:             types.UID(strings.Clone(string(u.GetUID()))),
		ResourceVersion: strings.Clone(u.GetResourceVersion()),
		Generation:      u.GetGeneration(),
		Owned:           owned,
		Unclean:         k.unclean(u),
		Health:          h,
		Owner:           types.NamespacedName{Namespace: intern(owner.Namespace), Name: intern(owner.Name)},
	}
}

// intern returns one copy of a string that many observations share: owners, namespaces, "Resource is current".
func intern(s string) string { return unique.Make(s).Value() }

func truncate(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	cut := maxMessage
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// cleanup is what Flux takes off a live object before it applies: the annotation of kubectl's client-side apply, labels and
// annotations of Flux's first generation, and the field managers that wrote what Git is to decide about.
func (k Owner) cleanup(overridden []string) ssa.ApplyCleanupOptions {
	managers := []ssa.FieldManager{
		{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationApply},
		{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationUpdate},
		{Name: "before-first-apply", OperationType: metav1.ManagedFieldsOperationUpdate},
		{Name: k.Manager.Name, OperationType: metav1.ManagedFieldsOperationUpdate},
	}
	for _, name := range overridden {
		managers = append(managers,
			ssa.FieldManager{Name: name, OperationType: metav1.ManagedFieldsOperationApply},
			ssa.FieldManager{Name: name, OperationType: metav1.ManagedFieldsOperationUpdate})
	}
	return ssa.ApplyCleanupOptions{
		Annotations:   []string{corev1.LastAppliedConfigAnnotation, api.OwnerGroup + "/checksum", "fluxcd.io/sync-checksum"},
		Labels:        []string{"fluxcd.io/sync-gc-mark"},
		FieldManagers: managers,
		Exclusions:    map[string]string{api.SSAAnnotation: kustomizev1.MergeValue},
	}
}

// unclean says whether cleanup, without overridden managers, would find something to do on a live object. It reads
// managedFields in place, for it runs at every watch event.
func (k Owner) unclean(u *unstructured.Unstructured) bool {
	if k.Manager.Updates {
		return false // Nothing is cleared off what is not always applied by server-side apply.
	}
	if object.Marked(u, api.SSAAnnotation, kustomizev1.MergeValue) {
		return false
	}
	opts := k.cleanup(nil)
	metadata, _ := u.Object["metadata"].(map[string]any)
	return anyKey(metadata["annotations"], opts.Annotations) ||
		anyKey(metadata["labels"], opts.Labels) ||
		anyManager(metadata["managedFields"], opts.FieldManagers)
}

func anyKey(of any, keys []string) bool {
	m, _ := of.(map[string]any)
	for _, key := range keys {
		if _, ok := m[key]; ok {
			return true
		}
	}
	return false
}

func anyManager(managedFields any, managers []ssa.FieldManager) bool {
	entries, _ := managedFields.([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		name, _ := entry["manager"].(string)
		operation, _ := entry["operation"].(string)
		if sub, _ := entry["subresource"].(string); sub != "" {
			continue // kubectl scale writes there; that is not in the way of an apply.
		}
		for _, m := range managers {
			if string(m.OperationType) == operation && strings.HasPrefix(name, m.Name) {
				return true
			}
		}
	}
	return false
}

// notable says whether the difference between two observations of one object is worth waking its owner. Status churn,
// which only moves the resourceVersion, is not.
func notable(before, after Observation) bool {
	return before.UID != after.UID || before.Owned != after.Owned || before.Unclean != after.Unclean ||
		before.Health != after.Health
}

// older says whether resourceVersion a is from before b. Versions are numbers that grow within one kind; an API that
// uses something else gets the benefit of the doubt, and what it says last counts.
func older(a, b string) bool {
	if b == "" {
		return false
	}
	if a == "" {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

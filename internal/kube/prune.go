package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/object"
)

var (
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
	crdKind       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
)

// Outcome says what became of an object that was to be pruned.
type Outcome string

const (
	// Deleted: the API server accepted the deletion, and nothing holds it up.
	Deleted Outcome = "deleted"
	// Gone: it did not exist any more, or its kind did not.
	Gone Outcome = "gone"
	// HandedOver: its owner labels name another owner, or nobody. It is not ours to delete.
	HandedOver Outcome = "handed over"
	// KeptDisabled: a label or annotation on the live object says to keep it.
	KeptDisabled Outcome = "kept: disabled"
	// KeptProtected: it is one of the few objects that are never pruned.
	KeptProtected Outcome = "kept: protected"
	// Deleting: the API server accepted the deletion just now, and finalizers hold it up.
	Deleting Outcome = "deleting"
	// Terminating: it was being deleted already, and finalizers hold it up.
	Terminating Outcome = "terminating"
	// InUse: it is a CRD with objects that stay, and which would go with it.
	InUse Outcome = "in use"
	// Pending: it is a CRD whose last objects are on their way out. It is deleted once they are gone.
	Pending Outcome = "pending"
	// Failed: something went wrong; the error of Prune says what.
	Failed Outcome = "failed"
)

// Tracked says whether the object stays in the inventory, to be tried again.
func (o Outcome) Tracked() bool {
	switch o {
	case Deleting, Terminating, InUse, Pending, Failed:
		return true
	case Deleted, Gone, HandedOver, KeptDisabled, KeptProtected:
		return false
	default:
		return true
	}
}

// Pruned says what became of one object.
type Pruned struct {
	Ref     object.Ref
	Outcome Outcome
	// Message says why, for every outcome but Deleted and Gone: what keeps it, what holds it up.
	Message string
}

// PruneResult says what became of every object that was to be pruned, in the order in which they were.
type PruneResult []Pruned

// With returns the objects with one of these outcomes.
func (r PruneResult) With(outcomes ...Outcome) []object.Ref {
	var refs []object.Ref
	for _, p := range r {
		if slices.Contains(outcomes, p.Outcome) {
			refs = append(refs, p.Ref)
		}
	}
	return refs
}

// Refs returns all objects.
func (r PruneResult) Refs() []object.Ref {
	refs := make([]object.Ref, 0, len(r))
	for _, p := range r {
		refs = append(refs, p.Ref)
	}
	return refs
}

// String says of each object why it is still there.
func (r PruneResult) String() string {
	text := make([]string, 0, len(r))
	for _, p := range r {
		text = append(text, p.Ref.String()+": "+p.Message)
	}
	return strings.Join(text, "; ")
}

// Remaining returns the objects that stay in the inventory, sorted.
func (r PruneResult) Remaining() []object.Ref {
	var refs []object.Ref
	for _, p := range r {
		if p.Outcome.Tracked() {
			refs = append(refs, p.Ref)
		}
	}
	object.Sort(refs)
	return refs
}

// Kept returns what is still there although it is gone from Git, for a reason that is no error and that people should know.
func (r PruneResult) Kept() PruneResult {
	return slices.DeleteFunc(slices.Clone(r), func(p Pruned) bool {
		return !slices.Contains([]Outcome{HandedOver, KeptProtected, InUse, Terminating}, p.Outcome)
	})
}

// PruneOptions says how one owner's objects are pruned.
type PruneOptions struct {
	// Force deletes a CRD with all objects of its kind, whoever they belong to (spec.force). One CRD asks for that itself by
	// api.ForceAnnotation.
	Force bool
}

// Prune deletes objects of an owner in reverse apply order. Each is read first, and what was read is what is deleted: an
// object that was replaced or changed meanwhile is judged anew. One failure does not keep the others from being
// deleted; the error joins all.
func (a *Applier) Prune(ctx context.Context, owner types.NamespacedName, refs []object.Ref, opts PruneOptions) (PruneResult, error) {
	refs = slices.Clone(refs)
	object.Sort(refs)
	slices.Reverse(refs)
	p := &pruning{Applier: a, owner: owner, opts: opts, outcomes: make(map[object.Key]Outcome, len(refs))}
	var result PruneResult
	var errs []error
	for _, ref := range refs {
		outcome, message, err := p.prune(ctx, ref)
		if err != nil {
			outcome, message = Failed, err.Error()
			errs = append(errs, err)
		}
		if !outcome.Tracked() {
			a.forgetObject(owner, ref.Key())
		}
		p.outcomes[ref.Key()] = outcome
		result = append(result, Pruned{Ref: ref, Outcome: outcome, Message: message})
	}
	return result, errors.Join(errs...)
}

func (a *Applier) forgetObject(owner types.NamespacedName, key object.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.applied[owner], key)
}

// pruning is one Prune.
type pruning struct {
	*Applier
	owner types.NamespacedName
	opts  PruneOptions
	// outcomes is what became of those before in the order.
	outcomes map[object.Key]Outcome
}

// pruneAttempts is how often an object is judged anew because it changed between the look and the deletion.
const pruneAttempts = 5

func (p *pruning) prune(ctx context.Context, ref object.Ref) (Outcome, string, error) {
	var conflict error
	for range pruneAttempts {
		live, err := p.read(ctx, ref)
		if err != nil {
			return Failed, "", fmt.Errorf("%s query failed: %w", ref, err)
		}
		if live == nil {
			return Gone, "", nil
		}
		outcome, message, err := p.judge(ctx, ref, live)
		if err != nil || outcome != Deleted {
			return outcome, message, err
		}
		switch err := p.delete(ctx, live); {
		case err == nil && len(live.GetFinalizers()) > 0:
			return Deleting, awaiting(live), nil
		case err == nil:
			return Deleted, "", nil
		case apierrors.IsNotFound(err):
			return Gone, "", nil
		case apierrors.IsConflict(err):
			conflict = err
		default:
			// Admission may quote what it keeps from being deleted.
			return Failed, "", object.MaskError(fmt.Errorf("%s delete failed: %w", ref, err), live)
		}
	}
	return Failed, "", fmt.Errorf("%s delete failed: %w", ref, conflict)
}

// judge decides what is to become of a live object; Deleted means that it may be deleted now.
//
//	never pruned            → KeptProtected
//	not ours by its labels  → HandedOver
//	marked to be kept       → KeptDisabled
//	on its way out already  → Terminating
//	CRD of objects          → InUse, or Pending when these are on their way out
func (p *pruning) judge(ctx context.Context, ref object.Ref, live *unstructured.Unstructured) (Outcome, string, error) {
	if why := p.protected(ref); why != "" {
		return KeptProtected, why, nil
	}
	if other := p.options.Owner.Labels.Of(live); other != p.owner {
		if other == (types.NamespacedName{}) {
			return HandedOver, "its owner labels were removed", nil
		}
		return HandedOver, "it belongs to " + p.options.Owner.Kind + " " + other.String(), nil
	}
	for _, key := range []string{api.PruneAnnotation, api.ReconcileAnnotation} {
		if object.Marked(live, key, api.Disabled) {
			return KeptDisabled, key + " is " + api.Disabled, nil
		}
	}
	if live.GetDeletionTimestamp() != nil {
		return Terminating, awaiting(live), nil
	}
	if ref.GroupKind() == crdKind && !p.opts.Force && !object.Marked(live, api.ForceAnnotation, api.Enabled) {
		return p.instances(ctx, live)
	}
	return Deleted, "", nil
}

// neededNamespaces are those that Kubernetes makes and does not work without.
var neededNamespaces = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease}

// protected says why an object is never pruned, whatever Git says; empty when it may be. A wrong targetNamespace once
// was enough to make Flux delete itself (faults.md F05).
func (p *pruning) protected(ref object.Ref) string {
	switch ref.GroupKind() {
	case namespaceKind:
		if ref.Name == p.options.Namespace {
			return "the agent runs in this namespace"
		}
		if slices.Contains(neededNamespaces, ref.Name) {
			return "Kubernetes needs this namespace"
		}
	case crdKind:
		if strings.HasSuffix(ref.Name, ".fluxcd.io") {
			return "every object of this Flux kind would go with it"
		}
	}
	for _, self := range p.options.Self {
		if self.Key() == ref.Key() {
			return "the agent runs by it"
		}
	}
	return ""
}

func awaiting(live *unstructured.Unstructured) string {
	finalizers := live.GetFinalizers()
	if len(finalizers) == 0 {
		return "it is being deleted"
	}
	slices.Sort(finalizers)
	return "it is being deleted and waits for its finalizers: " + strings.Join(finalizers, ", ")
}

// instances judges a CRD by the objects of its kind. Those that are being pruned come before it in the order; what is left of
// them, and objects that stay, would go with it.
func (p *pruning) instances(ctx context.Context, crd *unstructured.Unstructured) (Outcome, string, error) {
	kinds := kindsOf(crd)
	if len(kinds) == 0 || health.Of(crd).Status != health.Current {
		return Deleted, "", nil // A CRD that serves no version or never was established has no objects.
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kinds[0].GroupVersion().WithKind(kinds[0].Kind + "List"))
	outcome, message := Deleted, ""
	for {
		page, cancel := context.WithTimeout(ctx, requestTimeout)
		err := p.client.List(page, list, client.Limit(500), client.Continue(list.GetContinue()))
		cancel()
		if err != nil {
			return Failed, "", fmt.Errorf("listing objects of CustomResourceDefinition/%s: %w", crd.GetName(), err)
		}
		for _, item := range list.Items {
			ref := object.Ref{Group: kinds[0].Group, Version: kinds[0].Version, Kind: kinds[0].Kind, Namespace: item.Namespace, Name: item.Name}
			switch p.outcomes[ref.Key()] {
			case Deleting, Terminating, Failed:
				outcome, message = Pending, fmt.Sprintf("it waits until %s and maybe others are gone", ref)
			case Deleted, Gone, HandedOver, KeptDisabled, KeptProtected, InUse, Pending, "":
				return InUse, fmt.Sprintf("%s and maybe others exist that are not part of this deletion and would go with it; delete them first, or annotate it with %s=%s",
					ref, api.ForceAnnotation, api.Enabled), nil
			}
		}
		if list.GetContinue() == "" {
			return outcome, message, nil
		}
	}
}

// read returns a live object; nil when it does not exist, or when its kind is not served at all any more.
func (a *Applier) read(ctx context.Context, ref object.Ref) (*unstructured.Unstructured, error) {
	if a.impossible(ref) {
		return nil, nil
	}
	live, err := a.get(ctx, ref)
	switch {
	case err == nil:
		return live, nil
	case apierrors.IsNotFound(err) && !kindGone(err):
		return nil, nil
	case !kindGone(err) && !isDiscovery(err):
		return nil, err
	}
	// The kind was not found at this version. Only discovery can tell whether that is the end of it.
	version, served := a.mapper.Served(ctx, ref.GroupKind(), ref.Version)
	switch {
	case errors.Is(served, ErrNotServed):
		return nil, nil
	case served != nil:
		return nil, served
	}
	a.mapper.Reset()
	ref.Version = version
	live, err = a.get(ctx, ref)
	if apierrors.IsNotFound(err) && !kindGone(err) {
		return nil, nil
	}
	return live, err
}

// impossible says whether no object of that name can exist. What Git asks for is tracked before the API server has seen
// it, so that a typo there (a name with a slash, a namespaced object without a namespace) gets into inventories, and has to
// get out again without being asked for: the client refuses to.
func (a *Applier) impossible(ref object.Ref) bool {
	if len(content.IsPathSegmentName(ref.Name)) > 0 || len(content.IsPathSegmentName(ref.Namespace)) > 0 {
		return true
	}
	if ref.Namespace != "" {
		return false
	}
	mapping, err := a.mapper.RESTMapping(ref.GroupKind(), ref.Version)
	return err == nil && mapping.Scope.Name() == meta.RESTScopeNameNamespace
}

// isDiscovery says whether an error is no answer to a request about the object, so that it may be about finding the kind.
func isDiscovery(err error) bool {
	var answer apierrors.APIStatus
	return !errors.As(err, &answer)
}

func (a *Applier) get(ctx context.Context, ref object.Ref) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(ref.GroupVersionKind())
	if err := a.client.Get(ctx, ref.NamespacedName(), live); err != nil {
		return nil, err
	}
	a.observer.Record(live)
	return live, nil
}

// MayRead is an error when the user may not read an object, or when that cannot be told. One that is not there may be.
func (a *Applier) MayRead(ctx context.Context, ref object.Ref) error {
	if a.impossible(ref) {
		return nil
	}
	if _, err := a.get(ctx, ref); err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
		return fmt.Errorf("%s: %w", ref, err)
	}
	return nil
}

// delete deletes the very object that was read.
func (a *Applier) delete(ctx context.Context, live *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	uid, version := live.GetUID(), live.GetResourceVersion()
	return a.client.Delete(ctx, live,
		client.PropagationPolicy(metav1.DeletePropagationBackground),
		client.Preconditions{UID: &uid, ResourceVersion: &version})
}

// Lingering returns those of refs that still exist, and what holds each up, for a deletionPolicy that waits for the end. It does not block: a
// watch that is synced is believed that an object is gone, otherwise the object is read.
func (a *Applier) Lingering(ctx context.Context, refs []object.Ref) (PruneResult, error) {
	var out PruneResult
	for _, ref := range refs {
		if _, state := a.observer.Get(ref); state.Gone() {
			continue
		}
		live, err := a.read(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("%s query failed: %w", ref, err)
		}
		if live != nil {
			out = append(out, Pruned{Ref: ref, Outcome: Terminating, Message: awaiting(live)})
		}
	}
	return out, nil
}

package object

import (
	"cmp"
	"errors"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa"
)

// Sort orders refs as they are applied, which is also the order of Flux's inventories: kinds that others need come first,
// webhook configurations last, ties by group, kind, namespace and name.
func Sort(refs []Ref) {
	order := applyOrder()
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(
			cmp.Compare(order[a.Kind], order[b.Kind]),
			cmp.Compare(a.Group, b.Group),
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Version, b.Version),
		)
	})
}

// applyOrder ranks the kinds that ssa orders. ssa's own comparison builds this map at every call, which a sort of
// thousands of objects feels.
func applyOrder() map[string]int {
	first, last := ssa.ReconcileOrder.First, ssa.ReconcileOrder.Last
	order := make(map[string]int, len(first)+len(last))
	for i, kind := range first {
		order[kind] = i - len(first)
	}
	for i, kind := range last {
		order[kind] = i + 1
	}
	return order
}

// Union returns the objects of a or b, sorted, each once. An object that is in both is taken from a, so that a has the
// say about the version.
func Union(a, b []Ref) []Ref {
	out := make([]Ref, 0, len(a)+len(b))
	seen := make(map[Key]bool, len(a)+len(b))
	for _, refs := range [][]Ref{a, b} {
		for _, r := range refs {
			if !seen[r.Key()] {
				seen[r.Key()] = true
				out = append(out, r)
			}
		}
	}
	Sort(out)
	return out
}

// Subtract returns the objects of a that are not in b, sorted. Versions do not count.
func Subtract(a, b []Ref) []Ref {
	drop := make(map[Key]bool, len(b))
	for _, r := range b {
		drop[r.Key()] = true
	}
	var out []Ref
	for _, r := range a {
		if !drop[r.Key()] {
			out = append(out, r)
		}
	}
	Sort(out)
	return out
}

// FromInventory returns the objects that an inventory names, sorted. A nil inventory names none. The error names every
// entry that cannot be read; the refs are then those of the other entries and must not be taken for the whole.
func FromInventory(inventory *kustomizev1.ResourceInventory) ([]Ref, error) {
	if inventory == nil {
		return nil, nil
	}
	var errs []error
	out := make([]Ref, 0, len(inventory.Entries))
	for _, e := range inventory.Entries {
		r, err := ParseRef(e.ID, e.Version)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, r)
	}
	Sort(out)
	return out, errors.Join(errs...)
}

// ToInventory returns the inventory that names refs, in their sorted order.
func ToInventory(refs []Ref) *kustomizev1.ResourceInventory {
	sorted := slices.Clone(refs)
	Sort(sorted)
	inventory := &kustomizev1.ResourceInventory{Entries: make([]kustomizev1.ResourceRef, 0, len(sorted))}
	for _, r := range sorted {
		inventory.Entries = append(inventory.Entries, kustomizev1.ResourceRef{ID: r.ID(), Version: r.Version})
	}
	return inventory
}

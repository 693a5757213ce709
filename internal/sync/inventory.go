package sync

import (
	"context"
	"errors"
	"fmt"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// inventory is what a Kustomization tracks, and where that is on record: in its status as far as there is room, the rest in
// pages, which are entries of the status like any other (docs/adr/0017-large-inventories-spill.md).
type inventory struct {
	// refs is everything that is tracked. A page is none of it: it is neither desired nor stale.
	refs []object.Ref
	// kept are those of refs that are entries of the status.
	kept []object.Ref
	// pages hold the others. They are on the cluster.
	pages []pageRef
	// superseded are pages of an earlier inventory that are still there, so that the status still names them.
	superseded []pageRef
}

// pageRef is a page on the cluster, by which it can be deleted and nothing else of its name.
type pageRef struct {
	name            string
	uid             types.UID
	resourceVersion string
}

// status returns the inventory as Flux's API has it.
func (i inventory) status(owner types.NamespacedName) *kustomizev1.ResourceInventory {
	var named []object.Ref
	for _, list := range [][]pageRef{i.pages, i.superseded} {
		for _, page := range list {
			named = append(named, object.PageRef(owner, page.name))
		}
	}
	return object.ToInventory(object.Union(i.kept, named))
}

// has says whether a page is one of the inventory's.
func has(pages []pageRef, name string) bool {
	for _, page := range pages {
		if page.name == name {
			return true
		}
	}
	return false
}

// pageMemory is what was read or written of pages, for as long as the agent lives. Somebody may delete a page, and the
// namespace controller does when the namespace goes: what only that page named must then still be pruned.
type pageMemory struct {
	mu sync.Mutex
	by map[types.NamespacedName]map[string][]object.Ref
}

func newPageMemory() *pageMemory {
	return &pageMemory{by: map[types.NamespacedName]map[string][]object.Ref{}}
}

func (m *pageMemory) get(owner types.NamespacedName, name string) ([]object.Ref, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	refs, ok := m.by[owner][name]
	return refs, ok
}

func (m *pageMemory) put(owner types.NamespacedName, name string, refs []object.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by[owner] == nil {
		m.by[owner] = map[string][]object.Ref{}
	}
	m.by[owner][name] = refs
}

// keep drops all but these pages of an owner.
func (m *pageMemory) keep(owner types.NamespacedName, pages []pageRef) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.by[owner] {
		if !has(pages, name) {
			delete(m.by[owner], name)
		}
	}
	if len(m.by[owner]) == 0 {
		delete(m.by, owner)
	}
}

// errUnbelievable says that a page is not what its name says.
var errUnbelievable = errors.New("this page of the inventory cannot be believed")

// loadInventory reads what is tracked, with the pages that the status names. Nothing is taken from a page that is gone or is not
// what its name says: it is told of, and what only that page named is neither pruned nor known any more. A page that cannot be
// read is an error, since nothing partial may be taken for the whole.
func (r *Reconciler) loadInventory(ctx context.Context, a *attempt) (inventory, error) {
	entries, err := object.FromInventory(a.ks.Status.Inventory)
	if err != nil {
		return inventory{}, fmt.Errorf("reading status.inventory: %w", err)
	}
	var loaded inventory
	var lost []string
	for _, ref := range entries {
		if !object.IsPage(a.key, ref) {
			loaded.kept = append(loaded.kept, ref)
			continue
		}
		refs, live, err := r.readPage(ctx, a.key, ref)
		switch {
		case apierrors.IsNotFound(err), errors.Is(err, errUnbelievable):
			lost = append(lost, fmt.Sprintf("%s: %v", ref, err))
			continue
		case err != nil:
			return inventory{}, fmt.Errorf("reading %s, a page of the inventory: %w", ref, err)
		}
		loaded.refs = append(loaded.refs, refs...)
		if live != nil {
			loaded.pages = append(loaded.pages, *live)
		}
	}
	if len(lost) > 0 {
		r.Recorder.Record(a.ks, lostPagesEvent(lost, a.metadata()))
	}
	loaded.refs = object.Union(loaded.kept, loaded.refs)
	return loaded, nil
}

// readPage returns what a page names, and the page unless it is known from memory alone. The error is NotFound when it is
// gone and errUnbelievable when it is not what its name says.
func (r *Reconciler) readPage(ctx context.Context, owner types.NamespacedName, ref object.Ref) ([]object.Ref, *pageRef, error) {
	live := &corev1.ConfigMap{}
	err := r.Pages.Get(ctx, ref.NamespacedName(), live)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, nil, err
	}
	if err == nil {
		page, parseErr := object.ParsePage(owner, ref.Name, live.Data[pageKey])
		if parseErr == nil {
			r.memory.put(owner, page.Name, page.Refs)
			return page.Refs, &pageRef{page.Name, live.UID, live.ResourceVersion}, nil
		}
		err = fmt.Errorf("%w: %w", errUnbelievable, parseErr)
	}
	if refs, ok := r.memory.get(owner, ref.Name); ok {
		return refs, nil, nil
	}
	return nil, nil, err
}

// pageKey is the key of a page's content in its ConfigMap.
const pageKey = "inventory"

// record puts on record that refs are tracked, and nothing else. The pages are written before the status that names them, and
// the old ones deleted after it, so that whenever the agent dies the status names all that was tracked before or is
// now. A page that was written and is not named yet is garbage, which goes with its owner.
func (r *Reconciler) record(ctx context.Context, a *attempt, refs []object.Ref) error {
	next, err := r.writePages(ctx, a, refs)
	if err != nil {
		return err
	}
	a.inventory, a.recorded = next, true
	if err := a.run.Save(ctx, a.setInventory); err != nil {
		return err
	}
	r.dropSuperseded(ctx, a)
	return nil
}

// forget takes out of the record what is tracked no more. Unless pages are concerned that costs nothing now: the report at the
// end of the run writes it. If it cannot be done, more stays on record than need be.
func (r *Reconciler) forget(ctx context.Context, a *attempt, refs []object.Ref) error {
	if len(a.inventory.pages)+len(a.inventory.superseded) > 0 {
		return r.record(ctx, a, refs)
	}
	if kept, pages := object.Paginate(a.key, refs, r.Options.InventoryLimit); len(pages) == 0 {
		a.inventory = inventory{refs: refs, kept: kept}
		return nil
	}
	return r.record(ctx, a, refs)
}

func (a *attempt) setInventory(ks *kustomizev1.Kustomization) {
	ks.Status.Inventory = a.inventory.status(a.key)
}

// writePages creates the pages that an inventory of refs needs and that are not there.
func (r *Reconciler) writePages(ctx context.Context, a *attempt, refs []object.Ref) (inventory, error) {
	kept, pages := object.Paginate(a.key, refs, r.Options.InventoryLimit)
	next := inventory{refs: refs, kept: kept}
	there := append(append([]pageRef(nil), a.inventory.pages...), a.inventory.superseded...)
	for _, page := range pages {
		live, err := r.writePage(ctx, a.ks, page, there)
		if err != nil {
			return inventory{}, fmt.Errorf("writing ConfigMap/%s/%s, a page of the inventory: %w", a.key.Namespace, page.Name, err)
		}
		r.memory.put(a.key, page.Name, page.Refs)
		next.pages = append(next.pages, live)
	}
	for _, old := range there {
		if !has(next.pages, old.name) {
			next.superseded = append(next.superseded, old)
		}
	}
	return next, nil
}

// writePage creates a page unless it is there. The agent does so with its own rights: what a tenant may write is no matter.
func (r *Reconciler) writePage(ctx context.Context, ks *kustomizev1.Kustomization, page object.Page, there []pageRef) (pageRef, error) {
	for _, live := range there {
		if live.name == page.Name {
			return live, nil
		}
	}
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ks.Namespace, Name: page.Name,
			Labels: map[string]string{api.OwnerName: ks.Name, api.OwnerNamespace: ks.Namespace},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: api.KustomizationKind.GroupVersion().String(), Kind: api.KustomizationKind.Kind, Name: ks.Name, UID: ks.UID,
			}},
		},
		Immutable: ptr.To(true),
		Data:      map[string]string{pageKey: page.Content},
	}
	err := r.Pages.Create(ctx, configMap, client.FieldOwner(api.SyncStatusManager))
	if apierrors.IsAlreadyExists(err) { // of a run that did not get as far as to name it, or a forgery
		_, live, err := r.readPage(ctx, client.ObjectKeyFromObject(ks), object.PageRef(client.ObjectKeyFromObject(ks), page.Name))
		if err == nil && live == nil {
			err = fmt.Errorf("%w, delete it", errUnbelievable)
		}
		if err != nil {
			return pageRef{}, err
		}
		return *live, nil
	}
	return pageRef{page.Name, configMap.UID, configMap.ResourceVersion}, err
}

// dropSuperseded deletes pages that no inventory needs any more. One that cannot be deleted stays named and is tried again.
func (r *Reconciler) dropSuperseded(ctx context.Context, a *attempt) {
	var left []pageRef
	for _, page := range a.inventory.superseded {
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: a.key.Namespace, Name: page.name}}
		err := r.Pages.Delete(ctx, configMap, client.Preconditions{UID: &page.uid, ResourceVersion: &page.resourceVersion})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			r.Log.Error("deleting a page of the inventory", "name", a.key.Name, "namespace", a.key.Namespace, "page", page.name, "error", err)
			left = append(left, page)
		}
	}
	a.inventory.superseded = left
	r.memory.keep(a.key, append(append([]pageRef(nil), a.inventory.pages...), left...))
}

// untrackable says that what is tracked cannot be read.
func untrackable(err error, reason string) error {
	return api.Faultf(reason, api.RetryBackoff, "%w; nothing was changed on the cluster", err)
}

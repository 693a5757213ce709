package sync

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sigs.k8s.io/kustomize/api/resmap"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// builds remembers, of every Kustomization, the last build that was applied in full: not its objects, but which they are
// and what they were made from. Who finds all of that unchanged in a new revision need not build.
type builds struct {
	mu sync.Mutex
	by map[types.NamespacedName]*Build
}

func newBuilds() *builds { return &builds{by: map[types.NamespacedName]*Build{}} }

// origin is all that a build was made from.
type origin struct {
	asked      object.Digest // of the spec
	changes    uint64        // of variables and keys, as far as they had been told of; see counters
	reads      *reads
	references map[object.Ref]version
}

// version is the state of an object that was read from the cluster; the zero value when there was none.
type version struct {
	uid             types.UID
	resourceVersion string
}

// keep remembers a build that was applied.
func (b *builds) keep(key types.NamespacedName, build *Build) {
	if build.from == nil {
		return
	}
	known := *build
	known.Objects, known.Sensitive = nil, nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.by[key] = &known
}

func (b *builds) drop(key types.NamespacedName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.by, key)
}

// known says whether a build is remembered.
func (b *builds) known(key types.NamespacedName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.by[key] != nil
}

// unaffected says whether all that the remembered build has read of its source is the same in files.
func (b *builds) unaffected(key types.NamespacedName, files files) bool {
	b.mu.Lock()
	known := b.by[key]
	b.mu.Unlock()
	return known != nil && known.from.reads.sameIn(files)
}

// observer knows the state of what builds refer to.
type observer interface {
	Get(object.Ref) (kube.Observation, kube.State)
}

// same returns the build that is remembered if a build of files would be the same, and nil otherwise. changes is how often
// the object was told that what it refers to has changed: it may have been told before the observer was.
func (b *builds) same(ks *kustomizev1.Kustomization, changes uint64, files files, observer observer) *Build {
	b.mu.Lock()
	known := b.by[client.ObjectKeyFromObject(ks)]
	b.mu.Unlock()
	if known == nil || known.from.asked != digestOfSpec(ks) || known.from.changes != changes || !known.from.reads.sameIn(files) {
		return nil
	}
	for ref, was := range known.from.references {
		is, state := observer.Get(ref)
		switch {
		case !state.Synced: // nothing is known for sure
			return nil
		case version{is.UID, is.ResourceVersion} != was: // both are zero when there is none
			return nil
		}
	}
	return known
}

// references returns what the build has read from the cluster.
func (b *Build) references() []object.Ref {
	if b.from == nil {
		return nil
	}
	refs := slices.Collect(maps.Keys(b.from.references))
	object.Sort(refs)
	return refs
}

// digestOfSpec identifies what a Kustomization asks for.
func digestOfSpec(ks *kustomizev1.Kustomization) object.Digest {
	text, err := json.Marshal(ks.Spec)
	if err != nil {
		panic("a spec that was decoded from JSON cannot be encoded: " + err.Error())
	}
	return object.DigestOfText(string(text))
}

// references is a client that notes which ConfigMaps and Secrets are read through it, and at which version.
type references struct {
	client.Client
	seen map[object.Ref]version
}

func (r *references) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	gvk, err := r.GroupVersionKindFor(obj)
	if err != nil {
		return err
	}
	ref := object.Ref{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: key.Namespace, Name: key.Name}
	err = r.Client.Get(ctx, key, obj, opts...)
	switch {
	case err == nil:
		r.seen[ref] = version{uid: obj.GetUID(), resourceVersion: obj.GetResourceVersion()}
	case apierrors.IsNotFound(err):
		r.seen[ref] = version{}
	}
	return err
}

// accumulations are the last runs of the kustomize library, for those that read the very same: Kustomizations of one path
// that differ only in their variables, as tenants of one application do.
type accumulations struct {
	mu   sync.Mutex
	last []*accumulation // the newest first
}

type accumulation struct {
	key       object.Digest // of the directory and the kustomization file with the settings of the spec
	reads     *reads
	resources resmap.ResMap
}

// What is kept is bounded: a resource of a resmap takes some ten KiB.
const (
	maxAccumulations        = 8
	maxAccumulatedResources = 500
)

// find returns a copy of what an earlier run has given, if it has read what is in files, and what that was.
func (s *accumulations) find(key object.Digest, files files) (resmap.ResMap, *reads) {
	s.mu.Lock()
	last := slices.Clone(s.last)
	s.mu.Unlock()
	for _, a := range last {
		if a.key == key && a.reads.sameIn(files) {
			return a.resources.DeepCopy(), a.reads
		}
	}
	return nil, nil
}

// keep takes in a copy of resources. Of one key only the newest is kept.
func (s *accumulations) keep(key object.Digest, resources resmap.ResMap, seen *reads) {
	if resources.Size() > maxAccumulatedResources {
		return
	}
	a := &accumulation{key: key, reads: seen, resources: resources.DeepCopy()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = slices.DeleteFunc(s.last, func(old *accumulation) bool { return old.key == key })
	s.last = slices.Insert(s.last, 0, a)
	s.last = s.last[:min(len(s.last), maxAccumulations)]
}

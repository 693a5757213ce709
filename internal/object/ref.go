package object

import (
	"fmt"

	"github.com/fluxcd/cli-utils/pkg/object"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Ref names one object in a cluster. Namespace is empty for a cluster-scoped kind.
type Ref struct {
	Group     string
	Version   string
	Kind      string
	Namespace string
	Name      string
}

// Key is a Ref without its version: two Refs with the same Key are the same object, whatever version it is read at.
type Key struct {
	Group     string
	Kind      string
	Namespace string
	Name      string
}

// RefOf returns the Ref of an object.
func RefOf(u *unstructured.Unstructured) Ref {
	gvk := u.GroupVersionKind()
	return Ref{
		Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind,
		Namespace: u.GetNamespace(), Name: u.GetName(),
	}
}

// ParseRef reads an inventory entry: its id, `<namespace>_<name>_<group>_<kind>`, and its API version.
func ParseRef(id, version string) (Ref, error) {
	m, err := object.ParseObjMetadata(id)
	if err != nil {
		return Ref{}, fmt.Errorf("inventory id %q is not <namespace>_<name>_<group>_<kind>", id)
	}
	if m.Name == "" || m.GroupKind.Kind == "" {
		return Ref{}, fmt.Errorf("inventory id %q has no name or no kind", id)
	}
	return Ref{
		Group: m.GroupKind.Group, Version: version, Kind: m.GroupKind.Kind,
		Namespace: m.Namespace, Name: m.Name,
	}, nil
}

// ID returns the inventory id, in which a colon in an RBAC name is written as two underscores.
func (r Ref) ID() string { return r.metadata().String() }

// String returns Kind/namespace/name, or Kind/name for a cluster-scoped object.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + "/" + r.Name
	}
	return r.Kind + "/" + r.Namespace + "/" + r.Name
}

// Key returns the Ref without its version.
func (r Ref) Key() Key {
	return Key{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
}

// GroupVersionKind returns the kind of the object at the version of the Ref.
func (r Ref) GroupVersionKind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// GroupKind returns the kind of the object.
func (r Ref) GroupKind() schema.GroupKind { return schema.GroupKind{Group: r.Group, Kind: r.Kind} }

// NamespacedName returns the name of the object within its kind.
func (r Ref) NamespacedName() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

func (r Ref) metadata() object.ObjMetadata {
	return object.ObjMetadata{Namespace: r.Namespace, Name: r.Name, GroupKind: r.GroupKind()}
}

package depend

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/cleat-dev/cleat/internal/api"
)

// Kinds are those that can be depended on, at the version that is read. Their names are unique.
var Kinds = []schema.GroupVersionKind{
	api.KustomizationKind, api.HelmReleaseKind,
	api.GitRepositoryKind, api.OCIRepositoryKind, api.HelmRepositoryKind, api.HelmChartKind, api.BucketKind, api.ExternalArtifactKind,
}

// maxRefs is how many objects one annotation may name.
const maxRefs = 100

// Ref names an object of one of Kinds.
type Ref struct {
	Kind string
	types.NamespacedName
}

// RefOf returns the Ref of an object.
func RefOf(u *unstructured.Unstructured) Ref {
	return Ref{Kind: u.GetKind(), NamespacedName: types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}}
}

// String returns Kind/namespace/name.
func (r Ref) String() string { return r.Kind + "/" + r.NamespacedName.String() }

// GVK returns the kind of the object; it is zero if that is none of Kinds.
func (r Ref) GVK() schema.GroupVersionKind {
	for _, gvk := range Kinds {
		if gvk.Kind == r.Kind {
			return gvk
		}
	}
	return schema.GroupVersionKind{}
}

// Parse reads the annotation api.DependsOnAnnotation of an object in the given namespace: Kind/namespace/name or, in its own
// namespace, Kind/name, separated by commas. What is named twice is returned once.
func Parse(annotation, namespace string) ([]Ref, error) {
	if strings.TrimSpace(annotation) == "" {
		return nil, nil
	}
	entries := strings.Split(annotation, ",")
	if len(entries) > maxRefs {
		return nil, fmt.Errorf("it names %d objects, more than %d", len(entries), maxRefs)
	}
	var refs []Ref
	for _, entry := range entries {
		ref, err := parse(strings.TrimSpace(entry), namespace)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

func parse(entry, namespace string) (Ref, error) {
	parts := strings.Split(entry, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], namespace, parts[1]}
	}
	if len(parts) != 3 {
		return Ref{}, fmt.Errorf("%q is neither Kind/name nor Kind/namespace/name", entry)
	}
	ref := Ref{Kind: parts[0], NamespacedName: types.NamespacedName{Namespace: parts[1], Name: parts[2]}}
	if ref.GVK().Empty() {
		return Ref{}, fmt.Errorf("%q is of none of the kinds %s", entry, kindNames())
	}
	if problems := append(validation.IsDNS1123Label(ref.Namespace), validation.IsDNS1123Subdomain(ref.Name)...); len(problems) > 0 {
		return Ref{}, fmt.Errorf("%q names no object: %s", entry, problems[0])
	}
	return ref, nil
}

func kindNames() string {
	names := make([]string, len(Kinds))
	for i, gvk := range Kinds {
		names[i] = gvk.Kind
	}
	return strings.Join(names, ", ")
}

// Of returns what an object depends on by spec.dependsOn, whose entries are of its own kind, and by annotation. What cannot be
// read is left out: the object itself is told of it when its turn comes.
func Of(u *unstructured.Unstructured) []Ref {
	var refs []Ref
	spec, _ := u.Object["spec"].(map[string]any)
	entries, _ := spec["dependsOn"].([]any)
	for _, entry := range entries {
		reference, _ := entry.(map[string]any)
		name, _ := reference["name"].(string)
		namespace, _ := reference["namespace"].(string)
		if name != "" {
			refs = append(refs, In(u.GetNamespace(), u.GetKind(), namespace, name))
		}
	}
	more, _ := Parse(u.GetAnnotations()[api.DependsOnAnnotation], u.GetNamespace())
	return append(refs, more...)
}

// In returns a Ref whose namespace, when it is empty, is that of the object which holds it.
func In(own, kind, namespace, name string) Ref {
	if namespace == "" {
		namespace = own
	}
	return Ref{Kind: kind, NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

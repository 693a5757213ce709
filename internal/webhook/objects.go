package webhook

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// target is an object that hooks have looked at again.
type target struct {
	kind schema.GroupVersionKind
	key  types.NamespacedName
}

func (t target) String() string { return t.kind.Kind + "/" + t.key.String() }

// found is an object that a rule may choose, with what filters see of it: its metadata.
type found struct {
	target target
	fields map[string]any
}

// objects returns the objects that a rule names, or whose labels are as it says.
func (s *Server) objects(ctx context.Context, r *rule) ([]found, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	from := s.options.Objects(r.kind)
	if r.name != "" {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(r.kind)
		key := types.NamespacedName{Namespace: r.namespace, Name: r.name}
		if err := from.Get(ctx, key, u); err != nil {
			return nil, fmt.Errorf("reading %s: %w", target{r.kind, key}, err)
		}
		return []found{seen(r.kind, u)}, nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(r.kind.GroupVersion().WithKind(r.kind.Kind + "List"))
	if err := from.List(ctx, list, client.InNamespace(r.namespace), client.MatchingLabels(r.labels)); err != nil {
		return nil, fmt.Errorf("listing objects of the kind %s in the namespace %s: %w", r.kind.Kind, r.namespace, err)
	}
	objects := make([]found, 0, len(list.Items))
	for i := range list.Items {
		objects = append(objects, seen(r.kind, &list.Items[i]))
	}
	return objects, nil
}

// seen is an object as filters see it.
func seen(kind schema.GroupVersionKind, u *unstructured.Unstructured) found {
	fields := map[string]any{"apiVersion": kind.GroupVersion().String(), "kind": kind.Kind}
	if metadata, ok := u.Object["metadata"].(map[string]any); ok {
		fields["metadata"] = runtime.DeepCopyJSON(metadata)
	}
	return found{target: target{kind, types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}}, fields: fields}
}

// mark is an object that holds nothing but its name, to write a request on.
func (t target) mark() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(t.kind)
	o.Namespace, o.Name = t.key.Namespace, t.key.Name
	return o
}

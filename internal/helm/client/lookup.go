package client

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
)

const (
	// lookupPage is how many objects one request of a lookup gets.
	lookupPage = 500
	// maxLookup is how many objects one lookup may come to.
	maxLookup = 5000
)

// ErrLookupTooLarge means: a template asks for more objects than it can be given.
var ErrLookupTooLarge = errors.New("lookup finds too many objects")

// Lookup is the template function `lookup`: one object or, without a name, a list of those of a namespace or of all. It reads with
// the rights of user, who is the release's and not the agent (faults.md A15). What is not there is an empty map.
func Lookup(ctx context.Context, user *kube.User, apiVersion, kind, namespace, name string) (map[string]any, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, fmt.Errorf("lookup of apiVersion %q: %w", apiVersion, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var content map[string]any
	if name == "" {
		content, err = lookupAll(ctx, user.Client, gv.WithKind(kind), namespace)
	} else {
		content, err = lookupOne(ctx, user.Client, gv.WithKind(kind), types.NamespacedName{Namespace: namespace, Name: name})
	}
	switch {
	case apierrors.IsNotFound(err):
		return map[string]any{}, nil
	case err != nil:
		return nil, fmt.Errorf("lookup of %s %s %s/%s: %w", apiVersion, kind, namespace, name, err)
	}
	return content, nil
}

func lookupOne(ctx context.Context, reader client.Reader, gvk schema.GroupVersionKind, name types.NamespacedName) (map[string]any, error) {
	found := &unstructured.Unstructured{}
	found.SetGroupVersionKind(gvk)
	if err := reader.Get(ctx, name, found); err != nil {
		return nil, err
	}
	return found.UnstructuredContent(), nil
}

func lookupAll(ctx context.Context, reader client.Reader, gvk schema.GroupVersionKind, namespace string) (map[string]any, error) {
	all := &unstructured.UnstructuredList{}
	for next := ""; ; {
		page := &unstructured.UnstructuredList{}
		page.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err := reader.List(ctx, page, client.InNamespace(namespace), client.Limit(lookupPage), client.Continue(next)); err != nil {
			return nil, err
		}
		items := append(all.Items, page.Items...)
		if len(items) > maxLookup {
			return nil, fmt.Errorf("%w: more than %d", ErrLookupTooLarge, maxLookup)
		}
		all = page
		all.Items = items
		if next = page.GetContinue(); next == "" {
			all.SetContinue("")
			return all.UnstructuredContent(), nil
		}
	}
}

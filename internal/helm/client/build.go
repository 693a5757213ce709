package client

import (
	"errors"
	"fmt"
	"io"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// Build reads a stream of YAML documents, with the resource of each kind. What names no namespace and needs one gets the
// release's. validate changes nothing here: no schema is downloaded, the API server validates what is written.
func (c *Client) Build(reader io.Reader, _ bool) (helmkube.ResourceList, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	objects, err := Parse(reader)
	if err != nil {
		return nil, err
	}
	clients := map[schema.GroupVersion]resource.RESTClient{}
	var list helmkube.ResourceList
	for _, u := range objects {
		info, err := c.info(u, clients)
		switch {
		case c.options.DropUnserved && c.isUnserved(u, err):
			c.options.Log("leaving out %s %q: the API server has no such kind", u.GetKind(), u.GetName())
			continue // Of a kind that is not there, nothing is.
		case err != nil:
			return nil, err
		}
		list.Append(info)
	}
	return list, nil
}

// Parse reads a stream of objects and what lists hold, as Build sees them, without asking the cluster anything.
func Parse(reader io.Reader) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(reader, 4096)
	var objects []*unstructured.Unstructured
	for {
		var raw runtime.RawExtension
		switch err := decoder.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("reading the manifest: %w", err)
		case len(raw.Raw) == 0 || string(raw.Raw) == "null":
			continue // An empty document: a template that came to nothing.
		}
		decoded, err := runtime.Decode(unstructured.UnstructuredJSONScheme, raw.Raw)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		if objects, err = flatten(objects, decoded); err != nil {
			return nil, err
		}
	}
}

// flatten adds an object, or what is in a list, and in lists in it.
func flatten(to []*unstructured.Unstructured, decoded runtime.Object) ([]*unstructured.Unstructured, error) {
	switch o := decoded.(type) {
	case *unstructured.Unstructured:
		if o.GetKind() == "" {
			return nil, errors.New("reading the manifest: an object in a list has no kind")
		}
		if !o.IsList() {
			return append(to, o), nil
		}
		list, err := o.ToList()
		if err != nil {
			return nil, fmt.Errorf("reading a list in the manifest: %w", err)
		}
		return flatten(to, list)
	case *unstructured.UnstructuredList:
		for i := range o.Items {
			var err error
			if to, err = flatten(to, &o.Items[i]); err != nil {
				return nil, err
			}
		}
		return to, nil
	default:
		return nil, fmt.Errorf("reading the manifest: it holds a %T", decoded)
	}
}

// info returns what Helm knows an object by.
func (c *Client) info(u *unstructured.Unstructured, clients map[schema.GroupVersion]resource.RESTClient) (*resource.Info, error) {
	mapping, err := c.place(u)
	if err != nil {
		return nil, err
	}
	gv := mapping.GroupVersionKind.GroupVersion()
	if clients[gv] == nil {
		if clients[gv], err = c.restClient(gv); err != nil {
			return nil, err
		}
	}
	return &resource.Info{
		Client: clients[gv], Mapping: mapping, Object: u,
		Namespace: u.GetNamespace(), Name: u.GetName(), ResourceVersion: u.GetResourceVersion(),
	}, nil
}

// place finds the resource of an object, and puts it in its namespace.
func (c *Client) place(u *unstructured.Unstructured) (*meta.RESTMapping, error) {
	gvk := u.GroupVersionKind()
	mapping, err := c.cluster.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	switch {
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("unable to recognize \"\": no matches for kind %q in version %q (%s): is its CustomResourceDefinition installed? %w",
			gvk.Kind, gvk.GroupVersion(), object.RefOf(u), err)
	case err != nil:
		return nil, fmt.Errorf("finding the resource of %s: %w", object.RefOf(u), err)
	}
	switch {
	case mapping.Scope.Name() != meta.RESTScopeNameNamespace:
		u.SetNamespace("")
	case u.GetNamespace() == "":
		u.SetNamespace(c.options.Release.Namespace)
	}
	return mapping, nil
}

// isUnserved says whether the API server itself says that it does not have the kind of an object. A group whose discovery fails
// is no such word.
func (c *Client) isUnserved(u *unstructured.Unstructured, err error) bool {
	if !meta.IsNoMatchError(err) {
		return false
	}
	ctx, cancel := c.request()
	defer cancel()
	gvk := u.GroupVersionKind()
	_, served := c.cluster.Mapper.Served(ctx, gvk.GroupKind(), gvk.Version)
	return errors.Is(served, kube.ErrNotServed)
}

// refOf names what an Info is about.
func refOf(info *resource.Info) object.Ref {
	gvk := info.Mapping.GroupVersionKind
	return object.Ref{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: info.Namespace, Name: info.Name}
}

// desired returns a copy of what an Info wants, as unstructured; Helm puts nothing else there, others might.
func desired(info *resource.Info) (*unstructured.Unstructured, error) {
	if u, ok := info.Object.(*unstructured.Unstructured); ok {
		return u.DeepCopy(), nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(info.Object)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", refOf(info), err)
	}
	return &unstructured.Unstructured{Object: content}, nil
}

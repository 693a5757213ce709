// Package live reads, applies and awaits objects on a real cluster, for the tests and the demo. It waits by watching and
// never by asking again, so that the times it measures are the agent's and not its own.
package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Manager is the field manager and user agent of everything this package writes, by which a test tells its own requests
// from the agent's.
const Manager = "cleat-e2e"

// Cluster is a connection to an API server. It is safe for concurrent use.
type Cluster struct {
	Config *rest.Config
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// Connect reads a kubeconfig. It does not send a request.
func Connect(kubeconfig string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", kubeconfig, err)
	}
	config.UserAgent = Manager
	config.QPS = -1 // The server limits; a test that waits for its own client measures nothing.
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	return &Cluster{Config: config, client: client, mapper: mapper}, nil
}

// Ref names one object. Kind is anything that kubectl takes: a kind, a plural or a short name, with or without group.
type Ref struct {
	Kind, Namespace, Name string
}

// ParseRef reads "kind/name"; the object is in namespace unless it is cluster-wide.
func ParseRef(s, namespace string) (Ref, error) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok || kind == "" || name == "" {
		return Ref{}, fmt.Errorf("%q is not KIND/NAME", s)
	}
	return Ref{Kind: kind, Namespace: namespace, Name: name}, nil
}

func (r Ref) String() string { return r.Kind + "/" + r.Namespace + "/" + r.Name }

// Get returns the object, or nil when there is none.
func (c *Cluster) Get(ctx context.Context, ref Ref) (*unstructured.Unstructured, error) {
	api, err := c.resource(ref)
	if err != nil {
		return nil, err
	}
	obj, err := api.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil // Absence is an answer that callers ask for.
	}
	return obj, err
}

// List returns all objects of a kind in a namespace that carry the labels.
func (c *Cluster) List(ctx context.Context, kind, namespace, selector string) ([]unstructured.Unstructured, error) {
	api, err := c.resource(Ref{Kind: kind, Namespace: namespace})
	if err != nil {
		return nil, err
	}
	list, err := api.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// Apply applies every object of a YAML stream by server-side apply, in order, and returns them as the server holds them
// then. An object that names no namespace gets the given one.
func (c *Cluster) Apply(ctx context.Context, manifests []byte, namespace string) ([]*unstructured.Unstructured, error) {
	objects, err := Decode(manifests)
	if err != nil {
		return nil, err
	}
	for i, obj := range objects {
		if objects[i], err = c.ApplyAs(ctx, obj, namespace, Manager); err != nil {
			return nil, fmt.Errorf("applying %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return objects, nil
}

// ApplyAs applies one object by server-side apply as a field manager.
func (c *Cluster) ApplyAs(ctx context.Context, obj *unstructured.Unstructured, namespace, manager string) (*unstructured.Unstructured, error) {
	mapping, err := c.mapping(obj.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	var api dynamic.ResourceInterface = c.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		if obj.GetNamespace() == "" {
			obj.SetNamespace(namespace)
		}
		api = c.client.Resource(mapping.Resource).Namespace(obj.GetNamespace())
	}
	return api.Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: manager, Force: true})
}

// SetStatus writes an object's status as a field manager; everything else is left as it is.
func (c *Cluster) SetStatus(ctx context.Context, ref Ref, status any, manager string) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	obj, err := api.Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	obj.Object["status"] = status
	_, err = api.UpdateStatus(ctx, obj, metav1.UpdateOptions{FieldManager: manager})
	return err
}

// Patch merges a JSON document into an object.
func (c *Cluster) Patch(ctx context.Context, ref Ref, merge string) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	_, err = api.Patch(ctx, ref.Name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: Manager})
	return err
}

// PatchStatus merges a JSON document into the status of an object.
func (c *Cluster) PatchStatus(ctx context.Context, ref Ref, merge string) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	_, err = api.Patch(ctx, ref.Name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: Manager}, "status")
	return err
}

// JSONPatch changes an object by a JSON patch (RFC 6902).
func (c *Cluster) JSONPatch(ctx context.Context, ref Ref, patch string) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	_, err = api.Patch(ctx, ref.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: Manager})
	return err
}

// Scale sets the replicas of an object through its scale subresource, as Kubernetes' own autoscaler does.
func (c *Cluster) Scale(ctx context.Context, ref Ref, replicas string) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%s}}`, replicas)
	_, err = api.Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "kube-controller-manager"}, "scale")
	return err
}

// Poke asks for a reconciliation as `flux reconcile` does. The object's status repeats token once it was handled.
func (c *Cluster) Poke(ctx context.Context, ref Ref, token string) error {
	return c.Patch(ctx, ref, fmt.Sprintf(`{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":%q}}}`, token))
}

// Delete deletes an object; one that does not exist is no error.
func (c *Cluster) Delete(ctx context.Context, ref Ref) error {
	api, err := c.resource(ref)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = api.Delete(ctx, ref.Name, metav1.DeleteOptions{PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Until waits until the object satisfies holds and returns it as it was then. Holds gets nil while there is no object.
// The error of an ended context says what the object looked like last.
func (c *Cluster) Until(ctx context.Context, ref Ref, holds func(*unstructured.Unstructured) bool) (*unstructured.Unstructured, error) {
	api, err := c.resource(ref)
	if err != nil {
		return nil, err
	}
	var last *unstructured.Unstructured
	for {
		done, err := follow(ctx, api, ref.Name, func(obj *unstructured.Unstructured) bool {
			last = obj
			return holds(obj)
		})
		switch {
		case done:
			return last, nil
		case ctx.Err() != nil:
			return last, fmt.Errorf("waiting for %s: %w; it is %s", ref, ctx.Err(), Describe(last))
		case err != nil:
			return last, fmt.Errorf("waiting for %s: %w", ref, err)
		}
		// The server ended the watch, as it does after some minutes: begin anew.
	}
}

// UntilAll waits until n objects of a kind in a namespace satisfy holds at the same time.
func (c *Cluster) UntilAll(ctx context.Context, kind, namespace string, n int, holds func(*unstructured.Unstructured) bool) error {
	api, err := c.resource(Ref{Kind: kind, Namespace: namespace})
	if err != nil {
		return err
	}
	for {
		so := map[string]bool{}
		none := func() bool { return false }
		done, err := followAll(ctx, api, metav1.ListOptions{}, none, func(name string, obj *unstructured.Unstructured) bool {
			delete(so, name)
			if obj != nil && holds(obj) {
				so[name] = true
			}
			return len(so) >= n
		})
		switch {
		case done:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for %d %s in %s: %w; it holds for %d", n, kind, namespace, ctx.Err(), len(so))
		case err != nil:
			return fmt.Errorf("waiting for %d %s in %s: %w", n, kind, namespace, err)
		}
	}
}

// Follow tells of every object of a kind in a namespace, and of every change, until ctx ends; an object may be told of again as it is.
func (c *Cluster) Follow(ctx context.Context, kind, namespace string, seen func(*unstructured.Unstructured)) error {
	api, err := c.resource(Ref{Kind: kind, Namespace: namespace})
	if err != nil {
		return err
	}
	none := func() bool { return false }
	for {
		_, err := followAll(ctx, api, metav1.ListOptions{}, none, func(_ string, obj *unstructured.Unstructured) bool {
			if obj != nil {
				seen(obj)
			}
			return false
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("following %s in %s: %w", kind, namespace, err)
		}
	}
}

// follow lists and then watches one object until seen returns true or the watch ends. Seen gets nil while there is none.
func follow(ctx context.Context, api dynamic.ResourceInterface, name string, seen func(*unstructured.Unstructured) bool) (bool, error) {
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	there := false
	listed := func() bool { return !there && seen(nil) }
	return followAll(ctx, api, options, listed, func(_ string, obj *unstructured.Unstructured) bool {
		there = true
		return seen(obj)
	})
}

// followAll lists and then watches objects until seen returns true or the watch ends. Seen gets nil for an object that has
// gone; listed is asked when those that were there have been seen.
func followAll(ctx context.Context, api dynamic.ResourceInterface, options metav1.ListOptions, listed func() bool, seen func(string, *unstructured.Unstructured) bool) (bool, error) {
	list, err := api.List(ctx, options)
	if err != nil {
		return false, err
	}
	for i := range list.Items {
		if seen(list.Items[i].GetName(), &list.Items[i]) {
			return true, nil
		}
	}
	if listed() {
		return true, nil
	}
	options.ResourceVersion = list.GetResourceVersion()
	watcher, err := api.Watch(ctx, options)
	if err != nil {
		return false, err
	}
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		obj, _ := event.Object.(*unstructured.Unstructured)
		switch event.Type {
		case watch.Added, watch.Modified:
			if seen(obj.GetName(), obj) {
				return true, nil
			}
		case watch.Deleted:
			if seen(obj.GetName(), nil) {
				return true, nil
			}
		case watch.Bookmark:
		case watch.Error:
			return false, nil // Most often "too old resource version": list again.
		}
	}
	return false, nil
}

// InstallCRDs applies every CustomResourceDefinition of a folder and waits until the server serves them.
func (c *Cluster) InstallCRDs(ctx context.Context, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*_*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no CRDs in %s", dir)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		objects, err := c.Apply(ctx, data, "")
		if err != nil {
			return err
		}
		for _, obj := range objects {
			ref := Ref{Kind: "customresourcedefinitions", Name: obj.GetName()}
			if _, err := c.Until(ctx, ref, Condition("Established", "True", "")); err != nil {
				return err
			}
		}
	}
	c.mapper.Reset()
	return nil
}

// Decode reads a YAML stream of objects. Empty documents are left out.
func Decode(manifests []byte) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	var objects []*unstructured.Unstructured
	for {
		var raw runtime.RawExtension
		err := decoder.Decode(&raw)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		}
		if len(raw.Raw) == 0 || string(raw.Raw) == "null" {
			continue
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(raw.Raw); err != nil {
			return nil, err
		}
		objects = append(objects, obj)
	}
}

func (c *Cluster) resource(ref Ref) (dynamic.ResourceInterface, error) {
	gvr, err := c.gvr(ref.Kind)
	if err != nil {
		return nil, err
	}
	gvk, err := c.mapper.KindFor(gvr)
	if err != nil {
		return nil, err
	}
	mapping, err := c.mapping(gvk)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.client.Resource(mapping.Resource).Namespace(ref.Namespace), nil
	}
	return c.client.Resource(mapping.Resource), nil
}

// gvr finds the resource for what a person types: "ks", "Deployment", "gitrepositories.source.toolkit.fluxcd.io".
func (c *Cluster) gvr(kind string) (schema.GroupVersionResource, error) {
	resource, group, _ := strings.Cut(strings.ToLower(kind), ".")
	if long, ok := shortNames[resource]; ok {
		resource = long
	}
	find := func() (schema.GroupVersionResource, error) {
		return c.mapper.ResourceFor(schema.GroupVersionResource{Group: group, Resource: resource})
	}
	gvr, err := find()
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		gvr, err = find()
	}
	return gvr, err
}

func (c *Cluster) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		mapping, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	return mapping, err
}

// shortNames are those that scripts use. Discovery knows them all, but a RESTMapper does not read them.
var shortNames = map[string]string{
	"cm":      "configmaps",
	"crd":     "customresourcedefinitions",
	"deploy":  "deployments",
	"gitrepo": "gitrepositories",
	"hr":      "helmreleases",
	"ks":      "kustomizations",
	"ns":      "namespaces",
	"pvc":     "persistentvolumeclaims",
	"sts":     "statefulsets",
	"svc":     "services",
}

package client

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// concurrency is how many objects of one kind are written at a time. Kinds follow each other in the order of the list, which
// Helm has sorted: what others need comes first.
const concurrency = 4

// Create writes objects that are not there, as far as Helm knows. All are tried, whatever is refused. What Result names was
// created; with an error there is none.
func (c *Client) Create(resources helmkube.ResourceList) (*helmkube.Result, error) {
	c.options.Log("creating %d resource(s)", len(resources))
	if err := c.each(resources, c.create); err != nil {
		return nil, err
	}
	return &helmkube.Result{Created: resources}, nil
}

// Update makes objects as target has them, and deletes what original has and target has not. The Result is also there with an
// error, and names what was tried.
func (c *Client) Update(original, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	result := &helmkube.Result{}
	c.options.Log("checking %d resources for changes", len(target))
	before := make(map[*resource.Info]*resource.Info, len(target)) // looked up now: what is written changes what is looked at
	for _, info := range target {
		before[info] = original.Get(info)
	}
	var mu sync.Mutex
	err := c.each(target, func(info *resource.Info) error {
		live, err := c.read(refOf(info))
		if err != nil {
			return fmt.Errorf("could not get information about the resource: %w", err)
		}
		mu.Lock()
		if live == nil {
			result.Created.Append(info)
		} else {
			result.Updated.Append(info)
		}
		mu.Unlock()
		if live == nil {
			return c.create(info)
		}
		return object.MaskError(c.update(before[info], info, live, force), live)
	})
	inOrder(result.Created, target)
	inOrder(result.Updated, target)
	if err != nil {
		return result, err
	}
	gone := original.Difference(target)
	slices.Reverse(gone)
	var errs []error
	for _, info := range gone {
		deleted, err := c.prune(info)
		if deleted {
			result.Deleted.Append(info)
		}
		errs = append(errs, err)
	}
	return result, errors.Join(errs...)
}

// UpdateThreeWayMerge is Update: with each apply method, what was changed on the cluster is set back.
func (c *Client) UpdateThreeWayMerge(original, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	return c.Update(original, target, force)
}

// inOrder sorts part of a list as the list is.
func inOrder(part, list helmkube.ResourceList) {
	slices.SortFunc(part, func(a, b *resource.Info) int { return slices.Index(list, a) - slices.Index(list, b) })
}

// each does something with every object: with those of a kind that follow each other at once. All are tried; only the end of the
// operation ends it early. The error names objects in the order of the list.
func (c *Client) each(list helmkube.ResourceList, do func(*resource.Info) error) error {
	errs := make([]error, len(list))
	for begin := 0; begin < len(list); {
		end := begin + 1
		for end < len(list) && list[end].Mapping.GroupVersionKind.Kind == list[begin].Mapping.GroupVersionKind.Kind {
			end++
		}
		var group errgroup.Group
		group.SetLimit(concurrency)
		for i := begin; i < end; i++ {
			group.Go(func() error {
				errs[i] = c.tell(list[i], do)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		begin = end
	}
	return errors.Join(errs...)
}

// tell does something with an object and has the error name it, without what is secret.
func (c *Client) tell(info *resource.Info, do func(*resource.Info) error) error {
	ref := refOf(info)
	masked, _ := info.Object.(*unstructured.Unstructured) // as it was: do may replace it
	err := c.guarded(ref, func() error { return do(info) })
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	return object.MaskError(fmt.Errorf("%s: %w", ref, err), masked)
}

// guarded does something with an object, of which a panic is an error: each is done on a goroutine of its own, and libraries that
// make patches have been seen to give up on what a manifest or the cluster holds.
func (c *Client) guarded(ref object.Ref, do func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
			// Not with what it says, which may quote a secret.
			utilruntime.HandleErrorWithContext(c.ctx, nil, "Recovered from a panic", "object", ref.String(), "stack", string(debug.Stack()))
		}
	}()
	return do()
}

// create writes an object that is not there.
func (c *Client) create(info *resource.Info) error {
	u, err := desired(info)
	if err != nil {
		return err
	}
	if c.options.Method == ServerSide && u.GetName() != "" && !isBareNamespace(u) && !isRun(u) {
		return c.apply(info, u)
	}
	ctx, cancel := c.request()
	defer cancel()
	err = c.user.Client.Create(ctx, u, client.FieldOwner(api.HelmManager), client.FieldValidation(c.validation()))
	if err != nil {
		return err
	}
	return c.written(info, u)
}

// isBareNamespace says whether an object is the namespace of spec.install.createNamespace, which Helm makes itself: neither part
// of a release nor a hook. If it is there already, whoever has made it goes on owning it.
func isBareNamespace(u *unstructured.Unstructured) bool {
	return u.GetKind() == "Namespace" && u.GroupVersionKind().Group == "" && len(u.GetAnnotations()) == 0
}

// isRun says whether an object is a hook that runs to its end. To apply one that is there already, as it was, would be to take its
// last run for this one; whether it may be there the hook's deletion policy says.
func isRun(u *unstructured.Unstructured) bool {
	_, hook := u.GetAnnotations()[release.HookAnnotation]
	return hook && runs(object.RefOf(u))
}

// update makes a live object as an Info has it. was is how the last release had it; nil when it was not part of that.
func (c *Client) update(was, info *resource.Info, live *unstructured.Unstructured, force bool) error {
	u, err := desired(info)
	if err != nil {
		return err
	}
	switch c.options.Method {
	case ServerSide:
		if err = c.migrate(live); err == nil {
			err = c.apply(info, u)
		}
	case ClientSide:
		err = c.merge(was, info, u, live, force)
	}
	if force && c.mayRecreate(info, err) {
		return c.recreate(info, live)
	}
	return err
}

// written takes in an object as the API server has answered it.
func (c *Client) written(info *resource.Info, u *unstructured.Unstructured) error {
	c.cluster.Observer.Record(u)
	key := object.RefOf(u).Key()
	c.mu.Lock()
	c.left[key] = u.GetResourceVersion()
	delete(c.deleted, key)
	c.mu.Unlock()
	return info.Refresh(u, false)
}

// read returns a live object, nil when it does not exist.
func (c *Client) read(ref object.Ref) (*unstructured.Unstructured, error) {
	ctx, cancel := c.request()
	defer cancel()
	return get(ctx, c.user.Client, ref)
}

func get(ctx context.Context, reader client.Reader, ref object.Ref) (*unstructured.Unstructured, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(ref.GroupVersionKind())
	switch err := reader.Get(ctx, ref.NamespacedName(), live); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return live, nil
}

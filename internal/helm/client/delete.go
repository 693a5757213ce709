package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// The annotations by which a live object says of which release it is part, and that it is to outlive it.
const (
	releaseName      = "meta.helm.sh/release-name"
	releaseNamespace = "meta.helm.sh/release-namespace"
	resourcePolicy   = helmkube.ResourcePolicyAnno
)

// Delete deletes objects, and lets what they own go by itself later.
func (c *Client) Delete(resources helmkube.ResourceList) (*helmkube.Result, []error) {
	return c.DeleteWithPropagationPolicy(resources, metav1.DeletePropagationBackground)
}

// DeleteWithPropagationPolicy deletes objects. What is not there counts as deleted; what belongs to another release by now is
// left to that, and counts as deleted too. All are tried.
func (c *Client) DeleteWithPropagationPolicy(resources helmkube.ResourceList, policy metav1.DeletionPropagation) (*helmkube.Result, []error) {
	if len(resources) == 0 {
		return nil, []error{fmt.Errorf("object not found, skipping delete: %w", helmkube.ErrNoObjectsVisited)}
	}
	err := c.each(resources, func(info *resource.Info) error {
		live, err := c.read(refOf(info))
		if err != nil {
			return err
		}
		if live != nil && c.isAnothers(live) {
			c.options.Log("leaving %s: it is part of the release %s", refOf(info), releaseOf(live))
			live = nil // It is not waited for either.
		}
		return c.remove(refOf(info), live, policy)
	})
	if err != nil {
		return nil, apart(err)
	}
	return &helmkube.Result{Deleted: resources}, nil
}

// apart returns the errors that were joined to one.
func apart(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

// remove deletes the very object that was read; nil is none.
func (c *Client) remove(ref object.Ref, live *unstructured.Unstructured, policy metav1.DeletionPropagation) error {
	var uid types.UID
	if live != nil {
		uid = live.GetUID()
		ctx, cancel := c.request()
		defer cancel()
		err := c.user.Client.Delete(ctx, live, client.PropagationPolicy(policy), client.Preconditions{UID: &uid})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting it: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted[ref.Key()] = uid
	return nil
}

// prune deletes what the new release has no more, if it is still this release's to delete. It says whether it did.
func (c *Client) prune(info *resource.Info) (bool, error) {
	ref := refOf(info)
	live, err := c.read(ref)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s: looking at what the release has no more: %w", ref, err)
	case live == nil:
		return false, nil // Somebody was faster.
	case live.GetAnnotations()[resourcePolicy] == helmkube.KeepPolicy:
		c.options.Log("keeping %s: its annotation %s says so", ref, resourcePolicy)
		return false, nil
	case releaseOf(live) != c.options.Release:
		c.options.Log("leaving %s: it is not part of this release any more", ref)
		return false, nil
	}
	if err := c.remove(ref, live, metav1.DeletePropagationBackground); err != nil {
		return false, object.MaskError(fmt.Errorf("%s: %w", ref, err), live)
	}
	return true, nil
}

// releaseOf returns the release that a live object says it is part of; the zero value when it says nothing, as hooks do.
func releaseOf(live *unstructured.Unstructured) types.NamespacedName {
	annotations := live.GetAnnotations()
	return types.NamespacedName{Namespace: annotations[releaseNamespace], Name: annotations[releaseName]}
}

func (c *Client) isAnothers(live *unstructured.Unstructured) bool {
	of := releaseOf(live)
	return of != (types.NamespacedName{}) && of != c.options.Release
}

// mayRecreate says whether an object was refused for what it was before, so that it can be made anew. Kinds with everything in
// them are not.
func (c *Client) mayRecreate(info *resource.Info, err error) bool {
	if !kube.IsImmutable(err) {
		return false
	}
	switch info.Mapping.GroupVersionKind.GroupKind() {
	case schema.GroupKind{Kind: "Namespace"}, schema.GroupKind{Kind: "PersistentVolume"}, schema.GroupKind{Kind: "PersistentVolumeClaim"},
		schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
		return false
	default:
		return true
	}
}

// goneTimeout is how long an object that is made anew may take to go.
const goneTimeout = time.Minute

// recreate deletes an object and makes it anew.
func (c *Client) recreate(info *resource.Info, live *unstructured.Unstructured) error {
	ref := refOf(info)
	c.options.Log("making %s anew: a field that changed is immutable", ref)
	if err := c.remove(ref, live, metav1.DeletePropagationBackground); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, goneTimeout)
	defer cancel()
	if err := c.awaitGone(ctx, []object.Ref{ref}); err != nil {
		return fmt.Errorf("waiting for its end: %w", err)
	}
	return c.create(info)
}

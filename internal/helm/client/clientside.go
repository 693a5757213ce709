package client

import (
	"encoding/json"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// merge makes a live object as u has it: what the last manifest had and u has not goes, what u has comes, and what neither knows
// stays. With force it is replaced instead, so that all else goes.
func (c *Client) merge(was, info *resource.Info, u, live *unstructured.Unstructured, force bool) error {
	ctx, cancel := c.request()
	defer cancel()
	if force {
		u.SetResourceVersion(live.GetResourceVersion())
		if err := c.user.Client.Update(ctx, u, client.FieldOwner(api.HelmManager), client.FieldValidation(c.validation())); err != nil {
			return fmt.Errorf("failed to replace object: %w", err)
		}
		return c.written(info, u)
	}
	before := live // What was not part of the release is only added to.
	if was != nil {
		var err error
		if before, err = desired(was); err != nil {
			return err
		}
	}
	patch, err := threeWay(before, u, live)
	if err != nil {
		return fmt.Errorf("failed to create patch: %w", err)
	}
	if patch == nil {
		c.options.Log("no changes for %s", refOf(info))
		return c.written(info, live)
	}
	err = c.user.Client.Patch(ctx, live, patch, client.FieldOwner(api.HelmManager), client.FieldValidation(c.validation()))
	if err != nil {
		return fmt.Errorf("cannot patch: %w", err)
	}
	return c.written(info, live)
}

// threeWay returns what changes live from what before asked for to what after asks for; nil when that is nothing.
func threeWay(before, after, live *unstructured.Unstructured) (client.Patch, error) {
	var texts [3][]byte
	for i, u := range []*unstructured.Unstructured{before, after, live} {
		var err error
		if texts[i], err = json.Marshal(u); err != nil {
			return nil, fmt.Errorf("encoding it: %w", err)
		}
	}
	typed, err := typedOf(after.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	kind, patch := types.MergePatchType, []byte(nil)
	if typed == nil {
		patch, err = jsonmergepatch.CreateThreeWayJSONMergePatch(texts[0], texts[1], texts[2],
			mergepatch.RequireKeyUnchanged("apiVersion"), mergepatch.RequireKeyUnchanged("kind"), mergepatch.RequireMetadataKeyUnchanged("name"))
	} else {
		kind = types.StrategicMergePatchType
		var schema strategicpatch.PatchMetaFromStruct
		if schema, err = strategicpatch.NewPatchMetaFromStruct(typed); err == nil {
			patch, err = strategicpatch.CreateThreeWayMergePatch(texts[0], texts[1], texts[2], schema, true)
		}
	}
	if err != nil || string(patch) == "{}" {
		return nil, err
	}
	return client.RawPatch(kind, patch), nil
}

// typedOf returns an empty object of a kind whose lists the API server merges by their keys; nil for kinds of CRDs.
func typedOf(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if gvk == apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition") {
		return &apiextensionsv1.CustomResourceDefinition{}, nil
	}
	typed, err := scheme.Scheme.New(gvk)
	if runtime.IsNotRegisteredError(err) {
		return nil, nil
	}
	return typed, err
}

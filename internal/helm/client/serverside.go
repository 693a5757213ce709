package client

import (
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// apply writes an object by server-side apply. If it is as it is wanted, the API server writes nothing.
func (c *Client) apply(info *resource.Info, u *unstructured.Unstructured) error {
	patch, err := applyPatch(u)
	if err != nil {
		return err
	}
	ctx, cancel := c.request()
	defer cancel()
	err = c.user.Client.Patch(ctx, u, patch, client.FieldOwner(api.HelmManager), client.ForceOwnership, client.FieldValidation(c.validation()))
	if err != nil {
		return err
	}
	return c.written(info, u)
}

// applyPatch returns the patch that applies an object as it is: without what only a live object has.
func applyPatch(u *unstructured.Unstructured) (client.Patch, error) {
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	u.SetUID("")
	text, err := json.Marshal(u)
	if err != nil {
		return nil, fmt.Errorf("encoding it: %w", err)
	}
	return client.RawPatch(types.ApplyPatchType, text), nil
}

// migrateAttempts is how often managedFields are rewritten when somebody else has written meanwhile.
const migrateAttempts = 5

// migrate gives to server-side apply what was written by client-side apply for this release, by Helm's command or by patches:
// as long as an entry of Update owns a field, that field stays when the chart drops it.
func (c *Client) migrate(live *unstructured.Unstructured) error {
	for attempt := 1; ; attempt++ {
		patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(api.HelmManager, "helm"), api.HelmManager)
		if err != nil {
			return fmt.Errorf("reading its managedFields: %w", err)
		}
		if patch == nil {
			return nil // Nothing was written otherwise.
		}
		ctx, cancel := c.request()
		err = c.user.Client.Patch(ctx, live, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(api.HelmManager))
		cancel()
		switch {
		case err == nil:
			return nil
		case !apierrors.IsConflict(err) || attempt == migrateAttempts:
			return fmt.Errorf("migrating its managedFields: %w", err)
		}
		ctx, cancel = c.request()
		err = c.user.Client.Get(ctx, client.ObjectKeyFromObject(live), live)
		cancel()
		if err != nil {
			return fmt.Errorf("migrating its managedFields: %w", err)
		}
	}
}

package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/ssa/jsondiff"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// Drifted is an object of a release that is not as the release has it.
type Drifted struct {
	Ref object.Ref
	// Missing: it does not exist.
	Missing bool
	// Additions, Changes and Removals count the fields that a correction would add, change and remove.
	Additions, Changes, Removals int
	// Fields are where these are: JSON pointers, without values.
	Fields []string

	desired *unstructured.Unstructured
	ignored []string          // JSON pointers that a correction leaves as they are
	uid     types.UID         // of what was compared
	patch   []json.RawMessage // JSON patch of what was compared; it may hold secrets
}

// String returns the line that Flux's events hold about the object.
func (d Drifted) String() string {
	if d.Missing {
		return d.Ref.String() + " removed"
	}
	return fmt.Sprintf("%s changed (%d additions, %d changes, %d removals)", d.Ref, d.Additions, d.Changes, d.Removals)
}

// Drift compares the objects of a release, hooks not among them, with the cluster, by server-side apply in a dry-run. What is
// marked by api.DriftDetectionMark, in the chart or on the cluster, does not count, nor do fields that ignore names. The objects
// that have drifted are in the order of objects, and there also with an error, which is about those that could not be compared.
func (c *Client) Drift(objects []*unstructured.Unstructured, ignore []jsondiff.IgnoreRule) ([]Drifted, error) {
	rules, err := jsondiff.CompileIgnoreRules(ignore)
	if err != nil {
		return nil, fmt.Errorf("reading the rules of what is ignored: %w", err)
	}
	found := make([]*Drifted, len(objects))
	errs := make([]error, len(objects))
	var group errgroup.Group
	group.SetLimit(concurrency)
	for i, u := range objects {
		group.Go(func() error {
			errs[i] = c.guarded(object.RefOf(u), func() (err error) {
				found[i], err = c.compare(u.DeepCopy(), rules)
				return err
			})
			errs[i] = object.MaskError(errs[i], u)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	var out []Drifted
	for _, d := range found {
		if d != nil {
			out = append(out, *d)
		}
	}
	return out, errors.Join(errs...)
}

// compare compares one object; nil when it is as it should be, or does not count.
func (c *Client) compare(u *unstructured.Unstructured, rules jsondiff.CompiledIgnoreRules) (*Drifted, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := c.place(u); err != nil {
		return nil, err
	}
	c.setRelease(u)
	d := &Drifted{Ref: object.RefOf(u), desired: u}
	for rule, paths := range rules {
		if rule.MatchUnstructured(u) {
			d.ignored = append(d.ignored, paths...)
		}
	}
	ctx, cancel := c.request()
	defer cancel()
	diff, err := jsondiff.Unstructured(ctx, c.user.Client, u,
		jsondiff.FieldOwner(api.HelmManager), jsondiff.ExclusionSelector{api.DriftDetectionMark: api.Disabled},
		jsondiff.IgnorePaths(d.ignored), jsondiff.Rationalize(true))
	switch {
	case apierrors.IsNotFound(err): // It is not there, nor is its namespace.
		d.Missing = true
		return d, nil
	case err != nil:
		return nil, fmt.Errorf("comparing %s: %w", d.Ref, err)
	}
	switch diff.Type {
	case jsondiff.DiffTypeNone, jsondiff.DiffTypeExclude:
		return nil, nil
	case jsondiff.DiffTypeCreate:
		d.Missing = true
		if _, expires, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished"); expires && isJob(d.Ref) {
			return nil, nil // It has deleted itself when it was done; made anew, it would run again.
		}
		return d, nil
	case jsondiff.DiffTypeUpdate:
		d.uid = diff.ClusterObject.GetUID()
		return d, d.count(diff)
	default:
		return nil, fmt.Errorf("comparing %s: it ended as %q", d.Ref, diff.Type)
	}
}

// setRelease puts on an object what Helm puts on it when it is written.
func (c *Client) setRelease(u *unstructured.Unstructured) {
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["app.kubernetes.io/managed-by"] = "Helm"
	u.SetLabels(labels)
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[releaseName], annotations[releaseNamespace] = c.options.Release.Name, c.options.Release.Namespace
	u.SetAnnotations(annotations)
}

// count takes in what differs.
func (d *Drifted) count(diff *jsondiff.Diff) error {
	text, err := json.Marshal(diff.Patch)
	if err != nil {
		return fmt.Errorf("encoding the difference: %w", err)
	}
	if err := json.Unmarshal(text, &d.patch); err != nil {
		return fmt.Errorf("decoding the difference: %w", err)
	}
	for _, op := range diff.Patch {
		d.Fields = append(d.Fields, op.Path)
		switch op.Type {
		case "add":
			d.Additions++
		case "remove":
			d.Removals++
		default:
			d.Changes++
		}
	}
	return nil
}

// Correction says what was done about an object that had drifted.
type Correction struct {
	Ref object.Ref
	// Created: it was missing. Otherwise it was changed.
	Created bool
}

// String returns the line that Flux's events hold about the object.
func (c Correction) String() string {
	if c.Created {
		return c.Ref.String() + " created"
	}
	return c.Ref.String() + " configured"
}

// Correct makes objects that have drifted as the release has them, one by one, in the way that the release was written: server-side
// apply takes its fields back; by client-side apply, the fields that differ are set. All are tried; the Corrections are there also
// with an error.
func (c *Client) Correct(drifted []Drifted) ([]Correction, error) {
	var done []Correction
	var errs []error
	for _, d := range drifted {
		_, err := c.correct(d)
		switch {
		case c.ctx.Err() != nil:
			return done, c.ctx.Err()
		case err != nil:
			errs = append(errs, object.MaskError(fmt.Errorf("correcting %s: %w", d.Ref, err), d.desired))
		default:
			done = append(done, Correction{Ref: d.Ref, Created: d.Missing})
		}
	}
	return done, errors.Join(errs...)
}

// correct returns what the API server has answered.
func (c *Client) correct(d Drifted) (*unstructured.Unstructured, error) {
	u := d.desired.DeepCopy()
	ctx, cancel := c.request()
	defer cancel()
	var err error
	switch {
	case c.options.Method == ServerSide:
		if !d.Missing {
			err = c.keepIgnored(u, d)
		}
		if err != nil {
			return nil, err
		}
		var patch client.Patch
		if patch, err = applyPatch(u); err != nil {
			return nil, err
		}
		err = c.user.Client.Patch(ctx, u, patch, client.FieldOwner(api.HelmManager), client.ForceOwnership)
	case d.Missing:
		err = c.user.Client.Create(ctx, u, client.FieldOwner(api.HelmManager))
	default:
		var patch []byte
		if patch, err = d.guarded(); err != nil {
			return nil, err
		}
		err = c.user.Client.Patch(ctx, u, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(api.HelmManager))
	}
	if err != nil {
		return nil, err
	}
	c.cluster.Observer.Record(u)
	return u, nil
}

// guarded returns the patch for the object that was compared, and for no other of its name.
func (d Drifted) guarded() ([]byte, error) {
	test, err := json.Marshal(map[string]string{"op": "test", "path": "/metadata/uid", "value": string(d.uid)})
	if err != nil {
		return nil, fmt.Errorf("encoding the patch: %w", err)
	}
	return json.Marshal(append([]json.RawMessage{test}, d.patch...))
}

// keepIgnored has u want, of the fields that are ignored, what they are now: to leave them out would give them up, and a field
// that nobody owns goes.
func (c *Client) keepIgnored(u *unstructured.Unstructured, d Drifted) error {
	if len(d.ignored) == 0 {
		return nil
	}
	live, err := c.read(d.Ref)
	if err != nil || live == nil {
		return err // There is nothing to keep.
	}
	for _, pointer := range d.ignored {
		if _, wanted := at(u.Object, pointer); !wanted {
			continue // The release does not set it.
		}
		patch := jsondiff.GenerateRemovePatch(pointer)
		if is, there := at(live.Object, pointer); there {
			patch = jsondiff.GenerateReplacePatch(jsondiff.ReplaceOp{Path: pointer, Value: is})
		}
		if err := jsondiff.ApplyPatchToUnstructured(u, patch); err != nil {
			return fmt.Errorf("keeping %s: %w", pointer, err)
		}
	}
	return nil
}

// at returns what a JSON pointer (RFC 6901) points at.
func at(value any, pointer string) (any, bool) {
	if pointer == "" {
		return value, true
	}
	for _, key := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		key = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
		switch v := value.(type) {
		case map[string]any:
			inner, ok := v[key]
			if !ok {
				return nil, false
			}
			value = inner
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			value = v[i]
		default:
			return nil, false
		}
	}
	return value, true
}

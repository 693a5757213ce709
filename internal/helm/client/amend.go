package client

import (
	"fmt"

	"github.com/fluxcd/pkg/ssa/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/object"
)

// Placed returns objects of a release as they are written: in their namespaces, and with what Helm puts on them. Those for which
// that cannot be told, because their kind is not known, are apart.
func (c *Client) Placed(objects []*unstructured.Unstructured) (placed, unknown []*unstructured.Unstructured) {
	for _, u := range objects {
		as := u.DeepCopy()
		if _, err := c.place(as); err != nil {
			unknown = append(unknown, u)
			continue
		}
		c.setRelease(as)
		placed = append(placed, as)
	}
	return placed, unknown
}

// Expires says whether an object is a Job that deletes itself when it is done: that it is not there says nothing.
func Expires(u *unstructured.Unstructured) bool {
	_, expires, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished")
	return expires && isJob(object.RefOf(u))
}

// Amend makes one object as the release has it, as Correct does, if it is not, and returns how it is then; nil when it was not
// written. guard is asked about the live object before, if there is one.
func (c *Client) Amend(u *unstructured.Unstructured, ignore []jsondiff.IgnoreRule, guard func(live *unstructured.Unstructured) error) (*unstructured.Unstructured, error) {
	rules, err := jsondiff.CompileIgnoreRules(ignore)
	if err != nil {
		return nil, fmt.Errorf("reading the rules of what is ignored: %w", err)
	}
	d, err := c.compare(u.DeepCopy(), rules)
	if err != nil {
		return nil, object.MaskError(err, u)
	}
	if d == nil {
		return nil, nil // It has become so meanwhile.
	}
	if !d.Missing {
		live, err := c.read(d.Ref)
		if err != nil {
			return nil, object.MaskError(fmt.Errorf("reading %s: %w", d.Ref, err), u)
		}
		if live != nil {
			if err := guard(live); err != nil {
				return nil, err
			}
		}
	}
	live, err := c.correct(*d)
	if err != nil {
		return nil, object.MaskError(fmt.Errorf("correcting %s: %w", d.Ref, err), u)
	}
	return live, nil
}

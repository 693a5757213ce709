package kube

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/ssa"

	"github.com/cleat-dev/cleat/internal/object"
)

// Action says what an Apply did to an object, in Flux's words.
type Action string

const (
	// Created: it was not there.
	Created Action = "created"
	// Configured: it was there and differed.
	Configured Action = "configured"
	// Unchanged: it was there and as it should be.
	Unchanged Action = "unchanged"
	// Skipped: an annotation, in Git or in the cluster, says to leave it alone.
	Skipped Action = "skipped"
)

// Change says what an Apply did to one object.
type Change struct {
	Ref    object.Ref
	Action Action
	// Recreated says that the object was deleted first because of an immutable field.
	Recreated bool
}

// String returns the line that Flux's events hold, `Kind/ns/name configured`.
func (c Change) String() string { return c.Ref.String() + " " + string(c.Action) }

// ChangeSet is what an Apply did, in the order in which it did it.
type ChangeSet []Change

// Refs returns all objects of the set, the skipped ones too: they are tracked as well.
func (s ChangeSet) Refs() []object.Ref {
	refs := make([]object.Ref, 0, len(s))
	for _, c := range s {
		refs = append(refs, c.Ref)
	}
	return refs
}

// Effective returns the changes that changed something.
func (s ChangeSet) Effective() ChangeSet {
	var out ChangeSet
	for _, c := range s {
		if c.Action == Created || c.Action == Configured {
			out = append(out, c)
		}
	}
	return out
}

func (s ChangeSet) String() string {
	lines := make([]string, 0, len(s))
	for _, c := range s {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

func changeOf(e ssa.ChangeSetEntry) (Change, error) {
	c := Change{Ref: object.Ref{
		Group: e.ObjMetadata.GroupKind.Group, Version: e.GroupVersion, Kind: e.ObjMetadata.GroupKind.Kind,
		Namespace: e.ObjMetadata.Namespace, Name: e.ObjMetadata.Name,
	}}
	switch e.Action {
	case ssa.CreatedAction:
		c.Action = Created
	case ssa.ConfiguredAction:
		c.Action = Configured
	case ssa.UnchangedAction:
		c.Action = Unchanged
	case ssa.SkippedAction:
		c.Action = Skipped
	default: // An apply deletes nothing, and says so if it does not know.
		return c, fmt.Errorf("%s: an apply ended as %q", c.Ref, e.Action)
	}
	return c, nil
}

// RefusedError says that the API server refused objects. Nothing of the stage they belong to was applied; with
// ApplyOptions.BestEffort, everything else was.
type RefusedError struct {
	// Failures are in apply order.
	Failures []ObjectError
}

// ObjectError is what went wrong with one object. Its text begins with the object and holds no value of a Secret.
type ObjectError struct {
	Ref object.Ref
	Err error
	// Untouched says that it was refused in a dry-run, so that nothing of it can be on the cluster.
	Untouched bool
}

func (e ObjectError) Error() string { return e.Err.Error() }

func (e ObjectError) Unwrap() error { return e.Err }

func (e *RefusedError) Error() string {
	lines := make([]string, 0, len(e.Failures))
	for _, f := range e.Failures {
		lines = append(lines, f.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is and errors.As look at every failure.
func (e *RefusedError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failures))
	for _, f := range e.Failures {
		errs = append(errs, f)
	}
	return errs
}

// ErrNotSettled says that a definition which other objects need was applied but did not come to be in time.
var ErrNotSettled = errors.New("not ready in time")

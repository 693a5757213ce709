package kube

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// The API server says in words alone what the errors of this file are about; these are the words of its source.

// isRefusal says whether an error is an answer about the object that was sent, rather than one of an API server that cannot
// answer just now. The reason does not tell: a patch that does not fit the schema is a 500 without any.
func isRefusal(err error) bool {
	if meta.IsNoMatchError(err) {
		return true
	}
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Status().Code {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	default:
		return true
	}
}

// ErrWebhookUnavailable says that an admission webhook which must be asked could not be. It passes.
var ErrWebhookUnavailable = errors.New("the API server could not call it; it is tried again")

var failedWebhook = regexp.MustCompile(`failed calling webhook "([^"]+)"`)

// webhookDown returns the name of the admission webhook that could not be called, and the last word of why: what is before
// that holds ports and addresses, which differ from one time to the next.
func webhookDown(err error) (name, cause string, ok bool) {
	if err == nil || !apierrors.IsInternalError(err) {
		return "", "", false
	}
	text := err.Error()
	match := failedWebhook.FindStringSubmatch(text)
	if match == nil {
		return "", "", false
	}
	return match[1], text[strings.LastIndex(text, ": ")+len(": "):], true
}

// isDryRunUnsupported says that an admission webhook with side effects keeps the API server from a dry-run.
func isDryRunUnsupported(err error) bool {
	return apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "does not support dry run")
}

// isUndeclared says that the schema lacks a field that is in the object or, after a CRD has changed its versions, that the
// API server merges into it from managedFields of an older version (faults.md F43).
func isUndeclared(err error) bool {
	return err != nil && strings.Contains(err.Error(), "field not declared in schema")
}

var changeForbidden = regexp.MustCompile(`(?i)immutable|(may|can) ?not (be )?(change|update|unset)|updates? .*(forbidden|not allowed)`)

// IsImmutable says that an object was refused for what it was before, and for nothing else.
func IsImmutable(err error) bool { return apierrors.IsInvalid(err) && isImmutable(err) }

// isImmutable says that an object was refused for what it was before, and for nothing else: created anew, it would be taken. The
// ssa library is content with any Invalid, and would delete an object because of a typo.
func isImmutable(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return false
	}
	status := answer.Status()
	if status.Details == nil || len(status.Details.Causes) == 0 {
		return changeForbidden.MatchString(status.Message)
	}
	for _, cause := range status.Details.Causes {
		if !changeForbidden.MatchString(cause.Message) {
			return false
		}
	}
	return true
}

// keptError says why an object was not made anew although that was asked for.
type keptError struct{ why string }

func (e *keptError) Error() string { return e.why }

// keeps says why an object that was refused with err is not made anew; empty when it may be. The caller holds the lock.
func (r *recorder) keeps(key object.Key, err error) string {
	switch gk := (schema.GroupKind{Group: key.Group, Kind: key.Kind}); {
	case gk == namespaceKind, gk == crdKind:
		return fmt.Sprintf("a %s is never made anew: everything in it would go", gk.Kind)
	case !isImmutable(err):
		return "to make it anew would not mend it"
	case r.forced[key]:
		return ""
	}
	return r.precious[key]
}

// preciousKinds are never made anew because all of a Kustomization may be: what they hold, or the address they have, would be
// lost (docs/adr/0018-force-spares-data.md).
var preciousKinds = map[schema.GroupKind]string{
	{Kind: "PersistentVolume"}:           "the data in it would be lost",
	{Kind: "PersistentVolumeClaim"}:      "the data in it would be lost",
	{Group: "apps", Kind: "StatefulSet"}: "all its pods would go at once",
}

// precious says why a live object is made anew only if it asks for that itself; empty when it need not.
func precious(live *unstructured.Unstructured) string {
	if object.Marked(live, api.ForceAnnotation, api.Enabled) {
		return ""
	}
	why := preciousKinds[live.GroupVersionKind().GroupKind()]
	if kind, _, _ := unstructured.NestedString(live.Object, "spec", "type"); kind == "LoadBalancer" && object.RefOf(live).GroupKind() == (schema.GroupKind{Kind: "Service"}) {
		why = "its address would be lost"
	}
	if why == "" {
		return ""
	}
	return fmt.Sprintf("spec.force does not make it anew, because %s; annotate the object itself with %s=%s", why, api.ForceAnnotation, api.Enabled)
}

// refusal returns what is to be said of an object that was refused in a dry-run; nil when it can be made anew.
func (r *run) refusal(u *unstructured.Unstructured, err error) error {
	ref := object.RefOf(u)
	if crd, ok := r.lacking[ref.GroupKind()]; ok && meta.IsNoMatchError(err) {
		return fmt.Errorf("%s: %s, which defines its kind, could not be applied", ref, crd)
	}
	if name, cause, ok := webhookDown(err); ok {
		return fmt.Errorf("%s dry-run failed: admission webhook %q: %s: %w", ref, name, cause, ErrWebhookUnavailable)
	}
	var dryRun *ssaerrors.DryRunErr
	if !errors.As(err, &dryRun) || !ssaerrors.IsImmutableError(dryRun.Unwrap()) || !r.opts.Force && !r.recorder.forced[ref.Key()] {
		return err
	}
	r.recorder.mu.Lock()
	why := r.recorder.keeps(ref.Key(), dryRun.Unwrap())
	_, exists := r.recorder.before[ref.Key()]
	r.recorder.mu.Unlock()
	switch {
	case !exists, !isImmutable(dryRun.Unwrap()):
		return err
	case why == "":
		return nil
	}
	return fmt.Errorf("%w (%s)", err, why)
}

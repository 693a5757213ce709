package git

import (
	"errors"
	"slices"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// Reasons that the API module has no names for.
const (
	verificationModeReason = "InvalidVerificationMode"
	commitSignatureReason  = "InvalidCommitSignature"
	tagSignatureReason     = "InvalidTagSignature"
	providerReason         = "InvalidProviderConfiguration"
	copyReason             = "CopyFailure"
	illegalPathReason      = "IllegalPath"
	notFoundReason         = "NotFound"
	noArtifactReason       = "NoArtifact"
)

// report fills the status as Flux does for the same outcome.
func report(a *attempt, end reconcile.Outcome) reconcile.Success {
	o, out := a.run.Obj, source.Outcome{Outcome: end, Artifact: a.artifact}
	if end.Step == stepStore {
		out.Outdated = newRevision(a)
		if fault := end.Fault; fault != nil && slices.Contains(storeReasons, fault.Reason) {
			out.Failed = sourcev1.StorageOperationFailedCondition
		}
	}
	reconcile.RemoveCondition(o, sourcev1.IncludeUnavailableCondition)
	var success reconcile.Success
	o.Status.Artifact, success = a.Report(o, out)
	reportVerification(a, end)
	if fault := end.Fault; fault != nil && slices.Contains(includeReasons, fault.Reason) {
		reconcile.RemoveCondition(o, sourcev1.FetchFailedCondition)
		reconcile.SetCondition(o, sourcev1.IncludeUnavailableCondition, metav1.ConditionTrue, fault.Reason, fault.Error())
	}
	if end.Succeeded() {
		spec, status := a.obj.Spec.DeepCopy(), &o.Status
		status.ObservedIgnore, status.ObservedInclude = spec.Ignore, spec.Include
		status.ObservedRecurseSubmodules, status.ObservedSparseCheckout = spec.RecurseSubmodules, spec.SparseCheckout
		status.IncludedArtifacts = nil
		for _, i := range a.included {
			status.IncludedArtifacts = append(status.IncludedArtifacts, i.artifact)
		}
	}
	return success
}

// storeReasons are those of faults that are about the storage; of the others that a snapshot can end in, fetching a
// submodule is the cause.
var storeReasons = []string{sourcev1.ArchiveOperationFailedReason, sourcev1.InvalidPathReason, api.SourceIgnoreErrorReason}

// includeReasons are those of faults that are about what is included.
var includeReasons = []string{notFoundReason, noArtifactReason, copyReason, illegalPathReason}

// reportVerification sets the condition about signatures. It says True only of the commit that this attempt has verified.
func reportVerification(a *attempt, end reconcile.Outcome) {
	o := a.run.Obj
	switch {
	case a.obj.Spec.Verification == nil:
		reconcile.RemoveCondition(o, sourcev1.SourceVerifiedCondition)
		o.Status.SourceVerificationMode = nil
	case end.Step == stepVerify && end.Fault != nil:
		reconcile.RemoveCondition(o, sourcev1.FetchFailedCondition)
		reconcile.SetCondition(o, sourcev1.SourceVerifiedCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
	case a.verified != "":
		mode := a.obj.Spec.Verification.GetMode()
		o.Status.SourceVerificationMode = &mode
		reconcile.SetCondition(o, sourcev1.SourceVerifiedCondition, metav1.ConditionTrue, meta.SucceededReason, a.verified)
	default:
		// The attempt did not come that far; what was verified before is still what is served.
	}
}

// gitFault says under which reason an error of a fetch is reported, and what makes it worth trying again. A wrong signature
// waits for another commit, and a wrong spec for another spec.
func gitFault(err error) error {
	fault := func(reason string, retry api.Retry) error { return &api.Fault{Reason: reason, Retry: retry, Err: err} }
	switch {
	case errors.Is(err, errRef), errors.Is(err, ErrSparse):
		return fault(sourcev1.GitOperationFailedReason, api.RetryNever)
	case errors.Is(err, ErrEmptyRepository):
		return fault(api.EmptyGitRepositoryReason, api.RetryBackoff)
	case errors.Is(err, ErrProvider):
		return fault(providerReason, api.RetryBackoff)
	case errors.Is(err, ErrKeys):
		return fault(sourcev1.VerificationError, api.RetryBackoff)
	case errors.Is(err, ErrNoTag):
		return fault(verificationModeReason, api.RetryInterval)
	case errors.Is(err, ErrCommitSignature):
		return fault(commitSignatureReason, api.RetryInterval)
	case errors.Is(err, ErrTagSignature):
		return fault(tagSignatureReason, api.RetryInterval)
	default:
		return source.FetchFault(err, sourcev1.GitOperationFailedReason)
	}
}

// storeFault does the same for an error of writing.
func storeFault(err error) error {
	fault := func(reason string, retry api.Retry) error { return &api.Fault{Reason: reason, Retry: retry, Err: err} }
	switch {
	case errors.Is(err, errMirror):
		return fault(sourcev1.GitOperationFailedReason, api.RetryBackoff)
	case errors.Is(err, ErrInclude):
		return fault(copyReason, api.RetryInterval)
	case errors.Is(err, ErrLFS), errors.Is(err, ErrSparse), errors.Is(err, ErrSubmodule):
		return fault(sourcev1.GitOperationFailedReason, api.RetryInterval)
	case errors.Is(err, errNetwork):
		return source.FetchFault(err, sourcev1.GitOperationFailedReason)
	default:
		return source.StoreFault(err)
	}
}

package api

// Names that Flux gives and that Cleat must repeat to the letter: a different field manager or owner label would make
// every object look foreign after a switch-over, and the next run would apply or prune it anew.
const (
	// Finalizer is the one finalizer Flux puts on its objects. We put it only on objects whose deletion needs work.
	Finalizer = "finalizers.fluxcd.io"

	// ApplyManager owns the fields of everything a Kustomization applies.
	ApplyManager = "kustomize-controller"
	// SyncStatusManager writes a Kustomization's finalizer and status.
	SyncStatusManager = "gotk-kustomize-controller"
	// SourceManager writes the status of sources.
	SourceManager = "source-controller"
	// NotificationManager writes the status of Receivers, and the requests that hooks bring to other objects.
	NotificationManager = "notification-controller"

	// OwnerGroup prefixes the owner labels `<group>/name` and `<group>/namespace` on every object a Kustomization applies.
	OwnerGroup     = "kustomize.toolkit.fluxcd.io"
	OwnerName      = OwnerGroup + "/name"
	OwnerNamespace = OwnerGroup + "/namespace"

	// HelmManager owns the fields of everything a HelmRelease applies, and writes its finalizer and status.
	HelmManager = "helm-controller"
	// HelmOwnerGroup prefixes the owner labels on every object a HelmRelease applies, and on its HelmChart.
	HelmOwnerGroup     = "helm.toolkit.fluxcd.io"
	HelmOwnerName      = HelmOwnerGroup + "/name"
	HelmOwnerNamespace = HelmOwnerGroup + "/namespace"
	// DriftDetectionMark, set to Disabled on an object of a HelmRelease as label or annotation, has its drift left alone.
	DriftDetectionMark = HelmOwnerGroup + "/driftDetection"

	// PruneAnnotation, set to Disabled on a live object as label or annotation, keeps it from ever being pruned.
	PruneAnnotation = OwnerGroup + "/prune"
	// ReconcileAnnotation, set to Disabled on an object in Git or live, keeps us from applying and pruning it.
	ReconcileAnnotation = OwnerGroup + "/reconcile"
	// SSAAnnotation chooses how an object is applied: Override (default), Merge, IfNotPresent or Ignore.
	SSAAnnotation = OwnerGroup + "/ssa"
	// ForceAnnotation, set to Enabled, lets one object be deleted and created again when an immutable field changed.
	ForceAnnotation = OwnerGroup + "/force"

	Disabled = "disabled"
	Enabled  = "enabled"
)

// Our own opt-ins. Everything beyond Flux is an annotation under cleat.dev/ or a flag, never a schema change.
const (
	// AllowEmptyAnnotation on a Kustomization, set to "true", lets a build without objects prune all that it once applied.
	AllowEmptyAnnotation = "cleat.dev/allow-empty"
	// DependsOnAnnotation on a Kustomization names objects of any kind of ours that must be ready before it, beside those of
	// spec.dependsOn: `HelmRelease/namespace/name, GitRepository/name`.
	DependsOnAnnotation = "cleat.dev/depends-on"
	// AllowPruneAnnotation on a Kustomization, set to "true", lets a commit remove more than --prune-limit.
	AllowPruneAnnotation = "cleat.dev/allow-prune"
	// ApplyAnnotation on a Kustomization says what is to become of the others when an object is refused: ApplyAll or
	// ApplyBestEffort.
	ApplyAnnotation = "cleat.dev/apply"

	// DriftAnnotation on a Kustomization, or in Git on one object, says what becomes of an object that is not as it was left:
	// correct, warn or off.
	DriftAnnotation = "cleat.dev/drift"
	// ReplicasAnnotation on an object in Git, set to ReplicasDeclared, has its replicas applied although an autoscaler sets them.
	ReplicasAnnotation = "cleat.dev/replicas"
	// ReplicasDeclared: the number of replicas is what Git says.
	ReplicasDeclared = "declared"

	// ApplyAll applies nothing of a stage of which the API server refuses an object. It is the default, and Flux's way.
	ApplyAll = "all-or-nothing"
	// ApplyBestEffort applies what can be, and prunes nothing while something cannot.
	ApplyBestEffort = "best-effort"
)

// Reasons of ours, beside those of the Flux API modules.
const (
	// FailedReason: something went wrong for which no better word is known.
	FailedReason = "Failed"
	// EmptySetReason: the build holds no object while the inventory does; nothing was pruned.
	EmptySetReason = "EmptySet"
	// PruneLimitReason: a commit removes more than --prune-limit; nothing was applied or pruned.
	PruneLimitReason = "PruneLimitExceeded"
	// WebhookUnavailableReason: an admission webhook that must be asked cannot be.
	WebhookUnavailableReason = "WebhookUnavailable"
	// NamespaceRenamedReason: spec.targetNamespace would rename a Namespace object; nothing was done.
	NamespaceRenamedReason = "NamespaceRenamed"
	// InvalidSpecReason: a field of this object cannot be decoded; nothing was done.
	InvalidSpecReason = "InvalidSpec"
	// UnsupportedReason: a field of this object asks for something this version cannot do and must not ignore.
	UnsupportedReason = "UnsupportedField"
	// InvalidAnnotationReason: an annotation of ours on this object cannot be understood; nothing was done.
	InvalidAnnotationReason = "InvalidAnnotation"
	// DriftDetectedReason: objects are not as they were left.
	DriftDetectedReason = "DriftDetected"
	// DriftCorrectedReason: objects were not as they were left, and are again.
	DriftCorrectedReason = "DriftCorrected"
	// NoDriftDetectedReason: objects that were not as they were left are so again, and nobody of ours did it.
	NoDriftDetectedReason = "NoDriftDetected"
	// DriftCorrectionFailedReason: an object that is not as it was left could not be put right.
	DriftCorrectionFailedReason = "DriftCorrectionFailed"
	// ContestedReason: somebody else changes an object back each time it is put right.
	ContestedReason = "Contested"
	// EmptyGitRepositoryReason: the repository has no commit to fetch.
	EmptyGitRepositoryReason = "EmptyGitRepository"
	// SourceIgnoreErrorReason: the ignore patterns cannot be used.
	SourceIgnoreErrorReason = "SourceIgnoreError"
)

// DriftedCondition tells of objects that are not as they were left.
const DriftedCondition = "Drifted"

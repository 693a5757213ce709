package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// defaultTimeout is that of the API.
	defaultTimeout = 60 * time.Second
	// storeTimeout is what writing a snapshot may take on top of spec.timeout, which is about the network. It is long
	// enough for a snapshot of DefaultLimits on a slow disk.
	storeTimeout = 5 * time.Minute
)

// Options are what the controller of GitRepositories works with.
type Options struct {
	Store *artifact.Store
	Git   *Git
	// Secrets reads the Secrets that spec.secretRef names.
	Secrets  client.Reader
	Edge     reconcile.Edge
	Recorder *reconcile.Recorder
	Log      *slog.Logger
}

// NewGitRepositories returns the controller of GitRepositories.
func NewGitRepositories(o Options) *reconcile.Controller[*sourcev1.GitRepository, *gitAttempt] {
	g := &gitRepositories{store: o.Store, git: o.Git, secrets: o.Secrets, recorder: o.Recorder, log: o.Log}
	return reconcile.NewController(g.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

// StoredGitRepositories queues, once, every GitRepository that has an artifact in the storage. One that was deleted while
// no agent ran is thereby found to be gone, and its artifacts are removed: sources have no finalizer that would wait for us.
func StoredGitRepositories(store *artifact.Store) source.Source {
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[ctrl.Request]) error {
		for _, o := range store.Objects(sourcev1.GitRepositoryKind) {
			queue.Add(ctrl.Request{NamespacedName: types.NamespacedName{Namespace: o.Namespace, Name: o.Name}})
		}
		return nil
	})
}

type gitRepositories struct {
	store    *artifact.Store
	git      *Git
	secrets  client.Reader
	recorder *reconcile.Recorder
	log      *slog.Logger
}

// gitAttempt is one run for one GitRepository.
type gitAttempt struct {
	run *reconcile.Run[*sourcev1.GitRepository]
	obj *sourcev1.GitRepository // its spec, and its status as the run found it
	ref Ref

	stored  *meta.Artifact // the artifact of the status, if the storage has it
	failing bool           // the run before this one failed

	remote   Remote         // set by credentials
	commit   Commit         // set by fetch
	artifact *meta.Artifact // set by store
}

func (g *gitRepositories) kind() reconcile.Kind[*sourcev1.GitRepository, *gitAttempt] {
	type obj = *sourcev1.GitRepository
	return reconcile.Kind[obj, *gitAttempt]{
		GVK:           api.GitRepositoryKind,
		New:           func() obj { return &sourcev1.GitRepository{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		Timeout:       func(o obj) time.Duration { return timeout(o) + storeTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         g.begin,
		Steps:         g.steps,
		Cleanup:       []reconcile.Step[*gitAttempt]{{Name: "remove", Do: g.remove}},
		Report:        report,
		After:         g.announce,
		EventMetadata: func(a *gitAttempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          g.gone,
	}
}

func (g *gitRepositories) steps(*gitAttempt) []reconcile.Step[*gitAttempt] {
	return []reconcile.Step[*gitAttempt]{
		{Name: "check", Do: g.check},             // refuse what this version cannot do
		{Name: "credentials", Do: g.credentials}, // read the Secret
		{Name: stepFetch, Progress: fetching, Do: g.fetch},
		{Name: stepStore, Progress: building, Do: g.storeArtifact},
	}
}

const (
	stepFetch = "fetch"
	stepStore = "store"
)

func fetching(*gitAttempt) string { return "reconciliation in progress" }

func building(a *gitAttempt) string { return "building artifact: " + newRevision(a) }

func newRevision(a *gitAttempt) string {
	return fmt.Sprintf("new upstream revision '%s'", a.commit.Revision)
}

func timeout(o *sourcev1.GitRepository) time.Duration {
	if o.Spec.Timeout == nil || o.Spec.Timeout.Duration <= 0 {
		return defaultTimeout
	}
	return o.Spec.Timeout.Duration
}

func (g *gitRepositories) begin(_ context.Context, run *reconcile.Run[*sourcev1.GitRepository]) *gitAttempt {
	o := run.Obj.DeepCopy()
	a := &gitAttempt{run: run, obj: o}
	if r := o.Spec.Reference; r != nil {
		a.ref = Ref{Commit: r.Commit, Name: r.Name, SemVer: r.SemVer, Tag: r.Tag, Branch: r.Branch}
	}
	if g.store.Holds(o.Status.Artifact) {
		a.stored = o.Status.Artifact.DeepCopy()
		a.stored.URL = g.store.URL(a.stored.Path) // the address may be another than when it was stored
	}
	for _, failed := range []string{sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition} {
		a.failing = a.failing || reconcile.Condition(o, failed) != nil
	}
	return a
}

// check refuses every field that asks for something this version does not do. To ignore one could serve an unverified
// commit, or a part of what was asked for.
func (g *gitRepositories) check(_ context.Context, a *gitAttempt) error {
	spec := &a.obj.Spec
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"spec.verify", spec.Verification != nil},
		{"spec.include", len(spec.Include) > 0},
		{"spec.recurseSubmodules", spec.RecurseSubmodules},
		{"spec.sparseCheckout", len(spec.SparseCheckout) > 0},
		{"spec.proxySecretRef", spec.ProxySecretRef != nil},
		{"spec.provider other than generic", a.obj.GetProvider() != sourcev1.GitProviderGeneric},
		{"spec.serviceAccountName", spec.ServiceAccountName != ""},
	} {
		if f.set {
			return api.Faultf(api.UnsupportedReason, api.RetryNever,
				"%s is not supported by this version and comes with a later one; remove it to go on", f.name)
		}
	}
	if _, _, err := (Remote{URL: spec.URL}).parse(); err != nil {
		return gitFault(fmt.Errorf("spec.url: %w", err))
	}
	if err := a.ref.check(); err != nil {
		return gitFault(err)
	}
	return nil
}

func (g *gitRepositories) credentials(ctx context.Context, a *gitAttempt) error {
	a.remote = Remote{URL: a.obj.Spec.URL}
	if a.obj.Spec.SecretRef == nil {
		return nil
	}
	key := types.NamespacedName{Namespace: a.obj.Namespace, Name: a.obj.Spec.SecretRef.Name}
	var secret corev1.Secret
	if err := g.secrets.Get(ctx, key, &secret); err != nil {
		return api.Faultf(sourcev1.AuthenticationFailedReason, api.RetryBackoff, "reading the Secret %s of spec.secretRef: %w", key, err)
	}
	ep, _, err := a.remote.parse()
	if err != nil {
		return gitFault(err)
	}
	a.remote.Credentials, err = CredentialsFrom(secret.Data, ep.Scheme)
	if err != nil {
		return gitFault(fmt.Errorf("using the Secret %s of spec.secretRef: %w", key, err))
	}
	return nil
}

// fetch finds out what the ref names now and gets it, unless it is what is stored already.
func (g *gitRepositories) fetch(ctx context.Context, a *gitAttempt) error {
	ctx, cancel := context.WithTimeout(ctx, timeout(a.obj))
	defer cancel()
	current := ""
	if a.stored != nil && ptr.Equal(a.obj.Spec.Ignore, a.obj.Status.ObservedIgnore) {
		current = a.stored.Revision
	}
	var err error
	if a.commit, err = g.git.Fetch(ctx, a.remote, a.ref, current); err != nil {
		return gitFault(err)
	}
	if a.commit.Revision == current {
		a.artifact = a.stored
	}
	return nil
}

// storeArtifact writes out what was fetched and publishes it.
func (g *gitRepositories) storeArtifact(ctx context.Context, a *gitAttempt) error {
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	snapshot, release, err := g.git.Snapshot(ctx, a.remote, a.ref, a.commit, a.obj.Spec.Ignore)
	if err != nil {
		return storeFault(err)
	}
	defer release()
	published, err := g.store.Publish(stored(a.obj), a.commit.Hash+".tar.gz", a.commit.Revision, snapshot)
	if err != nil {
		return storeFault(err)
	}
	if a.stored != nil && a.stored.HasDigest(published.Digest) && a.stored.HasRevision(published.Revision) {
		published.LastUpdateTime = a.stored.LastUpdateTime // nothing of it has changed
	}
	a.artifact = published
	return nil
}

// announce tells of news, when the status that holds it has been written. It compares with what the status named and not
// with what is stored: an artifact that was lost with its volume and fetched again is no news.
func (g *gitRepositories) announce(a *gitAttempt, end reconcile.Outcome) {
	if !end.Succeeded() {
		return // the loop tells of faults
	}
	before := a.obj.Status.Artifact
	switch {
	case before == nil || !before.HasDigest(a.artifact.Digest) || !before.HasRevision(a.artifact.Revision):
		g.recorder.Record(a.run.Obj, artifactEvent(a.commit, a.artifact))
	case a.failing:
		g.recorder.Record(a.run.Obj, recoveredEvent(a.artifact))
	default:
		// The same content as before, and no trouble in between: nobody needs to know.
	}
}

// remove runs when an object that Flux had put its finalizer on is deleted.
func (g *gitRepositories) remove(_ context.Context, a *gitAttempt) error {
	if err := g.store.Remove(stored(a.obj)); err != nil {
		return storeFault(err)
	}
	return nil
}

func (g *gitRepositories) gone(key types.NamespacedName) {
	o := artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: key.Namespace, Name: key.Name}
	if err := g.store.Remove(o); err != nil {
		// The next start of the agent finds what is left.
		g.log.Error("removing artifacts", "kind", o.Kind, "name", o.Name, "namespace", o.Namespace, "error", err)
	}
}

func stored(o *sourcev1.GitRepository) artifact.Object {
	return artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: o.Namespace, Name: o.Name}
}

// report fills the status as Flux does for the same outcome. After a fault the artifact that was stored before stays: it is
// still served, and nobody who uses it has to stop (faults.md F25).
func report(a *gitAttempt, end reconcile.Outcome) reconcile.Success {
	o := a.run.Obj
	reconcile.RemoveCondition(o, sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition,
		sourcev1.ArtifactOutdatedCondition)
	if end.Succeeded() {
		o.Status.Artifact = a.artifact
		o.Status.ObservedIgnore = a.obj.Spec.Ignore
		success := reconcile.Success{Reason: meta.SucceededReason, Message: storedMessage(a.artifact)}
		reconcile.SetCondition(o, sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, success.Reason, success.Message)
		return success
	}
	o.Status.Artifact = a.stored
	if a.stored == nil {
		reconcile.RemoveCondition(o, sourcev1.ArtifactInStorageCondition)
	}
	if end.Fault == nil {
		return reconcile.Success{} // it waits; no step of this kind does
	}
	failed := sourcev1.FetchFailedCondition
	if end.Step == stepStore {
		failed = sourcev1.StorageOperationFailedCondition
		reconcile.SetCondition(o, sourcev1.ArtifactOutdatedCondition, metav1.ConditionTrue, "NewRevision", newRevision(a))
	}
	reconcile.SetCondition(o, failed, metav1.ConditionTrue, end.Fault.Reason, end.Fault.Error())
	return reconcile.Success{}
}

// gitFault says under which reason an error of a fetch is reported, and what makes it worth trying again.
func gitFault(err error) error {
	var unsupported *UnsupportedSecretError
	switch {
	case errors.As(err, &unsupported):
		return &api.Fault{Reason: api.UnsupportedReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, ErrURL):
		return &api.Fault{Reason: sourcev1.URLInvalidReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, errRef):
		return &api.Fault{Reason: sourcev1.GitOperationFailedReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, ErrAuthentication):
		return &api.Fault{Reason: sourcev1.AuthenticationFailedReason, Retry: api.RetryBackoff, Err: err}
	case errors.Is(err, ErrEmptyRepository):
		return &api.Fault{Reason: api.EmptyGitRepositoryReason, Retry: api.RetryBackoff, Err: err}
	default:
		return &api.Fault{Reason: sourcev1.GitOperationFailedReason, Retry: api.RetryBackoff, Err: err}
	}
}

// storeFault does the same for an error of writing. What is wrong with the commit itself waits for another commit.
func storeFault(err error) error {
	switch {
	case errors.Is(err, errIgnore):
		return &api.Fault{Reason: api.SourceIgnoreErrorReason, Retry: api.RetryInterval, Err: err}
	case errors.Is(err, artifact.ErrPath):
		return &api.Fault{Reason: sourcev1.InvalidPathReason, Retry: api.RetryInterval, Err: err}
	case errors.Is(err, artifact.ErrLimit), errors.Is(err, ErrLimit):
		return &api.Fault{Reason: sourcev1.ArchiveOperationFailedReason, Retry: api.RetryInterval, Err: err}
	case errors.Is(err, errMirror):
		return &api.Fault{Reason: sourcev1.GitOperationFailedReason, Retry: api.RetryBackoff, Err: err}
	default:
		return &api.Fault{Reason: sourcev1.ArchiveOperationFailedReason, Retry: api.RetryBackoff, Err: err}
	}
}

package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// Options are what the controller of GitRepositories works with.
type Options struct {
	Store   *artifact.Store
	Fetcher *Fetcher
	// Secrets reads the Secrets that spec.secretRef names.
	Secrets  client.Reader
	Edge     reconcile.Edge
	Recorder *reconcile.Recorder
	Log      *slog.Logger
}

// NewRepositories returns the controller of GitRepositories.
func NewRepositories(o Options) *reconcile.Controller[*sourcev1.GitRepository, *attempt] {
	g := &repositories{store: o.Store, fetcher: o.Fetcher, secrets: o.Secrets, recorder: o.Recorder, log: o.Log}
	return reconcile.NewController(g.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

type repositories struct {
	store    *artifact.Store
	fetcher  *Fetcher
	secrets  client.Reader
	recorder *reconcile.Recorder
	log      *slog.Logger
}

// attempt is one run for one GitRepository.
type attempt struct {
	run *reconcile.Run[*sourcev1.GitRepository]
	obj *sourcev1.GitRepository // its spec, and its status as the run found it
	ref Ref

	source.Before

	remote   Remote         // set by credentials
	commit   Commit         // set by fetch
	artifact *meta.Artifact // set by store
}

func (g *repositories) kind() reconcile.Kind[*sourcev1.GitRepository, *attempt] {
	type obj = *sourcev1.GitRepository
	return reconcile.Kind[obj, *attempt]{
		GVK:           api.GitRepositoryKind,
		New:           func() obj { return &sourcev1.GitRepository{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		Timeout:       func(o obj) time.Duration { return source.Timeout(o.Spec.Timeout) + source.StoreTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         g.begin,
		Steps:         g.steps,
		Cleanup:       []reconcile.Step[*attempt]{{Name: "remove", Do: g.remove}},
		Report:        report,
		After:         g.announce,
		EventMetadata: func(a *attempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          g.gone,
	}
}

func (g *repositories) steps(*attempt) []reconcile.Step[*attempt] {
	return []reconcile.Step[*attempt]{
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

func fetching(*attempt) string { return "reconciliation in progress" }

func building(a *attempt) string { return "building artifact: " + newRevision(a) }

func newRevision(a *attempt) string {
	return fmt.Sprintf("new upstream revision '%s'", a.commit.Revision)
}

func (g *repositories) begin(_ context.Context, run *reconcile.Run[*sourcev1.GitRepository]) *attempt {
	o := run.Obj.DeepCopy()
	a := &attempt{run: run, obj: o, Before: source.Begin(g.store, sourcev1.GitRepositoryKind, o)}
	if r := o.Spec.Reference; r != nil {
		a.ref = Ref{Commit: r.Commit, Name: r.Name, SemVer: r.SemVer, Tag: r.Tag, Branch: r.Branch}
	}
	return a
}

// check refuses every field that asks for something this version does not do. To ignore one could serve an unverified
// commit, or a part of what was asked for.
func (g *repositories) check(_ context.Context, a *attempt) error {
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

func (g *repositories) credentials(ctx context.Context, a *attempt) error {
	a.remote = Remote{URL: a.obj.Spec.URL}
	if a.obj.Spec.SecretRef == nil {
		return nil
	}
	name := a.obj.Spec.SecretRef.Name
	data, err := source.Secret(ctx, g.secrets, a.obj.Namespace, name, "spec.secretRef")
	if err != nil {
		return err
	}
	ep, _, err := a.remote.parse()
	if err != nil {
		return gitFault(err)
	}
	a.remote.Credentials, err = CredentialsFrom(data, ep.Scheme)
	if err != nil {
		return gitFault(fmt.Errorf("using the Secret %s/%s of spec.secretRef: %w", a.obj.Namespace, name, err))
	}
	return nil
}

// fetch finds out what the ref names now and gets it, unless it is what is stored already.
func (g *repositories) fetch(ctx context.Context, a *attempt) error {
	ctx, cancel := context.WithTimeout(ctx, source.Timeout(a.obj.Spec.Timeout))
	defer cancel()
	current := ""
	if a.Stored != nil && ptr.Equal(a.obj.Spec.Ignore, a.obj.Status.ObservedIgnore) {
		current = a.Stored.Revision
	}
	var err error
	if a.commit, err = g.fetcher.Fetch(ctx, a.remote, a.ref, current); err != nil {
		return gitFault(err)
	}
	if a.commit.Revision == current {
		a.artifact = a.Stored
	}
	return nil
}

// storeArtifact writes out what was fetched and publishes it.
func (g *repositories) storeArtifact(ctx context.Context, a *attempt) error {
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	snapshot, release, err := g.fetcher.Snapshot(ctx, a.remote, a.ref, a.commit, a.obj.Spec.Ignore)
	if err != nil {
		return storeFault(err)
	}
	defer release()
	a.artifact, err = a.Publish(g.store, a.commit.Hash+".tar.gz", a.commit.Revision, snapshot)
	return err
}

func (g *repositories) announce(a *attempt, end reconcile.Outcome) {
	a.Announce(g.recorder, a.run.Obj, end, a.artifact, stored(a.commit))
}

// remove runs when an object that Flux had put its finalizer on is deleted.
func (g *repositories) remove(_ context.Context, a *attempt) error { return a.Remove(g.store) }

func (g *repositories) gone(key types.NamespacedName) {
	if err := source.Remove(g.store, sourcev1.GitRepositoryKind, key); err != nil {
		// The next start of the agent finds what is left.
		g.log.Error("removing artifacts", "kind", sourcev1.GitRepositoryKind, "name", key.Name, "namespace", key.Namespace, "error", err)
	}
}

// report fills the status as Flux does for the same outcome.
func report(a *attempt, end reconcile.Outcome) reconcile.Success {
	o, out := a.run.Obj, source.Outcome{Outcome: end, Artifact: a.artifact}
	if end.Step == stepStore {
		out.Failed, out.Outdated = sourcev1.StorageOperationFailedCondition, newRevision(a)
	}
	var success reconcile.Success
	o.Status.Artifact, success = a.Report(o, out)
	if end.Succeeded() {
		o.Status.ObservedIgnore = a.obj.Spec.Ignore
	}
	return success
}

// gitFault says under which reason an error of a fetch is reported, and what makes it worth trying again.
func gitFault(err error) error {
	var unsupported *UnsupportedSecretError
	switch {
	case errors.As(err, &unsupported):
		return &api.Fault{Reason: api.UnsupportedReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, errRef):
		return &api.Fault{Reason: sourcev1.GitOperationFailedReason, Retry: api.RetryNever, Err: err}
	case errors.Is(err, ErrEmptyRepository):
		return &api.Fault{Reason: api.EmptyGitRepositoryReason, Retry: api.RetryBackoff, Err: err}
	default:
		return source.FetchFault(err, sourcev1.GitOperationFailedReason)
	}
}

// storeFault does the same for an error of writing.
func storeFault(err error) error {
	if errors.Is(err, errMirror) {
		return &api.Fault{Reason: sourcev1.GitOperationFailedReason, Retry: api.RetryBackoff, Err: err}
	}
	return source.StoreFault(err)
}

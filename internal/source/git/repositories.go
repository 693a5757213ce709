package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// Secrets reads the Secrets that the spec names.
	Secrets client.Reader
	// Identities are those that spec.provider gets tokens for.
	Identities source.Identities
	Edge       reconcile.Edge
	// Waker wakes GitRepositories: one that somebody includes and that is not in the storage, and those who wait for it.
	Waker    *reconcile.Waker
	Recorder *reconcile.Recorder
	Log      *slog.Logger
}

// NewRepositories returns the controller of GitRepositories.
func NewRepositories(o Options) *reconcile.Controller[*sourcev1.GitRepository, *attempt] {
	g := newRepositories(o)
	return reconcile.NewController(g.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

func newRepositories(o Options) *repositories {
	g := &repositories{
		store: o.Store, fetcher: o.Fetcher, secrets: o.Secrets, reader: o.Edge.Reader, recorder: o.Recorder, log: o.Log,
		identities: o.Identities, tokens: &tokens{network: o.Fetcher.network}, clouds: clouds(), looked: map[types.NamespacedName]time.Time{}, slow: map[types.NamespacedName]int{},
		lacking: reconcile.NewWaitlist[string](), waker: o.Waker, dependency: o.Edge.Timing.Dependency,
	}
	o.Store.Subscribe(g.published)
	return g
}

type repositories struct {
	store      *artifact.Store
	fetcher    *Fetcher
	secrets    client.Reader
	reader     client.Reader // of our own objects, undecoded
	recorder   *reconcile.Recorder
	log        *slog.Logger
	tokens     *tokens
	clouds     map[string]auth.GitCredentialsProvider
	identities source.Identities

	lacking    *reconcile.Waitlist[string] // by the digest of an included artifact that was lost
	waker      *reconcile.Waker
	dependency time.Duration // the safety net of a wait for another object

	mu     sync.Mutex
	looked map[types.NamespacedName]time.Time // when an object has last seen an answer of its server
	slow   map[types.NamespacedName]int       // how often in a row its fetch was cut off while it was receiving
}

// attempt is one run for one GitRepository.
type attempt struct {
	run *reconcile.Run[*sourcev1.GitRepository]
	obj *sourcev1.GitRepository // its spec, and its status as the run found it
	ref Ref

	source.Before

	sparse   []string       // set by check
	included []inclusion    // set by include
	remote   Remote         // set by credentials
	commit   Commit         // set by fetch
	verified string         // set by verify: what the condition says
	artifact *meta.Artifact // set by fetch if nothing has changed, else by store
}

func (g *repositories) kind() reconcile.Kind[*sourcev1.GitRepository, *attempt] {
	type obj = *sourcev1.GitRepository
	return reconcile.Kind[obj, *attempt]{
		GVK:           api.GitRepositoryKind,
		New:           func() obj { return &sourcev1.GitRepository{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		Timeout: func(o obj) time.Duration {
			return g.patience(client.ObjectKeyFromObject(o), source.Timeout(o.Spec.Timeout)) + source.StoreTimeout
		},
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
		{Name: "check", Do: g.check},             // refuse what cannot be done
		{Name: "credentials", Do: g.credentials}, // read the Secret, get a token
		{Name: stepInclude, Do: g.include},       // find what is included
		{Name: stepFetch, Progress: fetching, Do: g.fetch},
		{Name: stepVerify, Do: g.verify}, // check the signatures, whether or not the commit is new
		{Name: stepStore, Progress: building, Do: g.storeArtifact},
	}
}

const (
	stepInclude = "include"
	stepFetch   = "fetch"
	stepVerify  = "verify"
	stepStore   = "store"
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
	if c := reconcile.Condition(o, sourcev1.SourceVerifiedCondition); c != nil && c.Status == metav1.ConditionFalse {
		a.Failing = true
	}
	a.Failing = a.Failing || reconcile.Condition(o, sourcev1.IncludeUnavailableCondition) != nil
	return a
}

// check refuses what the spec cannot mean, before anything is done.
func (g *repositories) check(_ context.Context, a *attempt) error {
	spec := &a.obj.Spec
	if p := a.obj.GetProvider(); spec.ServiceAccountName != "" && p != sourcev1.GitProviderAzure && p != sourcev1.GitProviderAWS {
		return api.Faultf(api.UnsupportedReason, api.RetryNever,
			"spec.serviceAccountName can only be used with spec.provider azure or aws, not %s; remove one of the two", p)
	}
	if err := source.CheckServiceAccount(spec.ServiceAccountName); err != nil {
		return err
	}
	if _, _, err := (Remote{URL: spec.URL}).parse(); err != nil {
		return gitFault(fmt.Errorf("spec.url: %w", err))
	}
	if err := a.ref.check(); err != nil {
		return gitFault(err)
	}
	var err error
	if a.sparse, err = sparseDirs(spec.SparseCheckout); err != nil {
		return gitFault(err)
	}
	return nil
}

// fetch finds out what the ref names now and gets it, unless it is what is stored already.
func (g *repositories) fetch(ctx context.Context, a *attempt) error {
	key := client.ObjectKeyFromObject(a.obj)
	ctx, cancel := context.WithTimeout(ctx, g.patience(key, source.Timeout(a.obj.Spec.Timeout)))
	defer cancel()
	current := ""
	if a.Stored != nil && a.sameLayout() {
		current = a.Stored.Revision
	}
	q := Question{Current: current, Since: g.since(a)}
	if a.obj.Spec.Verification != nil {
		q.Current = "" // the commit is needed to verify it, every time: the keys may be others than before
	}
	var err error
	a.commit, err = g.fetcher.Fetch(ctx, a.remote, a.ref, q)
	g.mu.Lock()
	g.looked[key] = time.Now()
	g.mu.Unlock()
	g.learn(key, err)
	if err != nil {
		return gitFault(err)
	}
	if a.commit.Revision == current {
		a.artifact = a.Stored
	}
	return nil
}

// sameLayout reports whether the stored artifact was made by the same rules as would be followed now.
func (a *attempt) sameLayout() bool {
	spec, status := &a.obj.Spec, &a.obj.Status
	return ptr.Equal(spec.Ignore, status.ObservedIgnore) && spec.RecurseSubmodules == status.ObservedRecurseSubmodules &&
		slices.Equal(spec.SparseCheckout, status.ObservedSparseCheckout) && slices.Equal(spec.Include, status.ObservedInclude) &&
		slices.EqualFunc(a.included, status.IncludedArtifacts, func(i inclusion, was *meta.Artifact) bool {
			return was.HasRevision(i.artifact.Revision) && was.HasDigest(i.artifact.Digest)
		})
}

// since returns how old the answer of the server may be: as old as a tenth of the interval, but never older than the last
// one that this object has seen. However many objects name one repository, it is asked ten times an interval at most, and
// who asks on request, or again after a failure, asks the server itself.
func (g *repositories) since(a *attempt) time.Time {
	key, now := types.NamespacedName{Namespace: a.obj.Namespace, Name: a.obj.Name}, time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	last := g.looked[key]
	asked := a.run.RequestedAt != "" && a.run.RequestedAt != a.obj.Status.LastHandledReconcileAt
	if asked || a.Failing || a.obj.Generation != a.obj.Status.ObservedGeneration {
		return now
	}
	if oldest := now.Add(-a.obj.Spec.Interval.Duration / 10); oldest.After(last) {
		return oldest
	}
	return last
}

// verify checks the signatures that spec.verify asks for.
func (g *repositories) verify(ctx context.Context, a *attempt) error {
	v := a.obj.Spec.Verification
	if v == nil {
		return nil
	}
	data, err := source.Secret(ctx, g.secrets, a.obj.Namespace, v.SecretRef.Name, "spec.verify.secretRef")
	if err != nil {
		return api.Faultf(sourcev1.VerificationError, api.RetryBackoff, "%w", errors.Unwrap(err))
	}
	keys, err := KeysFrom(data)
	if err != nil {
		return gitFault(fmt.Errorf("using the Secret %s/%s of spec.verify.secretRef: %w", a.obj.Namespace, v.SecretRef.Name, err))
	}
	if a.verified, err = g.fetcher.Verify(ctx, a.remote, a.ref, a.commit, v.VerifyHEAD(), v.VerifyTag(), keys); err != nil {
		a.artifact = nil
		return gitFault(err)
	}
	return nil
}

// storeArtifact writes out what was fetched and publishes it.
func (g *repositories) storeArtifact(ctx context.Context, a *attempt) error {
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	layout := Layout{
		Ignore: a.obj.Spec.Ignore, Sparse: a.sparse, Submodules: a.obj.Spec.RecurseSubmodules, Timeout: source.Timeout(a.obj.Spec.Timeout),
	}
	if a.Stored != nil {
		_, hash, _ := strings.Cut(a.Stored.Revision, "sha1:")
		layout.Previous = Previous{Commit: hash, Digest: a.Stored.Digest}
	}
	for _, i := range a.included {
		snapshot, release, err := g.store.Acquire(inStore(a.obj.Namespace, i.name), i.artifact.Digest)
		if err != nil {
			return i.unavailable(noArtifactReason, err)
		}
		defer release()
		layout.Include = append(layout.Include, Include{Snapshot: snapshot, From: i.from, To: i.to})
	}
	snapshot, release, err := g.fetcher.Snapshot(ctx, a.remote, a.ref, a.commit, layout)
	if err != nil {
		return storeFault(err)
	}
	defer release()
	a.artifact, err = a.Publish(g.store, a.commit.Hash+".tar.gz", a.commit.Revision, snapshot)
	return err
}

// inStore names a GitRepository as the storage does.
func inStore(namespace, name string) artifact.Object {
	return artifact.Object{Kind: sourcev1.GitRepositoryKind, Namespace: namespace, Name: name}
}

func (g *repositories) announce(a *attempt, end reconcile.Outcome) {
	a.Announce(g.recorder, a.run.Obj, end, a.artifact, stored(a.commit))
	if !end.Succeeded() {
		return
	}
	if moved, ok := a.ref.moved(a.Named, a.artifact); ok {
		g.recorder.Record(a.run.Obj, moved)
	}
}

// remove runs when an object that Flux had put its finalizer on is deleted.
func (g *repositories) remove(_ context.Context, a *attempt) error { return a.Remove(g.store) }

func (g *repositories) gone(key types.NamespacedName) {
	g.mu.Lock()
	delete(g.looked, key)
	delete(g.slow, key)
	g.mu.Unlock()
	g.lacking.Leave(key)
	if err := source.Remove(g.store, sourcev1.GitRepositoryKind, key); err != nil {
		// The next start of the agent finds what is left.
		g.log.Error("removing artifacts", "kind", sourcev1.GitRepositoryKind, "name", key.Name, "namespace", key.Namespace, "error", err)
	}
}

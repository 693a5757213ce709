package helm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
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

// Options are what the controllers of this package work with. Both are given the same Fetcher and Indexes.
type Options struct {
	Store   *artifact.Store
	Fetcher *Fetcher
	Indexes *Indexes
	// Registry reads charts from registries. Without it, objects that ask for one are refused.
	Registry Registry
	// Secrets reads the Secrets that secretRef and certSecretRef name.
	Secrets  client.Reader
	Edge     reconcile.Edge
	Recorder *reconcile.Recorder
	Log      *slog.Logger
}

// defaultInterval is what a HelmRepository has when it says none.
const defaultInterval = time.Minute

// NewRepositories returns the controller of HelmRepositories.
func NewRepositories(o Options) *reconcile.Controller[*sourcev1.HelmRepository, *indexAttempt] {
	r := &repositories{o}
	return reconcile.NewController(r.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

type repositories struct{ Options }

// indexAttempt is one run for one HelmRepository.
type indexAttempt struct {
	run *reconcile.Run[*sourcev1.HelmRepository]
	obj *sourcev1.HelmRepository // its spec, and its status as the run found it

	source.Before

	remote   remote         // set by credentials
	revision string         // set by fetch
	dir      string         // set by fetch: where the index lies until it is stored
	lookup   *Lookup        // set by fetch, when there is a new index
	artifact *meta.Artifact // set by store
}

func (r *repositories) kind() reconcile.Kind[*sourcev1.HelmRepository, *indexAttempt] {
	type obj = *sourcev1.HelmRepository
	return reconcile.Kind[obj, *indexAttempt]{
		GVK: api.HelmRepositoryKind,
		New: func() obj { return &sourcev1.HelmRepository{} },
		// A repository in a registry has no index: it only says how its charts are reached, and has no status.
		Suspended:     func(o obj) bool { return o.Spec.Suspend || o.Spec.Type == sourcev1.HelmRepositoryTypeOCI },
		Interval:      interval,
		RetryInterval: interval,
		Timeout:       func(o obj) time.Duration { return source.Timeout(o.Spec.Timeout) + source.StoreTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         r.begin,
		Steps:         r.steps,
		Cleanup:       []reconcile.Step[*indexAttempt]{{Name: "remove", Do: r.remove}},
		Report:        r.report,
		After:         r.announce,
		EventMetadata: func(a *indexAttempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          func(key types.NamespacedName) { gone(r.Options, sourcev1.HelmRepositoryKind, key) },
	}
}

func interval(o *sourcev1.HelmRepository) time.Duration {
	if o.Spec.Interval.Duration <= 0 {
		return defaultInterval
	}
	return o.Spec.Interval.Duration
}

func gone(o Options, kind string, key types.NamespacedName) {
	if err := source.Remove(o.Store, kind, key); err != nil {
		// The next start of the agent finds what is left.
		o.Log.Error("removing artifacts", "kind", kind, "name", key.Name, "namespace", key.Namespace, "error", err)
	}
}

func (r *repositories) steps(*indexAttempt) []reconcile.Step[*indexAttempt] {
	return []reconcile.Step[*indexAttempt]{
		{Name: "credentials", Do: r.credentials}, // read the Secrets
		{Name: stepFetch, Progress: fetchingIndex, Do: r.fetch},
		{Name: stepStore, Progress: storingIndex, Do: r.store},
	}
}

const (
	stepFetch = "fetch"
	stepStore = "store"
)

func fetchingIndex(*indexAttempt) string { return "reconciliation in progress" }

func storingIndex(a *indexAttempt) string {
	return fmt.Sprintf("building artifact: new index revision '%s'", a.revision)
}

func (r *repositories) begin(_ context.Context, run *reconcile.Run[*sourcev1.HelmRepository]) *indexAttempt {
	o := run.Obj.DeepCopy()
	return &indexAttempt{run: run, obj: o, Before: source.Begin(r.Store, sourcev1.HelmRepositoryKind, o)}
}

func (r *repositories) credentials(ctx context.Context, a *indexAttempt) error {
	var err error
	a.remote, err = remoteOf(ctx, r.Secrets, a.obj)
	return err
}

// remoteOf reads the URL and Secrets of a repository on an HTTP server. spec.accessFrom asks for nothing that exists: no
// object may refer to a repository of another namespace. spec.insecure and spec.provider are about registries only.
func remoteOf(ctx context.Context, secrets client.Reader, o *sourcev1.HelmRepository) (remote, error) {
	u, inURL, err := parseURL(o.Spec.URL)
	if err != nil {
		return remote{}, source.FetchFault(fmt.Errorf("spec.url: %w", err), sourcev1.IndexationFailedReason)
	}
	data, tls, err := secretsOf(ctx, secrets, o)
	if err != nil {
		return remote{}, err
	}
	r := remote{url: u, credentials: inURL, everywhere: o.Spec.PassCredentials, timeout: source.Timeout(o.Spec.Timeout)}
	if data != nil {
		if r.credentials, err = source.CredentialsFrom(data); err != nil {
			return remote{}, source.FetchFault(fmt.Errorf("using the Secret of spec.secretRef: %w", err), sourcev1.AuthenticationFailedReason)
		}
	}
	r.credentials.TLS = tls
	return r, nil
}

// secretsOf returns the data of secretRef's Secret, or nil, and the TLS of certSecretRef's or else of the same.
func secretsOf(ctx context.Context, secrets client.Reader, o *sourcev1.HelmRepository) (data map[string][]byte, tls source.TLS, err error) {
	field := "spec.secretRef"
	var certs map[string][]byte
	if ref := o.Spec.SecretRef; ref != nil {
		if data, err = source.Secret(ctx, secrets, o.Namespace, ref.Name, field); err != nil {
			return nil, tls, err
		}
		certs = data
	}
	if ref := o.Spec.CertSecretRef; ref != nil {
		field = "spec.certSecretRef"
		if certs, err = source.Secret(ctx, secrets, o.Namespace, ref.Name, field); err != nil {
			return nil, tls, err
		}
	}
	if tls, err = source.TLSFrom(certs); err != nil {
		return nil, tls, source.FetchFault(fmt.Errorf("using the Secret of %s: %w", field, err), sourcev1.AuthenticationFailedReason)
	}
	return data, tls, nil
}

// fetch downloads the index and, unless it is the one that is stored, puts it into the form in which it is served.
func (r *repositories) fetch(ctx context.Context, a *indexAttempt) error {
	dir, err := r.Store.TempDir("index-")
	if err != nil {
		return source.StoreFault(err)
	}
	if err := r.fetchInto(ctx, a, dir); err != nil || a.lookup == nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	a.dir = dir // the next step removes it
	return nil
}

const storedName = "stored"

func (r *repositories) fetchInto(ctx context.Context, a *indexAttempt, dir string) error {
	current := ""
	if a.Stored != nil {
		current = a.Stored.Revision
	}
	name, revision, err := r.Fetcher.index(ctx, a.remote, current, dir)
	if err != nil {
		return indexFault(err)
	}
	a.revision = revision
	if revision == current {
		a.artifact = a.Stored
		return nil
	}
	if done, err := r.adopt(a); done || err != nil {
		return err
	}
	if a.lookup, err = r.Indexes.build(ctx, name, filepath.Join(dir, storedName), dir); err != nil {
		return indexFault(fmt.Errorf("reading the index of %s: %w", source.Shown(a.remote.url), err))
	}
	return nil
}

// adopt publishes the index in the form in which it was stored for another object that had fetched the same.
func (r *repositories) adopt(a *indexAttempt) (done bool, err error) {
	digest := r.Indexes.storedAs(a.revision)
	if digest == "" {
		return false, nil
	}
	found, err := a.PublishStored(r.Store, a.file(), a.revision, digest)
	if errors.Is(err, artifact.ErrNotFound) {
		r.Indexes.noteStored(a.revision, "") // whoever had it is gone, and his artifact with him
		return false, nil
	}
	a.artifact = found
	return err == nil, err
}

func (a *indexAttempt) file() string {
	return "index-" + strings.TrimPrefix(a.revision, "sha256:") + ".yaml"
}

// indexFault is final for nothing: what a server serves changes without us.
func indexFault(err error) error { return source.FetchFault(err, sourcev1.IndexationFailedReason) }

// store publishes the index.
func (r *repositories) store(_ context.Context, a *indexAttempt) (err error) {
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	defer os.RemoveAll(a.dir) // what cannot be removed now is swept when the store is opened next
	f, err := os.Open(filepath.Join(a.dir, storedName))
	if err != nil {
		return source.StoreFault(err)
	}
	defer f.Close()
	a.artifact, err = a.PublishFile(r.Store, a.file(), a.revision, f)
	if err != nil {
		return err
	}
	r.Indexes.noteStored(a.revision, a.artifact.Digest)
	r.Indexes.keep(a.artifact.Digest, a.lookup)
	return nil
}

func (r *repositories) remove(_ context.Context, a *indexAttempt) error { return a.Remove(r.Store) }

func (r *repositories) report(a *indexAttempt, end reconcile.Outcome) reconcile.Success {
	outcome := source.Outcome{Outcome: end, Artifact: a.artifact}
	if end.Succeeded() {
		outcome.Success = storedIndex(a.artifact)
	}
	if end.Step == stepStore {
		outcome.Failed, outcome.Outdated = sourcev1.StorageOperationFailedCondition, fmt.Sprintf("new index revision '%s'", a.revision)
	}
	o := a.run.Obj
	var success reconcile.Success
	o.Status.Artifact, success = a.Report(o, outcome)
	if end.Succeeded() {
		o.Status.URL = r.Store.URL(strings.ToLower(sourcev1.HelmRepositoryKind) + "/" + o.Namespace + "/" + o.Name + "/index.yaml")
	}
	return success
}

func storedIndex(a *meta.Artifact) reconcile.Success {
	return reconcile.Success{Reason: meta.SucceededReason, Message: fmt.Sprintf("stored artifact: revision '%s'", a.Revision)}
}

func (r *repositories) announce(a *indexAttempt, end reconcile.Outcome) {
	if !end.Succeeded() {
		return // the loop tells of faults
	}
	news := reconcile.Success{
		Reason:  "NewArtifact",
		Message: fmt.Sprintf("stored fetched index of size %s from '%s'", humanSize(ptr.Deref(a.artifact.Size, 0)), withoutSecrets(a.remote.url)),
	}
	a.AnnounceAs(r.Recorder, a.run.Obj, end, a.artifact, news, storedIndex(a.artifact))
}

// withoutSecrets is a repository's URL as an event repeats it; user and password were taken out when it was parsed.
func withoutSecrets(u *url.URL) string {
	shown := *u
	shown.RawQuery = ""
	return shown.String()
}

// humanSize writes a number of bytes as Flux does.
func humanSize(n int64) string {
	size, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB"}
	for size >= 1000 && unit < len(units)-1 {
		size /= 1000
		unit++
	}
	return fmt.Sprintf("%.4g%s", size, units[unit])
}

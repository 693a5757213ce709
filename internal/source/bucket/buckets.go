package bucket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// Options are what the controller of Buckets works with.
type Options struct {
	Store   *artifact.Store
	Buckets *Fetcher
	// Secrets reads the Secrets that the spec names.
	Secrets client.Reader
	// Identities are those that spec.serviceAccountName names.
	Identities source.Identities
	Edge       reconcile.Edge
	Recorder   *reconcile.Recorder
	Log        *slog.Logger
}

// New returns the controller of Buckets.
func New(o Options) *reconcile.Controller[*sourcev1.Bucket, *attempt] {
	b := &buckets{store: o.Store, fetcher: o.Buckets, secrets: o.Secrets, identities: o.Identities, recorder: o.Recorder, log: o.Log}
	return reconcile.NewController(b.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

type buckets struct {
	store      *artifact.Store
	fetcher    *Fetcher
	secrets    client.Reader
	identities source.Identities
	recorder   *reconcile.Recorder
	log        *slog.Logger
}

// attempt is one run for one Bucket.
type attempt struct {
	run    *reconcile.Run[*sourcev1.Bucket]
	obj    *sourcev1.Bucket // its spec, and its status as the run found it
	key    types.NamespacedName
	before source.Before

	secrets  secrets        // set by credentials
	look     look           // set by list, closed by report
	revision string         // set by list
	artifact *meta.Artifact // set by list if the stored one is up to date, otherwise by store
	failed   string         // the condition that tells of a fault
}

func (b *buckets) kind() reconcile.Kind[*sourcev1.Bucket, *attempt] {
	type obj = *sourcev1.Bucket
	return reconcile.Kind[obj, *attempt]{
		GVK:           api.BucketKind,
		New:           func() obj { return &sourcev1.Bucket{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		// To list and to download may each take as long as spec.timeout says, as with Flux.
		Timeout:       func(o obj) time.Duration { return 2*source.Timeout(o.Spec.Timeout) + source.StoreTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         b.begin,
		Steps:         b.steps,
		Cleanup:       []reconcile.Step[*attempt]{{Name: "remove", Do: b.remove}},
		Report:        b.report,
		After:         b.announce,
		EventMetadata: func(*attempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          b.gone,
	}
}

func (b *buckets) steps(*attempt) []reconcile.Step[*attempt] {
	return []reconcile.Step[*attempt]{
		{Name: "check", Do: check},               // refuse what the provider cannot do
		{Name: "credentials", Do: b.credentials}, // read the Secrets
		{Name: "list", Progress: listed, Do: b.list},
		{Name: "store", Progress: building, Do: b.storeArtifact},
	}
}

func listed(*attempt) string { return "reconciliation in progress" }

func building(a *attempt) string { return "building artifact: " + newRevision(a) }

func newRevision(a *attempt) string { return fmt.Sprintf("new upstream revision '%s'", a.revision) }

func (b *buckets) begin(_ context.Context, run *reconcile.Run[*sourcev1.Bucket]) *attempt {
	o := run.Obj.DeepCopy()
	return &attempt{
		run: run, obj: o, key: client.ObjectKeyFromObject(o),
		before: source.Begin(b.store, sourcev1.BucketKind, o), failed: sourcev1.FetchFailedCondition,
	}
}

// check refuses every field that the provider has no use for: to ignore one could read with other rights, or over another
// way, than was asked for.
func check(_ context.Context, a *attempt) error {
	spec := &a.obj.Spec
	s3 := generic(spec) || spec.Provider == sourcev1.BucketProviderAmazon
	for _, f := range []struct {
		set  bool
		text string
	}{
		{spec.ServiceAccountName != "" && generic(spec), "spec.serviceAccountName is not supported for the 'generic' bucket provider, remove it to go on"},
		{spec.ServiceAccountName != "" && spec.SecretRef != nil, "spec.serviceAccountName and spec.secretRef are two identities, remove one to go on"},
		{spec.ServiceAccountName != "" && spec.Provider == sourcev1.BucketProviderAmazon && spec.Region == "",
			"spec.serviceAccountName needs spec.region with the 'aws' bucket provider, which says where its token is exchanged"},
		{spec.CertSecretRef != nil && !s3, "spec.certSecretRef is not supported for the '" + spec.Provider + "' bucket provider, remove it to go on"},
	} {
		if f.set {
			return api.Faultf(api.UnsupportedReason, api.RetryNever, "%s", f.text)
		}
	}
	if err := source.CheckServiceAccount(spec.ServiceAccountName); err != nil {
		return err
	}
	return checkSTS(spec)
}

func (b *buckets) credentials(ctx context.Context, a *attempt) error {
	spec, s := &a.obj.Spec, &a.secrets
	read := func(ref *meta.LocalObjectReference, field string, use func(map[string][]byte) error) error {
		if ref == nil {
			return nil
		}
		data, err := source.Secret(ctx, b.secrets, a.obj.Namespace, ref.Name, field)
		if err != nil {
			return err
		}
		if err := use(data); err != nil {
			return source.FetchFault(fmt.Errorf("using the Secret %s/%s of %s: %w", a.obj.Namespace, ref.Name, field, err),
				sourcev1.AuthenticationFailedReason)
		}
		return nil
	}
	sts := spec.STS
	if sts == nil {
		sts = &sourcev1.BucketSTSSpec{}
	}
	defer func() {
		if spec.ServiceAccountName != "" {
			s.identity = b.identities.Of(sourcev1.BucketKind, a.key, spec.ServiceAccountName, s.proxy)
		}
	}()
	return errors.Join(
		read(spec.SecretRef, "spec.secretRef", func(data map[string][]byte) error {
			s.keys = data
			if data == nil {
				s.keys = map[string][]byte{} // an empty Secret is not the same as none
			}
			return nil
		}),
		read(spec.CertSecretRef, "spec.certSecretRef", func(data map[string][]byte) (err error) {
			s.tls, err = source.TLSFrom(data)
			return err
		}),
		read(spec.ProxySecretRef, "spec.proxySecretRef", func(data map[string][]byte) (err error) {
			s.proxy, err = source.ProxyFrom(data)
			return err
		}),
		read(sts.SecretRef, "spec.sts.secretRef", func(data map[string][]byte) error {
			s.sts = data
			if len(data["username"]) == 0 || len(data["password"]) == 0 {
				return fmt.Errorf("%w: it needs the keys \"username\" and \"password\"", source.ErrAuthentication)
			}
			return nil
		}),
		read(sts.CertSecretRef, "spec.sts.certSecretRef", func(data map[string][]byte) (err error) {
			s.stsTLS, err = source.TLSFrom(data)
			return err
		}),
	)
}

// list finds out what the bucket holds now, without downloading it.
func (b *buckets) list(ctx context.Context, a *attempt) (err error) {
	ctx, cancel := context.WithTimeout(ctx, source.Timeout(a.obj.Spec.Timeout))
	defer cancel()
	if a.look, err = b.fetcher.list(ctx, a.key, &a.obj.Spec, a.secrets); err != nil {
		return listFault(err)
	}
	a.revision = a.look.index.revision()
	if a.look.stored(a.before.Stored) {
		a.artifact = a.before.Stored
	}
	return nil
}

// storeArtifact downloads what is new and publishes all of it.
func (b *buckets) storeArtifact(ctx context.Context, a *attempt) error {
	defer a.look.close()
	if a.artifact != nil {
		return nil // the stored artifact is up to date
	}
	downloading, cancel := context.WithTimeout(ctx, source.Timeout(a.obj.Spec.Timeout))
	defer cancel()
	snapshot, writer, err := b.fetcher.snapshot(downloading, a.key, a.look)
	if err != nil {
		if ours(err) {
			a.failed = sourcev1.StorageOperationFailedCondition
			return source.StoreFault(err)
		}
		return listFault(source.Steady(err))
	}
	defer writer.Close()
	file := strings.TrimPrefix(a.revision, "sha256:") + ".tar.gz"
	if a.artifact, err = a.before.Publish(b.store, file, a.revision, snapshot); err != nil {
		a.failed = sourcev1.StorageOperationFailedCondition
	}
	return err
}

// ours reports whether it was the storage that failed, and not the provider.
func ours(err error) bool {
	var l *lost
	return !errors.As(err, &l) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// listFault says under which reason an error of a provider is reported, and what makes it worth trying again. What is wrong
// with the bucket's content waits for other content.
func listFault(err error) error {
	f := source.FetchFault(err, sourcev1.BucketOperationFailedReason)
	switch {
	case errors.Is(err, artifact.ErrPath):
		f.Reason, f.Retry = sourcev1.InvalidPathReason, api.RetryInterval
	case errors.Is(err, source.ErrIgnore):
		f.Reason, f.Retry = api.SourceIgnoreErrorReason, api.RetryInterval
	case errors.Is(err, source.ErrLimit):
		f.Retry = api.RetryInterval
	}
	return f
}

// report fills the status as Flux does for the same outcome.
func (b *buckets) report(a *attempt, end reconcile.Outcome) reconcile.Success {
	o := a.run.Obj
	outcome := source.Outcome{Outcome: end, Artifact: a.artifact, Failed: a.failed}
	if end.Succeeded() {
		// Flux words it otherwise for this kind than for Git.
		outcome.Success = reconcile.Success{Reason: meta.SucceededReason, Message: fmt.Sprintf("stored artifact: revision '%s'", a.revision)}
		o.Status.ObservedIgnore = a.obj.Spec.Ignore
		o.Status.URL = b.store.URL(path.Dir(a.artifact.Path) + "/latest.tar.gz")
	}
	if end.Step == "store" {
		outcome.Outdated = newRevision(a)
	}
	var success reconcile.Success
	o.Status.Artifact, success = a.before.Report(o, outcome)
	return success
}

func (b *buckets) announce(a *attempt, end reconcile.Outcome) {
	if !end.Succeeded() {
		return // the loop tells of faults
	}
	message := fmt.Sprintf("stored artifact with %d fetched files from '%s' bucket", len(a.look.index.objects), a.obj.Spec.BucketName)
	a.before.AnnounceAs(b.recorder, a.run.Obj, end, a.artifact,
		reconcile.Success{Reason: "NewArtifact", Message: message}, reconcile.Success{Reason: meta.SucceededReason, Message: message})
}

// remove runs when an object that Flux had put its finalizer on is deleted.
func (b *buckets) remove(_ context.Context, a *attempt) error {
	return errors.Join(a.before.Remove(b.store), b.fetcher.memories.forget(a.key))
}

func (b *buckets) gone(key types.NamespacedName) {
	err := errors.Join(source.Remove(b.store, sourcev1.BucketKind, key), b.fetcher.memories.forget(key))
	if err != nil {
		// The next start of the agent finds what is left.
		b.log.Error("removing artifacts", "kind", sourcev1.BucketKind, "name", key.Name, "namespace", key.Namespace, "error", err)
	}
}

package bucket

import (
	"context"
	"fmt"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	azureauth "github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// Fetcher lists buckets and writes what they hold as snapshots. Its methods may be called concurrently.
type Fetcher struct {
	store    *artifact.Store
	network  source.Network
	limits   Limits
	memories memories
	clouds   clouds
	pauses   source.Pauses
	running  source.Running // calls into the libraries, some of which may have outlived their callers
}

// clouds are those that know a ServiceAccount by its workload identity, by the names of spec.provider. Tests put others in
// their place.
type clouds map[string]auth.Provider

// NewFetcher returns a Fetcher that remembers in the store what it downloaded. Zero Limits mean DefaultLimits.
func NewFetcher(store *artifact.Store, network source.Network, limits Limits) (*Fetcher, error) {
	dir, err := store.Dir("buckets")
	if err != nil {
		return nil, fmt.Errorf("making the directory for buckets: %w", err)
	}
	if limits == (Limits{}) {
		limits = DefaultLimits
	}
	return &Fetcher{store: store, network: network, limits: limits, memories: memories{dir}, clouds: clouds{
		sourcev1.BucketProviderAmazon: aws.Provider{}, sourcev1.BucketProviderAzure: azureauth.Provider{}, sourcev1.BucketProviderGoogle: gcp.Provider{},
	}}, nil
}

// Start waits, when ctx ends, for what is still running.
func (f *Fetcher) Start(ctx context.Context) error {
	<-ctx.Done()
	f.running.Wait()
	return nil
}

// secrets are the data of the Secrets that a Bucket names.
type secrets struct {
	keys   map[string][]byte // of spec.secretRef; nil without one
	tls    source.TLS        // of spec.certSecretRef
	proxy  *source.Proxy     // of spec.proxySecretRef
	sts    map[string][]byte // of spec.sts.secretRef
	stsTLS source.TLS        // of spec.sts.certSecretRef
	// identity is that of spec.serviceAccountName at cloud; nil without one.
	identity *source.Identity
	cloud    auth.Provider
}

// open makes the client of the spec's provider.
func (f *Fetcher) open(ctx context.Context, spec *sourcev1.BucketSpec, s secrets) (storage, error) {
	s.cloud = f.clouds[spec.Provider]
	switch spec.Provider {
	case sourcev1.BucketProviderGoogle:
		return openGCS(ctx, f.network, spec, s)
	case sourcev1.BucketProviderAzure:
		return openAzure(ctx, f.network, spec, s)
	case sourcev1.BucketProviderGeneric, sourcev1.BucketProviderAmazon, "":
		return openS3(ctx, f.network, spec, s)
	default:
		return nil, fmt.Errorf("%w: spec.provider %q is not known", source.ErrURL, spec.Provider)
	}
}

// look is what one look at a bucket found. It is closed by who asked for it.
type look struct {
	storage storage
	index   *index
	from    string
	known   *memory // nil when nothing is known of what is there
	caller  string
}

// stored reports whether the artifact that was published before is of this very bucket.
func (l look) stored(a *meta.Artifact) bool {
	return a != nil && l.known != nil && l.known.Digest == a.Digest && a.HasRevision(l.index.revision())
}

func (l look) close() {
	if l.storage != nil {
		l.storage.close()
	}
}

// list lists the bucket. It returns when ctx ends, whatever the server does.
func (f *Fetcher) list(ctx context.Context, key types.NamespacedName, spec *sourcev1.BucketSpec, s secrets) (look, error) {
	caller, err := caller(key.Namespace, spec, s)
	if err != nil {
		return look{}, err
	}
	if err := f.pauses.Check(caller); err != nil {
		return look{}, err
	}
	found, err := source.Detached(ctx, &f.running, func() (look, error) {
		l := look{from: origin(spec, s), caller: caller}
		l.known = f.memories.read(key, l.from)
		var err error
		// Not ctx: a client of Google keeps it for the tokens that it gets later.
		if l.storage, err = f.open(context.WithoutCancel(ctx), spec, s); err != nil {
			return l, err
		}
		l.index, err = listing{storage: l.storage, prefix: spec.Prefix, ignore: spec.Ignore, limits: f.limits, known: l.known}.read(ctx)
		if err != nil {
			l.close()
		}
		return l, err
	}, look.close)
	f.pauses.Note(caller, err)
	return found, source.Steady(err)
}

// caller names who asks the server. A ServiceAccount stands for itself: its tokens are replaced every hour.
func caller(namespace string, spec *sourcev1.BucketSpec, s secrets) (string, error) {
	account := ""
	if spec.ServiceAccountName != "" {
		account = namespace + "/" + spec.ServiceAccountName
	}
	return source.Caller(spec.Provider, spec.Endpoint, spec.Insecure, account, s.keys, s.tls, s.proxy, spec.STS, s.sts, s.stsTLS)
}

// snapshot downloads what has changed and writes all of it. The Writer holds the snapshot until it is closed.
func (f *Fetcher) snapshot(ctx context.Context, key types.NamespacedName, l look) (*artifact.Snapshot, *artifact.Writer, error) {
	type written struct {
		snapshot *artifact.Snapshot
		writer   *artifact.Writer
	}
	w, err := source.Detached(ctx, &f.running, func() (w written, err error) {
		if w.writer, err = f.store.NewWriter(); err != nil {
			return w, err
		}
		defer func() {
			if err != nil || w.snapshot == nil { // or there was a panic
				w.writer.Close()
			}
		}()
		before := f.before(key, l.known)
		defer before.release()
		if err = l.index.write(ctx, l.storage, before.reuse, w.writer); err != nil {
			return w, err
		}
		if w.snapshot, err = w.writer.Commit(); err != nil {
			return w, err
		}
		return w, f.memories.write(f.store, key, l.index.remember(l.from, w.snapshot.Digest))
	}, func(w written) { w.writer.Close() })
	f.pauses.Note(l.caller, err)
	return w.snapshot, w.writer, err
}

// stored names the Bucket as the storage does.
func stored(key types.NamespacedName) artifact.Object {
	return artifact.Object{Kind: sourcev1.BucketKind, Namespace: key.Namespace, Name: key.Name}
}

// before takes hold of the snapshot that is remembered.
func (f *Fetcher) before(key types.NamespacedName, known *memory) (b struct {
	reuse
	release func()
}) {
	b.release = func() {}
	if known == nil {
		return b
	}
	snapshot, release, err := f.store.Acquire(stored(key), known.Digest)
	if err != nil {
		return b // it has been collected, or the volume was lost: everything is downloaded
	}
	b.snapshot, b.etags, b.release = snapshot, known.ETags, release
	return b
}

// remember is what there is to know next time.
func (i *index) remember(from, digest string) memory {
	m := memory{From: from, Digest: digest, ETags: make(map[string]string, len(i.objects)), Ignore: i.text}
	for key, o := range i.objects {
		m.ETags[key] = o.ETag
	}
	if i.ignore != nil {
		m.IgnoreETag = i.ignore.ETag
	}
	return m
}

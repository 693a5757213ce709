package external

import (
	"archive/tar"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

var (
	digestPattern = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)

	// ErrArtifact: what the status names is not what it should be, and to fetch it again would not help.
	ErrArtifact = errors.New("unusable artifact")
	// ErrDigest: the server sends something else than the status names. It may be behind, or the status may be.
	ErrDigest = errors.New("another artifact")
)

// Fetcher downloads artifacts. Its methods may be called concurrently.
type Fetcher struct {
	store   *artifact.Store
	network source.Network
	running source.Running // calls that may have outlived their callers
}

// NewFetcher returns a Fetcher into the store.
func NewFetcher(store *artifact.Store, network source.Network) *Fetcher {
	return &Fetcher{store: store, network: network}
}

// Start waits, when ctx ends, for what is still running.
func (f *Fetcher) Start(ctx context.Context) error {
	<-ctx.Done()
	f.running.Wait()
	return nil
}

// publish makes what a names the object's own artifact, and makes sure that its files can be read. It downloads only what
// the store does not hold, and reports whether it did.
func (f *Fetcher) publish(ctx context.Context, o artifact.Object, a *meta.Artifact) (fetched bool, err error) {
	parts := digestPattern.FindStringSubmatch(a.Digest)
	if parts == nil {
		return false, fmt.Errorf("%w: status.artifact.digest is not sha256: and 64 hexadecimal digits", ErrArtifact)
	}
	file := parts[1] + ".tar.gz"
	if err := f.publishStored(o, file, a); !errors.Is(err, artifact.ErrNotFound) {
		return false, err
	}
	return true, f.fetch(ctx, o, file, a)
}

// publishStored publishes what the store holds for another object of the namespace: that artifact can be removed at any
// time, and the object's newest cannot. What other namespaces have is not for whoever knows its digest: it has to come from
// the URL. The error is ErrNotFound when the store does not hold it.
func (f *Fetcher) publishStored(o artifact.Object, file string, a *meta.Artifact) error {
	if !f.store.IsLatest(o, file, a.Digest) {
		if !f.store.HasIn(o.Namespace, a.Digest) {
			return fmt.Errorf("digest %q in namespace %s: %w", a.Digest, o.Namespace, artifact.ErrNotFound)
		}
		if _, err := f.store.PublishStored(o, file, a.Revision, a.Digest); err != nil {
			return err
		}
	}
	return f.readable(o, a.Digest)
}

// fetch stores what a names for the object. It returns when ctx ends, whatever the server does.
func (f *Fetcher) fetch(ctx context.Context, o artifact.Object, file string, a *meta.Artifact) error {
	from, err := url.Parse(a.URL)
	if err != nil || from.Hostname() == "" || from.Scheme != "http" && from.Scheme != "https" {
		return fmt.Errorf("%w: status.artifact.url is not a URL that begins with http:// or https://", ErrArtifact)
	}
	_, err = source.Detached(ctx, &f.running, func() (struct{}, error) {
		return struct{}{}, f.download(ctx, o, file, from, a)
	}, func(struct{}) {})
	if err != nil {
		return fmt.Errorf("fetching the artifact of revision %s from %s: %w", source.OneLine(a.Revision), source.Shown(from), err)
	}
	return nil
}

func (f *Fetcher) download(ctx context.Context, o artifact.Object, file string, from *url.URL, a *meta.Artifact) error {
	client, err := source.HTTP{Network: f.network, Origin: from, UserAgent: "cleat"}.Client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: status.artifact.url: %w", ErrArtifact, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return source.Steady(err)
	}
	defer res.Body.Close()
	if err := source.CheckStatus(res); errors.Is(err, source.ErrAuthentication) {
		return fmt.Errorf("the server answers %d: artifacts are fetched without credentials, and by an agent never from its own storage; "+
			"status.artifact.url must name a server that the controller which made the artifact opens to its readers", res.StatusCode)
	} else if err != nil {
		return err
	}
	content := &verified{r: res.Body, sum: sha256.New(), want: a.Digest}
	if _, err := f.store.PublishFile(o, file, a.Revision, content); err != nil {
		return err
	}
	return f.readable(o, a.Digest)
}

// readable makes sure that the files can be read: the first reader unpacks the tarball, under the limits of all tarballs,
// and that this can be done should be known before.
func (f *Fetcher) readable(o artifact.Object, digest string) error {
	_, release, err := f.store.Acquire(o, digest)
	switch {
	case err == nil:
		release()
		return nil
	case isBroken(err):
		return fmt.Errorf("%w: %w", ErrArtifact, err)
	}
	return err
}

// isBroken reports whether unpacking failed because of what is in the tarball, and not because of the disk.
func isBroken(err error) bool {
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt {
		return true
	}
	for _, broken := range []error{artifact.ErrPath, artifact.ErrLimit, gzip.ErrHeader, gzip.ErrChecksum, tar.ErrHeader, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
}

// verified is content that ends with an error when it is not what its digest says.
type verified struct {
	r    io.Reader
	sum  hash.Hash
	want string
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := "sha256:" + hex.EncodeToString(v.sum.Sum(nil)); !strings.EqualFold(got, v.want) {
			return n, fmt.Errorf("%w: its digest is %s and not %s", ErrDigest, got, v.want)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = source.Steady(err)
	}
	return n, err
}

package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// maxAnswers and maxContents are how many tags' digests and how many manifests and signatures a session remembers.
	maxAnswers, maxContents = 256, 16
	// maxManifest is what the OCI distribution specification asks registries to accept at least.
	maxManifest = 4 << 20
	// maxSignature bounds a signature, a bundle or an envelope.
	maxSignature = 4 << 20
	// maxTagPages and maxTags bound how long a registry can go on listing, and maxTagBytes how much of that is kept.
	maxTagPages = 200
	maxTags     = 1_000_000
	maxTagBytes = 32 << 20
	// maxTag is how long a tag may be by the OCI distribution specification.
	maxTag = 128
	// maxPages is how many pages of a list of referrers are looked at.
	maxPages = 50
	// maxRequests and maxBytes bound one attempt over all registries that it asks, beside the layers that it downloads: more
	// than every list of tags takes, or all the signatures that are looked at and are of any sane size.
	maxRequests, maxBytes = 1000, 128 << 20
	// maxKept bounds what is remembered of the answers of all registries together.
	maxKept = 64 << 20
)

// NewBudget returns what one attempt may ask of registries; it is given on by source.WithBudget.
func NewBudget() *source.Budget { return source.NewBudget(maxRequests, maxBytes) }

// errNotFound: the registry has nothing of that name.
var errNotFound = errors.New("not found")

// registries are the connections to repositories that objects share. All its methods may be called concurrently.
type registries struct {
	network source.Network
	now     func() time.Time
	pauses  source.Pauses

	mu   sync.Mutex
	open map[string]*session // by repository and remote.caller
	kept int64               // bytes of answers since all were forgotten last
}

// keep counts what is remembered. Above the bound all of it is forgotten, whosoever it is, which costs a request for each: a
// registry alone could fill one session, but many objects can name many registries.
func (r *registries) keep(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept += bytes; r.kept <= maxKept {
		return
	}
	r.kept = 0
	for _, s := range r.open {
		s.tags.drop()
		s.answers.drop()
		s.lists.drop()
	}
}

// remote is one repository as one object reaches it.
type remote struct {
	repository name.Repository
	insecure   bool
	auth       authn.AuthConfig
	// confided are hosts for which the user's Secret has the same credentials.
	confided []string
	tls      source.TLS
	proxy    *source.Proxy
}

// caller names who asks: another user may be told something else, or nothing.
func (r remote) caller() (string, error) {
	// One by one, because AuthConfig writes only a part of itself.
	auth := []string{r.auth.Username, r.auth.Password, r.auth.Auth, r.auth.IdentityToken, r.auth.RegistryToken}
	return source.Caller(r.insecure, auth, r.confided, r.tls, r.proxy)
}

// session is what is known of a repository under one set of credentials: the connections, the token, recent answers.
type session struct {
	remote
	id    string
	now   func() time.Time
	guard *guard

	client  shared[struct{}, *http.Client]
	heads   shared[string, descriptor] // by tag
	tags    shared[struct{}, []string]
	answers shared[string, []byte]          // manifests and signatures, by what they are
	lists   shared[string, []v1.Descriptor] // of what refers to a digest
	used    time.Time                       // under registries.mu
}

// descriptor is what a registry says a name stands for.
type descriptor struct {
	MediaType types.MediaType `json:"mediaType"`
	Digest    string          `json:"digest"`
	Size      int64           `json:"size"`
}

// session returns the session for a remote. Those that nobody has used for an hour are closed.
func (r *registries) session(to remote) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	caller, err := to.caller()
	if err != nil {
		return nil, err
	}
	now, id := r.now(), to.repository.Name()+" "+caller // answers are not shared with anybody else either
	s, ok := r.open[id]
	if !ok {
		guard, err := r.guard(to, caller)
		if err != nil {
			return nil, err
		}
		s = &session{remote: to, id: id, now: r.now, guard: guard}
		s.client.most, s.heads.most, s.tags.most, s.answers.most, s.lists.most = 1, maxAnswers, 1, maxContents, maxContents
		s.answers.keep = func(content []byte) { r.keep(int64(len(content))) }
		s.tags.keep = func(tags []string) { r.keep(sizeOf(tags)) }
		s.lists.keep = func(all []v1.Descriptor) { r.keep(int64(len(all)) * descriptorSize) }
		r.sweep(now)
		r.open[id] = s
	}
	s.used = now
	return s, nil
}

// descriptorSize is about how much memory the descriptor of a signature takes.
const descriptorSize = 1 << 10

func sizeOf(tags []string) int64 {
	const header = 16 // of a string
	n := int64(0)
	for _, tag := range tags {
		n += header + int64(len(tag))
	}
	return n
}

func (r *registries) sweep(now time.Time) {
	for id, s := range r.open {
		if now.Sub(s.used) > answerLife {
			s.guard.closeIdle()
			delete(r.open, id) // whoever works with it still does
		}
	}
}

func (r *registries) guard(to remote, caller string) (*guard, error) {
	own, err := r.network.Transport(to.tls, to.proxy)
	if err != nil {
		return nil, err
	}
	foreign, err := r.network.Transport(source.TLS{CA: to.tls.CA}, to.proxy)
	if err != nil {
		return nil, err
	}
	return &guard{
		registry: to.repository.RegistryStr(), insecure: to.insecure, own: own, foreign: foreign, pauses: &r.pauses, caller: caller,
		confided: func(host string) bool {
			for _, c := range to.confided {
				if strings.EqualFold(c, host) {
					return true
				}
			}
			return false
		},
	}, nil
}

// connect answers the registry's challenge, once for all who use the session. The token that comes of it is renewed by the
// transport when it has expired.
func (s *session) connect(ctx context.Context) (*http.Client, error) {
	return s.client.do(ctx, struct{}{}, time.Time{}, s.now(), func() (*http.Client, error) {
		authenticator := authn.Anonymous
		if !isAnonymous(s.auth) {
			authenticator = authn.FromConfig(s.auth)
		}
		t, err := transport.NewWithContext(ctx, s.repository.Registry, authenticator, s.guard, []string{s.repository.Scope(transport.PullScope)})
		if err != nil {
			return nil, fmt.Errorf("logging in to %s: %w", s.repository.RegistryStr(), s.explain(err))
		}
		return &http.Client{Transport: &oneByOne{next: t, turn: make(chan struct{}, 1)}, CheckRedirect: s.guard.checkRedirect}, nil
	})
}

// oneByOne lets one request at a time wait for its answer: the transport below renews a token without locking all of it.
type oneByOne struct {
	next http.RoundTripper
	turn chan struct{}
}

func (o *oneByOne) RoundTrip(req *http.Request) (*http.Response, error) {
	select {
	case <-req.Context().Done():
		return nil, req.Context().Err()
	case o.turn <- struct{}{}:
	}
	defer func() { <-o.turn }()
	return o.next.RoundTrip(req.Clone(req.Context())) // it writes to the header
}

// explain finds constant words for an error of the transport.
func (s *session) explain(err error) error {
	if refused, ok := errors.AsType[*transport.Error](err); ok && refused.StatusCode != 0 {
		return s.status(refused.StatusCode)
	}
	if busy, ok := errors.AsType[*source.Busy](err); ok {
		return busy
	}
	told := source.Steady(err)
	failure, steady := errors.AsType[*source.Failure](told)
	switch {
	case errors.Is(err, source.ErrSpent):
		return source.ErrSpent
	case steady:
		return failure
	case errors.Is(err, source.ErrLimit):
		return source.ErrLimit
	case errors.Is(err, errPlain):
		return &source.Failure{Text: "the registry does not speak https; if that is intended set spec.insecure", Err: err}
	}
	// Only the first line: what follows can be a server's whole answer, with a token in it.
	first, _, _ := strings.Cut(told.Error(), "\n")
	return &source.Failure{Text: source.OneLine(first), Err: err}
}

// status says what an HTTP status means here.
func (s *session) status(code int) error {
	switch {
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && isAnonymous(s.auth):
		return fmt.Errorf("%w: the registry answers %d to a request without credentials, give them by spec.secretRef with an entry for %s",
			source.ErrAuthentication, code, s.repository.RegistryStr())
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Errorf("%w: the registry answers %d, check the credentials for %s", source.ErrAuthentication, code, s.repository.RegistryStr())
	case code == http.StatusNotFound:
		return errNotFound
	}
	if err := s.guard.pauses.Check(s.guard.asked(s.repository.RegistryStr())); err != nil {
		return err // it has said for how long it wants to be left alone
	}
	return &source.Failure{Text: fmt.Sprintf("the registry answers %d", code), Err: httpStatus(code)}
}

// httpStatus is in the chain of an error about an answer for which there is no better word.
type httpStatus int

func (h httpStatus) Error() string { return http.StatusText(int(h)) }

// request sends a GET or HEAD to the repository and returns an answer with status 200, whose body the caller closes.
func (s *session) request(ctx context.Context, method, path string, query url.Values, accept ...types.MediaType) (*http.Response, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "https", Host: s.repository.RegistryStr(), Path: "/v2/" + s.repository.RepositoryStr() + "/" + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, a := range accept {
		req.Header.Add("Accept", string(a))
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, s.explain(err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, s.status(res.StatusCode)
	}
	return res, nil
}

func manifestTypes() []types.MediaType {
	return []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex, types.DockerManifestSchema2, types.DockerManifestList}
}

// head asks what a tag stands for. The answer is one for which the registry was asked at notBefore or later.
func (s *session) head(ctx context.Context, tag string, notBefore time.Time) (descriptor, error) {
	return s.heads.do(ctx, tag, notBefore, s.now(), func() (descriptor, error) {
		res, err := s.request(ctx, http.MethodHead, "manifests/"+tag, nil, manifestTypes()...)
		if err != nil {
			return descriptor{}, err
		}
		res.Body.Close()
		d := descriptor{MediaType: types.MediaType(mediaType(res.Header)), Digest: res.Header.Get("Docker-Content-Digest"), Size: res.ContentLength}
		if d.Digest != "" {
			return d, checkDigest(d.Digest)
		}
		// Not all registries send the header. What the digest is of tells as well.
		content, header, err := s.get(ctx, "manifests/"+tag, nil, maxManifest, manifestTypes()...)
		return descriptor{MediaType: types.MediaType(mediaType(header)), Digest: digestOf(content), Size: int64(len(content))}, err
	})
}

// listTags lists the tags of the repository, page by page.
func (s *session) listTags(ctx context.Context, notBefore time.Time) ([]string, error) {
	return s.tags.do(ctx, struct{}{}, notBefore, s.now(), func() ([]string, error) {
		var (
			tags  []string
			total int
		)
		query := url.Values{"n": {"1000"}}
		for page := 0; query != nil; page++ {
			if page == maxTagPages || len(tags) > maxTags {
				return nil, fmt.Errorf("%w: the repository has too many tags to list", source.ErrLimit)
			}
			more, next, err := s.tagPage(ctx, query)
			if err != nil {
				return nil, err
			}
			for _, tag := range more {
				total += len(tag)
			}
			if total > maxTagBytes {
				return nil, fmt.Errorf("%w: the names of the repository's tags add up to more than %d bytes", source.ErrLimit, maxTagBytes)
			}
			tags, query = append(tags, more...), next
		}
		return tags, nil
	})
}

// tagPage returns the tags of one page, without those that cannot be tags, and the query of the next page, or nil.
func (s *session) tagPage(ctx context.Context, query url.Values) ([]string, url.Values, error) {
	res, err := s.request(ctx, http.MethodGet, "tags/list", query)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	var page struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		return nil, nil, s.explain(fmt.Errorf("the registry's list of tags cannot be read: %w", err))
	}
	tags := slices.DeleteFunc(page.Tags, func(tag string) bool { return len(tag) > maxTag })
	return tags, nextPage(res.Header.Get("Link")), nil
}

// nextPage reads the header by which a registry names the next page. Only the query is taken from it: where the list is,
// we know.
func nextPage(link string) url.Values {
	target, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rest, `rel="next"`) && !strings.Contains(rest, "rel=next") {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || len(u.Query()) == 0 {
		return nil
	}
	return u.Query()
}

// manifest returns the manifest of a digest, which it makes sure is the one.
func (s *session) manifest(ctx context.Context, digest string) ([]byte, error) {
	return s.content(ctx, "manifests/"+digest, digest, maxManifest, manifestTypes()...)
}

// small returns a blob that fits into memory, such as a signature.
func (s *session) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxSignature {
		return nil, fmt.Errorf("%w: a signature has %d bytes", source.ErrLimit, d.Size)
	}
	return s.content(ctx, "blobs/"+d.Digest.String(), d.Digest.String(), maxSignature)
}

// content returns what has the digest, and keeps it for those who ask next: it cannot change.
func (s *session) content(ctx context.Context, path, digest string, most int64, accept ...types.MediaType) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	return s.answers.do(ctx, path, s.now().Add(-answerLife), s.now(), func() ([]byte, error) {
		content, _, err := s.get(ctx, path, nil, most, accept...)
		if err != nil {
			return nil, err
		}
		if got := digestOf(content); got != digest {
			return nil, fmt.Errorf("the registry sends %s where %s was asked for", got, digest)
		}
		return content, nil
	})
}

// get returns a body and its header.
func (s *session) get(ctx context.Context, path string, query url.Values, most int64, accept ...types.MediaType) ([]byte, http.Header, error) {
	res, err := s.request(context.WithValue(ctx, sizeKey{}, most), http.MethodGet, path, query, accept...)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, nil, s.explain(err)
	}
	return content, res.Header, nil
}

// errNoIndex: the registry answers with something else than a list of manifests.
var errNoIndex = errors.New("the registry's list of referrers cannot be read")

// referrers lists what refers to a digest and is of the type, by the API for it and by the tag that stands in for it at
// registries that do not have it. No more than maxSignatures are of any use to those who ask.
func (s *session) referrers(ctx context.Context, digest, artifactType string, notBefore time.Time) ([]v1.Descriptor, error) {
	return s.lists.do(ctx, artifactType+" "+digest, notBefore, s.now(), func() ([]v1.Descriptor, error) {
		found, err := s.referrerPages(ctx, "referrers/"+digest, url.Values{"artifactType": {artifactType}}, artifactType)
		if err == nil || !unknownPath(err) {
			return found, err
		}
		found, err = s.referrerPages(ctx, "manifests/"+strings.Replace(digest, ":", "-", 1), nil, artifactType)
		if errors.Is(err, errNotFound) {
			return nil, nil // nothing refers to it
		}
		return found, err
	})
}

// referrerPages reads a list page by page. The API lets a registry ignore the filter that is asked for.
func (s *session) referrerPages(ctx context.Context, path string, query url.Values, artifactType string) ([]v1.Descriptor, error) {
	var found []v1.Descriptor
	for range maxPages {
		body, header, err := s.get(ctx, path, query, maxAnswer, types.OCIImageIndex)
		if err != nil {
			return nil, err
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(body))
		if err != nil || types.MediaType(mediaType(header)) != types.OCIImageIndex {
			return nil, errNoIndex
		}
		for _, d := range index.Manifests {
			if d.ArtifactType == artifactType {
				found = append(found, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType})
			}
		}
		if len(found) >= maxSignatures {
			return slices.Clip(found[:maxSignatures]), nil
		}
		if query = nextPage(header.Get("Link")); query == nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%w: the list of what refers to it has more than %d pages", source.ErrLimit, maxPages)
}

// unknownPath reports whether the registry answered as it may to a path of a newer API than it has. Being sent away for
// credentials or frequency, or because it is down, is no such answer.
func unknownPath(err error) bool {
	status, answered := errors.AsType[httpStatus](err)
	return errors.Is(err, errNotFound) || errors.Is(err, errNoIndex) || answered && status < http.StatusInternalServerError
}

// download writes a blob to w and makes sure that it is the one of that digest and size.
func (s *session) download(ctx context.Context, d v1.Descriptor, w io.Writer) error {
	if err := checkDigest(d.Digest.String()); err != nil {
		return err
	}
	source.BudgetOf(ctx).Allow(d.Size + 1)
	res, err := s.request(context.WithValue(ctx, sizeKey{}, d.Size+1), http.MethodGet, "blobs/"+d.Digest.String(), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	sum := sha256.New()
	body := &readErrors{r: res.Body}
	n, err := io.Copy(io.MultiWriter(w, sum), body)
	switch {
	case body.err != nil:
		return s.explain(body.err)
	case err != nil:
		return &writeError{err}
	case n != d.Size || "sha256:"+hex.EncodeToString(sum.Sum(nil)) != d.Digest.String():
		return fmt.Errorf("the registry sends another layer than the one of %s", d.Digest)
	}
	return nil
}

// readErrors remembers what went wrong on the network, to tell it from what went wrong on disk.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// writeError: the disk, not the registry.
type writeError struct{ err error }

func (w *writeError) Error() string { return w.err.Error() }
func (w *writeError) Unwrap() error { return w.err }

func mediaType(header http.Header) string {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.TrimSpace(kind)
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func checkDigest(digest string) error {
	if !digestPattern.MatchString(digest) {
		return fmt.Errorf("the registry names the digest %q, only sha256 is understood", source.OneLine(digest))
	}
	return nil
}

package helm

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/repo"

	"github.com/cleat-dev/cleat/internal/source"
)

const userAgent = "Helm/3.22.0 (cleat)" // some repositories look for a Helm client

// remote is a repository on an HTTP server as one object reaches it.
type remote struct {
	url         *url.URL // without user and password
	credentials source.Credentials
	// everywhere lets the credentials go to whichever host the index names for a chart (spec.passCredentials).
	everywhere bool
	timeout    time.Duration
}

// parseURL checks a repository's URL, and takes the user and password out of it.
func parseURL(text string) (*url.URL, source.Credentials, error) {
	var c source.Credentials
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, c, fmt.Errorf("%w: it cannot be parsed", source.ErrURL) // not repeated: it may hold a password
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, c, fmt.Errorf("%w: the scheme is %q, use http or https, or oci with spec.type oci", source.ErrURL, u.Scheme)
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-"):
		return nil, c, fmt.Errorf("%w: it names no host", source.ErrURL)
	}
	if u.User != nil {
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
		u.User = nil
	}
	return u, c, nil
}

// Fetcher downloads from repositories. Its methods may be called concurrently.
type Fetcher struct {
	network source.Network
	limits  Limits
	pauses  source.Pauses
	running source.Running

	mu   sync.Mutex
	seen map[string]validator // by remote.key
}

// validator is by what a server can tell that an index has not changed.
type validator struct{ etag, modified, revision string }

// maxValidators bounds what is remembered; forgetting one costs one download.
const maxValidators = 4096

// NewFetcher returns a Fetcher that uses the network within the limits.
func NewFetcher(network source.Network, limits Limits) *Fetcher {
	return &Fetcher{network: network, limits: limits, seen: map[string]validator{}}
}

// key tells apart what must not share answers: another user may be told something else.
func (r remote) key() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q", r.url.String(), []string{r.credentials.Username, r.credentials.Password, r.credentials.BearerToken,
		r.credentials.TLS.CA, r.credentials.TLS.Certificate, r.credentials.TLS.Key})
	return hex.EncodeToString(sum.Sum(nil))
}

// index downloads the index into a file in dir and returns its name and revision, which is the digest of the bytes. When it
// is the current revision, the name may be "": the server has said that nothing has changed.
func (f *Fetcher) index(ctx context.Context, r remote, current, dir string) (name, revision string, err error) {
	at := *r.url
	at.Path, at.RawPath = strings.TrimSuffix(at.Path, "/")+"/index.yaml", ""
	header := http.Header{"Accept-Encoding": {"gzip"}}
	known := f.validator(r)
	if current != "" && known.revision == current {
		setUnlessEmpty(header, "If-None-Match", known.etag)
		setUnlessEmpty(header, "If-Modified-Since", known.modified)
	}
	name = filepath.Join(dir, "index.yaml")
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	answer, err := f.get(ctx, r, &at, header, io.MultiWriter(file, sum), f.wantIndex())
	if err != nil {
		return "", "", fmt.Errorf("fetching the index of %s: %w", source.Shown(r.url), err)
	}
	if answer.unchanged {
		return "", current, nil
	}
	revision = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	f.remember(r, validator{answer.header.Get("ETag"), lastModified(answer.header), revision})
	return name, revision, nil
}

// lastModified is when the index was modified if that tells it from what comes later. It is in whole seconds: what was modified in
// the second of the answer may be modified in it once more, and a server would say that nothing has changed (RFC 9110, 8.8.2.2).
// Without a Date it is not known how long ago that was.
func lastModified(header http.Header) string {
	text := header.Get("Last-Modified")
	modified, err := http.ParseTime(text)
	if err != nil {
		return ""
	}
	answered, err := http.ParseTime(header.Get("Date"))
	if err != nil || answered.Sub(modified) < 2*time.Second {
		return ""
	}
	return text
}

func setUnlessEmpty(h http.Header, key, value string) {
	if value != "" {
		h.Set(key, value)
	}
}

func (f *Fetcher) validator(r remote) validator {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[r.key()]
}

func (f *Fetcher) remember(r remote, v validator) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) >= maxValidators {
		clear(f.seen)
	}
	f.seen[r.key()] = v
}

// chart downloads an archive that the repository's index lists, from the first of its URLs, and compares its digest.
func (f *Fetcher) chart(ctx context.Context, r remote, release Release) ([]byte, error) {
	if len(release.URLs) == 0 {
		return nil, fmt.Errorf("%w: the index gives no URL for version %s", errNoChart, release.Version)
	}
	text, err := repo.ResolveReferenceURL(r.url.String(), release.URLs[0])
	if err != nil {
		return nil, fmt.Errorf("%w: the index gives a URL for version %s that cannot be parsed", errNoChart, release.Version)
	}
	at, err := url.Parse(text)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Hostname() == "" {
		return nil, fmt.Errorf("%w: the index gives a URL for version %s that is not http or https", errNoChart, release.Version)
	}
	at.User = nil // an index is no place for credentials
	if r.url.Scheme == "https" && at.Scheme == "http" && source.SameOrigin(&url.URL{Scheme: "http", Host: at.Host}, r.url) {
		return nil, &source.Failure{Text: "the index is served by https and names a chart on the same host by http, which is refused", Err: source.ErrURL}
	}
	var archive bytes.Buffer
	if _, err := f.get(ctx, r, at, http.Header{}, &archive, f.wantChart()); err != nil {
		return nil, fmt.Errorf("fetching the chart from %s: %w", source.Shown(at), err)
	}
	data := archive.Bytes()
	if sum := sha256.Sum256(data); release.Digest != "" && !strings.EqualFold(release.Digest, hex.EncodeToString(sum[:])) {
		return nil, fmt.Errorf("the digest of the archive is sha256:%x, and the index says sha256:%s; it is refused", sum, source.OneLine(release.Digest))
	}
	return data, nil
}

// wanted says what a body should be.
type wanted struct {
	what    string
	most    int64 // bytes
	flag    string
	archive bool // it is compressed by its nature
}

func (f *Fetcher) wantIndex() wanted {
	return wanted{what: "index", most: f.limits.Index, flag: "--helm-index-max-size"}
}

func (f *Fetcher) wantChart() wanted {
	return wanted{what: "chart", most: f.limits.Chart, flag: "--helm-chart-max-size", archive: true}
}

// answer is what is left of a response when its body has been read.
type answer struct {
	header    http.Header
	unchanged bool // 304
}

// get sends one request and copies the body. It returns when ctx ends or after the remote's timeout, whatever the server
// does. The credentials go to the repository's own host, or to that of at if they may go everywhere; with a redirect they
// go to no other (faults.md A09).
func (f *Fetcher) get(ctx context.Context, r remote, at *url.URL, header http.Header, to io.Writer, want wanted) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	credentials := r.credentials
	if !r.everywhere && !source.SameOrigin(r.url, at) {
		credentials = source.Credentials{TLS: source.TLS{CA: credentials.TLS.CA}}
	}
	caller, err := source.Caller(at.Scheme+"://"+at.Host, credentials)
	if err != nil {
		return answer{}, err
	}
	if err := f.pauses.Check(caller); err != nil {
		return answer{}, err
	}
	client, err := source.HTTP{Network: f.network, Origin: at, Credentials: credentials, UserAgent: userAgent}.Client()
	if err != nil {
		return answer{}, err
	}
	// Charts often lie in other places than the repository, which is fine for a client that brings nothing secret along; only
	// a client certificate would be shown to whoever asks for one.
	client.CheckRedirect = source.Redirects{Origin: at, Secret: credentials.TLS.Key != ""}.Check
	a, err := source.Detached(ctx, &f.running, func() (answer, error) {
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return answer{}, err
		}
		req.Header = header
		budget := source.BudgetOf(ctx)
		if err := budget.Request(); err != nil {
			return answer{}, err
		}
		res, err := client.Do(req)
		if err != nil {
			return answer{}, err
		}
		defer res.Body.Close()
		res.Body = budget.Body(res.Body)
		return read(res, to, want)
	}, func(answer) {})
	f.pauses.Note(caller, err)
	return a, source.Steady(err)
}

// read copies the body of an answer.
func read(res *http.Response, to io.Writer, want wanted) (answer, error) {
	if res.StatusCode == http.StatusNotModified {
		return answer{res.Header, true}, nil
	}
	if err := source.CheckStatus(res); err != nil {
		return answer{}, err
	}
	tooLarge := fmt.Errorf("%w: the %s is larger than %d bytes (%s)", source.ErrLimit, want.what, want.most, want.flag)
	if res.ContentLength > want.most {
		return answer{}, tooLarge
	}
	body, err := decoded(res, want)
	if err != nil {
		return answer{}, err
	}
	n, err := io.Copy(to, io.LimitReader(body, want.most+1))
	if n > want.most || errors.Is(err, source.ErrLimit) && !errors.Is(err, source.ErrSpent) {
		return answer{}, tooLarge
	}
	return answer{header: res.Header}, err
}

// decoded undoes the compression that a server has put around a body, which is not always what it says. Object stores and
// proxies send "Content-Encoding: gzip" with an archive that is compressed by its own nature, and with nothing around it: so
// an archive is unpacked only if that leaves one, and what is not compressed is not unpacked at all.
func decoded(res *http.Response, want wanted) (io.Reader, error) {
	// What comes over the wire is bounded as well: much of it can stand for nothing.
	body := bufio.NewReaderSize(&source.Capped{R: res.Body, N: want.most + 1, What: "data"}, 4<<10)
	if !strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		return body, nil
	}
	begin, _ := body.Peek(body.Size()) // an error comes again with the read that follows
	if !isGzip(begin) || want.archive && !isGzip(unpackedBegin(begin)) {
		return body, nil
	}
	return gzip.NewReader(body)
}

func isGzip(begin []byte) bool { return bytes.HasPrefix(begin, []byte{0x1f, 0x8b}) }

// unpackedBegin returns as much as isGzip looks at of what the beginning of a compressed file stands for.
func unpackedBegin(begin []byte) []byte {
	zr, err := gzip.NewReader(bytes.NewReader(begin))
	if err != nil {
		return nil
	}
	inner := make([]byte, 2)
	n, _ := io.ReadFull(zr, inner) // cut short, the rest is an error, which is told when the whole is read
	return inner[:n]
}

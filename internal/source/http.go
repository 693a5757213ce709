package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	userAgent       = "git/2.0 (cleat)" // servers that look for a Git client look for this prefix
	infoRefs        = "/info/refs"
	uploadPack      = "git-upload-pack"
	maxHTTPRedirect = 5
)

// httpLink speaks Git's smart HTTP protocol.
type httpLink struct {
	client *http.Client
	base   string // the repository's URL, after redirects of the first request
	bodies []io.Closer
}

func newHTTPLink(ep endpoint, creds Credentials) (*httpLink, error) {
	config, err := creds.tlsConfig()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // packs are compressed; a server has no reason to compress more
		ForceAttemptHTTP2:      true,
	}
	return &httpLink{
		client: &http.Client{
			Transport:     &authenticated{origin: *ep.URL, creds: creds, next: transport},
			CheckRedirect: redirects{origin: *ep.URL, secret: creds.secret()}.check,
		},
		base: strings.TrimSuffix(ep.String(), "/"),
	}, nil
}

// redirects says which redirects may be followed: only those of the first request, never from https to http, and with
// credentials never to another host, which could be anybody's (faults.md A09).
type redirects struct {
	origin url.URL
	secret bool
}

func (r redirects) check(req *http.Request, via []*http.Request) error {
	to, from := req.URL, via[len(via)-1].URL
	switch {
	case len(via) > maxHTTPRedirect:
		return errors.New("too many redirects")
	case req.Method != http.MethodGet || !strings.HasSuffix(to.Path, infoRefs):
		return fmt.Errorf("redirected to %s, which is not a Git repository; correct spec.url", shown(to))
	case to.Scheme != "https" && (from.Scheme == "https" || to.Scheme != "http"):
		return fmt.Errorf("redirected from https to %s, which is refused; correct spec.url", shown(to))
	case r.secret && !sameOrigin(&r.origin, to):
		return fmt.Errorf("redirected to another host, %s, which must not see the credentials; correct spec.url", shown(to))
	}
	to.User = nil // whatever the server put there is not ours to send
	return nil
}

// sameOrigin allows the step from http to https on the same host.
func sameOrigin(origin, to *url.URL) bool {
	if origin.Scheme == "http" && to.Scheme == "https" {
		return strings.EqualFold(origin.Hostname(), to.Hostname())
	}
	return origin.Scheme == to.Scheme && strings.EqualFold(origin.Host, to.Host)
}

func shown(u *url.URL) string { return u.Scheme + "://" + u.Host }

// authenticated adds credentials to requests to the origin and to no other.
type authenticated struct {
	origin url.URL
	creds  Credentials
	next   http.RoundTripper
}

func (a *authenticated) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", userAgent)
	req.Header.Del("Referer")
	if sameOrigin(&a.origin, req.URL) {
		switch {
		case a.creds.BearerToken != "":
			req.Header.Set("Authorization", "Bearer "+a.creds.BearerToken)
		case a.creds.Username != "" || a.creds.Password != "":
			req.SetBasicAuth(a.creds.Username, a.creds.Password)
		}
	}
	return a.next.RoundTrip(req)
}

func (a *authenticated) CloseIdleConnections() { a.next.(*http.Transport).CloseIdleConnections() }

func (l *httpLink) advertise(ctx context.Context) (io.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+infoRefs+"?service="+uploadPack, nil)
	if err != nil {
		return nil, err
	}
	res, err := l.do(req, "advertisement")
	if err != nil {
		return nil, err
	}
	final := *res.Request.URL
	final.Path, final.RawPath, final.RawQuery = strings.TrimSuffix(final.Path, infoRefs), "", ""
	l.base = final.String()
	return res.Body, skipService(res.Body)
}

func (l *httpLink) request(ctx context.Context, body []byte) (io.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.base+"/"+uploadPack, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-"+uploadPack+"-request")
	res, err := l.do(req, "result")
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// do sends the request and makes sure that the answer is Git's.
func (l *httpLink) do(req *http.Request, kind string) (*http.Response, error) {
	want := "application/x-" + uploadPack + "-" + kind
	req.Header.Set("Accept", want)
	res, err := l.client.Do(req)
	if err != nil {
		return nil, err
	}
	l.bodies = append(l.bodies, res.Body)
	switch {
	case res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%w: the server answers %d, check the Secret of spec.secretRef", ErrAuthentication, res.StatusCode)
	case res.StatusCode == http.StatusNotFound:
		return nil, errors.New("the server answers 404: there is no such repository, or these credentials may not read it")
	case res.StatusCode == http.StatusTooManyRequests:
		return nil, errors.New("the server answers 429: it gets too many requests, use a longer spec.interval and a Receiver")
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the server answers %d", res.StatusCode)
	case res.Header.Get("Content-Type") != want:
		return nil, errors.New("the server does not answer as a Git server (smart HTTP), check spec.url")
	}
	return res, nil
}

func (l *httpLink) explain(err error) error { return err }

func (l *httpLink) close() {
	for _, b := range l.bodies {
		b.Close()
	}
	l.client.CloseIdleConnections()
}

package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	userAgent  = "git/2.0 (cleat)" // servers that look for a Git client look for this prefix
	infoRefs   = "/info/refs"
	uploadPack = "git-upload-pack"
)

// httpLink speaks Git's smart HTTP protocol.
type httpLink struct {
	client *http.Client
	base   string // the repository's URL, after redirects of the first request
	bodies []io.Closer
}

func newHTTPLink(n source.Network, ep endpoint, creds Credentials, proxy *source.Proxy) (*httpLink, error) {
	client, err := source.HTTP{Network: n, Origin: ep.URL, Credentials: creds.Credentials, Proxy: proxy, UserAgent: userAgent}.Client()
	if err != nil {
		return nil, err
	}
	shared := client.CheckRedirect
	// Only the first request may be redirected, and only to where a repository can be.
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, infoRefs) {
			return fmt.Errorf("redirected to %s, which is not a Git repository; correct spec.url", source.Shown(req.URL))
		}
		return shared(req, via)
	}
	return &httpLink{client: client, base: strings.TrimSuffix(ep.String(), "/")}, nil
}

func (l *httpLink) advertise(ctx context.Context) (io.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+infoRefs+"?service="+uploadPack, nil)
	if err != nil {
		return nil, err
	}
	res, err := l.do(req, "advertisement") //nolint:bodyclose // the link closes all bodies when it is closed
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
	res, err := l.do(req, "result") //nolint:bodyclose // the link closes all bodies when it is closed
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
	if res.StatusCode == http.StatusNotFound {
		return nil, errors.New("the server answers 404: there is no such repository, or these credentials may not read it")
	}
	if err := source.CheckStatus(res); err != nil {
		return nil, err
	}
	if res.Header.Get("Content-Type") != want {
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

package oci

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	userAgent    = "cleat"
	maxRedirects = 5
	// maxAnswer bounds every answer but a layer: manifests, lists of tags and tokens.
	maxAnswer = 8 << 20
)

// errPlain: a request would have gone out unencrypted without spec.insecure.
var errPlain = errors.New("refused to speak http")

// guard is the transport below everything that speaks to one registry. It holds what must be true of each request, whoever
// makes it and wherever a challenge or a redirect sent it:
//
//   - Nothing goes out unencrypted unless spec.insecure is set.
//   - Credentials, tokens and the client certificate go to the registry and to its token server. A registry names its token
//     server itself, in a header that whoever can answer in its place can write (faults.md A09), so one is believed in only
//     if it is the registry's own host or of the same registrable domain, as auth.docker.io is to index.docker.io; or if
//     the user's Secret has the same credentials for that host.
//   - A registry that asks to be left alone (Retry-After) is.
//   - An answer has a size, and no more of it is read; all that an attempt asks for counts against its budget.
type guard struct {
	registry string // host[:port]
	insecure bool
	// confided reports whether the user has written down that the host gets the same credentials.
	confided func(host string) bool
	own      *http.Transport // shows the client certificate
	foreign  *http.Transport // does not
	pauses   *source.Pauses  // of all registries
	caller   string          // who asks: the same server may tell somebody else something else
}

// asked is the key under which is remembered that a host wants to be left alone.
func (g *guard) asked(host string) string { return host + " " + g.caller }

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && (!g.insecure || req.URL.Scheme != "http") {
		return nil, errPlain
	}
	trusted := g.trusts(req.URL)
	// The only request with a body is the one that carries a refresh token.
	if (req.Header.Get("Authorization") != "" || req.Body != nil && req.Body != http.NoBody) && !trusted {
		return nil, &source.Failure{
			Text: fmt.Sprintf("the registry sends its clients with their credentials to another host, %s, which is refused; "+
				"if that is its token server, give the Secret an entry for that host with the same credentials", source.Shown(req.URL)),
			Err: source.ErrAuthentication,
		}
	}
	if err := g.pauses.Check(g.asked(req.URL.Host)); err != nil {
		return nil, err
	}
	budget := source.BudgetOf(req.Context())
	if err := budget.Request(); err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", userAgent)
	req.Header.Del("Referer") // the address of a layer can hold a token
	next := g.foreign
	if trusted {
		next = g.own
	}
	res, err := next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	g.pauses.Note(g.asked(req.URL.Host), source.CheckStatus(res))
	most := int64(maxAnswer)
	if n, ok := req.Context().Value(sizeKey{}).(int64); ok {
		most = n
	}
	res.Body = capped(budget.Body(res.Body), most)
	return res, nil
}

// sizeKey is the context key under which a caller says how much it wants to read when that is more than maxAnswer.
type sizeKey struct{}

type cappedBody struct {
	source.Capped
	io.Closer
}

func capped(body io.ReadCloser, most int64) io.ReadCloser {
	return &cappedBody{source.Capped{R: body, N: most, What: "data"}, body}
}

// trusts reports whether the host may see what is secret.
func (g *guard) trusts(u *url.URL) bool {
	if strings.EqualFold(u.Host, g.registry) {
		return true
	}
	return sameSite(g.registry, u) || g.confided(u.Host)
}

// sameSite reports whether an encrypted URL is below the same registrable domain as the registry. An address or a name
// without dots has no such domain, and is its own only host.
func sameSite(registry string, u *url.URL) bool {
	host := (&url.URL{Host: registry}).Hostname()
	site, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(host))
	if err != nil || u.Scheme != "https" || strings.Trim(host, "0123456789.") == "" {
		return false
	}
	other, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(u.Hostname()))
	return err == nil && site == other
}

// checkRedirect is for http.Client; layers usually lie on another host.
func (g *guard) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &source.Failure{Text: "the registry redirects too often", Err: errors.New("redirects")}
	}
	// Whether the request before was encrypted cannot be told from it here; without spec.insecure it was.
	if req.URL.Scheme != "https" && !g.insecure {
		return &source.Failure{Text: fmt.Sprintf("redirected from https to %s, which is refused", source.Shown(req.URL)), Err: errPlain}
	}
	req.URL.User = nil // whatever the server put there is not ours to send
	return nil
}

func (g *guard) closeIdle() {
	g.own.CloseIdleConnections()
	g.foreign.CloseIdleConnections()
}

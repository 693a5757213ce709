package source

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// maxRedirects is how many redirects in a row are followed.
const maxRedirects = 5

// Redirects says which redirects may be followed: of GET and HEAD only, never from https to http, and with credentials
// never to another host, which could be anybody's (faults.md A09).
type Redirects struct {
	Origin *url.URL
	Secret bool
}

// Check is for http.Client.CheckRedirect.
func (r Redirects) Check(req *http.Request, via []*http.Request) error {
	to, from := req.URL, via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return errors.New("too many redirects")
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return fmt.Errorf("redirected to %s, which is refused for this request; correct spec.url", Shown(to))
	case to.Scheme != "https" && (from.Scheme == "https" || to.Scheme != "http"):
		return fmt.Errorf("redirected from https to %s, which is refused; correct spec.url", Shown(to))
	case r.Secret && !SameOrigin(r.Origin, to):
		return fmt.Errorf("redirected to another host, %s, which must not see the credentials; correct spec.url", Shown(to))
	}
	to.User = nil // whatever the server put there is not ours to send
	return nil
}

// SameOrigin reports whether to is on the host of origin; it allows the step from http to https on the same host.
func SameOrigin(origin, to *url.URL) bool {
	if origin.Scheme == "http" && to.Scheme == "https" {
		return strings.EqualFold(origin.Hostname(), to.Hostname())
	}
	return origin.Scheme == to.Scheme && strings.EqualFold(origin.Host, to.Host)
}

// Shown is as much of a URL as a message may repeat: a path or a query can hold a token.
func Shown(u *url.URL) string { return u.Scheme + "://" + u.Host }

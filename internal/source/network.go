package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// ErrForbiddenAddress means: the name leads to an address that no source has.
var ErrForbiddenAddress = errors.New("address is not allowed")

// maxHeaderBytes is how much of an answer's header is read.
const maxHeaderBytes = 64 << 10

// Network is the agent's way out. Every connection of a source is made by it.
//
// Link-local addresses are where cloud providers hand out the credentials of the node, so whoever may create a source could
// have them fetched (faults.md A18); they are refused, whatever name leads to them. Loopback and private addresses are
// allowed: that is where in-cluster and sidecar servers are. A NetworkPolicy is the place to say more.
type Network struct {
	// AllowLinkLocal allows 169.254.0.0/16, fe80::/10 and fd00:ec2::254 all the same; the agent's flag says so.
	AllowLinkLocal bool
}

// Dialer connects to the address that was checked, not to a name that is looked up again afterwards.
func (n Network) Dialer() *net.Dialer {
	return &net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		host, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %q", ErrForbiddenAddress, address)
		}
		return n.check(host.Addr())
	}}
}

func (n Network) check(a netip.Addr) error {
	if a = a.Unmap().WithZone(""); a.IsMulticast() || a.IsUnspecified() {
		return ErrForbiddenAddress // no host's
	}
	if !n.AllowLinkLocal && (a.IsLinkLocalUnicast() || a == netip.MustParseAddr("fd00:ec2::254")) {
		return ErrForbiddenAddress
	}
	return nil
}

// Transport returns a transport that verifies servers, does not uncompress what they send, and keeps these limits. A nil
// proxy means that of the environment. Callers close its idle connections when they are done with it.
func (n Network) Transport(t TLS, proxy *Proxy) (*http.Transport, error) {
	config, err := t.Config()
	if err != nil {
		return nil, err
	}
	through := http.ProxyFromEnvironment
	if proxy != nil {
		through = http.ProxyURL(proxy.URL())
	}
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) {
			// A proxy looks names up itself, so of what lies behind one only an address can be checked.
			if a, err := netip.ParseAddr(req.URL.Hostname()); err == nil && n.check(a) != nil {
				return nil, ErrForbiddenAddress
			}
			return through(req)
		},
		DialContext:            n.Dialer().DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    30 * time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // so that what is counted is what is read
		ForceAttemptHTTP2:      true,
	}, nil
}

// HTTP describes a client for one server.
type HTTP struct {
	Network     Network
	Origin      *url.URL // the only one that sees the credentials
	Credentials Credentials
	Proxy       *Proxy
	UserAgent   string
}

// Client returns a client that shows the credentials to the origin alone and follows redirects by Redirects. It has no
// timeout of its own: requests carry a context.
func (h HTTP) Client() (*http.Client, error) {
	transport, err := h.Network.Transport(h.Credentials.TLS, h.Proxy)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     &authenticated{HTTP: h, next: transport},
		CheckRedirect: Redirects{Origin: h.Origin, Secret: h.Credentials.Secret()}.Check,
	}, nil
}

// authenticated adds credentials to requests to the origin and to no other.
type authenticated struct {
	HTTP
	next *http.Transport
}

func (a *authenticated) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", a.UserAgent)
	req.Header.Del("Referer")
	if SameOrigin(a.Origin, req.URL) {
		switch {
		case a.Credentials.BearerToken != "":
			req.Header.Set("Authorization", "Bearer "+a.Credentials.BearerToken)
		case a.Credentials.Username != "" || a.Credentials.Password != "":
			req.SetBasicAuth(a.Credentials.Username, a.Credentials.Password)
		}
	}
	return a.next.RoundTrip(req)
}

func (a *authenticated) CloseIdleConnections() { a.next.CloseIdleConnections() }

// Dial connects to an address over TCP, through the proxy if there is one.
func (n Network) Dial(ctx context.Context, address string, proxy *Proxy) (net.Conn, error) {
	if proxy == nil {
		return n.Dialer().DialContext(ctx, "tcp", address)
	}
	return proxy.dial(ctx, n, address)
}

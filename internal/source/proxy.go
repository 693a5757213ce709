package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/proxy"
)

// Proxy is what spec.proxySecretRef names. It is comparable and may be part of a key.
type Proxy struct{ Address, Username, Password string }

// ProxyFrom reads a Secret's keys address, username and password.
func ProxyFrom(data map[string][]byte) (*Proxy, error) {
	p := &Proxy{Address: string(data["address"]), Username: string(data["username"]), Password: string(data["password"])}
	u, err := url.Parse(p.Address)
	switch {
	case p.Address == "":
		return nil, fmt.Errorf("%w: the Secret has no key \"address\" with the URL of the proxy", ErrProxy)
	case err != nil || u.Hostname() == "":
		return nil, fmt.Errorf("%w: the Secret's \"address\" is not a URL", ErrProxy) // not repeated: it may hold a password
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
		return nil, fmt.Errorf("%w: the Secret's \"address\" begins with %q, use http, https or socks5", ErrProxy, u.Scheme)
	case p.Username == "" && p.Password != "":
		return nil, fmt.Errorf("%w: the Secret has \"password\" without \"username\"", ErrProxy)
	}
	return p, nil
}

// ErrProxy means: the proxy cannot be used as it is described.
var ErrProxy = errors.New("invalid proxy")

// URL is only called after ProxyFrom has parsed the address.
func (p *Proxy) URL() *url.URL {
	u, err := url.Parse(p.Address)
	if err != nil {
		return &url.URL{}
	}
	if p.Username != "" {
		u.User = url.UserPassword(p.Username, p.Password)
	}
	return u
}

// dial makes a connection to the address through the proxy, for protocols other than HTTP.
func (p *Proxy) dial(ctx context.Context, n Network, address string) (net.Conn, error) {
	u := p.URL()
	switch u.Scheme {
	case "socks5":
		dialer, err := proxy.FromURL(u, n.Dialer())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProxy, err)
		}
		return dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
	case "http":
		return p.tunnel(ctx, n, u, address)
	default:
		return nil, fmt.Errorf("%w: ssh goes through a proxy with http or socks5, not %s", ErrProxy, u.Scheme)
	}
}

// tunnel asks an HTTP proxy to connect to the address.
func (p *Proxy) tunnel(ctx context.Context, n Network, u *url.URL, address string) (_ net.Conn, err error) {
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	conn, err := n.Dialer().DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if p.Username != "" {
		req.Header.Set("Proxy-Authorization", "Basic "+basic(p.Username, p.Password))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	// One byte at a time is too slow for anything but a header, and leaves what follows it on the connection.
	//nolint:bodyclose // the body is the connection, which the caller goes on with or closes
	res, err := http.ReadResponse(bufio.NewReaderSize(&Capped{R: onebyte{conn}, N: maxHeaderBytes, What: "header"}, 16), req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, &Failure{fmt.Sprintf("the proxy answers %d to a request for a tunnel", res.StatusCode), ErrProxy}
	}
	return conn, nil
}

// onebyte keeps a bufio.Reader from reading past what it is asked for by more than nothing: it fills by single bytes.
type onebyte struct{ r io.Reader }

func (o onebyte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

func basic(username, password string) string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth(username, password)
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")
}

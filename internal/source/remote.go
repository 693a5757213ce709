package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
)

// Errors that callers tell apart.
var (
	// ErrAuthentication: the server wants other credentials than it was shown.
	ErrAuthentication = errors.New("authentication failed")
	// ErrURL: the URL is not one that can be fetched.
	ErrURL = errors.New("invalid URL")
	// ErrEmptyRepository: there is no commit to fetch.
	ErrEmptyRepository = errors.New("the repository is empty")
	// ErrLimit: the server sent more than it may.
	ErrLimit = errors.New("over the limit")
	// errForbiddenAddress: the name leads to an address that no Git server has.
	errForbiddenAddress = errors.New("address is not allowed")
)

// Remote is a repository on a server and what it takes to be let in.
type Remote struct {
	URL         string
	Credentials Credentials
}

// endpoint is a checked URL. The user and password that it may hold have become credentials, and it is safe to show.
type endpoint struct{ *url.URL }

// parse checks the URL and takes the user information out of it.
func (r Remote) parse() (endpoint, Credentials, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // url.Error repeats the URL, password and all
		}
		return endpoint{}, Credentials{}, fmt.Errorf("%w: %w", ErrURL, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ssh":
		return endpoint{}, Credentials{}, fmt.Errorf("%w: the scheme is %q, use http, https or ssh", ErrURL, u.Scheme)
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-"):
		return endpoint{}, Credentials{}, fmt.Errorf("%w: it names no host", ErrURL)
	case strings.Trim(u.Path, "/") == "" || strings.ContainsAny(u.Path, "\x00\n\r"):
		return endpoint{}, Credentials{}, fmt.Errorf("%w: it names no repository", ErrURL)
	}
	creds := r.Credentials
	if u.User != nil {
		if creds.Username == "" && creds.Password == "" && creds.BearerToken == "" {
			creds.Username = u.User.Username()
			creds.Password, _ = u.User.Password()
		}
		if u.Scheme == "ssh" {
			creds.Username = u.User.Username() // the account on the server; a Secret only brings the key
		}
		u.User = nil
	}
	return endpoint{u}, creds, nil
}

// link is one conversation with git-upload-pack. It is used by one goroutine, and ends when its context does.
type link interface {
	// advertise returns the server's list of refs.
	advertise(ctx context.Context) (io.Reader, error)
	// request sends a request for a pack and returns the server's answer.
	request(ctx context.Context, body []byte) (io.Reader, error)
	// explain adds to an error what the server said about it elsewhere.
	explain(error) error
	close()
}

func connect(ctx context.Context, remote Remote) (link, endpoint, error) {
	ep, creds, err := remote.parse()
	if err != nil {
		return nil, ep, err
	}
	if ep.Scheme == "ssh" {
		l, err := dialSSH(ctx, ep, creds)
		return l, ep, err
	}
	l, err := newHTTPLink(ep, creds)
	return l, ep, err
}

// dialer connects to the address that was checked, not to a name that is looked up again afterwards (faults.md A18).
var dialer = net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %q", errForbiddenAddress, address)
	}
	if forbidden(host.Addr().Unmap()) {
		return errForbiddenAddress
	}
	return nil
}}

// forbidden names the addresses where cloud providers serve the credentials of the node, and those that are no host's.
// Private and loopback addresses are allowed: that is where in-cluster and sidecar Git servers are.
func forbidden(a netip.Addr) bool {
	return a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.MustParseAddr("fd00:ec2::254")
}

// capped is a reader that fails with ErrLimit when a server sends more than n bytes of what.
type capped struct {
	r    io.Reader
	n    int64
	what string
}

func (c *capped) Read(p []byte) (int, error) {
	if c.n <= 0 {
		return 0, fmt.Errorf("%w: the server sent too much %s", ErrLimit, c.what)
	}
	if int64(len(p)) > c.n {
		p = p[:c.n]
	}
	n, err := c.r.Read(p)
	c.n -= int64(n)
	return n, err
}

// failure says in constant words what went wrong on a connection: the same failure has the same text every time, without
// the port numbers, addresses of resolvers and durations that the errors of the standard library hold.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// steady gives err a text that does not change between two failures of the same kind.
func steady(err error) error {
	var (
		told    *failure
		dns     *net.DNSError
		op      *net.OpError
		wrapped *url.Error
		said    *pktline.ErrorLine
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return err // somebody nearer to the cause has found words for it
	case errors.Is(err, errForbiddenAddress):
		return &failure{"the name leads to an address that is not allowed for sources (link-local or reserved)", err}
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return &failure{"the server did not finish within spec.timeout", err}
	case errors.Is(err, context.Canceled):
		return &failure{"interrupted", err}
	case errors.As(err, &said):
		return &failure{"the server says: " + oneLine(said.Text), err}
	case errors.As(err, &dns) && dns.IsNotFound:
		return &failure{fmt.Sprintf("no such host: %s", dns.Name), err}
	case errors.As(err, &dns):
		return &failure{fmt.Sprintf("looking up %s failed, DNS may be down", dns.Name), err}
	case errors.As(err, &host):
		return &failure{"the server's certificate is for another host", err}
	case errors.As(err, &unknown):
		return &failure{"the server's certificate is signed by an unknown authority, give its CA as ca.crt in the Secret", err}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &failure{"the server's certificate has expired or is not yet valid", err}
	case hungUp(err):
		return &failure{"the server closed the connection before it had answered", err}
	case errors.As(err, &op):
		return &failure{fmt.Sprintf("%s: %s", op.Op, rootText(op.Err)), err}
	case errors.As(err, &wrapped):
		return steady(wrapped.Err)
	}
	return err
}

// hungUp reports whether the other end closed the connection. Which of these errors that leads to is a matter of time.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		// The reading side of net/http has seen the end and closed the connection under the writing side.
		errors.Is(err, net.ErrClosed) ||
		// net/http does not export this one. If its text ever changes, it is only told in other words.
		strings.HasSuffix(err.Error(), "http: server closed idle connection")
}

// rootText returns the text of the innermost error, such as "connection refused".
func rootText(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// oneLine makes a server's words fit for a condition: printable, on one line, and not long.
func oneLine(s string) string {
	const most = 300
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

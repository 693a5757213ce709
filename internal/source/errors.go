package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
)

var (
	// ErrURL: the URL is not one that can be fetched.
	ErrURL = errors.New("invalid URL")
	// ErrLimit: the server sent more than it may.
	ErrLimit = errors.New("over the limit")
)

// Failure says in constant words what went wrong on a connection: the same failure has the same text every time, without
// the port numbers, addresses of resolvers and durations that the errors of the standard library hold.
type Failure struct {
	Text string
	Err  error
}

func (f *Failure) Error() string { return f.Text }
func (f *Failure) Unwrap() error { return f.Err }

// Steady gives err a text that does not change between two failures of the same kind.
func Steady(err error) error {
	var (
		told    *Failure
		busy    *Busy
		dns     *net.DNSError
		op      *net.OpError
		wrapped *url.Error
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return err // somebody nearer to the cause has found words for it
	case errors.As(err, &busy):
		return busy
	case errors.Is(err, ErrForbiddenAddress):
		return &Failure{"the name leads to an address that is not allowed for sources (link-local or reserved)", err}
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return &Failure{"the server did not finish within spec.timeout", err}
	case errors.Is(err, context.Canceled):
		return &Failure{"interrupted", err}
	case errors.As(err, &dns) && dns.IsNotFound:
		return &Failure{fmt.Sprintf("no such host: %s", dns.Name), err}
	case errors.As(err, &dns):
		return &Failure{fmt.Sprintf("looking up %s failed, DNS may be down", dns.Name), err}
	case errors.As(err, &host):
		return &Failure{"the server's certificate is for another host", err}
	case errors.As(err, &unknown):
		return &Failure{"the server's certificate is signed by an unknown authority, give its CA as ca.crt in the Secret", err}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Failure{"the server's certificate has expired or is not yet valid", err}
	case hungUp(err):
		return &Failure{"the server closed the connection before it had answered", err}
	case errors.As(err, &op):
		return &Failure{fmt.Sprintf("%s: %s", op.Op, rootText(op.Err)), err}
	case errors.As(err, &wrapped):
		return Steady(wrapped.Err)
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

// OneLine makes a server's words fit for a condition: printable, on one line, and not long.
func OneLine(s string) string {
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

// Capped is a reader that fails with ErrLimit when a server sends more than N bytes of What.
type Capped struct {
	R    io.Reader
	N    int64
	What string
}

func (c *Capped) Read(p []byte) (int, error) {
	if c.N <= 0 {
		return 0, fmt.Errorf("%w: the server sent too much %s", ErrLimit, c.What)
	}
	if int64(len(p)) > c.N {
		p = p[:c.N]
	}
	n, err := c.R.Read(p)
	c.N -= int64(n)
	return n, err
}

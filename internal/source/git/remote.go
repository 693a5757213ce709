package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"github.com/cleat-dev/cleat/internal/source"
)

// ErrEmptyRepository means: there is no commit to fetch.
var ErrEmptyRepository = errors.New("the repository is empty")

// Remote is a repository on a server and what it takes to be let in.
type Remote struct {
	URL         string
	Credentials Credentials
	Proxy       *source.Proxy
	// Principal says whose credentials they are when these are a token that is replaced every hour: the repository on disk
	// is the same before and after.
	Principal string
}

// lasting returns what of the remote stays the same when a token is replaced.
func (r Remote) lasting() Remote {
	if r.Principal != "" {
		r.Credentials.Username, r.Credentials.Password, r.Credentials.BearerToken = "", "", ""
	}
	return r
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
		return endpoint{}, Credentials{}, fmt.Errorf("%w: %w", source.ErrURL, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ssh":
		return endpoint{}, Credentials{}, fmt.Errorf("%w: the scheme is %q, use http, https or ssh", source.ErrURL, u.Scheme)
	case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-"):
		return endpoint{}, Credentials{}, fmt.Errorf("%w: it names no host", source.ErrURL)
	case strings.Trim(u.Path, "/") == "" || strings.ContainsAny(u.Path, "\x00\n\r"):
		return endpoint{}, Credentials{}, fmt.Errorf("%w: it names no repository", source.ErrURL)
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

func connect(ctx context.Context, n source.Network, remote Remote) (link, endpoint, error) {
	ep, creds, err := remote.parse()
	if err != nil {
		return nil, ep, err
	}
	if ep.Scheme == "ssh" {
		l, err := dialSSH(ctx, n, ep, creds, remote.Proxy)
		return l, ep, err
	}
	l, err := newHTTPLink(n, ep, creds, remote.Proxy)
	return l, ep, err
}

// steady gives err a text that does not change between two failures of the same kind.
func steady(err error) error {
	if said, ok := errors.AsType[*pktline.ErrorLine](err); ok {
		return &source.Failure{Text: "the server says: " + source.OneLine(said.Text), Err: err}
	}
	return source.Steady(err)
}

// server is the key under which is remembered that one wants to be left alone: a host, and everything that makes an answer
// the caller's own, which is the credentials in full and the proxy. A name alone would not do: whoever shows a server the
// name of somebody else, or asks it through a proxy of his own making, could have that one's requests held back for an hour.
func (r Remote) server() (string, error) {
	ep, creds, err := r.lasting().parse()
	if err != nil {
		return "", err
	}
	return source.Caller(ep.Scheme+"://"+ep.Host, creds, r.Proxy, r.Principal)
}

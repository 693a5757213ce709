package kube

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// undeadlined is how long a request may take that carries no deadline of its own. Those are discovery's: the library that
// finds the resource of a kind takes no context, and an API server that accepts and never answers would hold a worker for
// ever.
const undeadlined = 30 * time.Second

// bounded gives a deadline to requests that have none. Watches go on for as long as they are wanted.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, has := req.Context().Deadline(); has || req.URL.Query().Has("watch") {
		return b.next.RoundTrip(req)
	}
	ctx, cancel := context.WithTimeout(req.Context(), undeadlined)
	res, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = &cancelling{res.Body, cancel}
	return res, nil
}

// WrappedRoundTripper is how client-go finds the transport inside.
func (b bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

// cancelling ends the request's context with its answer's body.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// ErrUnreachable means: the API server gives no answer at all.
var ErrUnreachable = errors.New("the cluster cannot be reached")

// connection returns what is wrong with a connection in words that are the same at each try: without our own port.
func connection(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		of := *op
		of.Source = nil
		return &of
	}
	return err
}

package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/cleat-dev/cleat/internal/source"
)

// Object is one object of a bucket as it was listed.
type Object struct {
	Key string
	// ETag identifies the content. It is spelled as Flux spells it for the provider, because revisions are made of it.
	ETag string
	Size int64

	version string // by which the provider opens this content and no other
}

// storage is a bucket at a provider. Its methods may be called concurrently; their errors are fit for a condition.
type storage interface {
	// list calls visit with every object whose key begins with prefix, until visit returns an error, which it returns.
	list(ctx context.Context, prefix string, visit func(Object) error) error
	// open returns the content of an object. The error is errGone if it is not there, or has another version by now.
	open(ctx context.Context, o Object) (io.ReadCloser, error)
	close()
}

// errGone: the object is not there, or no longer as it was listed.
var errGone = errors.New("the object is gone or has changed since it was listed")

// notFound is the error of a bucket that does not exist, or may not be known to.
func notFound(bucket string) error {
	return &source.Failure{Text: fmt.Sprintf("bucket '%s' not found, check spec.bucketName and spec.endpoint", bucket)}
}

// refused is the error of a server that does not accept who we are; code is the provider's word for why.
func refused(code string) error {
	return fmt.Errorf("%w: the server answers %s, check the Secret of spec.secretRef", source.ErrAuthentication, source.OneLine(code))
}

// maxPageBytes is how much one answer other than an object's content may hold; a page of a thousand objects is a tenth.
const maxPageBytes = 8 << 20

type contentKey struct{}

// forContent marks the context of requests whose answer is an object's content, which has a limit of its own.
func forContent(ctx context.Context) context.Context {
	return context.WithValue(ctx, contentKey{}, true)
}

// capped bounds the answers that are not content: the libraries read them to their end. The answer of a server that says for
// how long it wants to be left alone is a source.Busy: what the libraries make of one does not say that any more.
type capped struct{ next http.RoundTripper }

func (c capped) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.next.RoundTrip(req)
	if err == nil && res.Header.Get("Retry-After") != "" {
		if busy, ok := errors.AsType[*source.Busy](source.CheckStatus(res)); ok {
			res.Body.Close()
			return nil, busy
		}
	}
	if err != nil || req.Context().Value(contentKey{}) != nil && res.StatusCode < 300 {
		return res, err
	}
	res.Body = body{&source.Capped{R: res.Body, N: maxPageBytes, What: "at once"}, res.Body}
	return res, nil
}

type body struct {
	io.Reader
	io.Closer
}

// noRedirects is for http.Client.CheckRedirect: no storage redirects, and who does would get to see tokens.
func noRedirects(*http.Request, []*http.Request) error {
	return errors.New("redirected, which is refused; correct spec.endpoint")
}

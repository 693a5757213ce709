package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	gcs "cloud.google.com/go/storage"
	"github.com/fluxcd/pkg/auth/gcp"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/cleat-dev/cleat/internal/source"
)

// googleStorage is a bucket of Google Cloud Storage.
type googleStorage struct {
	client    *gcs.Client
	bucket    *gcs.BucketHandle
	name      string
	transport *http.Transport
}

// openGCS makes the client. spec.endpoint is not used, as with Flux: the token goes to Google and to nobody else.
func openGCS(ctx context.Context, network source.Network, spec *sourcev1.BucketSpec, s secrets) (storage, error) {
	transport, err := network.Transport(source.TLS{}, s.proxy)
	if err != nil {
		return nil, err
	}
	tokens, err := googleTokens(ctx, &http.Client{Transport: capped{transport}, CheckRedirect: noRedirects}, s)
	if err != nil {
		return nil, err
	}
	return newGCS(ctx, spec.BucketName, transport, &oauth2.Transport{Source: tokens, Base: capped{transport}})
}

func newGCS(ctx context.Context, name string, transport *http.Transport, authorized http.RoundTripper) (storage, error) {
	client, err := gcs.NewClient(ctx, option.WithHTTPClient(&http.Client{Transport: authorized, CheckRedirect: noRedirects}))
	if err != nil {
		return nil, err
	}
	client.SetRetry(gcs.WithMaxAttempts(1)) // the object as a whole is tried again, with a delay that grows
	return &googleStorage{client: client, bucket: client.Bucket(name), name: name, transport: transport}, nil
}

// googleTokens uses the key of a service account, or what the agent itself is to Google. Of the kinds of keys only that one
// is taken: the others name files to read and programs to run.
func googleTokens(ctx context.Context, client *http.Client, s secrets) (oauth2.TokenSource, error) {
	if s.identity != nil {
		return oauth2.ReuseTokenSource(nil, googleAccount{ctx, s}), nil
	}
	if s.keys == nil {
		// Not by client, which has the object's proxy: the node's metadata service is not encrypted. Requests with the token
		// may pass it, since they are encrypted for Google.
		tokens, err := google.DefaultTokenSource(ctx, gcs.ScopeReadOnly)
		if err != nil {
			return nil, fmt.Errorf("%w: the agent has no Google credentials of its own, give a Secret with the key \"serviceaccount\" as spec.secretRef",
				source.ErrAuthentication)
		}
		return tokens, nil
	}
	key, ok := s.keys["serviceaccount"]
	if !ok {
		return nil, fmt.Errorf("%w: the Secret of spec.secretRef needs the key \"serviceaccount\"", source.ErrAuthentication)
	}
	config, err := google.JWTConfigFromJSON(key, gcs.ScopeReadOnly)
	if err != nil { // not repeated: it may quote the key
		return nil, fmt.Errorf("%w: the Secret's \"serviceaccount\" is not the JSON key of a Google service account", source.ErrAuthentication)
	}
	// The key says where to ask for a token, so the network's rules hold for that too.
	return config.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client)), nil
}

// googleAccount gets tokens for the ServiceAccount of the spec.
type googleAccount struct {
	ctx     context.Context // the interface has no other place for it
	secrets secrets
}

// Token implements oauth2.TokenSource.
func (g googleAccount) Token() (*oauth2.Token, error) {
	token, err := g.secrets.identity.Token(g.ctx, g.secrets.cloud)
	if err != nil {
		return nil, err
	}
	google, ok := token.(*gcp.Token)
	if !ok {
		return nil, errors.New("the cloud gives another kind of token than Google's")
	}
	return &google.Token, nil
}

func (b *googleStorage) list(ctx context.Context, prefix string, visit func(Object) error) error {
	query := &gcs.Query{Prefix: prefix}
	if err := query.SetAttrSelection([]string{"Name", "Etag", "Size", "Generation"}); err != nil {
		return err
	}
	for objects := b.bucket.Objects(ctx, query); ; {
		o, err := objects.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return b.explain(err)
		}
		if err := visit(Object{Key: o.Name, ETag: o.Etag, Size: o.Size, version: fmt.Sprint(o.Generation)}); err != nil {
			return err
		}
	}
}

func (b *googleStorage) open(ctx context.Context, o Object) (io.ReadCloser, error) {
	var generation int64
	if _, err := fmt.Sscan(o.version, &generation); err != nil {
		return nil, fmt.Errorf("%w: it has no generation", errGone)
	}
	object := b.bucket.Object(o.Key).If(gcs.Conditions{GenerationMatch: generation})
	// A gzip-encoded object is taken as it is stored, as its size and ETag are about that.
	content, err := object.ReadCompressed(true).NewReader(forContent(ctx))
	if err != nil {
		return nil, b.explain(err)
	}
	return content, nil
}

func (b *googleStorage) close() {
	b.client.Close()
	b.transport.CloseIdleConnections()
}

func (b *googleStorage) explain(err error) error {
	var answer *googleapi.Error
	var token *oauth2.RetrieveError
	switch {
	case errors.Is(err, gcs.ErrObjectNotExist):
		return errGone
	case errors.Is(err, gcs.ErrBucketNotExist):
		return notFound(b.name)
	case errors.As(err, &token):
		return refused(token.ErrorCode)
	case !errors.As(err, &answer):
		return source.Steady(err)
	}
	switch answer.Code {
	case http.StatusNotFound:
		return notFound(b.name)
	case http.StatusPreconditionFailed:
		return errGone
	case http.StatusUnauthorized, http.StatusForbidden:
		return refused(fmt.Sprint(answer.Code))
	default:
		return &source.Failure{Text: "the server answers " + source.OneLine(fmt.Sprintf("%d: %s", answer.Code, answer.Message)), Err: err}
	}
}

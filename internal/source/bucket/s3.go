package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"k8s.io/utils/ptr"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// s3 is a bucket behind Amazon's API, whoever serves it.
type s3 struct {
	client    *minio.Client
	bucket    string
	transport *http.Transport
}

// openS3 makes the client; it sends nothing yet.
func openS3(ctx context.Context, network source.Network, spec *sourcev1.BucketSpec, s secrets) (storage, error) {
	transport, err := network.Transport(s.tls, s.proxy)
	if err != nil {
		return nil, err
	}
	creds, err := s3Credentials(ctx, network, spec, s)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(spec.Endpoint, &minio.Options{
		Creds: creds, Secure: !spec.Insecure, Region: spec.Region, Transport: capped{transport},
		MaxRetries: 1, // the object as a whole is tried again, with a delay that grows
	})
	if err != nil {
		return nil, fmt.Errorf("%w: spec.endpoint %q is not a host, or a host and port: %w", source.ErrURL, spec.Endpoint, err)
	}
	return &s3{client: client, bucket: spec.BucketName, transport: transport}, nil
}

// s3Credentials returns nil for an anonymous client.
func s3Credentials(ctx context.Context, network source.Network, spec *sourcev1.BucketSpec, s secrets) (*credentials.Credentials, error) {
	switch {
	case s.keys != nil:
		access, secret := string(s.keys["accesskey"]), string(s.keys["secretkey"])
		if access == "" || secret == "" {
			return nil, fmt.Errorf("%w: the Secret of spec.secretRef needs the keys \"accesskey\" and \"secretkey\"", source.ErrAuthentication)
		}
		return credentials.NewStaticV4(access, secret, ""), nil
	case s.identity != nil:
		return credentials.New(&amazonAccount{ctx: ctx, spec: spec, secrets: s}), nil
	case spec.Provider == sourcev1.BucketProviderAmazon:
		return ownIdentity(spec)
	case spec.STS != nil:
		return ldapIdentity(network, spec, s)
	default:
		return nil, nil
	}
}

// ownIdentity gets temporary keys for what the agent itself is to AWS: by the web identity of its service account, by EKS
// Pod Identity, by ECS, or as the node that it runs on. Where these are found is set by the environment of the agent and
// not by the object, so the addresses that sources may not have are allowed here. The requests hold the agent's own tokens,
// some of them unencrypted, so they never go through the proxy of spec.proxySecretRef. Requests to the bucket may, and with an
// authority of the object's: they hold no key, but a signature that is good for that one request, whose answer becomes the
// object's artifact anyway.
func ownIdentity(spec *sourcev1.BucketSpec) (*credentials.Credentials, error) {
	transport, err := source.Network{AllowLinkLocal: true}.Transport(source.TLS{}, nil)
	if err != nil {
		return nil, err
	}
	iam := &credentials.IAM{
		Client: &http.Client{Transport: capped{transport}, CheckRedirect: noRedirects},
		Region: spec.Region,
	}
	if spec.STS != nil && os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "" {
		iam.Endpoint = spec.STS.Endpoint
	}
	return credentials.New(iam), nil
}

// amazonAccount gets temporary keys for the ServiceAccount of the spec.
type amazonAccount struct {
	credentials.Expiry
	ctx     context.Context // the interface has no other place for it
	spec    *sourcev1.BucketSpec
	secrets secrets
}

// RetrieveWithCredContext implements credentials.Provider.
func (a *amazonAccount) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	options := []auth.Option{auth.WithSTSRegion(a.spec.Region)}
	if a.spec.STS != nil {
		options = append(options, auth.WithSTSEndpoint(a.spec.STS.Endpoint))
	}
	token, err := a.secrets.identity.Token(a.ctx, a.secrets.cloud, options...)
	if err != nil {
		return credentials.Value{}, err
	}
	keys, ok := token.(*aws.Credentials)
	if !ok {
		return credentials.Value{}, errors.New("the cloud gives another kind of token than Amazon's")
	}
	a.SetExpiration(ptr.Deref(keys.Expiration, time.Time{}), credentials.DefaultExpiryWindow)
	return credentials.Value{
		AccessKeyID: ptr.Deref(keys.AccessKeyId, ""), SecretAccessKey: ptr.Deref(keys.SecretAccessKey, ""), SessionToken: ptr.Deref(keys.SessionToken, ""),
		SignerType: credentials.SignatureV4,
	}, nil
}

// Retrieve implements credentials.Provider.
func (a *amazonAccount) Retrieve() (credentials.Value, error) { return a.RetrieveWithCredContext(nil) }

// ldapIdentity gets temporary keys from an STS that knows users by LDAP.
func ldapIdentity(network source.Network, spec *sourcev1.BucketSpec, s secrets) (*credentials.Credentials, error) {
	transport, err := network.Transport(s.stsTLS, s.proxy)
	if err != nil {
		return nil, err
	}
	return credentials.New(&credentials.LDAPIdentity{
		Client:       &http.Client{Transport: capped{transport}, CheckRedirect: noRedirects},
		STSEndpoint:  spec.STS.Endpoint,
		LDAPUsername: string(s.sts["username"]), LDAPPassword: string(s.sts["password"]),
	}), nil
}

// stsHost is Amazon's own: the agent's token must not be sent to whoever writes a Bucket.
// Below amazonaws.com there are names that customers choose, such as those of buckets.
var stsHost = regexp.MustCompile(`^(vpce-[a-z0-9-]+\.)?sts(-fips)?(\.[a-z]{2}(-[a-z]+)+-[0-9]+(\.vpce)?)?\.amazonaws\.com(\.cn)?$`)

// checkSTS holds the rules of the API that a server without CEL does not.
func checkSTS(spec *sourcev1.BucketSpec) error {
	sts := spec.STS
	if sts == nil {
		return nil
	}
	invalid := func(format string, args ...any) error {
		return api.Faultf(sourcev1.InvalidSTSConfigurationReason, api.RetryNever, format, args...)
	}
	u, err := url.Parse(sts.Endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return api.Faultf(sourcev1.URLInvalidReason, api.RetryNever, "spec.sts.endpoint is not a URL that begins with http:// or https://")
	}
	switch {
	case spec.Provider == sourcev1.BucketProviderAmazon && sts.Provider == sourcev1.STSProviderAmazon:
		switch {
		case sts.SecretRef != nil:
			return invalid("spec.sts.secretRef is not required for the 'aws' STS provider, remove it")
		case sts.CertSecretRef != nil:
			return invalid("spec.sts.certSecretRef is not required for the 'aws' STS provider, remove it")
		case u.Scheme != "https" || u.Port() != "" || !stsHost.MatchString(u.Hostname()):
			return invalid("spec.sts.endpoint is not an https endpoint of AWS STS, and would get to see the agent's own token")
		}
		return nil
	case generic(spec) && sts.Provider == sourcev1.STSProviderLDAP:
		return nil
	default:
		return invalid("STS provider '%s' is not supported for the '%s' bucket provider", sts.Provider, spec.Provider)
	}
}

func generic(spec *sourcev1.BucketSpec) bool {
	return spec.Provider == sourcev1.BucketProviderGeneric || spec.Provider == ""
}

func (b *s3) list(ctx context.Context, prefix string, visit func(Object) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the iteration when we leave it early
	defer cancel()
	for o := range b.client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{
		Recursive: true, Prefix: prefix, UseV1: s3utils.IsGoogleEndpoint(*b.client.EndpointURL()),
	}) {
		if o.Err != nil {
			return b.explain(o.Err)
		}
		if err := visit(Object{Key: o.Key, ETag: o.ETag, Size: o.Size, version: o.ETag}); err != nil {
			return err
		}
	}
	// The library may end a list that was cut off as if it were complete; what is missing from it would be removed.
	return ctx.Err()
}

func (b *s3) open(ctx context.Context, o Object) (io.ReadCloser, error) {
	var options minio.GetObjectOptions
	if o.version != "" {
		if err := options.SetMatchETag(o.version); err != nil {
			return nil, fmt.Errorf("%w: %w", errGone, err)
		}
	}
	core := minio.Core{Client: b.client}
	content, got, _, err := core.GetObject(forContent(ctx), b.bucket, o.Key, options)
	if err != nil {
		return nil, b.explain(err)
	}
	if o.version != "" && got.ETag != "" && got.ETag != o.version {
		content.Close()
		return nil, errGone // not every server knows the condition
	}
	return content, nil
}

func (b *s3) close() { b.transport.CloseIdleConnections() }

// explain puts an error of the library in words that do not change with the request.
func (b *s3) explain(err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		var sts credentials.ErrorResponse
		if errors.As(err, &sts) {
			return refusedBySTS(sts)
		}
		return source.Steady(err)
	}
	switch code := answer.Code; {
	case code == minio.NoSuchKey || answer.StatusCode == http.StatusPreconditionFailed:
		return errGone
	case code == minio.NoSuchBucket:
		return notFound(b.bucket)
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden || code == minio.AccessDenied:
		return refused(code)
	case answer.StatusCode == http.StatusServiceUnavailable || answer.StatusCode == http.StatusTooManyRequests:
		return &source.Failure{Text: "the server is overloaded or gets too many requests, use a longer spec.interval", Err: err}
	case code == "":
		return source.Steady(err)
	default:
		return &source.Failure{Text: "the server answers " + source.OneLine(code+": "+answer.Message), Err: err}
	}
}

func refusedBySTS(answer credentials.ErrorResponse) error {
	return fmt.Errorf("%w: the security token service answers %s, check spec.sts", source.ErrAuthentication, source.OneLine(answer.STSError.Code))
}

package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/fluxcd/pkg/auth"
	azureauth "github.com/fluxcd/pkg/auth/azure"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/utils/ptr"

	"github.com/cleat-dev/cleat/internal/source"
)

// azure is a container of Azure Blob Storage.
type azure struct {
	client    *azblob.Client
	container string
	transport *http.Transport
}

// openAzure makes the client for spec.endpoint, the URL of the storage account, by the first of the ways to authenticate
// that the Secret has the keys for: those are Flux's, in Flux's order.
func openAzure(ctx context.Context, network source.Network, spec *sourcev1.BucketSpec, s secrets) (storage, error) {
	endpoint, err := url.Parse(spec.Endpoint)
	if err != nil || endpoint.Hostname() == "" || endpoint.Scheme != "https" && (endpoint.Scheme != "http" || !spec.Insecure) {
		return nil, fmt.Errorf("%w: spec.endpoint is not the URL of a storage account, as in https://ACCOUNT.blob.core.windows.net", source.ErrURL)
	}
	transport, err := network.Transport(source.TLS{}, s.proxy)
	if err != nil {
		return nil, err
	}
	options := policy.ClientOptions{
		Transport: &http.Client{Transport: capped{transport}, CheckRedirect: noRedirects},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // the object as a whole is tried again, with a delay that grows
	}
	client, err := azureClient(ctx, endpoint, s, options)
	if err != nil {
		transport.CloseIdleConnections()
		return nil, err
	}
	return &azure{client: client, container: spec.BucketName, transport: transport}, nil
}

func azureClient(ctx context.Context, endpoint *url.URL, s secrets, options policy.ClientOptions) (*azblob.Client, error) {
	blobs := &azblob.ClientOptions{ClientOptions: options}
	if s.identity != nil {
		if !isAzure(endpoint) { // who may write a Bucket need not be one who may have the ServiceAccount's token
			return nil, fmt.Errorf("%w: the token of spec.serviceAccountName is only shown to Azure Blob Storage over https, correct spec.endpoint", source.ErrURL)
		}
		return azblob.NewClient(endpoint.String(), azureAccount{ctx, s}, blobs)
	}
	identity, err := azureIdentity(endpoint, s, options)
	if err != nil {
		return nil, err
	}
	switch key, sas := string(s.keys["accountKey"]), string(s.keys["sasKey"]); {
	case identity != nil:
		return azblob.NewClient(endpoint.String(), identity, blobs)
	case key != "":
		account, _, _ := strings.Cut(endpoint.Hostname(), ".")
		shared, err := azblob.NewSharedKeyCredential(account, key)
		if err != nil { // not repeated: it may quote the key
			return nil, fmt.Errorf("%w: the Secret's \"accountKey\" is not base64", source.ErrAuthentication)
		}
		return azblob.NewClientWithSharedKeyCredential(endpoint.String(), shared, blobs)
	case sas != "":
		signed, err := withSAS(*endpoint, sas)
		if err != nil {
			return nil, err
		}
		return azblob.NewClientWithNoCredential(signed, blobs)
	case s.keys == nil:
		return ambientAzure(endpoint, blobs)
	default:
		return nil, fmt.Errorf("%w: the Secret of spec.secretRef needs one of: \"clientId\" (with \"tenantId\" and \"clientSecret\" "+
			"or \"clientCertificate\"), \"accountKey\", \"sasKey\"", source.ErrAuthentication)
	}
}

// azureAccount gets tokens for the ServiceAccount of the spec.
type azureAccount struct {
	ctx     context.Context // that of a request ends with it, and the token is for those that follow
	secrets secrets
}

// GetToken implements azcore.TokenCredential.
func (a azureAccount) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := a.secrets.identity.Token(a.ctx, a.secrets.cloud, auth.WithScopes(options.Scopes...))
	if err != nil {
		return azcore.AccessToken{}, err
	}
	azure, ok := token.(*azureauth.Token)
	if !ok {
		return azcore.AccessToken{}, errors.New("the cloud gives another kind of token than Azure's")
	}
	return azure.AccessToken, nil
}

// withSAS adds a shared access signature to a URL; what the URL itself asks for counts less.
func withSAS(endpoint url.URL, sas string) (string, error) {
	values, err := url.ParseQuery(strings.TrimPrefix(sas, "?"))
	if err != nil { // not repeated: it may quote the signature
		return "", fmt.Errorf("%w: the Secret's \"sasKey\" is not the query of a URL", source.ErrAuthentication)
	}
	for name, value := range endpoint.Query() {
		if !values.Has(name) {
			values[name] = value
		}
	}
	endpoint.RawQuery = values.Encode()
	return endpoint.String(), nil
}

// azureIdentity returns nil when the Secret does not name one.
func azureIdentity(endpoint *url.URL, s secrets, options policy.ClientOptions) (azcore.TokenCredential, error) {
	text := func(key string) string { return string(s.keys[key]) }
	client, tenant := text("clientId"), text("tenantId")
	if host := text("authorityHost"); host != "" {
		options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: host}
	}
	var identity azcore.TokenCredential
	var err error
	switch {
	case client == "":
		return nil, nil
	case tenant != "" && text("clientSecret") != "":
		identity, err = azidentity.NewClientSecretCredential(tenant, client, text("clientSecret"),
			&azidentity.ClientSecretCredentialOptions{ClientOptions: options})
	case tenant != "" && text("clientCertificate") != "":
		chain := strings.ToLower(text("clientCertificateSendChain"))
		certificates, key, err := azidentity.ParseCertificates(s.keys["clientCertificate"], s.keys["clientCertificatePassword"])
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's \"clientCertificate\" cannot be read with its \"clientCertificatePassword\"", source.ErrAuthentication)
		}
		return azidentity.NewClientCertificateCredential(tenant, client, certificates, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, SendCertificateChain: chain == "1" || chain == "true"})
	case !isAzure(endpoint):
		return nil, fmt.Errorf("%w: the Secret's \"clientId\" alone names an identity of the node, whose token is only shown to Azure Blob Storage over https; "+
			"correct spec.endpoint, or give the identity's \"tenantId\" and \"clientSecret\" too", source.ErrAuthentication)
	default:
		own, ownErr := ownAzure()
		if ownErr != nil {
			return nil, ownErr
		}
		identity, err = azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: own, ID: azidentity.ClientID(client)})
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the Secret of spec.secretRef does not name an Azure identity", source.ErrAuthentication)
	}
	return identity, nil
}

// azureHost is Azure's own: the agent's token must not be sent to whoever writes a Bucket.
var azureHost = regexp.MustCompile(`^[a-z0-9-]+\.(z[0-9]+\.)?blob\.(core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|storage\.azure\.net)$`)

func isAzure(endpoint *url.URL) bool {
	return endpoint.Scheme == "https" && azureHost.MatchString(endpoint.Hostname())
}

// ownAzure are the options of requests that show what the agent, or its node, is to Azure. They do not go through the proxy
// of spec.proxySecretRef: those to the node are unencrypted, and where the others go is set by the environment of the agent.
// The node's metadata service has an address that sources may not have.
func ownAzure() (policy.ClientOptions, error) {
	transport, err := source.Network{AllowLinkLocal: true}.Transport(source.TLS{}, nil)
	if err != nil {
		return policy.ClientOptions{}, err
	}
	return policy.ClientOptions{
		Transport: &http.Client{Transport: capped{transport}, CheckRedirect: noRedirects},
		Retry:     policy.RetryOptions{MaxRetries: -1},
	}, nil
}

// ambientAzure uses what the agent itself is to Azure, by workload identity or as the node it runs on. Where it is nothing,
// and for hosts that are not Azure's, the client is anonymous. Requests with the token may pass the object's proxy, which
// sees nothing of them: they are encrypted for a host of Azure's, by authorities that the object has no say in.
func ambientAzure(endpoint *url.URL, blobs *azblob.ClientOptions) (*azblob.Client, error) {
	if !isAzure(endpoint) {
		return azblob.NewClientWithNoCredential(endpoint.String(), blobs)
	}
	own, err := ownAzure()
	if err != nil {
		return nil, err
	}
	if identity, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: own}); err == nil {
		return azblob.NewClient(endpoint.String(), identity, blobs)
	}
	var chain []azcore.TokenCredential
	if identity, err := azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: own}); err == nil {
		chain = append(chain, identity)
	}
	if identity, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: own}); err == nil {
		chain = append(chain, identity)
	}
	identity, err := azidentity.NewChainedTokenCredential(chain, nil)
	if err != nil {
		return azblob.NewClientWithNoCredential(endpoint.String(), blobs)
	}
	return azblob.NewClient(endpoint.String(), identity, blobs)
}

func (b *azure) list(ctx context.Context, prefix string, visit func(Object) error) error {
	pages := b.client.NewListBlobsFlatPager(b.container, &azblob.ListBlobsFlatOptions{Prefix: &prefix})
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return b.explain(err)
		}
		if page.Segment == nil {
			continue // an answer without blobs
		}
		for _, item := range page.Segment.BlobItems {
			if item == nil || item.Name == nil || item.Properties == nil || item.Properties.ETag == nil {
				return &source.Failure{Text: "the server lists a blob without a name or an ETag"}
			}
			etag := string(*item.Properties.ETag)
			o := Object{Key: *item.Name, ETag: fmt.Sprintf("%x", etag), Size: ptr.Deref(item.Properties.ContentLength, 0), version: etag}
			if err := visit(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *azure) open(ctx context.Context, o Object) (io.ReadCloser, error) {
	etag := azcore.ETag(o.version)
	res, err := b.client.DownloadStream(forContent(ctx), b.container, o.Key, &azblob.DownloadStreamOptions{
		AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: &etag}},
	})
	if err != nil {
		return nil, b.explain(err)
	}
	return res.Body, nil
}

func (b *azure) close() { b.transport.CloseIdleConnections() }

func (b *azure) explain(err error) error {
	var answer *azcore.ResponseError
	var identity *azidentity.AuthenticationFailedError
	switch {
	case bloberror.HasCode(err, bloberror.BlobNotFound, bloberror.ConditionNotMet):
		return errGone
	case bloberror.HasCode(err, bloberror.ContainerNotFound):
		return notFound(b.container)
	case errors.As(err, &identity):
		return fmt.Errorf("%w: Azure gives no token for this identity, check the Secret of spec.secretRef", source.ErrAuthentication)
	case !errors.As(err, &answer):
		return source.Steady(err)
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden:
		return refused(answer.ErrorCode)
	default:
		return &source.Failure{Text: "the server answers " + source.OneLine(fmt.Sprintf("%d: %s", answer.StatusCode, answer.ErrorCode)), Err: err}
	}
}

package cloudtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/auth/aws"
	"github.com/fluxcd/pkg/auth/azure"
	"github.com/fluxcd/pkg/auth/gcp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Token is the one that the fake API server makes for every ServiceAccount.
const Token = "fake-token"

// Enable opens the gate for the time of the test.
func Enable(t *testing.T) {
	t.Helper()
	auth.EnableObjectLevelWorkloadIdentity()
	t.Cleanup(auth.DisableObjectLevelWorkloadIdentity)
}

// ServiceAccount is one that all three clouds know.
func ServiceAccount(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{
		"eks.amazonaws.com/role-arn":                    "arn:aws:iam::123456789012:role/" + name,
		"azure.workload.identity/tenant-id":             "tenant",
		"azure.workload.identity/client-id":             name,
		"gcp.auth.fluxcd.io/workload-identity-provider": "projects/1/locations/global/workloadIdentityPools/pool/providers/" + name,
	}}}
}

// Endpoint is where tokens are exchanged.
type Endpoint struct {
	server *httptest.Server

	mu      sync.Mutex
	seen    []string
	refuses bool
}

// Seen returns what it was asked: who, and with which token.
func (e *Endpoint) Seen() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string{}, e.seen...)
}

// Refuse makes it refuse everybody from now on, every time under another number.
func (e *Endpoint) Refuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuses = true
}

// note reports whether the request is to be answered.
func (e *Endpoint) note(who, token string) (number int, answer bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, who+" "+token)
	return len(e.seen), !e.refuses
}

// AWS is Amazon's provider with a security token service that gives the keys out.
func AWS(t *testing.T, accessKey, secretKey, session string) (aws.Provider, *Endpoint) {
	t.Helper()
	e := &Endpoint{}
	e.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		number, answer := e.note(r.FormValue("RoleArn"), r.FormValue("WebIdentityToken"))
		if !answer {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized</Message></Error><RequestId>%d</RequestId></ErrorResponse>`, number)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
			<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration>
			</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, accessKey, secretKey, session)
	}))
	t.Cleanup(e.server.Close)
	return aws.Provider{Implementation: amazon{url: e.server.URL}}, e
}

type amazon struct {
	aws.Implementation
	url string
}

// AssumeRoleWithWebIdentity implements aws.Implementation.
func (a amazon) AssumeRoleWithWebIdentity(ctx context.Context, params *sts.AssumeRoleWithWebIdentityInput, options sts.Options) (*sts.AssumeRoleWithWebIdentityOutput, error) {
	options.BaseEndpoint = &a.url
	options.RetryMaxAttempts = 1
	return sts.New(options).AssumeRoleWithWebIdentity(ctx, params)
}

// Azure is Microsoft's provider with an authority that gives out the token.
func Azure(t *testing.T, token string) (azure.Provider, *Endpoint) {
	t.Helper()
	e := &Endpoint{}
	e.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
			at := e.server.URL + "/tenant"
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": at, "authorization_endpoint": at + "/authorize", "token_endpoint": at + "/token"})
			return
		}
		number, answer := e.note(r.FormValue("client_id"), r.FormValue("client_assertion"))
		if !answer {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": fmt.Sprint("AADSTS700016 Trace ID: ", number)})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": token})
	}))
	t.Cleanup(e.server.Close)
	return azure.Provider{Implementation: microsoft{server: e.server}}, e
}

type microsoft struct {
	azure.Implementation
	server *httptest.Server
}

// NewClientAssertionCredential implements azure.Implementation.
func (m microsoft) NewClientAssertionCredential(tenant, client string, assertion func(context.Context) (string, error), options *azidentity.ClientAssertionCredentialOptions) (azcore.TokenCredential, error) {
	options.Transport = m.server.Client()
	options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: m.server.URL}
	options.Retry.MaxRetries = -1
	options.DisableInstanceDiscovery = true
	return azidentity.NewClientAssertionCredential(tenant, client, assertion, options)
}

// Google is Google's provider with a security token service that gives out the token.
func Google(t *testing.T, token string) (gcp.Provider, *Endpoint) {
	t.Helper()
	e := &Endpoint{}
	e.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		audience := r.FormValue("audience")
		if _, answer := e.note(audience[strings.LastIndex(audience, "/")+1:], r.FormValue("subject_token")); !answer {
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": "access_denied"})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"token_type": "Bearer", "expires_in": 3600, "access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		})
	}))
	t.Cleanup(e.server.Close)
	return gcp.Provider{Implementation: google{url: e.server.URL}}, e
}

type google struct {
	gcp.Implementation
	url string
}

// NewTokenSource implements gcp.Implementation.
func (g google) NewTokenSource(ctx context.Context, conf externalaccount.Config) (oauth2.TokenSource, error) {
	conf.TokenURL, conf.TokenInfoURL = g.url, ""
	return externalaccount.NewTokenSource(ctx, conf)
}

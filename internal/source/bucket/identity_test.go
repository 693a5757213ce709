package bucket

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/e2e/s3server"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/cloudtest"
)

func accountBucket(provider, endpoint string, set ...func(*sourcev1.BucketSpec)) *sourcev1.Bucket {
	return bucket(endpoint, append([]func(*sourcev1.BucketSpec){func(s *sourcev1.BucketSpec) {
		s.Provider, s.Region, s.SecretRef, s.ServiceAccountName = provider, "us-east-1", nil, "shop"
	}}, set...)...)
}

// TestAmazonServiceAccount exchanges the token of the ServiceAccount for keys that the server checks every signature with.
func TestAmazonServiceAccount(t *testing.T) {
	cloudtest.Enable(t)
	s := server(t, map[string]string{"a.yaml": "1"})
	amazon, sts := cloudtest.AWS(t, s3server.AccessKey, s3server.SecretKey, "session")
	w := newWorld(t, Limits{}, accountBucket("aws", s.Endpoint), cloudtest.ServiceAccount("demo", "shop"))
	w.clouds = clouds{"aws": amazon}
	w.restart(w.dir)
	if diff := cmp.Diff(map[string]string{"a.yaml": "1"}, w.files(w.ready())); diff != "" {
		t.Error(diff)
	}
	if want := []string{"arn:aws:iam::123456789012:role/shop " + cloudtest.Token}; !cmp.Equal(want, sts.Seen()) {
		t.Errorf("STS was asked %q", sts.Seen())
	}
	sts.Refuse()
	reason, message := w.fails()
	if r, m := w.fails(); reason != sourcev1.AuthenticationFailedReason || r != reason || m != message || !strings.Contains(m, `ServiceAccount "shop"`) {
		t.Errorf("%s: %s; %s: %s", reason, message, r, m)
	}
}

func TestTokensOfServiceAccounts(t *testing.T) {
	cloudtest.Enable(t)
	w := newWorld(t, Limits{}, cloudtest.ServiceAccount("demo", "shop"))
	identity := source.Identities{Client: w.client}.Of(sourcev1.BucketKind, shop, "shop", nil)
	azure, authority := cloudtest.Azure(t, "azure-t0ken")
	google, exchange := cloudtest.Google(t, "google-t0ken")

	got, err := azureAccount{t.Context(), secrets{identity: identity, cloud: azure}}.
		GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}})
	if err != nil || got.Token != "azure-t0ken" || !cmp.Equal([]string{"shop " + cloudtest.Token}, authority.Seen()) {
		t.Errorf("azure: %v, asked %q", err, authority.Seen())
	}
	tokens, err := googleTokens(t.Context(), nil, secrets{identity: identity, cloud: google})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // each request wants it
		if got, err := tokens.Token(); err != nil || got.AccessToken != "google-t0ken" || !cmp.Equal([]string{"shop " + cloudtest.Token}, exchange.Seen()) {
			t.Errorf("google: %v, asked %q", err, exchange.Seen())
		}
	}
	// The token is not for whoever may write a Bucket.
	for _, endpoint := range []string{"https://mallory.example", "http://account.blob.core.windows.net"} {
		spec := accountBucket("azure", endpoint).Spec
		if _, err := openAzure(t.Context(), source.Network{}, &spec, secrets{identity: identity, cloud: azure}); err == nil {
			t.Errorf("%s may see the token", endpoint)
		}
	}
}

func TestServiceAccountsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		open   bool
		set    func(*sourcev1.BucketSpec)
		reason string
	}{
		"the gate":     {false, func(*sourcev1.BucketSpec) {}, meta.FeatureGateDisabledReason},
		"generic":      {true, func(s *sourcev1.BucketSpec) { s.Provider = "generic" }, "UnsupportedField"},
		"and a Secret": {true, func(s *sourcev1.BucketSpec) { s.SecretRef = &meta.LocalObjectReference{Name: "keys"} }, "UnsupportedField"},
		"no region":    {true, func(s *sourcev1.BucketSpec) { s.Region = "" }, "UnsupportedField"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.open {
				cloudtest.Enable(t)
			}
			w := newWorld(t, Limits{}, accountBucket("aws", "127.0.0.1:1", tt.set), keys())
			o := w.reconcile()
			if c := reconcile.Condition(o, meta.StalledCondition); c == nil || c.Reason != tt.reason || !strings.Contains(c.Message, "spec.serviceAccountName") {
				t.Errorf("conditions are %+v", o.Status.Conditions)
			}
		})
	}
}

package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// public is the authority that this process trusts as the system's, and egress the way out that its environment names. Both
// are read once in the life of a process.
var (
	public *authority
	egress *internet
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "oci-test-")
	if err != nil {
		panic(err)
	}
	if public, err = makeAuthority(); err != nil {
		panic(err)
	}
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, []byte(public.pem), 0o600); err != nil {
		panic(err)
	}
	egress = startInternet()
	for name, value := range map[string]string{"SSL_CERT_FILE": file, "SSL_CERT_DIR": dir, "HTTPS_PROXY": egress.URL} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	auth.EnableObjectLevelWorkloadIdentity() // the controller's own gate is what tests open and close
	code := m.Run()
	egress.Close()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// asking is a Cloud that notes who asks.
type asking struct {
	mu  sync.Mutex
	as  []Identity
	err error
	now func() time.Time
}

func (a *asking) cloud(_ context.Context, _ string, as Identity) (authn.AuthConfig, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.as = append(a.as, as)
	return authn.AuthConfig{Username: "AWS", Password: "token"}, a.now().Add(time.Hour), a.err
}

// publicly serves a registry that is known by the system's authorities.
func publicly(t *testing.T, hosts ...string) *server {
	t.Helper()
	return serveTLS(t, &tls.Config{Certificates: []tls.Certificate{public.leaf(t, time.Now().Add(time.Hour), hosts...)}})
}

func TestCloudCredentialsAreKeptWhileTheyAreGood(t *testing.T) {
	s := publicly(t, "127.0.0.1")
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	s.hook(basicAuth("AWS", "token"))
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Provider, spec.Insecure = "aws", false }))
	a := &asking{now: w.clock.now}
	w.clouds = map[string]Cloud{"aws": a.cloud}
	w.restart(t.TempDir())
	for range 3 {
		if o, _ := w.reconcile(); ready(o) != "True Succeeded" {
			t.Fatal(message(o, "Ready"))
		}
	}
	if diff := cmp.Diff([]Identity{{}}, a.as); diff != "" {
		t.Errorf("asked as:\n%s", diff)
	}
	w.clock.pass(59 * time.Minute)
	a.err = errors.New("no identity, RequestID: 0123abcd, at 2026-11-24T10:00:00Z, for 01234567-89ab-cdef-0123-456789abcdef")
	o, _ := w.reconcile()
	if len(a.as) != 2 || ready(o) != "False AuthenticationFailed" || !strings.HasSuffix(message(o, "Ready"), "no identity, …, at …, for …") {
		t.Errorf("asked %d times; %s", len(a.as), message(o, "Ready"))
	}
}

// TestA09_IdentitiesAndOthersNetworks: nobody whom the object names is shown what the agent's own identity gives. What a
// ServiceAccount of the object's namespace gives is the tenant's own.
func TestA09_IdentitiesAndOthersNetworks(t *testing.T) {
	const host = "registry.example.com"
	ca := newAuthority(t)
	leaf := ca.leaf(t, time.Now().Add(time.Hour), "client")
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]string{
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	}
	certs, proxy := &meta.LocalObjectReference{Name: "certs"}, &meta.LocalObjectReference{Name: "proxy"}
	account := func(w *sourcev1.OCIRepositorySpec) { w.ServiceAccountName = "robot" }
	for name, tt := range map[string]struct {
		certs  map[string]string
		by     *authority // of the registry's certificate
		set    func(*sourcev1.OCIRepositorySpec)
		gate   bool
		reason string
		as     []Identity // proxies are compared by whether there is one
	}{
		"own, another authority":  {map[string]string{"ca.crt": ca.pem}, ca, func(s *sourcev1.OCIRepositorySpec) { s.CertSecretRef = certs }, false, "UnsupportedField", nil},
		"own, a certificate":      {own, public, func(s *sourcev1.OCIRepositorySpec) { s.CertSecretRef = certs }, false, "Succeeded", []Identity{{}}},
		"own, proxied":            {nil, public, func(*sourcev1.OCIRepositorySpec) {}, false, "Succeeded", []Identity{{}}},
		"own, proxied to another": {nil, ca, func(*sourcev1.OCIRepositorySpec) {}, false, sourcev1.OCIPullFailedReason, []Identity{{}}},
		"account":                 {map[string]string{"ca.crt": ca.pem}, ca, func(s *sourcev1.OCIRepositorySpec) { account(s); s.CertSecretRef = certs }, true, "Succeeded", []Identity{{Namespace: "demo", Account: "robot"}}},
		"account, no gate":        {nil, public, account, false, meta.FeatureGateDisabledReason, nil},
		"no such account":         {nil, public, func(s *sourcev1.OCIRepositorySpec) { s.ServiceAccountName = "nobody" }, true, sourcev1.AuthenticationFailedReason, nil},
		"a Secret comes first":    {nil, public, func(s *sourcev1.OCIRepositorySpec) { s.SecretRef = &meta.LocalObjectReference{Name: "login"} }, false, "Succeeded", nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{tt.by.leaf(t, time.Now().Add(time.Hour), host)}})
			s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
			s.hook(basicAuth("AWS", "token"))
			theirs := newInternet(t)
			theirs.add(host, s.Server)
			w := newWorld(t, repository("oci://"+host+"/app", func(spec *sourcev1.OCIRepositorySpec) {
				spec.Provider, spec.Insecure, spec.ProxySecretRef = "aws", false, proxy
				tt.set(spec)
			}), secretOf("certs", tt.certs), secretOf("proxy", map[string]string{"address": theirs.URL}),
				secretOf("login", map[string]string{".dockerconfigjson": `{"auths":{"` + host + `":{"username":"AWS","password":"token"}}}`}),
				&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "robot"}})
			a := &asking{now: w.clock.now}
			w.clouds, w.own = map[string]Cloud{"aws": a.cloud}, tt.gate
			w.restart(t.TempDir())
			o, _ := w.reconcile()
			if got := ready(o); !strings.HasSuffix(got, " "+tt.reason) {
				t.Errorf("Ready is %s: %s", got, message(o, "Ready"))
			}
			for i := range a.as {
				if (a.as[i].Proxy != source.Proxy{}) != (a.as[i].Account != "") {
					t.Errorf("asked as %+v", a.as[i])
				}
				a.as[i].Proxy = source.Proxy{}
			}
			if diff := cmp.Diff(tt.as, a.as); diff != "" {
				t.Errorf("asked as:\n%s", diff)
			}
		})
	}
}

// TestServiceAccountThatHasChanged: its token is one for what it stood for.
func TestServiceAccountThatHasChanged(t *testing.T) {
	s := publicly(t, "127.0.0.1")
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "robot"}}
	w := newWorld(t, account, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) {
		spec.Provider, spec.Insecure, spec.ServiceAccountName = "aws", false, "robot"
	}))
	a := &asking{now: w.clock.now}
	w.clouds, w.own = map[string]Cloud{"aws": a.cloud}, true
	w.restart(t.TempDir())
	w.reconcile()
	w.reconcile()
	if len(a.as) != 1 {
		t.Errorf("asked %d times", len(a.as))
	}
	account.Annotations = map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/other"}
	if err := w.client.Update(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if w.reconcile(); len(a.as) != 2 {
		t.Errorf("asked %d times after a change", len(a.as))
	}
	if err := w.client.Delete(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	if o, _ := w.reconcile(); ready(o) != "False AuthenticationFailed" {
		t.Errorf("without the account: %s", message(o, "Ready"))
	}
}

// provide answers for the services of the clouds.
func provide(res http.ResponseWriter, req *http.Request) {
	text := req.FormValue("WebIdentityToken") + req.FormValue("client_assertion") + req.FormValue("subject_token") // of what asks for a token
	soon := time.Now().Add(time.Hour)
	switch at := req.Host + req.URL.Path; {
	case at == "sts.eu-west-1.amazonaws.com/" && text == "fake-token":
		fmt.Fprintf(res, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>theirs</AccessKeyId><SecretAccessKey>k</SecretAccessKey><SessionToken>s</SessionToken><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, soon.UTC().Format(time.RFC3339))
	case at == "api.ecr.eu-west-1.amazonaws.com/" && strings.Contains(req.Header.Get("Authorization"), "Credential=theirs/"),
		at == "api.ecr.eu-west-1.amazonaws.com/" && strings.Contains(req.Header.Get("Authorization"), "Credential=ours/"):
		res.Header().Set("Content-Type", "application/x-amz-json-1.1")
		fmt.Fprintf(res, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d}]}`, base64.StdEncoding.EncodeToString([]byte("AWS:token")), soon.Unix())
	case strings.HasPrefix(at, "login.microsoftonline.com/") && strings.HasSuffix(at, "/discovery/instance"):
		fmt.Fprint(res, `{"tenant_discovery_endpoint":"https://login.microsoftonline.com/tenant/v2.0/.well-known/openid-configuration","metadata":`+
			`[{"preferred_network":"login.microsoftonline.com","preferred_cache":"login.microsoftonline.com","aliases":["login.microsoftonline.com"]}]}`)
	case strings.HasSuffix(at, "/openid-configuration"):
		fmt.Fprint(res, `{"authorization_endpoint":"https://login.microsoftonline.com/tenant/oauth2/v2.0/authorize",`+
			`"token_endpoint":"https://login.microsoftonline.com/tenant/oauth2/v2.0/token","issuer":"https://login.microsoftonline.com/tenant/v2.0"}`)
	case at == "login.microsoftonline.com/tenant/oauth2/v2.0/token" && text == "fake-token":
		fmt.Fprint(res, `{"access_token":"aad","token_type":"Bearer","expires_in":3600}`)
	case at == "sts.googleapis.com/v1/token" && text == "fake-token":
		fmt.Fprint(res, `{"access_token":"token","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`)
	default:
		res.WriteHeader(http.StatusForbidden)
	}
}

// hosts are those that the clouds' libraries ask.
var hosts = []string{"sts.eu-west-1.amazonaws.com", "api.ecr.eu-west-1.amazonaws.com", "login.microsoftonline.com", "sts.googleapis.com"}

func startProvider(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(provide))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{public.leaf(t, time.Now().Add(time.Hour), hosts...)}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// TestIdentitiesOfServiceAccounts has the clouds' own libraries change a ServiceAccount's token into credentials.
func TestIdentitiesOfServiceAccounts(t *testing.T) {
	part := func(claims string) string { return base64.RawURLEncoding.EncodeToString([]byte(claims)) }
	refresh := part(`{"alg":"HS256"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())) + ".eA"
	for name, tt := range map[string]struct {
		registry, username, password string
		annotations                  map[string]string
		asked                        []string
	}{
		"aws": {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", "AWS", "token",
			map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/robot"},
			[]string{"CONNECT api.ecr.eu-west-1.amazonaws.com", "CONNECT sts.eu-west-1.amazonaws.com"}},
		"azure": {"shop.azurecr.io", "00000000-0000-0000-0000-000000000000", refresh,
			map[string]string{"azure.workload.identity/tenant-id": "tenant", "azure.workload.identity/client-id": "client"},
			[]string{"CONNECT login.microsoftonline.com"}},
		"gcp": {"europe-docker.pkg.dev", "oauth2accesstoken", "token",
			map[string]string{"gcp.auth.fluxcd.io/workload-identity-provider": "projects/1/locations/global/workloadIdentityPools/p/providers/q"},
			[]string{"CONNECT sts.googleapis.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			clouds := startProvider(t)
			s := publicly(t, tt.registry)
			s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
			ask := basicAuth(tt.username, tt.password)
			s.hook(ask)
			exchange := http.NewServeMux()
			exchange.HandleFunc("/oauth2/exchange", func(res http.ResponseWriter, req *http.Request) {
				if req.FormValue("access_token") == "aad" {
					fmt.Fprintf(res, `{"refresh_token":%q}`, refresh)
				}
			})
			exchange.Handle("/", s.Config.Handler)
			s.Config.Handler = exchange
			theirs := newInternet(t)
			theirs.add(tt.registry, s.Server)
			for _, h := range hosts {
				theirs.add(h, clouds)
			}
			egress.take()
			w := newWorld(t, repository("oci://"+tt.registry+"/app", func(spec *sourcev1.OCIRepositorySpec) {
				spec.Provider, spec.Insecure, spec.ServiceAccountName = name, false, "robot"
				spec.ProxySecretRef = &meta.LocalObjectReference{Name: "proxy"}
			}), secretOf("proxy", map[string]string{"address": theirs.URL}),
				&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "robot", Annotations: tt.annotations}})
			w.own = true
			w.restart(t.TempDir())
			o, _ := w.reconcile()
			if got := ready(o); got != "True Succeeded" {
				t.Errorf("Ready is %s: %s", got, message(o, "Ready"))
			}
			want := append(slices.Clone(tt.asked), "CONNECT "+tt.registry)
			slices.Sort(want)
			if diff := cmp.Diff(want, theirs.take()); diff != "" {
				t.Errorf("asked through the object's proxy:\n%s", diff)
			}
			if got := egress.take(); len(got) > 0 {
				t.Errorf("asked in another way: %q", got)
			}
		})
	}
}

// TestA09_OwnIdentityIsAskedForDirectly: what the cloud's library says to the cloud for the agent does not pass the object's
// proxy; what it says to the metadata service would be readable there.
func TestA09_OwnIdentityIsAskedForDirectly(t *testing.T) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "ours", "AWS_SECRET_ACCESS_KEY": "k", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CA_BUNDLE": ""} {
		t.Setenv(name, value)
	}
	const host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
	clouds := startProvider(t)
	egress.take()
	egress.add("api.ecr.eu-west-1.amazonaws.com", clouds)
	s := publicly(t, host)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	s.hook(basicAuth("AWS", "token"))
	theirs := newInternet(t)
	theirs.add(host, s.Server)
	objects := func(address string) []client.Object {
		return []client.Object{repository("oci://"+host+"/app", func(spec *sourcev1.OCIRepositorySpec) {
			spec.Provider, spec.Insecure, spec.ProxySecretRef = "aws", false, &meta.LocalObjectReference{Name: "proxy"}
		}), secretOf("proxy", map[string]string{"address": address})}
	}
	w := newWorld(t, objects(theirs.URL)...)
	o, _ := w.reconcile()
	if got := ready(o); got != "True Succeeded" {
		t.Errorf("Ready is %s: %s", got, message(o, "Ready"))
	}
	if diff := cmp.Diff([]string{"CONNECT " + host}, theirs.take()); diff != "" {
		t.Errorf("asked through the object's proxy:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"CONNECT api.ecr.eu-west-1.amazonaws.com"}, egress.take()); diff != "" {
		t.Errorf("asked directly:\n%s", diff)
	}
}

// TestA09_CloudsKnowTheirRegistries: a host that is not the cloud's is given nothing, whatever it is called.
func TestA09_CloudsKnowTheirRegistries(t *testing.T) {
	for name, c := range clouds(nil) {
		for _, host := range []string{"registry.example.com", "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.net", "shop.azurecr.io.evil.net", "gcr.io.evil.net", "evil.net:5000"} {
			if _, _, err := c(t.Context(), host+"/app", Identity{}); err == nil || !strings.Contains(err.Error(), "invalid") {
				t.Errorf("%s for %s: %v", name, host, err)
			}
		}
	}
}

// TestA09_ChartsByIdentity: charts are fetched with the agent's identity under the same rules.
func TestA09_ChartsByIdentity(t *testing.T) {
	ca := newAuthority(t)
	for name, tt := range map[string]struct {
		by     *authority
		set    func(*Chart)
		reason string // "" for success
		asked  int
	}{
		"own":                    {public, func(*Chart) {}, "", 1},
		"own, another authority": {ca, func(c *Chart) { c.TLS.CA = ca.pem }, "UnsupportedField", 0},
		"own, plain http":        {public, func(c *Chart) { c.Insecure = true }, "UnsupportedField", 0},
		"a Secret comes first":   {public, func(c *Chart) { c.Secret = map[string][]byte{"username": []byte("AWS"), "password": []byte("token")} }, "", 0},
		"no such provider":       {public, func(c *Chart) { c.Provider = "oracle" }, sourcev1.AuthenticationFailedReason, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{tt.by.leaf(t, time.Now().Add(time.Hour), "127.0.0.1")}})
			s.push(t, "charts/web", "1.0.0", image(t, []byte("archive"), chartLayer, nil))
			s.hook(basicAuth("AWS", "token"))
			a := &asking{now: time.Now}
			charts := NewCharts(Options{Clouds: map[string]Cloud{"aws": a.cloud}})
			at := Chart{URL: s.url("charts/web"), Provider: "aws"}
			tt.set(&at)
			tags, err := charts.Tags(t.Context(), at)
			reason := ""
			if f, ok := errors.AsType[*api.Fault](err); ok {
				reason = f.Reason
			}
			if reason != tt.reason || (err == nil) != (len(tags) == 1) {
				t.Errorf("tags are %v: %v", tags, err)
			}
			archive, again := charts.Pull(t.Context(), at, "1.0.0", 1<<20)
			if (again == nil) != (err == nil) || (err == nil) != (string(archive) == "archive") {
				t.Errorf("archive is %q: %v", archive, again)
			}
			if len(a.as) != tt.asked || tt.asked > 0 && a.as[0] != (Identity{}) {
				t.Errorf("asked as %v", a.as)
			}
		})
	}
}

package bucket

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// The clouds' own storage cannot be run here. What follows speaks as much of their protocols as the agent uses, so that
// their libraries, and what is made of their answers, are the real ones.

// cloudServer keeps what it was shown for authentication.
type cloudServer struct {
	objects map[string]string

	mu    sync.Mutex
	shown []string
}

func (c *cloudServer) note(auth string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = append(c.shown, auth)
}

func (c *cloudServer) keys(prefix string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.objects)), func(key string) bool { return !strings.HasPrefix(key, prefix) })
}

// google answers as Google Cloud Storage does.
func (c *cloudServer) google(w http.ResponseWriter, r *http.Request) {
	c.note(r.Header.Get("Authorization"))
	if key, ok := strings.CutPrefix(r.URL.Path, "/shop/"); ok {
		if r.Header.Get("X-Goog-If-Generation-Match") != "7" && r.URL.Query().Get("ifGenerationMatch") != "7" {
			w.WriteHeader(http.StatusPreconditionFailed)
			return
		}
		w.Header().Set("X-Goog-Generation", "7")
		fmt.Fprint(w, c.objects[key])
		return
	}
	if r.URL.Path != "/storage/v1/b/shop/o" {
		http.Error(w, `{"error": {"code": 404, "message": "The specified bucket does not exist."}}`, http.StatusNotFound)
		return
	}
	var list struct {
		Kind  string           `json:"kind"`
		Items []map[string]any `json:"items"`
	}
	for _, key := range c.keys(r.URL.Query().Get("prefix")) {
		list.Items = append(list.Items, map[string]any{"name": key, "etag": "etag-" + key, "size": fmt.Sprint(len(c.objects[key])), "generation": "7"})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

// toServer sends every request to the server, whatever host it is for.
type toServer struct{ url string }

func (t toServer) RoundTrip(req *http.Request) (*http.Response, error) {
	to, err := url.Parse(t.url)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(req)
}

func readAll(t *testing.T, s storage, prefix string) (found map[string]string, etags map[string]string) {
	t.Helper()
	found, etags = map[string]string{}, map[string]string{}
	var objects []Object
	if err := s.list(t.Context(), prefix, func(o Object) error { objects = append(objects, o); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		etags[o.Key] = o.ETag
	}
	err := download(t.Context(), s, objects, func(o Object, r io.Reader) error {
		content, err := io.ReadAll(r)
		found[o.Key] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, etags
}

func TestGoogleStorage(t *testing.T) {
	c := &cloudServer{objects: map[string]string{"app/a.yaml": "1", "app/b.yaml": "22", "other": "3"}}
	server := httptest.NewServer(http.HandlerFunc(c.google))
	defer server.Close()
	open := func(name string) storage {
		s, err := newGCS(t.Context(), name, &http.Transport{}, toServer{server.URL})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.close)
		return s
	}
	s := open("shop")
	found, etags := readAll(t, s, "app/")
	if diff := cmp.Diff(map[string]string{"app/a.yaml": "1", "app/b.yaml": "22"}, found); diff != "" {
		t.Error(diff)
	}
	if etags["app/a.yaml"] != "etag-app/a.yaml" {
		t.Errorf("etags %v", etags)
	}
	if _, err := s.open(t.Context(), Object{Key: "other", version: "6"}); !errors.Is(err, errGone) {
		t.Errorf("another generation: %v", err)
	}
	err := open("none").list(t.Context(), "", func(Object) error { return nil })
	if err == nil || !strings.HasPrefix(err.Error(), "bucket 'none' not found") {
		t.Errorf("no such bucket: %v", err)
	}
}

func TestGoogleKeysOfOtherKindsAreRefused(t *testing.T) {
	for name, key := range map[string]string{
		"no JSON":             "hunter2",
		"a program to run":    `{"type": "external_account", "credential_source": {"executable": {"command": "hunter2"}}}`,
		"somebody's own keys": `{"type": "authorized_user", "client_id": "hunter2"}`,
	} {
		_, err := googleTokens(t.Context(), http.DefaultClient, secrets{keys: map[string][]byte{"serviceaccount": []byte(key)}})
		if !errors.Is(err, source.ErrAuthentication) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := googleTokens(t.Context(), http.DefaultClient, secrets{keys: map[string][]byte{}}); !errors.Is(err, source.ErrAuthentication) {
		t.Errorf("an empty Secret: %v", err)
	}
}

// azure answers as Azure Blob Storage does.
func (c *cloudServer) azure(w http.ResponseWriter, r *http.Request) {
	c.note(r.Header.Get("Authorization") + r.URL.Query().Get("sig"))
	fail := func(status int, code string) {
		w.Header().Set("X-Ms-Error-Code", code)
		w.WriteHeader(status)
	}
	if !strings.HasPrefix(r.URL.Path, "/shop") {
		fail(http.StatusNotFound, "ContainerNotFound")
		return
	}
	if key, ok := strings.CutPrefix(r.URL.Path, "/shop/"); ok {
		if r.Header.Get("If-Match") != etagOf(key) {
			fail(http.StatusPreconditionFailed, "ConditionNotMet")
			return
		}
		fmt.Fprint(w, c.objects[key])
		return
	}
	type properties struct {
		ETag          string `xml:"Etag"`
		ContentLength int    `xml:"Content-Length"`
	}
	type blob struct {
		Name       string
		Properties properties
	}
	var list struct {
		XMLName xml.Name `xml:"EnumerationResults"`
		Blobs   struct{ Blob []blob }
	}
	for _, key := range c.keys(r.URL.Query().Get("prefix")) {
		list.Blobs.Blob = append(list.Blobs.Blob, blob{key, properties{etagOf(key), len(c.objects[key])}})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(list)
}

func etagOf(key string) string { return `"0x8D` + key[len(key)-1:] + `"` }

func TestAzureStorage(t *testing.T) {
	for name, c := range map[string]struct {
		keys  map[string][]byte
		shown string
	}{
		"a shared key":   {map[string][]byte{"accountKey": []byte(base64.StdEncoding.EncodeToString([]byte("key")))}, "SharedKey 127:"},
		"a signature":    {map[string][]byte{"sasKey": []byte("?sv=1&sig=signed")}, "signed"},
		"nothing at all": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cloud := &cloudServer{objects: map[string]string{"app/a": "1", "app/b": "22", "other": "3"}}
			server := httptest.NewServer(http.HandlerFunc(cloud.azure))
			defer server.Close()
			open := func(container string) storage {
				s, err := openAzure(t.Context(), source.Network{}, &sourcev1.BucketSpec{Provider: "azure", Endpoint: server.URL, Insecure: true, BucketName: container}, secrets{keys: c.keys})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.close)
				return s
			}
			s := open("shop")
			found, etags := readAll(t, s, "app/")
			if diff := cmp.Diff(map[string]string{"app/a": "1", "app/b": "22"}, found); diff != "" {
				t.Error(diff)
			}
			// Flux writes the ETag, with its quotes, in hexadecimal.
			if want := fmt.Sprintf("%x", `"0x8Da"`); etags["app/a"] != want {
				t.Errorf("etag %s, want %s", etags["app/a"], want)
			}
			for _, shown := range cloud.shown {
				if !strings.HasPrefix(shown, c.shown) {
					t.Errorf("the server was shown %q", shown)
				}
			}
			if _, err := s.open(t.Context(), Object{Key: "app/a", version: `"other"`}); !errors.Is(err, errGone) {
				t.Errorf("another version: %v", err)
			}
			err := open("none").list(t.Context(), "", func(Object) error { return nil })
			if err == nil || !strings.HasPrefix(err.Error(), "bucket 'none' not found") {
				t.Errorf("no such container: %v", err)
			}
		})
	}
}

func TestAzureSecretsThatCannotBeUsed(t *testing.T) {
	spec := &sourcev1.BucketSpec{Provider: "azure", Endpoint: "https://account.blob.core.windows.net", BucketName: "shop"}
	for name, data := range map[string]map[string]string{
		"empty":                       {},
		"a key that is none":          {"accountKey": "hunter2!"},
		"a bad certificate":           {"clientId": "a", "tenantId": "b", "clientCertificate": "hunter2"},
		"a signature that is not one": {"sasKey": "hunter2=%zz"},
	} {
		_, err := openAzure(t.Context(), source.Network{}, spec, secrets{keys: secret("keys", data).Data})
		if !errors.Is(err, source.ErrAuthentication) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, data := range []map[string]string{{"clientId": "a", "tenantId": "b", "clientSecret": "c"}, {"clientId": "a"}} {
		if _, err := openAzure(t.Context(), source.Network{}, spec, secrets{keys: secret("keys", data).Data}); err != nil {
			t.Error(err)
		}
	}
	for _, endpoint := range []string{"account.blob.core.windows.net", "http://account.blob.core.windows.net", "ftp://x"} {
		if _, err := openAzure(t.Context(), source.Network{}, &sourcev1.BucketSpec{Endpoint: endpoint}, secrets{}); !errors.Is(err, source.ErrURL) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

// The agent's own token is not for whoever writes a Bucket: only hosts of the cloud may see it.
func TestA09_OwnIdentityStaysWithTheCloud(t *testing.T) {
	for endpoint, ok := range map[string]bool{
		"https://sts.amazonaws.com":                         true,
		"https://sts.eu-west-1.amazonaws.com":               true,
		"https://sts-fips.us-east-1.amazonaws.com":          true,
		"https://vpce-1-a.sts.eu-west-1.vpce.amazonaws.com": true,
		"https://sts.cn-north-1.amazonaws.com.cn":           true,
		"https://sts.us-gov-west-1.amazonaws.com":           true,
		"https://sts.s3.amazonaws.com":                      false,
		"https://my.sts.s3.eu-west-1.amazonaws.com":         false,
		"https://sts.sts.amazonaws.com":                     false,
		"https://example.com/.sts.amazonaws.com":            false,
		"https://sts.amazonaws.com.example.com":             false,
		"https://example.com/sts.amazonaws.com":             false,
		"http://sts.amazonaws.com":                          false,
		"https://bucket.s3.amazonaws.com":                   false,
		"https://sts.amazonaws.com:8443":                    false,
		"sts.amazonaws.com":                                 false,
	} {
		err := checkSTS(&sourcev1.BucketSpec{Provider: "aws", STS: &sourcev1.BucketSTSSpec{Provider: "aws", Endpoint: endpoint}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", endpoint, err)
		}
		var f *api.Fault
		if err != nil && (!errors.As(err, &f) || f.Retry != api.RetryNever) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	for host, ok := range map[string]bool{
		"account.blob.core.windows.net": true, "account.z6.blob.storage.azure.net": true,
		"blob.core.windows.net": false, "account.blob.core.windows.net.example.com": false, "example.com": false,
	} {
		if azureHost.MatchString(host) != ok {
			t.Errorf("%s", host)
		}
	}
}

// refusing is a proxy that notes what it is asked for, and refuses.
func refusing(t *testing.T) (*source.Proxy, func() []string) {
	t.Helper()
	seen := &cloudServer{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.note(r.Method + " " + r.Host)
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	return &source.Proxy{Address: server.URL}, func() []string {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		return slices.Clone(seen.shown)
	}
}

// TestA09_AzuresAndGooglesOwnIdentity: the agent's own tokens are asked for without the object's proxy, too.
func TestA09_AzuresAndGooglesOwnIdentity(t *testing.T) {
	t.Run("azure workload identity", func(t *testing.T) {
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("t0ken"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AZURE_AUTHORITY_HOST", "https://authority.invalid")
		t.Setenv("AZURE_TENANT_ID", "tenant")
		t.Setenv("AZURE_CLIENT_ID", "client")
		t.Setenv("AZURE_FEDERATED_TOKEN_FILE", token)
		proxy, seen := refusing(t)
		spec := &sourcev1.BucketSpec{Provider: "azure", Endpoint: "https://account.blob.core.windows.net", BucketName: "shop"}
		s, err := openAzure(t.Context(), source.Network{}, spec, secrets{proxy: proxy})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		if err := s.list(t.Context(), "", func(Object) error { return nil }); err == nil {
			t.Error("an authority that does not exist gave a token")
		}
		if len(seen()) > 0 {
			t.Errorf("the proxy was asked for %q", seen())
		}
	})
	t.Run("google service account of the environment", func(t *testing.T) {
		tokens := &cloudServer{}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tokens.note(r.FormValue("grant_type"))
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}`)
		}))
		defer server.Close()
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]string{
			"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "token_uri": server.URL,
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		})
		file := filepath.Join(t.TempDir(), "key.json")
		if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
		proxy, seen := refusing(t)
		s, err := openGCS(t.Context(), source.Network{}, &sourcev1.BucketSpec{Provider: "gcp", BucketName: "shop"}, secrets{proxy: proxy})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		if err := s.list(t.Context(), "", func(Object) error { return nil }); err == nil {
			t.Error("listed through a proxy that refuses")
		}
		if want := []string{"CONNECT storage.googleapis.com:443"}; len(tokens.shown) != 1 || !slices.Equal(seen(), want) {
			t.Errorf("the token server was asked %d times, the proxy for %q", len(tokens.shown), seen())
		}
	})
	// The identity that a Secret names without a secret of its own is one of the node's.
	keys := map[string][]byte{"clientId": []byte("node")}
	for _, endpoint := range []string{"https://mallory.example", "http://account.blob.core.windows.net"} {
		spec := &sourcev1.BucketSpec{Provider: "azure", Endpoint: endpoint, Insecure: true, BucketName: "shop"}
		if _, err := openAzure(t.Context(), source.Network{}, spec, secrets{keys: keys}); !errors.Is(err, source.ErrAuthentication) {
			t.Errorf("%s may see the node's token: %v", endpoint, err)
		}
	}
}

// On EKS and ECS the agent's token goes to an unencrypted server of the node: a proxy would read it.
func TestA09_OwnIdentityIsNotAskedForByTheObjectsProxy(t *testing.T) {
	node, proxied := &cloudServer{}, &cloudServer{}
	answer := func(c *cloudServer) *httptest.Server {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.note(r.Header.Get("Authorization"))
			fmt.Fprint(w, `{"Code": "Success", "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "2100-01-01T00:00:00Z"}`)
		}))
		t.Cleanup(server.Close)
		return server
	}
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", answer(node).URL)
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2")
	creds, err := s3Credentials(t.Context(), source.Network{}, &sourcev1.BucketSpec{Provider: sourcev1.BucketProviderAmazon},
		secrets{proxy: &source.Proxy{Address: answer(proxied).URL}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := creds.GetWithContext(nil); err != nil {
		t.Error(err)
	}
	if len(proxied.shown) > 0 || !slices.Equal(node.shown, []string{"hunter2"}) {
		t.Errorf("the proxy was shown %q, the node %q", proxied.shown, node.shown)
	}
}

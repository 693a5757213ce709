package decrypt

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/kms"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/api"
)

// yamlFor is a document that only master opens.
func yamlFor(t *testing.T, master keys.MasterKey) []byte {
	t.Helper()
	return encryptTo(t, "a: "+canary+"\n", formatYAML, nil, master)
}

// server answers on loopback, and keeps what it was asked.
func server(t *testing.T, do http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(do)
	t.Cleanup(s.Close)
	return s
}

// transit speaks Vault's transit engine and its login, as documented: POST /v1/ENGINE/decrypt/KEY with the token in a header.
func transit(t *testing.T, token string, asked *[]string) *httptest.Server {
	t.Helper()
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.Path+" "+r.Header.Get("X-Vault-Token"))
		var body struct {
			Ciphertext string `json:"ciphertext"`
		}
		switch err := json.NewDecoder(r.Body).Decode(&body); {
		case err != nil:
			http.Error(w, `{"errors":["bad request"]}`, http.StatusBadRequest)
		case r.Header.Get("X-Vault-Token") != token:
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		case r.URL.Path != "/v1/sops/decrypt/one" || body.Ciphertext != "vault:v1:sealed":
			http.Error(w, `{"errors":[]}`, http.StatusNotFound)
		default:
			writeJSON(t, w, map[string]any{"data": map[string]string{"plaintext": base64.StdEncoding.EncodeToString(fixedKey)}})
		}
	})
}

func writeJSON(t *testing.T, w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

func vaultMaster(address, engine, key string) keys.MasterKey {
	master := hcvault.NewMasterKey(address, engine, key)
	master.EncryptedKey = "vault:v1:sealed"
	return master
}

// trusted is the ConfigMap of trusted Vaults of the agent in the namespace cleat.
func trusted(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "cleat", Name: "vaults"}, Data: map[string]string{vaultKey: text}}
}

// TestA33_Vault: a token goes to a trusted Vault and to no other, whatever the file says.
func TestA33_Vault(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "the-agents")
	var good, evil []string
	vault, attacker := transit(t, "s.tenant", &good), transit(t, "s.tenant", &evil)
	options := Options{Namespace: "cleat", VaultConfigMap: "vaults"}
	list := trusted("instances:\n- address: " + vault.URL + "/\n")
	for name, c := range map[string]struct {
		options Options
		token   string
		master  keys.MasterKey
		want    string // "" means that it is opened
	}{
		"trusted":      {options, "s.tenant\n", vaultMaster(vault.URL, "sops", "one"), ""},
		"not listed":   {options, "s.tenant", vaultMaster(attacker.URL, "sops", "one"), "not in the list of trusted Vaults"},
		"no list":      {Options{Namespace: "cleat"}, "s.tenant", vaultMaster(vault.URL, "sops", "one"), "--sops-vault-configmap"},
		"another path": {options, "s.tenant", vaultMaster(vault.URL, "sops/../../sys", "one"), "leads out"},
		"wrong token":  {options, "s.other", vaultMaster(vault.URL, "sops", "one"), "the server answered 403: permission denied"},
		"wrong key":    {options, "s.tenant", vaultMaster(vault.URL, "sops", "two"), "the server answered 404"},
		"no token":     {options, "", vaultMaster(vault.URL, "sops", "one"), "has no sops.vault-token"},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string]string{}
			if c.token != "" {
				data[vaultToken] = c.token
			}
			err := opens(t, loadKeys(t, c.options, data, list), yamlFor(t, c.master))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
	if len(evil) != 0 {
		t.Errorf("the server that nobody trusts was asked %v", evil)
	}
	for _, a := range good {
		if strings.Contains(a, "the-agents") {
			t.Errorf("the agent's own token was shown: %s", a)
		}
	}
	broken := trusted("instances: {")
	if _, err := loadFrom(t, options, kustomization(nil), secret("apps", "keys", nil), broken); err == nil {
		t.Error("a list that cannot be read trusts")
	}
	away := vault.URL
	vault.Close()
	err := opens(t, loadKeys(t, options, map[string]string{vaultToken: "s.tenant"}, list), yamlFor(t, vaultMaster(away, "sops", "one")))
	var fault *api.Fault
	if !errors.As(faultOf(err, "x"), &fault) || fault.Retry != api.RetryBackoff {
		t.Errorf("a Vault that is away: %v", err)
	}
}

// TestVaultLogin: without a token, one is had for the ServiceAccount at the path that the list gives, in its own role.
func TestVaultLogin(t *testing.T) {
	var asked []string
	vault := transit(t, "s.login", &asked)
	k := &keyring{vaults: map[string]string{vault.URL: "auth/kubernetes/login"}}
	k.vaultLogin = func(_ context.Context, address, path string) (string, error) {
		if address != vault.URL || path != "auth/kubernetes/login" {
			t.Errorf("logged in at %s %s", address, path)
		}
		return "s.login", nil
	}
	if err := opens(t, newDecryptor(k, true), yamlFor(t, vaultMaster(vault.URL, "sops", "one"))); err != nil {
		t.Error(err)
	}
	payload := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"system:serviceaccount:apps:sops"}`))
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`))
	if role, err := roleOf(head + "." + payload + ".c2ln"); err != nil || role != "apps_sops" {
		t.Errorf("roleOf = %q, %v", role, err)
	}
	if _, err := roleOf(canary); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("roleOf of no token: %v", err)
	}
}

// TestAWS: the key service is asked as whom the Secret says, in the region of the key, and never as the agent.
func TestAWS(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AGENTS")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "agents-secret")
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	var authorization string
	fails := false
	fake := server(t, func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.Header().Set("X-Amzn-Requestid", time.Now().String())
		if r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" || fails {
			w.WriteHeader(http.StatusBadRequest)
			writeJSON(t, w, map[string]string{"__type": "AccessDeniedException", "message": "not yours"})
			return
		}
		writeJSON(t, w, map[string]any{"KeyId": "k", "Plaintext": fixedKey})
	})
	t.Setenv("AWS_ENDPOINT_URL_KMS", fake.URL)
	master := kms.NewMasterKeyWithProfile("arn:aws:kms:eu-west-3:111122223333:key/abc", "", nil, "a-profile-of-somebody")
	master.EncryptedKey = base64.StdEncoding.EncodeToString([]byte("sealed"))
	data := map[string]string{awsFile: "aws_access_key_id: TENANTS\naws_secret_access_key: tenants-secret\n"}
	if err := opens(t, loadKeys(t, Options{}, data), yamlFor(t, master)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(authorization, "Credential=TENANTS/") || !strings.Contains(authorization, "/eu-west-3/kms/") {
		t.Errorf("asked as %q", authorization)
	}
	fails = true
	first := opens(t, loadKeys(t, Options{}, data), yamlFor(t, master))
	second := opens(t, loadKeys(t, Options{}, data), yamlFor(t, master))
	if first == nil || second == nil || first.Error() != second.Error() || !strings.Contains(first.Error(), "AccessDeniedException: not yours") {
		t.Errorf("refused: %v and then %v", first, second)
	}
}

// TestGCP: Google's key service is asked with a token of the Secret's service account.
func TestGCP(t *testing.T) {
	t.Setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "the-agents")
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	var shown string
	fake := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/token" {
			writeJSON(t, w, map[string]any{"access_token": "of-the-tenant", "token_type": "Bearer", "expires_in": 3600})
			return
		}
		shown = r.Header.Get("Authorization")
		if r.URL.Path != "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k:decrypt" {
			http.Error(w, r.URL.Path, http.StatusNotFound)
			return
		}
		writeJSON(t, w, map[string]any{"plaintext": fixedKey})
	})
	t.Setenv("SOPS_GCP_KMS_CLIENT_TYPE", "rest")
	t.Setenv("SOPS_GCP_KMS_ENDPOINT", fake.URL)
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "a@p.example.com", "private_key_id": "1", "token_uri": fake.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	master := gcpkms.NewMasterKeyFromResourceID("projects/p/locations/l/keyRings/r/cryptoKeys/k")
	master.EncryptedKey = base64.StdEncoding.EncodeToString([]byte("sealed"))
	data := map[string]string{gcpFile: string(account)}
	if err := opens(t, loadKeys(t, Options{}, data), yamlFor(t, master)); err != nil {
		t.Fatal(err)
	}
	if shown != "Bearer of-the-tenant" {
		t.Errorf("asked with %q", shown)
	}
	other := gcpkms.NewMasterKeyFromResourceID("projects/p/locations/l/keyRings/r/cryptoKeys/other")
	other.EncryptedKey = master.EncryptedKey
	if err := opens(t, loadKeys(t, Options{}, data), yamlFor(t, other)); err == nil {
		t.Error("a key that is not there opened the document")
	}
}

// azureToken stands for Azure's identity service.
type azureToken string

func (a azureToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(a), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestAzure: a key vault is asked with the token of the Secret's principal.
func TestAzure(t *testing.T) {
	fake := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.example.com/tenant", resource="https://vault.azure.net"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Authorization") != "Bearer of-the-tenant" || r.URL.Path != "/keys/k/v1/decrypt":
			w.WriteHeader(http.StatusForbidden)
			writeJSON(t, w, map[string]any{"error": map[string]string{"code": "Forbidden", "message": "no"}})
		default:
			writeJSON(t, w, map[string]any{"kid": "k", "value": base64.RawURLEncoding.EncodeToString(fixedKey)})
		}
	}))
	t.Cleanup(fake.Close)
	master := azkv.NewMasterKey(fake.URL, "k", "v1")
	master.EncryptedKey = base64.RawURLEncoding.EncodeToString([]byte("sealed"))
	ring := func(token string) *keyring {
		return &keyring{azure: azureToken(token), azureOptions: &azkeys.ClientOptions{
			ClientOptions: azcore.ClientOptions{Transport: fake.Client(), Retry: policy.RetryOptions{MaxRetries: -1}}, DisableChallengeResourceVerification: true,
		}}
	}
	if err := opens(t, newDecryptor(ring("of-the-tenant"), true), yamlFor(t, master)); err != nil {
		t.Error(err)
	}
	if err := opens(t, newDecryptor(ring("of-another"), true), yamlFor(t, master)); err == nil || !strings.Contains(err.Error(), "the server answered 403 Forbidden") {
		t.Errorf("with another token: %v", err)
	}
	for name, text := range map[string]string{
		"secret":    `{"tenantId":"aaaa","clientId":"bbbb","clientSecret":"cccc"}`,
		"principal": `{"tenant":"aaaa","appId":"bbbb","password":"cccc"}`,
		"windows":   "\xff\xfe" + utf16le(`{"tenant":"aaaa","appId":"bbbb","password":"cccc"}`),
		"node":      `{"clientId":"bbbb"}`,
	} {
		k := &keyring{}
		if err := k.addAzure([]byte(text), false); err != nil || k.azure == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func utf16le(s string) string {
	var out strings.Builder
	for _, r := range s {
		out.WriteByte(byte(r))
		out.WriteByte(0)
	}
	return out.String()
}

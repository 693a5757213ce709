package webhook

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/golang-jwt/jwt/v5"
)

// idp is an issuer of tokens.
type idp struct {
	t      *testing.T
	server *httptest.Server

	mu    sync.Mutex
	keys  map[string]*rsa.PrivateKey
	asked map[string]int
	big   bool
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	p := &idp{t: t, keys: map[string]*rsa.PrivateKey{}, asked: map[string]int{}}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.server.Close)
	p.rotate("one")
	return p
}

// rotate makes a key the only one that the issuer signs with.
func (p *idp) rotate(name string) {
	p.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = map[string]*rsa.PrivateKey{name: key}
}

func (p *idp) key() (name string, key *rsa.PrivateKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, key = range p.keys {
	}
	return name, key
}

func (p *idp) serve(w http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[req.URL.Path]++
	switch req.URL.Path {
	case "/.well-known/openid-configuration":
		if p.big {
			fmt.Fprintf(w, `{"issuer":%q,"x":"%s"}`, p.server.URL, strings.Repeat("x", 2*maxAnswer))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.server.URL, "jwks_uri": p.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}})
	case "/keys":
		var set []map[string]string
		for name, key := range p.keys {
			set = append(set, map[string]string{"kty": "RSA", "kid": name, "alg": "RS256", "use": "sig",
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": set})
	default:
		http.NotFound(w, req)
	}
}

func (p *idp) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

// sign returns a token of the issuer with its present key.
func (p *idp) sign(claims jwt.MapClaims) string {
	p.t.Helper()
	name, key := p.key()
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	t.Header["kid"] = name
	raw, err := t.SignedString(key)
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// claims are those of a genuine token, with changes; nil removes one.
func (p *idp) claims(changes map[string]any) jwt.MapClaims {
	now := time.Now()
	claims := jwt.MapClaims{"iss": p.server.URL, "aud": notificationv1.DefaultOIDCAudience, "sub": "repo:example/shop:ref:refs/heads/main", "repository": "example/shop",
		"repository_owner": "example", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	for name, value := range changes {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// newOIDCWorld returns a server with a Receiver that trusts an issuer.
func newOIDCWorld(t *testing.T) (*world, *idp, string) {
	t.Helper()
	p, w := newIDP(t), newIdleWorld(t)
	w.issuers.transport = http.DefaultTransport
	r := newReceiver(notificationv1.GenericOIDCReceiver)
	r.Spec.OIDCProviders = []notificationv1.OIDCProvider{
		{IssuerURL: "https://other.example.com", Validations: []notificationv1.OIDCValidation{{Expression: "true", Message: "never"}}},
		{IssuerURL: p.server.URL,
			Variables: []notificationv1.OIDCVariable{
				{Name: "owner", Expression: "claims.repository.split('/')[0]"},
				{Name: "fits", Expression: "vars.owner == claims.repository_owner"},
			},
			Validations: []notificationv1.OIDCValidation{
				{Expression: "vars.fits == true", Message: "the owner is another's"},
				{Expression: "vars.owner == 'example'", Message: "only example may call"},
			}},
	}
	return w, p, w.add(r)
}

func (w *world) bearer(path, token string) (int, string) {
	return w.do(post(path, []byte("{}"), map[string]string{"Content-Type": jsonType, "Authorization": "Bearer " + token}))
}

// TestA36_Tokens: a token counts for its issuer, its audience, its time, by an asymmetric signature, and for what it claims
// (faults.md A36).
func TestA36_Tokens(t *testing.T) {
	w, p, path := newOIDCWorld(t)
	now := time.Now()
	name, key := p.key()
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(&key.PublicKey))(t)})
	symmetric := jwt.NewWithClaims(jwt.SigningMethodHS256, p.claims(nil))
	symmetric.Header["kid"] = name
	unsigned := jwt.NewWithClaims(jwt.SigningMethodNone, p.claims(nil))
	stranger := newIDP(t)
	genuine := p.sign(p.claims(nil))
	parts := strings.Split(genuine, ".")
	for name, test := range map[string]struct {
		token  string
		status int
		says   string
	}{
		"genuine":                         {genuine, 200, ""},
		"for several audiences":           {p.sign(p.claims(map[string]any{"aud": []string{"x", notificationv1.DefaultOIDCAudience}})), 200, ""},
		"a clock that is a little ahead":  {p.sign(p.claims(map[string]any{"nbf": now.Add(45 * time.Second).Unix(), "iat": now.Add(45 * time.Second).Unix()})), 200, ""},
		"without times of issue":          {p.sign(p.claims(map[string]any{"nbf": nil, "iat": nil})), 200, ""},
		"valid in two minutes":            {p.sign(p.claims(map[string]any{"nbf": now.Add(2 * time.Minute).Unix()})), 400, "not valid yet"},
		"issued in two minutes":           {p.sign(p.claims(map[string]any{"iat": now.Add(2 * time.Minute).Unix()})), 400, "not valid yet"},
		"expired":                         {p.sign(p.claims(map[string]any{"exp": now.Add(-2 * time.Second).Unix()})), 400, "expired"},
		"without an end":                  {p.sign(p.claims(map[string]any{"exp": nil})), 400, "expired"},
		"for another audience":            {p.sign(p.claims(map[string]any{"aud": "sts.amazonaws.com"})), 400, "audience"},
		"for no audience":                 {p.sign(p.claims(map[string]any{"aud": nil})), 400, "audience"},
		"of an issuer that is not named":  {stranger.sign(stranger.claims(nil)), 400, "issuer"},
		"of a stranger in another's name": {stranger.sign(p.claims(nil)), 400, "signature"},
		"of no issuer":                    {p.sign(p.claims(map[string]any{"iss": nil})), 400, "issuer"},
		"unsigned":                        {must(unsigned.SignedString(jwt.UnsafeAllowNoneSignatureType))(t), 400, "signature"},
		"signed with the public key":      {must(symmetric.SignedString(public))(t), 400, "signature"},
		"with other claims":               {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+p.server.URL+`","aud":"notification-controller","exp":9999999999}`)) + "." + parts[2], 400, "signature"},
		"without its signature":           {parts[0] + "." + parts[1] + ".", 400, "signature"},
		"of somebody else":                {p.sign(p.claims(map[string]any{"repository": "evil/shop", "repository_owner": "evil"})), 400, "only example may call"},
		"that contradicts itself":         {p.sign(p.claims(map[string]any{"repository_owner": "evil"})), 400, "the owner is another's"},
		"that does not say what counts":   {p.sign(p.claims(map[string]any{"repository": nil})), 400, "owner"},
		"no token":                        {"", 400, "bearer"},
		"no JWT":                          {"x.y.z", 400, "JWT"},
	} {
		w.failures = newBuckets(defaultPaces().failure)
		status, text := w.bearer(path, test.token)
		if status != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if len(w.jobs) != 4 {
		t.Errorf("%d acted on", len(w.jobs))
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestA36_Rotation: a key that is not known has the keys fetched again, but not by every caller who invents one.
func TestA36_Rotation(t *testing.T) {
	w, p, path := newOIDCWorld(t)
	if status, text := w.bearer(path, p.sign(p.claims(nil))); status != http.StatusOK {
		t.Fatalf("%d: %s", status, text)
	}
	old := p.sign(p.claims(nil))
	p.rotate("two")
	if status, text := w.bearer(path, p.sign(p.claims(nil))); status != http.StatusOK {
		t.Errorf("with the new key: %d: %s", status, text)
	}
	// go-oidc has answered with the new keys a moment before it keeps them.
	status, _ := w.bearer(path, old)
	for deadline := time.Now().Add(10 * time.Second); status == http.StatusOK && time.Now().Before(deadline); {
		status, _ = w.bearer(path, old)
	}
	if status != http.StatusBadRequest {
		t.Errorf("with the old key: %d", status)
	}
	stranger := newIDP(t)
	for range 100 {
		w.failures = newBuckets(defaultPaces().failure)
		w.bearer(path, stranger.sign(p.claims(nil)))
	}
	if got := p.count("/keys") + p.count("/.well-known/openid-configuration"); got > 6 {
		t.Errorf("the issuer was asked %d times", got)
	}
}

// TestA36_BadIssuer: an issuer that answers without end, or not at all, is left alone for some time.
func TestA36_BadIssuer(t *testing.T) {
	w, p, path := newOIDCWorld(t)
	p.big = true
	raw := p.sign(p.claims(nil))
	for range 10 {
		if status, text := w.bearer(path, raw); status != http.StatusBadRequest || !strings.Contains(text, "issuer") {
			t.Errorf("%d: %s", status, text)
		}
	}
	if got := p.count("/.well-known/openid-configuration"); got != 1 {
		t.Errorf("it was asked %d times", got)
	}
	p.big = false
	w.issuers.now = func() time.Time { return time.Now().Add(retryEvery) }
	if status, text := w.bearer(path, raw); status != http.StatusOK {
		t.Errorf("when it answers: %d: %s", status, text)
	}
}

// TestA36_Claims: filters see the claims of the caller's token.
func TestA36_Claims(t *testing.T) {
	w, p, _ := newOIDCWorld(t)
	r := newReceiver(notificationv1.GenericOIDCReceiver)
	r.Spec.OIDCProviders = []notificationv1.OIDCProvider{{IssuerURL: p.server.URL, Validations: []notificationv1.OIDCValidation{{Expression: "true", Message: "-"}}}}
	r.Spec.ResourceFilter = "claims.repository.endsWith('/' + res.metadata.name)"
	path := w.add(r)
	if status, text := w.bearer(path, p.sign(p.claims(nil))); status != http.StatusOK {
		t.Fatalf("%d: %s", status, text)
	}
	j := <-w.jobs
	for name, want := range map[string]bool{"shop": true, "web": false} {
		got, err := j.hook.rules[0].chooses(map[string]any{"metadata": map[string]any{"name": name}}, j.look)
		if err != nil || got != want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
}

// TestGCR: Pub/Sub pushes with a token of Google's, for the audience and the account that the Secret names (CVE-2026-40109),
// and filters see the message that is wrapped in the payload.
func TestGCR(t *testing.T) {
	p, w := newIDP(t), newIdleWorld(t)
	w.issuers.transport, w.issuers.google = http.DefaultTransport, p.server.URL
	r := newReceiver(notificationv1.GCRReceiver)
	r.Spec.ResourceFilter = "req.tag.contains(res.metadata.name) && req.action == 'INSERT'"
	path, body := w.add(r), payload(t, "gcr-push.json")
	genuine := map[string]any{"aud": "https://hooks.example.com", "email": "push@example.iam", "email_verified": true}
	for name, test := range map[string]struct {
		changes map[string]any
		status  int
	}{
		"genuine":                      {nil, 200},
		"for another audience":         {map[string]any{"aud": "https://other.example.com"}, 400},
		"of another account":           {map[string]any{"email": "evil@example.iam"}, 400},
		"of an account not verified":   {map[string]any{"email_verified": false}, 400},
		"of no account":                {map[string]any{"email": nil}, 400},
		"verified in another way":      {map[string]any{"email_verified": "true"}, 400},
		"of an issuer, not of Google":  {map[string]any{"iss": "https://issuer.example.com"}, 400},
		"issued for a day to come":     {map[string]any{"iat": time.Now().Add(24 * time.Hour).Unix()}, 400},
		"that ended a minute ago":      {map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, 400},
		"with an audience that is any": {map[string]any{"aud": ""}, 400},
	} {
		claims := p.claims(genuine)
		for key, value := range test.changes {
			if claims[key] = value; value == nil {
				delete(claims, key)
			}
		}
		status, text := w.do(post(path, body, map[string]string{"Content-Type": jsonType, "Authorization": "Bearer " + p.sign(claims)}))
		if status != test.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if len(w.jobs) != 1 {
		t.Fatalf("%d acted on", len(w.jobs))
	}
	j := <-w.jobs
	if yes, err := j.hook.rules[0].chooses(map[string]any{"metadata": map[string]any{"name": "shop"}}, j.look); err != nil || !yes {
		t.Errorf("the filter says %t, %v", yes, err)
	}
}

// TestGCRAsksGoogleOnly: of a token that is not Google's nobody is asked anything.
func TestGCRAsksGoogleOnly(t *testing.T) {
	p, w := newIDP(t), newIdleWorld(t)
	w.issuers.transport, w.issuers.google = http.DefaultTransport, p.server.URL
	path := w.add(newReceiver(notificationv1.GCRReceiver))
	stranger := newIDP(t)
	if status, _ := w.bearer(path, stranger.sign(stranger.claims(nil))); status != http.StatusBadRequest {
		t.Errorf("%d", status)
	}
	if len(p.asked)+len(stranger.asked) != 0 {
		t.Errorf("asked: %v, %v", p.asked, stranger.asked)
	}
}

// FuzzToken: no token is believed that nobody has issued, whatever it looks like, and nobody is asked about it.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{"x.y.z", "..", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLmNvbSJ9.", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA", "a.eyJpc3MiOjF9.b"} {
		f.Add(seed)
	}
	keys := newIssuers(roundTripper(func(*http.Request) (*http.Response, error) { return nil, errTooOften }))
	h := &hook{trusts: []trust{{issuer: "https://issuer.example.com", audience: "x"}}}
	f.Fuzz(func(t *testing.T, token string) {
		header := http.Header{}
		header.Set("Authorization", "Bearer "+token)
		if _, err := oidcKnock(t.Context(), keys, h, header, secret{}); err == nil {
			t.Errorf("%q is believed", token)
		}
		if _, err := gcrKnock(t.Context(), keys, h, header, secret{audience: "x", email: "x"}); err == nil {
			t.Errorf("%q is believed", token)
		}
	})
}

package git

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// github is GitHub's API as far as an App needs it. It checks the signature and the claims of every request.
type github struct {
	*httptest.Server
	key    *rsa.PrivateKey
	life   time.Duration // of the tokens
	minted atomic.Int64
}

func newGitHub(t *testing.T) *github {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &github{key: key, life: time.Hour}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/app/installations/77/access_tokens", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		n := g.minted.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": fmt.Sprint("t0ken-", n), "expires_at": time.Now().Add(g.life).UTC().Format(time.RFC3339)})
	})
	mux.HandleFunc("GET /api/v3/orgs/acme/installation", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id":77}`) })
	mux.HandleFunc("GET /api/v3/users/somebody/installation", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id":77}`) })
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		raw := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		token, err := jwt.Parse(raw, func(*jwt.Token) (any, error) { return &key.PublicKey, nil },
			jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer("12"), jwt.WithExpirationRequired(), jwt.WithIssuedAt())
		if err == nil {
			issued, _ := token.Claims.GetIssuedAt()
			expires, _ := token.Claims.GetExpirationTime()
			if expires.Sub(issued.Time) > 10*time.Minute {
				err = errors.New("GitHub refuses more than ten minutes")
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, req)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *github) secret(more map[string]string) map[string][]byte {
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(g.key)})
	data := map[string][]byte{"githubAppID": []byte("12"), "githubAppPrivateKey": pemKey, "githubAppBaseURL": []byte(g.URL + "/api/v3/")}
	for k, v := range more {
		data[k] = []byte(v)
	}
	return data
}

func TestGitHubApp(t *testing.T) {
	g := newGitHub(t)
	for name, more := range map[string]map[string]string{
		"installation": {"githubAppInstallationID": "77"}, "organisation": {"githubAppInstallationOwner": "acme"}, "user": {"githubAppInstallationOwner": "somebody"},
	} {
		app, err := githubAppFrom(g.secret(more))
		if err != nil {
			t.Fatal(err)
		}
		var tokens tokens
		var wg sync.WaitGroup
		before := g.minted.Load()
		for range 20 {
			wg.Go(func() {
				if value, err := tokens.get(context.Background(), app, nil); err != nil || !strings.HasPrefix(value, "t0ken-") {
					t.Errorf("%s: %q, %v", name, value, err)
				}
			})
		}
		wg.Wait()
		if n := g.minted.Load() - before; n != 1 {
			t.Errorf("%s: %d tokens for 20 that ask", name, n)
		}
	}
	app, err := githubAppFrom(g.secret(map[string]string{"githubAppInstallationID": "77"}))
	if err != nil {
		t.Fatal(err)
	}
	g.life = tokenMargin / 2 // such a token is as good as expired
	var tokens tokens
	first, _ := tokens.get(context.Background(), app, nil)
	if second, err := tokens.get(context.Background(), app, nil); err != nil || second == first {
		t.Errorf("%q after %q, %v", second, first, err)
	}
	app.installation, app.owner = "", "nobody"
	if _, err := tokens.get(context.Background(), app, nil); !errors.Is(err, source.ErrAuthentication) {
		t.Errorf("not installed: %v", err)
	}
	app.id, app.installation = "13", "77"
	if _, err := tokens.get(context.Background(), app, nil); !errors.Is(err, source.ErrAuthentication) {
		t.Errorf("another App: %v", err)
	}
}

func TestGitHubAppSecretsThatAreRefused(t *testing.T) {
	g := newGitHub(t)
	for name, more := range map[string]map[string]string{
		"no installation": {}, "two": {"githubAppInstallationID": "77", "githubAppInstallationOwner": "acme"},
		"a path": {"githubAppInstallationID": "../../x"}, "a bad key": {"githubAppInstallationID": "77", "githubAppPrivateKey": "s3cret"},
		"no ID": {"githubAppID": "", "githubAppInstallationID": "77"}, "a bad URL": {"githubAppInstallationID": "77", "githubAppBaseURL": "file:///etc"},
	} {
		if _, err := githubAppFrom(g.secret(more)); !errors.Is(err, ErrProvider) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTokensKeepTheMirror replaces a token and expects that the repository is not cloned again.
func TestTokensKeepTheMirror(t *testing.T) {
	hub, r := newGitHub(t), newRepo(t)
	hub.life = tokenMargin / 2
	r.commit("c", map[string]string{"n": "1"})
	var mu sync.Mutex
	seen := map[string]bool{}
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			user, password, _ := req.BasicAuth()
			if user != "x-access-token" || !strings.HasPrefix(password, "t0ken-") {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			mu.Lock()
			seen[password] = true
			mu.Unlock()
			next.ServeHTTP(w, req)
		})
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "app"}, Data: hub.secret(map[string]string{"githubAppInstallationID": "77"})}
	w := newWorld(t, secret, gitRepository(server.url, func(s *sourcev1.GitRepositorySpec) {
		s.Provider, s.SecretRef = "github", &meta.LocalObjectReference{Name: "app"}
	}))
	for n := range 3 {
		r.commit("c", map[string]string{"n": fmt.Sprint(n)})
		if o, _ := w.reconcile(); reconcile.Condition(o, "Ready").Status != metav1.ConditionTrue {
			t.Fatal(reconcile.Condition(o, "Ready").Message)
		}
	}
	if known := len(w.repositories.fetcher.mirrors.known); known != 1 || len(seen) != 3 {
		t.Errorf("%d mirrors for %d tokens", known, len(seen))
	}
}

// cloud gives out one token, or none.
type cloud struct {
	auth.GitCredentialsProvider
	err error
}

type cloudToken struct{}

func (cloudToken) GetDuration() time.Duration { return time.Hour }

func (c cloud) GetName() string                             { return "cloud" }
func (c cloud) ParseGitRepository(*url.URL) (string, error) { return "", nil }
func (c cloud) NewControllerToken(context.Context, ...auth.Option) (auth.Token, error) {
	return cloudToken{}, c.err
}
func (c cloud) GetAccessTokenOptionsForGitRepository(*url.URL) ([]auth.Option, error) {
	return nil, nil
}
func (c cloud) NewGitCredentials(context.Context, string, auth.Token, ...auth.Option) (*auth.GitCredentials, error) {
	return &auth.GitCredentials{BearerToken: "cl0ud"}, nil
}

func TestProviders(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	server := newHTTPServer(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") != "Bearer cl0ud" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	server.StartTLS()
	for _, tt := range []struct {
		name, provider, url string
		err                 error
		reason              string
	}{
		{"good", "aws", server.URL + "/repo.git", nil, "Succeeded"},
		{"not Azure", "azure", server.URL + "/repo.git", nil, "InvalidProviderConfiguration"},
		{"no identity", "aws", server.URL + "/repo.git", errors.New("no such\nrole"), "AuthenticationFailed"},
		{"plain http", "azure", strings.Replace(server.URL, "https", "http", 1) + "/repo.git", nil, "InvalidProviderConfiguration"},
		{"unknown", "gcp", server.URL + "/repo.git", nil, "UnsupportedField"},
		{"App without Secret", "github", server.URL + "/repo.git", nil, "InvalidProviderConfiguration"},
	} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "ca"}, Data: map[string][]byte{"ca.crt": []byte(certificateOf(server.Server))}}
		w := newWorld(t, secret, gitRepository(tt.url, func(s *sourcev1.GitRepositorySpec) {
			s.Provider, s.SecretRef = tt.provider, &meta.LocalObjectReference{Name: "ca"}
		}))
		w.repositories.clouds = map[string]auth.GitCredentialsProvider{"azure": cloud{err: tt.err}, "aws": cloud{err: tt.err}}
		o, _ := w.reconcile()
		if c := reconcile.Condition(o, "Ready"); c.Reason != tt.reason {
			t.Errorf("%s: %s %s", tt.name, c.Reason, c.Message)
		}
	}
}

func TestAzureHosts(t *testing.T) {
	for host, want := range map[string]bool{
		"dev.azure.com": true, "Dev.Azure.com": true, "org.dev.azure.com": true, "org.visualstudio.com": true, "a.b.visualstudio.com": true,
		"dev.azure.us": true, "org.dev.azure.us": true, "dev.azure.cn": true, "org.dev.azure.cn": true, "dev.azure.de": false, "evildev.azure.us": false, "dev.azure.us.evil.example": false,
		"": false, "visualstudio.com": false, "azure.com": false, "evil-dev.azure.com": false, "evildev.azure.com": false, "dev.azure.com.evil.example": false,
		"evilvisualstudio.com": false, "org.visualstudio.com.evil.example": false, "dev-azure.com": false, "devxazure.com": false, "evil.example/.dev.azure.com": false,
		"evil.example\n.dev.azure.com": false, "dev.azure.com\n": false,
	} {
		if got := azureHost.MatchString(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

// TestProxiesThatCouldReadTokens combines a proxy with the CA that it may present itself by.
func TestProxiesThatCouldReadTokens(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	server := newHTTPServer(t, r, nil)
	server.StartTLS()
	front, used := proxyServer(t, "me:s3cret")
	named := func(name string, data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name}, Data: data}
	}
	w := newWorld(t, named("ca", map[string][]byte{"ca.crt": []byte(certificateOf(server.Server))}),
		named("proxy", map[string][]byte{"address": []byte(front.URL), "username": []byte("me"), "password": []byte("s3cret")}),
		gitRepository(server.URL+"/repo.git", func(s *sourcev1.GitRepositorySpec) {
			s.Provider, s.SecretRef, s.ProxySecretRef = "aws", &meta.LocalObjectReference{Name: "ca"}, &meta.LocalObjectReference{Name: "proxy"}
		}))
	w.repositories.clouds = map[string]auth.GitCredentialsProvider{"aws": cloud{}}
	o, _ := w.reconcile()
	if c := reconcile.Condition(o, "Ready"); c.Reason != providerReason || used.Load() != 0 {
		t.Errorf("%s %s, the proxy was used %d times", c.Reason, c.Message, used.Load())
	}
}

// proxy is an HTTP proxy that counts, for requests and for tunnels.
func proxyServer(t *testing.T, want string) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	used := &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		got := &http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
		if user, password, _ := got.BasicAuth(); user+":"+password != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		used.Add(1)
		if req.Method != http.MethodConnect {
			req.RequestURI = ""
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
			return
		}
		to, err := net.Dial("tcp", req.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		join(conn, to, "HTTP/1.1 200 OK\r\n\r\n")
	}))
	t.Cleanup(s.Close)
	return s, used
}

func join(a, b net.Conn, first string) {
	_, _ = io.WriteString(a, first)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(b, a); b.Close() })
	_, _ = io.Copy(a, b)
	a.Close()
	wg.Wait()
}

// socks is a SOCKS5 proxy (RFC 1928) without authentication, for IPv4 addresses.
func socks(t *testing.T) (string, *atomic.Int64) {
	used := &atomic.Int64{}
	return listen(t, func(c net.Conn) {
		defer c.Close()
		head := make([]byte, 2)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, c, int64(head[1]))
		_, _ = c.Write([]byte{5, 0})
		req := make([]byte, 10)
		if _, err := io.ReadFull(c, req); err != nil || req[3] != 1 {
			return
		}
		to, err := net.Dial("tcp", net.JoinHostPort(net.IP(req[4:8]).String(), fmt.Sprint(int(req[8])<<8|int(req[9]))))
		if err != nil {
			return
		}
		used.Add(1)
		join(c, to, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	}), used
}

func TestProxies(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	hostKey, _ := newKey(t)
	web, shell := serveHTTP(t, r, nil), serveSSH(t, r, hostKey)
	secure := newHTTPServer(t, r, nil)
	secure.StartTLS()
	front, used := proxyServer(t, "me:s3cret")
	sock, usedToo := socks(t)
	remotes := map[string]Remote{
		"http":  {URL: web.url},
		"https": {URL: secure.URL + "/repo.git", Credentials: shown(source.Credentials{TLS: source.TLS{CA: certificateOf(secure.Server)}})},
		"ssh":   {URL: shell.url, Credentials: Credentials{Identity: shell.identity, KnownHosts: shell.known}},
	}
	for name, remote := range remotes {
		before, beforeToo := used.Load(), usedToo.Load()
		remote.Proxy = &source.Proxy{Address: front.URL, Username: "me", Password: "s3cret"}
		pull(t, newGit(t, Limits{}), r, remote, Ref{Branch: "main"})
		remote.Proxy = &source.Proxy{Address: "socks5://" + sock}
		pull(t, newGit(t, Limits{}), r, remote, Ref{Branch: "main"})
		if used.Load() == before || usedToo.Load() == beforeToo {
			t.Errorf("%s went past the proxy", name)
		}
		remote.Proxy = &source.Proxy{Address: front.URL, Username: "me", Password: "wr0ng"}
		if _, err := newGit(t, Limits{}).Fetch(context.Background(), remote, Ref{Branch: "main"}, Question{}); err == nil || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
	}
	for _, address := range []string{"", "ftp://x", "socks4://x", "://s3cret", "x"} {
		if _, err := source.ProxyFrom(map[string][]byte{"address": []byte(address)}); !errors.Is(err, source.ErrProxy) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", address, err)
		}
	}
	// A proxy would look up what it is given, so of addresses at least those that are forbidden are not given to it.
	_, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: "http://169.254.169.254/x", Proxy: &source.Proxy{Address: "socks5://" + sock}}, Ref{}, Question{})
	if !errors.Is(err, source.ErrForbiddenAddress) {
		t.Errorf("the metadata service through a proxy: %v", err)
	}
}

func TestF35_RetryAfterIsHonoured(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "600")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	w := newWorld(t, gitRepository(server.URL+"/a", nil))
	first, result := w.reconcile()
	if result.RequeueAfter < 9*time.Minute || result.RequeueAfter > 10*time.Minute {
		t.Errorf("comes back after %v", result.RequeueAfter)
	}
	second := w.other("b", server.URL+"/b", nil)
	third, _ := w.reconcile()
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	for _, o := range []*sourcev1.GitRepository{second, third} {
		if c := reconcile.Condition(o, "Ready"); c.Reason != "GitOperationFailed" || !strings.Contains(c.Message, "429") {
			t.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	if reconcile.Condition(first, "Ready").Message != reconcile.Condition(third, "Ready").Message {
		t.Error("the same failure has two texts")
	}
}

// TestF35_APauseIsTheCallersOwn: whoever knows the user name of somebody else, or asks through a proxy that answers what he
// likes, cannot have the other's requests held back.
func TestF35_APauseIsTheCallersOwn(t *testing.T) {
	same := func() Remote {
		return Remote{URL: "https://git.example/a", Credentials: Credentials{Credentials: source.Credentials{Username: "bot", Password: "s3cret"}}}
	}
	key := func(r Remote) string {
		server, err := r.server()
		if err != nil {
			t.Fatal(err)
		}
		return server
	}
	one := key(same())
	if strings.Contains(one, "s3cret") {
		t.Error("the key tells the password")
	}
	for name, change := range map[string]func(*Remote){
		"another repository": func(r *Remote) { r.URL = "https://git.example/b" },
		"the credentials in the URL": func(r *Remote) {
			r.URL, r.Credentials = "https://bot:s3cret@git.example/a", Credentials{}
		},
	} {
		r := same()
		if change(&r); key(r) != one {
			t.Errorf("%s: is another caller", name)
		}
	}
	for name, change := range map[string]func(*Remote){
		"another host":     func(r *Remote) { r.URL = "https://git2.example/a" },
		"another password": func(r *Remote) { r.Credentials.Password = "guess" },
		"nobody":           func(r *Remote) { r.Credentials = Credentials{} },
		"a CA":             func(r *Remote) { r.Credentials.TLS.CA = "x" },
		"a key":            func(r *Remote) { r.Credentials.Identity = "x" },
		"a proxy":          func(r *Remote) { r.Proxy = &source.Proxy{Address: "http://mallory"} },
		"a principal":      func(r *Remote) { r.Principal = "github" },
	} {
		r := same()
		if change(&r); key(r) == one {
			t.Errorf("%s: is the same caller", name)
		}
	}
	// A token that is replaced every hour does not end a pause.
	old, renewed := same(), same()
	old.Principal, renewed.Principal, renewed.Credentials.Password = "app", "app", "t0ken"
	if key(old) != key(renewed) {
		t.Error("a new token is another caller")
	}
	var pauses source.Pauses
	busy := source.CheckStatus(&http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"600"}}})
	pauses.Note(one, busy)
	if err := pauses.Check(one); !errors.Is(err, busy) {
		t.Errorf("the caller himself: %v", err)
	}
	if err := pauses.Check(key(Remote{URL: "https://bot:guess@git.example/a"})); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// TestF35_OneListForManyRefs lets 20 objects with refs of their own ask at once.
func TestF35_OneListForManyRefs(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	held, arrived := make(chan struct{}), make(chan struct{}, 100)
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			arrived <- struct{}{}
			<-held
			next.ServeHTTP(w, req)
		})
	})
	g, remote := newGit(t, Limits{}), Remote{URL: server.url}
	const others = 20
	revision := "x@sha1:" + r.git("rev-parse", "HEAD")
	for i := range others {
		r.git("branch", fmt.Sprint("b", i))
	}
	var wg sync.WaitGroup
	fetch := func(branch string) {
		current := branch + strings.TrimPrefix(revision, "x")
		if c, err := g.Fetch(context.Background(), remote, Ref{Branch: branch}, Question{Current: current}); err != nil || c.Revision != current {
			t.Errorf("%+v, %v", c, err)
		}
	}
	wg.Go(func() { fetch("main") })
	<-arrived
	joined := make(chan struct{})
	for i := range others {
		wg.Go(func() { fetch(fmt.Sprint("b", i)) })
	}
	go func() { // wait until all of them are on the list of those who want to know
		defer close(joined)
		for {
			p, leave := g.polls.join(remote, Ref{Branch: "main"})
			n := len(p.refs())
			leave()
			if n == others+1 {
				return
			}
		}
	}()
	<-joined
	close(held)
	wg.Wait()
	if lists := server.lists.Load(); lists != 2 {
		t.Errorf("%d lists for %d refs, want one under way and one for all who came meanwhile", lists, others+1)
	}
}

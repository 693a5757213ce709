package oci

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a, err := makeAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func makeAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, err
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &of.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf makes a certificate for the hosts; "127.0.0.1" is taken as an address.
func (a *authority) leaf(t *testing.T, until time.Time, hosts ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return tls.Certificate{Certificate: [][]byte{signed(t, template, a.cert, key, a.key).Raw}, PrivateKey: key}
}

func serveTLS(t *testing.T, config *tls.Config) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(s.handler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "https://")
	back := httptest.NewServer(s.Config.Handler) // where tests push
	t.Cleanup(back.Close)
	s.back = strings.TrimPrefix(back.URL, "http://")
	return s
}

func TestA11_ServersMustBeWhoTheySay(t *testing.T) {
	ca, hour := newAuthority(t), time.Now().Add(time.Hour)
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	good := ca.leaf(t, hour, "127.0.0.1")
	own := ca.leaf(t, hour, "client")
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	both := map[string]string{"ca.crt": ca.pem,
		"tls.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})),
		"tls.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))}
	for name, tt := range map[string]struct {
		server *tls.Config
		certs  map[string]string
		want   string // the end of the message; "" for success
	}{
		"given authority":    {&tls.Config{Certificates: []tls.Certificate{good}}, map[string]string{"ca.crt": ca.pem}, ""},
		"client certificate": {&tls.Config{Certificates: []tls.Certificate{good}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}, both, ""},
		"unknown authority": {&tls.Config{Certificates: []tls.Certificate{good}}, nil,
			"signed by an unknown authority, give its CA as ca.crt in the Secret"},
		"expired": {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, time.Now().Add(-time.Hour), "127.0.0.1")}}, map[string]string{"ca.crt": ca.pem},
			"the server's certificate has expired or is not yet valid"},
		"another host": {&tls.Config{Certificates: []tls.Certificate{ca.leaf(t, hour, "example.com")}}, map[string]string{"ca.crt": ca.pem},
			"the server's certificate is for another host"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveTLS(t, tt.server)
			objects := []client.Object{repository("oci://"+s.host+"/app", func(spec *sourcev1.OCIRepositorySpec) {
				spec.Insecure = false
				if tt.certs != nil {
					spec.CertSecretRef = &meta.LocalObjectReference{Name: "tls"}
				}
			})}
			if tt.certs != nil {
				objects = append(objects, secretOf("tls", tt.certs))
			}
			w := newWorld(t, objects...)
			o, _ := w.reconcile()
			got := message(o, "Ready")
			if tt.want == "" {
				// The repository is empty: that this is what is told means that the registry was spoken to.
				tt.want = "there is no such artifact, or these credentials may not read it"
			}
			if !strings.HasSuffix(got, tt.want) {
				t.Errorf("message is %q", got)
			}
		})
	}
}

func TestA11_InsecureIsExplicit(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Insecure = false }))
	o, _ := w.reconcile()
	if got := message(o, "Ready"); !strings.HasSuffix(got, "the registry does not speak https; if that is intended set spec.insecure") {
		t.Errorf("message is %q", got)
	}
	if got := s.take(); len(got) > 0 {
		t.Errorf("plain requests were sent: %q", got)
	}
}

func TestA18_LinkLocalAddressesAreRefused(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]:80", "[fe80::1]:80"} {
		w := newWorld(t, repository("oci://"+host+"/latest/meta-data", nil))
		o, _ := w.reconcile()
		if got := message(o, "Ready"); !strings.Contains(got, "an address that is not allowed for sources") {
			t.Errorf("%s: message is %q", host, got)
		}
	}
}

// internet is a proxy that leads names to servers of the test, so that what differs between hosts can be tested on one.
type internet struct {
	*httptest.Server
	mu    sync.Mutex
	hosts map[string]string // name → address
	asked []string          // "METHOD host"
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := startInternet()
	t.Cleanup(n.Close)
	return n
}

func startInternet() *internet {
	n := &internet{hosts: map[string]string{}}
	n.Server = httptest.NewServer(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		host, _, _ := net.SplitHostPort(req.Host)
		n.mu.Lock()
		n.asked = append(n.asked, req.Method+" "+host)
		address := n.hosts[host]
		n.mu.Unlock()
		up, err := net.Dial("tcp", address)
		if err != nil || req.Method != http.MethodConnect {
			res.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = up.Close() }()
		down, buffered, err := res.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = down.Close() }()
		fmt.Fprint(down, "HTTP/1.1 200 OK\r\n\r\n")
		pipe(down, buffered.Reader, up)
	}))
	return n
}

// take returns who was asked for since it was called last, each once.
func (n *internet) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.asked
	n.asked = nil
	slices.Sort(all)
	return slices.Compact(all)
}

// pipe copies both ways until either end is done.
func pipe(down net.Conn, from *bufio.Reader, up net.Conn) {
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(up, from); done <- struct{}{} }()
	go func() { _, _ = io.Copy(down, up); done <- struct{}{} }()
	<-done
	_, _ = down.Close(), up.Close()
	<-done
}

func (n *internet) add(host string, s *httptest.Server) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = s.Listener.Addr().String()
}

// seen is a server that notes who came with which Authorization, and gives out tokens to whoever has the right one.
type seen struct {
	mu   sync.Mutex
	auth []string
}

func (s *seen) ServeHTTP(res http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = append(s.auth, req.Header.Get("Authorization"))
	if u, p, _ := req.BasicAuth(); u == "robot" && p == "secret" {
		fmt.Fprint(res, `{"token":"t0ken"}`)
		return
	}
	res.WriteHeader(http.StatusUnauthorized)
}

// TestA09_TokenServers: a registry's challenge names the server that gets the credentials. It is believed where a user would
// expect it, and nowhere else.
func TestA09_TokenServers(t *testing.T) {
	ca, hour := newAuthority(t), time.Now().Add(time.Hour)
	for name, tt := range map[string]struct {
		registry, realm string
		auths           string // beside that of the registry
		trusted         bool
	}{
		"the registry itself":          {"registry.example.com", "https://registry.example.com/token", "", true},
		"of the same domain":           {"registry.example.com", "https://auth.example.com/token", "", true},
		"another domain":               {"registry.example.com", "https://evil.example.net/token", "", false},
		"another domain, in disguise":  {"registry.example.com", "https://registry.example.com.evil.net/token", "", false},
		"a neighbour below a suffix":   {"one.github.io", "https://two.github.io/token", "", false},
		"another, named in the Secret": {"registry.example.com", "https://tokens.example.net/token", `,"tokens.example.net":{"username":"robot","password":"secret"}`, true},
		"another, with another login":  {"registry.example.com", "https://tokens.example.net/token", `,"tokens.example.net":{"username":"x","password":"y"}`, false},
		"unencrypted":                  {"registry.example.com", "http://auth.example.com/token", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			host := strings.Split(strings.SplitN(tt.realm, "//", 2)[1], "/")[0]
			cert := ca.leaf(t, hour, tt.registry, host)
			s := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}})
			tokens := &seen{}
			other := httptest.NewUnstartedServer(tokens)
			other.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			other.StartTLS()
			t.Cleanup(other.Close)
			s.hook(func(res http.ResponseWriter, req *http.Request) bool {
				switch {
				case req.URL.Path == "/token":
					tokens.ServeHTTP(res, req)
					return true
				case req.Header.Get("Authorization") == "Bearer t0ken":
					return false
				}
				res.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="test"`, tt.realm))
				res.WriteHeader(http.StatusUnauthorized)
				return true
			})
			net := newInternet(t)
			net.add(host, other)
			net.add(tt.registry, s.Server)
			w := newWorld(t, repository("oci://"+tt.registry+"/app", func(spec *sourcev1.OCIRepositorySpec) {
				spec.Insecure = false
				spec.SecretRef = &meta.LocalObjectReference{Name: "login"}
				spec.CertSecretRef, spec.ProxySecretRef = &meta.LocalObjectReference{Name: "tls"}, &meta.LocalObjectReference{Name: "proxy"}
			}),
				secretOf("login", map[string]string{".dockerconfigjson": `{"auths":{"` + tt.registry + `":{"username":"robot","password":"secret"}` + tt.auths + `}}`}),
				secretOf("tls", map[string]string{"ca.crt": ca.pem}), secretOf("proxy", map[string]string{"address": net.URL}))
			o, _ := w.reconcile()
			got := message(o, "Ready")
			if tt.trusted != strings.Contains(got, "there is no such artifact") {
				t.Errorf("message is %q", got)
			}
			if !tt.trusted && len(tokens.auth) > 0 {
				t.Errorf("the token server has seen %q", tokens.auth)
			}
			if strings.Contains(got, "secret") && !strings.Contains(got, "Secret") {
				t.Errorf("the message holds the password: %q", got)
			}
		})
	}
}

// TestA09_RedirectsCarryNoCredentials: a layer that lies elsewhere is fetched without them.
func TestA09_RedirectsCarryNoCredentials(t *testing.T) {
	s, layer := serve(t), tarball(t, nil, nil)
	s.push(t, "app", "latest", image(t, layer, contentType, nil))
	var got []http.Header
	var mu sync.Mutex
	elsewhere := httptest.NewServer(http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, req.Header)
		_, _ = res.Write(layer)
	}))
	t.Cleanup(elsewhere.Close)
	ask := basicAuth("robot", "secret")
	s.hook(func(res http.ResponseWriter, req *http.Request) bool {
		if ask(res, req) {
			return true
		}
		if strings.Contains(req.URL.Path, "/blobs/") {
			http.Redirect(res, req, elsewhere.URL+"/there?token=1", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.SecretRef = &meta.LocalObjectReference{Name: "login"} }),
		secretOf("login", map[string]string{".dockerconfigjson": `{"auths":{"` + s.host + `":{"username":"robot","password":"secret"}}}`}))
	o, _ := w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" || len(got) != 1 {
		t.Fatalf("asked %d times; conditions:\n%s%s", len(got), diff, message(o, "Ready"))
	}
	for _, h := range []string{"Authorization", "Referer", "Cookie"} {
		if got[0].Get(h) != "" {
			t.Errorf("the other host was told %s: %q", h, got[0].Get(h))
		}
	}
}

// TestA04_AnswersHaveAnEnd: neither a manifest nor a list of tags that never ends is read for ever.
func TestA04_AnswersHaveAnEnd(t *testing.T) {
	s := serve(t)
	digest := s.push(t, "app", "1.0.0", files(t, map[string]string{"n": "1"}))
	endless := func(res http.ResponseWriter, req *http.Request) bool {
		if req.Method == http.MethodHead {
			return false
		}
		res.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(req.URL.Path, "/tags/list") {
			res.Header().Set("Link", `</v2/app/tags/list?last=x>; rel="next"`)
			fmt.Fprint(res, `{"tags":[]}`)
			return true
		}
		if req.URL.Path == "/v2/" {
			return false
		}
		for junk := strings.Repeat("x", 1<<16); ; {
			if _, err := io.WriteString(res, junk); err != nil {
				return true
			}
		}
	}
	s.hook(endless)
	for name, ref := range map[string]*sourcev1.OCIRepositoryRef{"manifest": {Tag: "1.0.0"}, "digest": {Digest: digest.String()}, "tags": {SemVer: "1.x"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Reference = ref }))
			o, result := w.reconcile()
			if got := message(o, "Ready"); !strings.Contains(got, "over the limit") || result.RequeueAfter != time.Minute {
				t.Errorf("message is %q, comes back after %v", got, result.RequeueAfter)
			}
		})
	}
}

// TestA04_LargeLayersAreNotDownloaded: what could not be stored is not even put beside what is.
func TestA04_LargeLayersAreNotDownloaded(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", image(t, make([]byte, 1<<16+1), contentType, nil))
	w := newWorld(t, repository(s.url("app"), nil))
	w.limits = artifact.Limits{Files: 10, Bytes: 1 << 16, Depth: 10}
	w.restart(t.TempDir())
	o, _ := w.reconcile()
	if got := message(o, "Ready"); !strings.HasSuffix(got, "at most 65536 are stored (--artifact-max-size)") {
		t.Errorf("message is %q", got)
	}
	for _, r := range s.take() {
		if strings.Contains(r, "/blobs/") {
			t.Errorf("asked for %s", r)
		}
	}
}

func TestA04_ListsOfTagsAreBounded(t *testing.T) {
	s := serve(t)
	page := func(length, count int) string {
		return `{"tags": ["1.0.0"` + strings.Repeat(`, "`+strings.Repeat("1", length)+`"`, count) + `]}`
	}
	for name, tt := range map[string]struct {
		page, want string
	}{
		"more than is kept": {page(128, 50_000), "over the limit: the names of the repository's tags add up to more than 33554432 bytes"},
		"too long for tags": {page(129, 50_000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			pages := 0
			s.hook(func(res http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, "/tags/list") {
					return false
				}
				if pages++; pages < 7 {
					res.Header().Set("Link", `</v2/app/tags/list?last=x>; rel="next"`)
				}
				_, _ = io.WriteString(res, tt.page)
				return true
			})
			to := remote{insecure: true}
			var err error
			if to.repository, err = parseRepository(s.url("app"), true); err != nil {
				t.Fatal(err)
			}
			session, err := (&registries{now: time.Now, open: map[string]*session{}}).session(to)
			if err != nil {
				t.Fatal(err)
			}
			tags, err := session.listTags(t.Context(), time.Time{})
			if tt.want == "" && (err != nil || len(tags) != 7) || tt.want != "" && (err == nil || err.Error() != tt.want) {
				t.Errorf("%d tags, %v", len(tags), err)
			}
		})
	}
}

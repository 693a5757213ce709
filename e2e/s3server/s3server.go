// Package s3server is an S3 server for tests: buckets in memory behind Amazon's protocol, which checks signatures and
// counts what it is asked for.
package s3server

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// The keys that every server accepts, and the user that its security token service gives others to.
const (
	AccessKey    = "cleat-access"
	SecretKey    = "cleat-secret"
	LDAPUser     = "cleat-user"
	LDAPPassword = "cleat-password"

	temporaryKey    = "temporary-access"
	temporarySecret = "temporary-secret"
	sessionToken    = "temporary-token"
)

// Server is a running server.
type Server struct {
	// Endpoint is the host and port, without a scheme, as spec.endpoint has it.
	Endpoint string
	// URL is the same with a scheme. Its /sts is a security token service that knows users by LDAP.
	URL string

	backend *s3mem.Backend
	http    *httptest.Server
	objects http.Handler

	mu     sync.Mutex
	asked  []string
	public bool
}

// Start starts a server over plain HTTP; the caller closes it.
func Start() *Server { return start((*httptest.Server).Start) }

// StartTLS starts a server with a certificate of its own.
func StartTLS() *Server { return start((*httptest.Server).StartTLS) }

func start(how func(*httptest.Server)) *Server {
	s := &Server{backend: s3mem.New()}
	s.objects = gofakes3.New(s.backend, gofakes3.WithTimeSkewLimit(0)).Server()
	s.http = httptest.NewUnstartedServer(s)
	how(s.http)
	s.URL = s.http.URL
	_, s.Endpoint, _ = strings.Cut(s.URL, "://")
	return s
}

// Close stops the server.
func (s *Server) Close() { s.http.Close() }

// Certificate is the server's, in DER.
func (s *Server) Certificate() []byte { return s.http.Certificate().Raw }

// Public makes the server answer without a signature.
func (s *Server) Public() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.public = true
}

// MakeBucket makes an empty bucket.
func (s *Server) MakeBucket(name string) error { return s.backend.CreateBucket(name) }

// Put stores an object.
func (s *Server) Put(bucket, key, content string) error {
	meta := map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}
	_, err := s.backend.PutObject(bucket, key, meta, bytes.NewReader([]byte(content)), int64(len(content)), nil)
	return err
}

// Delete removes an object.
func (s *Server) Delete(bucket, key string) error {
	_, err := s.backend.DeleteObject(bucket, key)
	return err
}

// Downloads returns the keys of the objects whose content was asked for, sorted, and Lists how often a list was.
func (s *Server) Downloads() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for _, a := range s.asked {
		if key, ok := strings.CutPrefix(a, "GET "); ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Lists returns how often a list was asked for.
func (s *Server) Lists() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, a := range s.asked {
		if a == "LIST" {
			n++
		}
	}
	return n
}

// Forget makes the counting begin anew.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/sts" {
		serveSTS(w, r)
		return
	}
	s.mu.Lock()
	public := s.public
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch query := r.URL.Query(); {
	case r.Method == http.MethodGet && key != "":
		s.asked = append(s.asked, "GET "+key)
	case r.Method == http.MethodGet && !query.Has("location"):
		s.asked = append(s.asked, "LIST")
	}
	s.mu.Unlock()
	if code := verify(r); code != "" && !public {
		answer(w, http.StatusForbidden, code)
		return
	}
	s.objects.ServeHTTP(w, r)
}

func answer(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>refused</Message></Error>", code)
}

// verify returns the code of the error with which Amazon would refuse the request, or "".
func verify(r *http.Request) string {
	header, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "AccessDenied"
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 {
		return "AuthorizationHeaderMalformed"
	}
	var secret string
	switch scope[0] {
	case AccessKey:
		secret = SecretKey
	case temporaryKey:
		secret = temporarySecret
		if r.Header.Get("X-Amz-Security-Token") != sessionToken {
			return "InvalidToken"
		}
	default:
		return "InvalidAccessKeyId"
	}
	if at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date")); err != nil || time.Since(at).Abs() > 15*time.Minute {
		return "RequestTimeTooSkewed"
	}
	if !hmac.Equal([]byte(fields["Signature"]), []byte(signature(r, fields["SignedHeaders"], secret, scope))) {
		return "SignatureDoesNotMatch"
	}
	return ""
}

// signature is what AWS Signature Version 4 gives for the request.
func signature(r *http.Request, signed, secret string, scope []string) string {
	request := []string{r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")}
	for name := range strings.SplitSeq(signed, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		request = append(request, name+":"+strings.TrimSpace(value))
	}
	request = append(request, "", signed, r.Header.Get("X-Amz-Content-Sha256"))
	sum := sha256.Sum256([]byte(strings.Join(request, "\n")))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range append(slices.Clone(scope[1:]), text) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hex.EncodeToString(key)
}

// serveSTS gives temporary keys to the one user there is.
func serveSTS(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.FormValue("Action") != "AssumeRoleWithLDAPIdentity" {
		answer(w, http.StatusBadRequest, "InvalidAction")
		return
	}
	if r.FormValue("LDAPUsername") != LDAPUser || r.FormValue("LDAPPassword") != LDAPPassword {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>AccessDenied</Code><Message>refused</Message></Error></ErrorResponse>`)
		return
	}
	type keys struct {
		AccessKeyID                   string `xml:"AccessKeyId"`
		SecretAccessKey, SessionToken string
		Expiration                    time.Time
	}
	var response struct {
		XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithLDAPIdentityResponse"`
		Result  struct {
			Credentials keys
		} `xml:"AssumeRoleWithLDAPIdentityResult"`
	}
	response.Result.Credentials = keys{temporaryKey, temporarySecret, sessionToken, time.Now().Add(time.Hour).UTC()}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(response) // whoever asked has hung up
}

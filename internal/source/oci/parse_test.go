package oci

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"k8s.io/apimachinery/pkg/types"
)

func TestHighestVersion(t *testing.T) {
	for name, tt := range map[string]struct {
		semver, filter string
		tags           []string
		want           string
	}{
		"highest":                  {"*", "", []string{"1.0.0", "1.10.0", "1.9.0"}, "1.10.0"},
		"with v":                   {">=1.0.0", "", []string{"v1.0.0", "v1.1.0"}, "v1.1.0"},
		"no pre-release":           {">=1.0.0", "", []string{"1.0.0", "1.1.0-rc.1"}, "1.0.0"},
		"pre-release when asked":   {">=1.0.0-0", "", []string{"1.0.0", "1.1.0-rc.1"}, "1.1.0-rc.1"},
		"filter":                   {"*", "^1\\.0", []string{"1.0.0", "1.1.0"}, "1.0.0"},
		"no versions":              {"*", "", []string{"latest", "1.0", "sha256-abc.sig"}, ""},
		"F23 build metadata":       {"1.0.x", "", []string{"1.0.0", "1.0.1_build.5"}, "1.0.1_build.5"},
		"equal precedence, steady": {"*", "", []string{"1.0.0_b", "1.0.0_a", "v1.0.0"}, "1.0.0_a"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseRange(tt.semver, tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.highest(tt.tags)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestKeychain(t *testing.T) {
	chain, err := keychainFrom(map[string][]byte{".dockerconfigjson": []byte(`{"auths":{
		"https://index.docker.io/v1/": {"auth":"aHViOnB3"},
		"registry.example.com": {"username":"plain","password":"pw"},
		"registry.example.com/team": {"username":"team","password":"pw"},
		"*.wild.example.com": {"username":"wild","password":"pw"},
		"one.wild.example.com": {"username":"one","password":"pw"},
		"https://token.example.com/v2/": {"identitytoken":"t"}}}`)})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		host, repository string
		want             authn.AuthConfig
	}{
		"docker hub":            {"index.docker.io", "library/x", authn.AuthConfig{Username: "hub", Password: "pw"}},
		"host":                  {"registry.example.com", "other/x", authn.AuthConfig{Username: "plain", Password: "pw"}},
		"path":                  {"registry.example.com", "team/x", authn.AuthConfig{Username: "team", Password: "pw"}},
		"path of another name":  {"registry.example.com", "teammate/x", authn.AuthConfig{Username: "plain", Password: "pw"}},
		"wildcard":              {"two.wild.example.com", "x", authn.AuthConfig{Username: "wild", Password: "pw"}},
		"name before wildcard":  {"one.wild.example.com", "x", authn.AuthConfig{Username: "one", Password: "pw"}},
		"wildcard is one part":  {"a.b.wild.example.com", "x", authn.AuthConfig{}},
		"identity token":        {"token.example.com", "x", authn.AuthConfig{IdentityToken: "t"}},
		"another host":          {"example.org", "x", authn.AuthConfig{}},
		"another host, longer":  {"registry.example.com.evil.net", "x", authn.AuthConfig{}},
		"another port":          {"registry.example.com:5000", "x", authn.AuthConfig{}},
		"letters in upper case": {"REGISTRY.example.com", "x", authn.AuthConfig{Username: "plain", Password: "pw"}},
	} {
		if got, _ := chain.lookUp(tt.host, tt.repository); got != tt.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if old, err := keychainFrom(map[string][]byte{".dockercfg": []byte(`{"example.com":{"username":"u","password":"p"}}`)}); err != nil || len(old) != 1 {
		t.Errorf(".dockercfg: %v %v", old, err)
	}
	for _, bad := range []string{"", "{", `{"auths":{"x":{"auth":"s3cret!"}}}`, `{"auths":{"x":{"auth":"czNjcmV0"}}}`} {
		if _, err := keychainFrom(map[string][]byte{".dockerconfigjson": []byte(bad)}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		`</v2/a/tags/list?last=x&n=5>; rel="next"`:                     "last=x&n=5",
		`<https://evil.example.net/v2/a/tags/list?last=x>; rel="next"`: "last=x",
		`</v2/a/tags/list?last=x>; rel="prev"`:                         "",
		`</v2/a/tags/list>; rel="next"`:                                "",
		``:                                                             "",
	} {
		if got := nextPage(link).Encode(); got != want {
			t.Errorf("%s: %q", link, got)
		}
	}
}

// TestSharedAnswers: who asks for what is newer than the answer at hand gets a newer one, and others the one at hand.
func TestSharedAnswers(t *testing.T) {
	s := shared[string, int]{most: 2}
	calls, start := 0, time.Now()
	ask := func(key string, notBefore, now time.Time) int {
		v, err := s.do(t.Context(), key, notBefore, now, func() (int, error) { calls++; return calls, nil })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if got := ask("a", start, start); got != 1 {
		t.Errorf("first answer is %d", got)
	}
	if got := ask("a", start, start.Add(time.Minute)); got != 1 {
		t.Errorf("an answer at hand was not shared: %d", got)
	}
	if got := ask("a", start.Add(time.Second), start.Add(time.Minute)); got != 2 {
		t.Errorf("an answer that is too old was shared: %d", got)
	}
	for _, key := range []string{"b", "c", "d", "e"} {
		ask(key, start, start)
	}
	if len(s.calls) > 2 {
		t.Errorf("%d answers are kept", len(s.calls))
	}
}

func TestFollowersAreToldOnce(t *testing.T) {
	var f followers
	a, b := types.NamespacedName{Name: "a"}, types.NamespacedName{Name: "b"}
	tag := followed{"session", "latest"}
	if got := append(f.see(a, tag, "1"), f.see(b, tag, "1")...); len(got) > 0 {
		t.Errorf("woken without news: %v", got)
	}
	if got := f.see(a, tag, "2"); len(got) != 1 || got[0] != b {
		t.Errorf("woken by news: %v", got)
	}
	if got := f.see(b, tag, "2"); len(got) > 0 {
		t.Errorf("woken by what it is woken for: %v", got)
	}
	f.see(b, followed{"session", "other"}, "1")
	f.forget(a)
	f.forget(b)
	if len(f.by)+len(f.of) > 0 {
		t.Errorf("left are %v %v", f.by, f.of)
	}
}

func TestSameSite(t *testing.T) {
	for registry, hosts := range map[string]map[string]bool{
		"index.docker.io":       {"https://auth.docker.io": true, "http://auth.docker.io": false, "https://docker.io.evil.net": false},
		"registry.gitlab.com":   {"https://gitlab.com": true},
		"me.co.uk:5000":         {"https://auth.me.co.uk": true, "https://you.co.uk": false},
		"10.0.0.1:5000":         {"https://10.0.0.1:5001": false, "https://20.0.0.1": false},
		"registry:5000":         {"https://other": false},
		"registry.demo.svc:443": {"https://token.demo.svc": true, "https://token.prod.svc": false},
	} {
		for host, want := range hosts {
			req, err := http.NewRequest(http.MethodGet, host, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := sameSite(registry, req.URL); got != want {
				t.Errorf("%s for %s: %v", host, registry, got)
			}
		}
	}
}

func FuzzKeychain(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3"},"*.x/y":{"username":"u","password":"p"}}}`), "index.docker.io", "library/x")
	f.Add([]byte(`{"auths":{"[::1":{},"%zz":{"auth":"Og=="}}}`), "[::1", "")
	f.Fuzz(func(t *testing.T, text []byte, host, repository string) {
		chain, err := keychainFrom(map[string][]byte{".dockerconfigjson": text})
		if err != nil {
			return
		}
		auth, ok := chain.lookUp(host, repository)
		if !ok && !isAnonymous(auth) {
			t.Error("credentials of no entry")
		}
		for _, l := range chain {
			if ok && l.auth == auth && matchHost(l.host, strings.ToLower(host)) {
				return
			}
		}
		if ok {
			t.Error("credentials of an entry for another host")
		}
	})
}

func FuzzSelector(f *testing.F) {
	f.Add("1.x", "^v", "v1.2.3_build latest 1.0.0-rc.1")
	f.Add(">=1.0.0-0 || ~2", ".*-rc.*", "")
	f.Fuzz(func(t *testing.T, versions, filter, tags string) {
		s, err := parseSelector(&sourcev1.OCIRepositoryRef{SemVer: versions, SemverFilter: filter})
		if err != nil || s.semver == nil {
			return
		}
		all := strings.Fields(tags)
		if tag, err := s.highest(all); err == nil && (!strings.Contains(tags, tag) || s.filter != nil && !s.filter.MatchString(tag)) {
			t.Errorf("%q is not one of %q", tag, all)
		}
	})
}

// FuzzClassicSignature: whatever a registry says a signature is, it is read without harm, and a payload is only taken for one
// that names the digest.
func FuzzClassicSignature(f *testing.F) {
	f.Add([]byte(`{"critical":{"image":{"docker-manifest-digest":"sha256:x"},"type":"cosign container image signature"}}`), "c2ln", "", "{}", "")
	f.Add([]byte(`{}`), "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", `{"Payload":{"body":"e30=","logID":"00"}}`, `{"SignedRFC3161Timestamp":"AA=="}`)
	f.Fuzz(func(t *testing.T, payload []byte, sig, certificate, entry, stamp string) {
		const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
		_, _ = classicBundle(map[string]string{signatureAnnotation: sig, certificateAnnotation: certificate, rekorAnnotation: entry, timestampAnnotation: stamp}, payload)
		if checkPayload(payload, digest) == nil && (!json.Valid(payload) || !strings.Contains(string(payload), digest)) {
			t.Error("a payload that does not name the digest was accepted")
		}
	})
}

// FuzzReference: whatever spec.url and spec.ref say, a request goes to a host and a path that were said, and nowhere else.
func FuzzReference(f *testing.F) {
	f.Add("oci://registry.example.com:5000/a/b", "latest", "", false)
	f.Add("oci://user@evil/a", "../x", "sha256:0000000000000000000000000000000000000000000000000000000000000000", true)
	f.Add("oci://[::1]:5000/a?x=y#z", "v1.0.0_b", "sha256:AA", true)
	f.Add("oci://a/../b", "", "sha512:00", false)
	f.Fuzz(func(t *testing.T, text, tag, digest string, insecure bool) {
		if s, err := parseSelector(&sourcev1.OCIRepositoryRef{Tag: tag, Digest: digest}); err == nil {
			for _, part := range []string{s.tag, s.digest} {
				if strings.ContainsAny(part, "/?#%\\ \n") || part == "." || part == ".." {
					t.Errorf("%q is taken for a tag or a digest", part)
				}
			}
		}
		r, err := parseRepository(text, insecure)
		if err != nil {
			return
		}
		u, err := url.Parse("https://" + r.RegistryStr() + "/v2/" + r.RepositoryStr() + "/tags/list")
		if err != nil || u.Host != r.RegistryStr() || u.User != nil || path.Clean(u.Path) != u.Path || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q leads to %v: %v", text, u, err)
		}
	})
}

// FuzzNextPage: what a registry says of its next page is a query, or nothing.
func FuzzNextPage(f *testing.F) {
	f.Add(`</v2/a/tags/list?last=x&n=5>; rel="next"`)
	f.Add(`<?a=1>;rel=next, <https://u:p@evil/?b=%zz>; rel="next"`)
	f.Fuzz(func(t *testing.T, link string) {
		query := nextPage(link)
		if query != nil && (len(query) == 0 || strings.ContainsAny(query.Encode(), "/?#\n ")) {
			t.Errorf("%q is followed as %q", link, query.Encode())
		}
	})
}

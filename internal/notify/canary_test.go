package notify

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
)

// TestA29_SecretsAreToldNobody plants a secret in every place where a Provider of a type may have one, has its service refuse
// the message with an answer that repeats all that it was sent, and looks for it in what is told of that.
func TestA29_SecretsAreToldNobody(t *testing.T) {
	for _, s := range services {
		if s.kind == "pagerduty" {
			s.spec, s.secret = `address: "https://events.pagerduty.com"`, `{token: canary-s3cret}` // a channel is no secret to who reads Providers
		}
		t.Run(s.kind, func(t *testing.T) {
			for _, status := range []int{http.StatusBadRequest, http.StatusServiceUnavailable} {
				server := newEndpoint(t, func(w http.ResponseWriter, r request) {
					http.Error(w, fmt.Sprint(r.Path, r.Query, r.Header, r.Body), status)
				})
				w := newWorld(t, serviceYAML(s.kind, s.spec, s.secret)+newAlert(everything))
				r := w.current()[0]
				err := w.tellOf(server, w.messageOf(r, "error"))
				if err == nil {
					t.Fatal("it is not refused")
				}
				w.report(r, err)
				out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String()
				if reveals(out) {
					t.Errorf("the secret is told: %s", out)
				}
			}
		})
	}
}

// reveals says whether a text holds the canary, as it is or as HTTP writes it: escaped in a URL, within base64 or in hex.
func reveals(text string) bool {
	if strings.Contains(text, canary) || strings.Contains(text, hex.EncodeToString([]byte(canary))) {
		return true
	}
	if plain, err := url.QueryUnescape(text); err == nil && strings.Contains(plain, canary) {
		return true
	}
	between := func(r rune) bool {
		return r > unicode.MaxASCII || strings.ContainsRune(" \t\r\n=.,:;!?&%'\"`()[]{}<>|*", r)
	}
	for word := range strings.FieldsFuncSeq(text, between) {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if plain, err := encoding.DecodeString(word); err == nil && strings.Contains(string(plain), canary) {
				return true
			}
		}
	}
	return false
}

// TestReveals holds that the tests below could fail.
func TestReveals(t *testing.T) {
	for _, text := range []string{"a " + canary + ".", url.QueryEscape("!" + canary + "!"), "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+canary)), "x" + hex.EncodeToString([]byte(canary))} {
		if !reveals(text) {
			t.Errorf("%s is not seen", text)
		}
	}
	if reveals("telling x.example.com: connection refused") {
		t.Error("seen where it is not")
	}
}

// echo answers each connection with what comes by it, which is no HTTP.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() {
				defer conn.Close()
				words := make([]byte, 64<<10)
				n, err := conn.Read(words)
				if err == nil {
					_, _ = conn.Write(words[:n]) // whether it arrives is the other's concern
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait()
	})
	return "http://" + listener.Addr().String()
}

// failures are the ways in which the network and who is at the other end of it can fail.
func failures(t *testing.T) map[string]http.RoundTripper {
	t.Helper()
	to := func(address string) http.RoundTripper {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		return everywhere{u}
	}
	said := func(r request) string { return r.Path + "?" + r.Query.Encode() + fmt.Sprint(r.Header) + r.Body }
	redirect := newEndpoint(t, func(w http.ResponseWriter, r request) {
		w.Header().Set("Location", "https://elsewhere.example.com"+r.Path+"?"+r.Query.Encode())
		w.WriteHeader(http.StatusTemporaryRedirect)
		fmt.Fprint(w, said(r))
	})
	cut := newEndpoint(t, func(w http.ResponseWriter, r request) {
		w.Header().Set("Content-Length", "1000000")
		fmt.Fprint(w, said(r))
	})
	nonsense := newEndpoint(t, func(w http.ResponseWriter, r request) { fmt.Fprint(w, "<html>"+said(r)) })
	refuses := newEndpoint(t, func(w http.ResponseWriter, r request) {
		w.WriteHeader(http.StatusInternalServerError)
		text, err := json.Marshal(map[string]string{"error": said(r)})
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(text) // whether it arrives is the other's concern
	})
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0) // it will complain of us
	tls.StartTLS()
	t.Cleanup(tls.Close)
	return map[string]http.RoundTripper{
		"an error that repeats all": to(refuses.URL), "a redirect": to(redirect.URL), "an answer that is cut off": to(cut.URL), "an answer in HTML": to(nonsense.URL),
		"an echo": to(echo(t)),
		"a port that is closed": &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:1")
		}},
		"a name that is none": &http.Transport{DialContext: (&net.Dialer{Resolver: &net.Resolver{PreferGo: true,
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no such host") }}}).DialContext},
		"a certificate of nobody": &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, tls.Listener.Addr().String())
		}},
	}
}

// TestA29_EveryFailureOfEveryType has each type be told nothing in every way in which that can happen, and looks for its secret in
// the error, the events and the log. Which way it was must still be seen, and whether it is of use to try again.
func TestA29_EveryFailureOfEveryType(t *testing.T) {
	ways := failures(t)
	for _, s := range services {
		if s.kind == "pagerduty" {
			s.spec, s.secret = `address: "https://events.pagerduty.com"`, `{token: canary-s3cret}` // a channel is no secret to who reads Providers
		}
		t.Run(s.kind, func(t *testing.T) {
			for name, way := range ways {
				w := newWorld(t, serviceYAML(s.kind, s.spec, s.secret)+newAlert(everything))
				r := w.current()[0]
				err := w.tellBy(way, w.messageOf(r, "error"))
				if err == nil {
					if name != "an answer in HTML" && name != "an answer that is cut off" { // many services say all by the status
						t.Errorf("%s: it is told", name)
					}
					continue
				}
				w.report(r, err)
				if out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String(); reveals(out) {
					t.Errorf("%s: the secret is told: %s", name, out)
				}
				if want := name == "a redirect"; final(err) != want {
					t.Errorf("%s: final is %t: %v", name, !want, err)
				}
			}
		})
	}
}

// TestMaskedAnswersAreJudged holds that an answer is final, or asks for patience, though it repeats the secret and is masked.
func TestMaskedAnswersAreJudged(t *testing.T) {
	sink := newEndpoint(t, func(w http.ResponseWriter, r request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`", secretRef: {name: sink}}`)+newSecret(`{headers: "Authorization: Bearer canary-s3cret"}`)+newAlert(everything))
	err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
	var no *refused
	if !errors.As(err, &no) || no.after != 30*time.Second || final(err) || reveals(err.Error()) {
		t.Errorf("%v", err)
	}
}

// TestA29_UnreachableEndpoints holds the same for the errors of the network, which quote the URL.
func TestA29_UnreachableEndpoints(t *testing.T) {
	for _, address := range []string{
		"http://127.0.0.1:1/canary-s3cret?token=canary-s3cret", "http://user:canary-s3cret@127.0.0.1:1/", "http://canary.invalid/canary-s3cret",
		"http://169.254.169.254/canary-s3cret", "canary-s3cret://x", "http://canary-s3cret%zz/", "http://127.0.0.1:1/\x7fcanary-s3cret",
	} {
		for _, where := range []string{"spec", "secret"} {
			spec, secret := fmt.Sprintf("{type: generic, address: %q}", address), ""
			if where == "secret" {
				spec, secret = "{type: generic, secretRef: {name: sink}}", newSecret(fmt.Sprintf("{address: %q}", address))
			}
			w := newWorld(t, newProvider(spec)+secret+newAlert(everything))
			r := w.current()[0]
			err := w.deliver(t.Context(), sinkKey, w.messageOf(r, "error"))
			if err == nil {
				t.Fatalf("%q is told", address)
			}
			w.report(r, err)
			if out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String(); reveals(out) {
				t.Errorf("%s %q: %s", where, address, out)
			}
		}
	}
}

// TestA29_NoURLs holds that an error names the host alone: what is in the rest of an address may be a secret too short to be known as one.
func TestA29_NoURLs(t *testing.T) {
	w := newWorld(t, newProvider(`{type: generic, address: "http://me:pw1@127.0.0.1:1/hk/k7?t=q9"}`)+newAlert(everything))
	err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
	if err == nil || !strings.HasPrefix(err.Error(), "telling 127.0.0.1:1: ") {
		t.Fatal(err)
	}
	for _, part := range []string{"me:", "pw1", "hk", "k7", "q9"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v", part, err)
		}
	}
}

// TestA29_NATS holds the same for the protocol that is no HTTP.
func TestA29_NATS(t *testing.T) {
	for name, address := range map[string]string{
		"a port that is closed": "nats://user:canary-s3cret@127.0.0.1:1", "a name that is none": "nats://canary-s3cret@canary.invalid:4222",
		"an echo": strings.Replace(echo(t), "http://", "nats://user:canary-s3cret@", 1), "no address": "nats://canary-s3cret%zz", "TLS": strings.Replace(echo(t), "http://", "tls://canary-s3cret@", 1),
	} {
		for where, provider := range map[string]string{
			"spec":   newProvider(`{type: nats, channel: x, timeout: 2s, address: "` + address + `"}`),
			"secret": newProvider(`{type: nats, channel: x, timeout: 2s, secretRef: {name: sink}}`) + newSecret(`{address: "`+address+`"}`),
			"token":  newProvider(`{type: nats, channel: x, timeout: 2s, address: "`+strings.NewReplacer("user:canary-s3cret@", "", "canary-s3cret@", "").Replace(address)+`", secretRef: {name: sink}}`) + newSecret(`{token: canary-s3cret}`),
		} {
			w := newWorld(t, provider+newAlert(everything))
			r := w.current()[0]
			err := w.deliver(t.Context(), sinkKey, w.messageOf(r, "error"))
			if err == nil {
				t.Errorf("%s, %s: it is told", name, where)
				continue
			}
			w.report(r, err)
			if out := err.Error() + strings.Join(w.events.Take(), "\n") + w.log.String(); reveals(out) {
				t.Errorf("%s, %s: the secret is told: %s", name, where, out)
			}
		}
	}
}

// TestA18_LinkLocal holds that no Provider leads to where clouds hand out the credentials of the node, by whatever name.
func TestA18_LinkLocal(t *testing.T) {
	for _, spec := range []string{
		`{type: generic, address: "http://169.254.169.254/latest"}`, `{type: generic, address: "http://[fd00:ec2::254]/latest"}`,
		`{type: nats, channel: x, address: "nats://169.254.169.254:80"}`, `{type: slack, address: "http://[::ffff:169.254.169.254]/"}`,
	} {
		w := newWorld(t, newProvider(spec)+newAlert(everything))
		err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
		if err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// TestRedirectsAreNotFollowed holds that what was posted goes nowhere else.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := newEndpoint(t, nil)
	sink := newEndpoint(t, func(w http.ResponseWriter, _ request) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	w.hear(failureNews())
	if got := elsewhere.take(); len(got) > 0 {
		t.Error(got)
	}
	if events := w.events.Words(); len(events) != 1 || !strings.Contains(events[0], "answers 307") {
		t.Errorf("%q", events)
	}
}

package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestA18_Addresses(t *testing.T) {
	for address, want := range map[string][2]bool{ // allowed by default, with AllowLinkLocal
		"169.254.169.254": {false, true}, "169.254.0.1": {false, true}, "::ffff:169.254.169.254": {false, true}, "fe80::1%eth0": {false, true},
		"fd00:ec2::254": {false, true}, "0.0.0.0": {false, false}, "::": {false, false}, "224.0.0.1": {false, false}, "ff02::1": {false, false},
		"127.0.0.1": {true, true}, "::1": {true, true}, "10.0.0.1": {true, true}, "192.168.1.1": {true, true}, "fd00::1": {true, true}, "1.1.1.1": {true, true},
	} {
		a := netip.MustParseAddr(address)
		if got := [2]bool{Network{}.check(a) == nil, Network{AllowLinkLocal: true}.check(a) == nil}; got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// TestA18_WhatIsDialledIsChecked connects by a name, whose address is looked up once and checked in the dial itself.
func TestA18_WhatIsDialledIsChecked(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	dialer := Network{}.Dialer()
	asked := 0
	dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked++
		return nil, errors.New("no DNS in this test")
	}}
	if _, err := dialer.Dial("tcp", net.JoinHostPort("169.254.169.254", port)); !errors.Is(err, ErrForbiddenAddress) || asked > 0 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	conn, err := Network{}.Dial(t.Context(), net.JoinHostPort("localhost", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestA09_CredentialsStayWithTheirHost(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, "seen:"+req.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/here":
			http.Redirect(w, req, server.URL+"/end", http.StatusFound)
		case "/there":
			http.Redirect(w, req, other.URL, http.StatusFound)
		case "/loop":
			http.Redirect(w, req, "/loop", http.StatusFound)
		default:
			_, _ = io.WriteString(w, "seen:"+req.Header.Get("Authorization"))
		}
	}))
	t.Cleanup(server.Close)
	origin, _ := url.Parse(server.URL)
	get := func(creds Credentials, path string) (string, error) {
		client, err := HTTP{Origin: origin, Credentials: creds, UserAgent: "test"}.Client()
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseIdleConnections()
		res, err := client.Get(server.URL + path)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	secret := Credentials{BearerToken: "s3cret"}
	if got, err := get(secret, "/here"); err != nil || got != "seen:Bearer s3cret" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(secret, "/there"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(Credentials{}, "/there"); err != nil || got != "seen:" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := get(secret, "/loop"); err == nil {
		t.Error("followed for ever")
	}
}

// TestF35_WhoWantsToBeLeftAlone: GitHub answers 403 to who asks too often, and only then says for how long.
func TestF35_WhoWantsToBeLeftAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		code   int
		header string
		busy   bool
	}{
		"429": {429, "", true}, "503": {503, "30", true}, "403 with a time": {403, "30", true}, "403": {403, "", false}, "401": {401, "30", false},
	} {
		err := CheckStatus(&http.Response{StatusCode: tt.code, Header: http.Header{"Retry-After": {tt.header}}})
		if _, busy := errors.AsType[*Busy](err); busy != tt.busy || errors.Is(err, ErrAuthentication) == tt.busy {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "30": 30 * time.Second, "-5": 0, "99999999999999": maxRetryAfter, "9999999": maxRetryAfter, "soon": 0,
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat): 0, time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat): maxRetryAfter,
	} {
		if got := retryAfter(header); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func TestCapped(t *testing.T) {
	if text, err := io.ReadAll(&Capped{R: strings.NewReader("12345"), N: 4, What: "text"}); !errors.Is(err, ErrLimit) || string(text) != "1234" {
		t.Errorf("%q, %v", text, err)
	}
}

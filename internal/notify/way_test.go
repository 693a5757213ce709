package notify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// secretOf returns a Secret with values of any form: in one line, since those of PEM look like the end of a document.
func secretOf(t *testing.T, name string, data map[string]string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": "demo"}, "stringData": data})
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "---\n"
}

// TestProxy holds that a Provider is told by the proxy that it names in any of three ways, with the user and the password, and that
// these are told nobody when the proxy refuses and repeats them.
func TestProxy(t *testing.T) {
	refuse := false
	proxy := newEndpoint(t, func(w http.ResponseWriter, r request) {
		if refuse {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, r.Header)
		}
	})
	host := strings.TrimPrefix(proxy.URL, "http://")
	for name, provider := range map[string]string{
		"spec.proxySecretRef": newProvider(`{type: generic, address: "http://hooks.example.com/flux", proxySecretRef: {name: proxy}}`) +
			secretOf(t, "proxy", map[string]string{"address": proxy.URL, "username": "user", "password": canary}),
		"the Secret": newProvider(`{type: generic, address: "http://hooks.example.com/flux", secretRef: {name: sink}}`) +
			newSecret(`{proxy: "http://user:canary-s3cret@`+host+`"}`),
		"spec.proxy": newProvider(`{type: generic, address: "http://hooks.example.com/flux", proxy: "http://user:canary-s3cret@` + host + `"}`),
	} {
		w := newWorld(t, provider+newAlert(everything))
		refuse = false
		if err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error")); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := proxy.take()
		if len(got) != 1 || got[0].Host != "hooks.example.com" || got[0].Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:"+canary)) {
			t.Errorf("%s: %v", name, got)
		}
		refuse = true
		err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
		if err == nil || reveals(err.Error()) {
			t.Errorf("%s: %v", name, err)
		}
		proxy.take()
	}
}

// TestCertificates holds that spec.certSecretRef says whom to believe, and as whom the agent comes.
func TestCertificates(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM([]byte(block("CERTIFICATE", raw)))
	told := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told++ }))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it will complain of those who are not let in
	server.StartTLS()
	defer server.Close()
	ours := map[string]string{"ca.crt": block("CERTIFICATE", server.Certificate().Raw), "tls.crt": block("CERTIFICATE", raw), "tls.key": block("PRIVATE KEY", private)}
	for name, tt := range map[string]struct {
		with []string
		want int
	}{"both": {[]string{"ca.crt", "tls.crt", "tls.key"}, 1}, "no certificate of ours": {[]string{"ca.crt"}, 0}, "nobody is believed": {[]string{"tls.crt", "tls.key"}, 0}} {
		data := map[string]string{}
		for _, k := range tt.with {
			data[k] = ours[k]
		}
		w := newWorld(t, newProvider(`{type: generic, address: "`+server.URL+`", certSecretRef: {name: tls}}`)+secretOf(t, "tls", data)+newAlert(everything))
		told = 0
		err := w.deliver(t.Context(), sinkKey, w.messageOf(w.current()[0], "error"))
		if told != tt.want || (err == nil) != (tt.want == 1) {
			t.Errorf("%s: told %d times, %v", name, told, err)
		}
	}
}

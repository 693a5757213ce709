package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// ErrAuthentication means: the server wants other credentials than it was shown, or the Secret does not hold usable ones.
var ErrAuthentication = errors.New("authentication failed")

// Credentials are what an HTTP server is shown, and by what it is known. The zero value is an anonymous client that trusts
// the system's authorities.
type Credentials struct {
	Username, Password string
	BearerToken        string
	TLS                TLS
}

// TLS holds PEM: authorities beside the system's, and a client certificate.
type TLS struct{ CA, Certificate, Key string }

// Secret returns the data of the Secret that a field of an object in the namespace names.
func Secret(ctx context.Context, secrets client.Reader, namespace, name, field string) (map[string][]byte, error) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	var secret corev1.Secret
	if err := secrets.Get(ctx, key, &secret); err != nil {
		return nil, api.Faultf(sourcev1.AuthenticationFailedReason, api.RetryBackoff, "reading the Secret %s of %s: %w", key, field, err)
	}
	return secret.Data, nil
}

// CredentialsFrom reads a Secret's keys username, password, bearerToken, and those of TLSFrom.
func CredentialsFrom(data map[string][]byte) (Credentials, error) {
	c := Credentials{Username: string(data["username"]), Password: string(data["password"]), BearerToken: string(data["bearerToken"])}
	switch {
	case c.BearerToken != "" && (c.Username != "" || c.Password != ""):
		return c, fmt.Errorf("%w: the Secret has both \"bearerToken\" and \"username\", keep one", ErrAuthentication)
	case c.Username != "" && c.Password == "":
		return c, fmt.Errorf("%w: the Secret has \"username\" without \"password\"", ErrAuthentication)
	}
	var err error
	c.TLS, err = TLSFrom(data)
	return c, err
}

// TLSFrom reads a Secret's keys ca.crt, tls.crt and tls.key, or what these were called in earlier versions of the API.
func TLSFrom(data map[string][]byte) (TLS, error) {
	t := TLS{CA: either(data, "ca.crt", "caFile"), Certificate: either(data, "tls.crt", "certFile"), Key: either(data, "tls.key", "keyFile")}
	if (t.Certificate == "") != (t.Key == "") {
		return t, fmt.Errorf("%w: the Secret needs both \"tls.crt\" and \"tls.key\" or neither", ErrAuthentication)
	}
	_, err := t.Config()
	return t, err
}

// either returns the value of the key, or of the one that it was called by in earlier versions of the API.
func either(data map[string][]byte, key, old string) string {
	if v, ok := data[key]; ok {
		return string(v)
	}
	return string(data[old])
}

// Secret reports whether there is anything in the credentials that must not reach another host.
func (c Credentials) Secret() bool {
	return c.Username != "" || c.Password != "" || c.BearerToken != "" || c.TLS.Key != ""
}

// Config never skips verification: there is no field that asks for it.
func (t TLS) Config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // no system authorities in this image: the given one alone counts
		}
		if !pool.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, fmt.Errorf("%w: the Secret's \"ca.crt\" holds no certificate in PEM", ErrAuthentication)
		}
		config.RootCAs = pool
	}
	if t.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key))
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's \"tls.crt\" and \"tls.key\" do not fit together", ErrAuthentication)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

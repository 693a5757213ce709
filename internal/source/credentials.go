package source

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// Credentials are what a server is shown, and by what it is known. The zero value is an anonymous client that trusts the
// system's authorities.
type Credentials struct {
	Username, Password string // basic authentication; for ssh, Username is the account and Password unused
	BearerToken        string

	Identity   string // SSH private key in PEM
	Passphrase string // of Identity
	KnownHosts string // the host keys that are accepted

	CA, Certificate, Key string // PEM: authorities beside the system's, client certificate
}

// UnsupportedSecretError says that a Secret holds a way to authenticate that this version does not have.
type UnsupportedSecretError struct{ Key string }

func (e *UnsupportedSecretError) Error() string {
	return fmt.Sprintf("the Secret's key %q asks for a GitHub App, which comes with a later version; use a token as password", e.Key)
}

// CredentialsFrom reads the data of the Secret that spec.secretRef names, for a URL of the given scheme.
func CredentialsFrom(data map[string][]byte, scheme string) (Credentials, error) {
	for _, key := range []string{"githubAppID", "githubAppInstallationID", "githubAppInstallationOwner", "githubAppPrivateKey", "githubAppBaseURL"} {
		if _, ok := data[key]; ok {
			return Credentials{}, &UnsupportedSecretError{key}
		}
	}
	if scheme == "ssh" {
		return sshCredentials(data)
	}
	return httpCredentials(data)
}

func sshCredentials(data map[string][]byte) (Credentials, error) {
	c := Credentials{Identity: string(data["identity"]), Passphrase: string(data["password"]), KnownHosts: string(data["known_hosts"])}
	switch {
	case c.Identity == "":
		return c, fmt.Errorf("%w: the Secret has no key \"identity\" with the SSH private key", ErrAuthentication)
	case c.KnownHosts == "":
		return c, fmt.Errorf("%w: the Secret has no key \"known_hosts\" with the server's host key, run ssh-keyscan to get it", ErrAuthentication)
	}
	if _, err := c.signer(); err != nil {
		return c, err
	}
	return c, nil
}

func httpCredentials(data map[string][]byte) (Credentials, error) {
	c := Credentials{
		Username: string(data["username"]), Password: string(data["password"]), BearerToken: string(data["bearerToken"]),
		CA: either(data, "ca.crt", "caFile"), Certificate: either(data, "tls.crt", "certFile"), Key: either(data, "tls.key", "keyFile"),
	}
	switch {
	case c.BearerToken != "" && (c.Username != "" || c.Password != ""):
		return c, fmt.Errorf("%w: the Secret has both \"bearerToken\" and \"username\", keep one", ErrAuthentication)
	case c.Username != "" && c.Password == "":
		return c, fmt.Errorf("%w: the Secret has \"username\" without \"password\"", ErrAuthentication)
	case (c.Certificate == "") != (c.Key == ""):
		return c, fmt.Errorf("%w: the Secret needs both \"tls.crt\" and \"tls.key\" or neither", ErrAuthentication)
	}
	if _, err := c.tlsConfig(); err != nil {
		return c, err
	}
	return c, nil
}

// either returns the value of the key, or of the one that it was called by in earlier versions of the API.
func either(data map[string][]byte, key, old string) string {
	if v, ok := data[key]; ok {
		return string(v)
	}
	return string(data[old])
}

// secret reports whether there is anything in the credentials that must not reach another host.
func (c Credentials) secret() bool {
	return c.Username != "" || c.Password != "" || c.BearerToken != "" || c.Key != ""
}

// tlsConfig never skips verification: there is no field that asks for it.
func (c Credentials) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // no system authorities in this image: the given one alone counts
		}
		if !pool.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, fmt.Errorf("%w: the Secret's \"ca.crt\" holds no certificate in PEM", ErrAuthentication)
		}
		config.RootCAs = pool
	}
	if c.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's \"tls.crt\" and \"tls.key\" do not fit together", ErrAuthentication)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

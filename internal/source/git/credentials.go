package git

import (
	"fmt"

	"github.com/cleat-dev/cleat/internal/source"
)

// Credentials are what a Git server is shown, and by what it is known. The zero value is an anonymous client that trusts the
// system's authorities. For ssh, Username is the account.
type Credentials struct {
	source.Credentials

	Identity   string // SSH private key in PEM
	Passphrase string // of Identity
	KnownHosts string // the host keys that are accepted
}

// CredentialsFrom reads the data of the Secret that spec.secretRef names, for a URL of the given scheme.
func CredentialsFrom(data map[string][]byte, scheme string) (Credentials, error) {
	if scheme == "ssh" {
		return sshCredentials(data)
	}
	c, err := source.CredentialsFrom(data)
	return Credentials{Credentials: c}, err
}

func sshCredentials(data map[string][]byte) (Credentials, error) {
	c := Credentials{Identity: string(data["identity"]), Passphrase: string(data["password"]), KnownHosts: string(data["known_hosts"])}
	switch {
	case c.Identity == "":
		return c, fmt.Errorf("%w: the Secret has no key \"identity\" with the SSH private key", source.ErrAuthentication)
	case c.KnownHosts == "":
		return c, fmt.Errorf("%w: the Secret has no key \"known_hosts\" with the server's host key, run ssh-keyscan to get it", source.ErrAuthentication)
	}
	if _, err := c.signer(); err != nil {
		return c, err
	}
	return c, nil
}

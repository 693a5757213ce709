package oci

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/source"
)

// maxDockerConfig is as large as a Secret can be.
const maxDockerConfig = 1 << 20

// keychain holds what docker's configuration files say about registries.
type keychain []login

// login is one entry: who to be at a host, for repositories below a path. host may hold "*" for a part of a name.
type login struct {
	host, path string
	auth       authn.AuthConfig
}

// keychainFrom reads a Secret of type kubernetes.io/dockerconfigjson or the older kubernetes.io/dockercfg.
func keychainFrom(data map[string][]byte) (keychain, error) {
	if text, ok := data[corev1.DockerConfigJsonKey]; ok {
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		return decodeLogins(corev1.DockerConfigJsonKey, text, &file, func() map[string]dockerAuth { return file.Auths })
	}
	if text, ok := data[corev1.DockerConfigKey]; ok {
		var auths map[string]dockerAuth
		return decodeLogins(corev1.DockerConfigKey, text, &auths, func() map[string]dockerAuth { return auths })
	}
	return nil, fmt.Errorf("%w: the Secret has no key %q, make it by: kubectl create secret docker-registry", source.ErrAuthentication, corev1.DockerConfigJsonKey)
}

// dockerAuth is one value of "auths".
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// decodeLogins never repeats what the decoder says: it may quote a secret.
func decodeLogins(key string, text []byte, into any, auths func() map[string]dockerAuth) (keychain, error) {
	if len(text) > maxDockerConfig {
		return nil, fmt.Errorf("%w: the Secret's %q is larger than %d bytes", source.ErrAuthentication, key, maxDockerConfig)
	}
	if json.Unmarshal(text, into) != nil {
		return nil, fmt.Errorf("%w: the Secret's %q is not docker's configuration in JSON", source.ErrAuthentication, key)
	}
	var chain keychain
	all := auths()
	for _, server := range sortedKeys(all) {
		host, below := serverOf(server)
		config, err := all[server].config()
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's %q has an entry for %s %w", source.ErrAuthentication, key, host, err)
		}
		chain = append(chain, login{host, below, config})
	}
	return chain, nil
}

func (a dockerAuth) config() (authn.AuthConfig, error) {
	c := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth == "" || c.Username != "" {
		return c, nil
	}
	plain, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		plain, err = base64.RawStdEncoding.DecodeString(a.Auth)
	}
	if err != nil {
		return c, fmt.Errorf("whose \"auth\" is not base64")
	}
	username, password, ok := strings.Cut(strings.TrimRight(string(plain), "\x00"), ":")
	if !ok {
		return c, fmt.Errorf("whose \"auth\" is not USER:PASSWORD in base64")
	}
	c.Username, c.Password = username, password
	return c, nil
}

// serverOf reads the key of an entry, which is a host, a host and a path, or the URL of an old API of Docker Hub's.
func serverOf(server string) (host, below string) {
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		host, below = u.Host, u.Path
	} else {
		host, below, _ = strings.Cut(server, "/")
	}
	below = strings.Trim(below, "/")
	if below == "v1" || below == "v2" {
		below = ""
	}
	if hub(host) {
		host = "index.docker.io"
	}
	return strings.ToLower(host), below
}

func hub(host string) bool {
	return strings.EqualFold(host, "docker.io") || strings.EqualFold(host, "registry-1.docker.io")
}

// lookUp returns the entry for a repository at a host: the one with the longest path, and with a plain name before one with
// "*". Of equal ones the first counts.
func (k keychain) lookUp(host, repository string) (authn.AuthConfig, bool) {
	host = strings.ToLower(host)
	best, found := -1, authn.AuthConfig{}
	for _, l := range k {
		if !matchHost(l.host, host) || l.path != "" && repository != l.path && !strings.HasPrefix(repository, l.path+"/") {
			continue
		}
		weight := 2 * len(l.path)
		if l.host == host {
			weight++
		}
		if weight > best {
			best, found = weight, l.auth
		}
	}
	return found, best >= 0
}

// logIn returns the credentials for a repository, and the other hosts for which there are the same.
func (k keychain) logIn(repository name.Repository) (auth authn.AuthConfig, confided []string) {
	auth, _ = k.lookUp(repository.RegistryStr(), repository.RepositoryStr())
	for _, l := range k {
		if !isAnonymous(auth) && l.auth == auth && l.host != repository.RegistryStr() {
			confided = append(confided, l.host)
		}
	}
	return auth, confided
}

// matchHost compares part by part, so that "*.example.com" is no pattern for "a.b.example.com", as in the kubelet.
func matchHost(pattern, host string) bool {
	if pattern == host {
		return true
	}
	wanted, parts := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(wanted) != len(parts) {
		return false
	}
	for i := range parts {
		if ok, err := path.Match(wanted[i], parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// isAnonymous reports whether there is nothing to show.
func isAnonymous(a authn.AuthConfig) bool { return a == authn.AuthConfig{} }

package decrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
	"sigs.k8s.io/yaml"
)

// The keys of a decryption Secret. Any other key of it is left alone, as Flux does.
const (
	ageSuffix  = ".agekey"
	pgpSuffix  = ".asc"
	awsFile    = "sops.aws-kms"
	azureFile  = "sops.azure-kv"
	gcpFile    = "sops.gcp-kms"
	vaultToken = "sops.vault-token"
)

// kmsScopes are what the token of a Google identity is for.
var kmsScopes = []string{"https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/cloudkms"}

// keyring is all that documents may be opened with. What is nil is not there: nothing falls back to the environment of the
// agent, its files or its programs.
type keyring struct {
	age []age.Identity
	pgp openpgp.EntityList
	// aws returns the credentials for a region.
	aws   func(region string) aws.CredentialsProvider
	azure azcore.TokenCredential
	gcp   oauth2.TokenSource
	// vaultToken is shown to the servers of vaults and to no other; without one, vaultLogin gets one.
	vaultToken string
	vaultLogin func(ctx context.Context, address, path string) (string, error)
	// vaults are the trusted servers: address → path to log in at.
	vaults map[string]string

	azureOptions *azkeys.ClientOptions // of tests: how to reach the server
}

// parseKeys reads a decryption Secret. onlyAge leaves everything else in it alone: the agent's global Secret lends age keys.
// tenants means that nobody may act as the agent. No error quotes what the Secret holds.
func parseKeys(data map[string][]byte, onlyAge, tenants bool) (*keyring, error) {
	keys := &keyring{}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		var err error
		switch value := data[name]; {
		case path.Ext(name) == ageSuffix:
			err = keys.addAge(value)
		case onlyAge:
		case path.Ext(name) == pgpSuffix:
			err = keys.addPGP(value)
		case name == awsFile:
			err = keys.addAWS(value)
		case name == azureFile:
			err = keys.addAzure(value, tenants)
		case name == gcpFile:
			err = keys.addGCP(value)
		case name == vaultToken:
			if keys.vaultToken = strings.TrimSpace(string(value)); keys.vaultToken == "" {
				err = errors.New("the token is empty")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return keys, nil
}

// addAge adds age identities, one a line. Identities of plugins are refused: they are programs to run.
func (k *keyring) addAge(value []byte) error {
	found := 0
	number := 0
	for line := range strings.Lines(string(value)) {
		number++
		line = strings.TrimSpace(line)
		var identity age.Identity
		var err error
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "AGE-PLUGIN-"):
			return fmt.Errorf("line %d is the identity of an age plugin, which is not supported", number)
		case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-"):
			identity, err = age.ParseHybridIdentity(line)
		default:
			identity, err = age.ParseX25519Identity(line)
		}
		if err != nil {
			return fmt.Errorf("line %d is not an age identity", number)
		}
		k.age = append(k.age, identity)
		found++
	}
	if found == 0 {
		return errors.New("it holds no age identity")
	}
	return nil
}

// addPGP adds the private keys of an armored keyring. They must have no passphrase: there is nobody to ask for it.
func (k *keyring) addPGP(value []byte) error {
	entities, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(value))
	if err != nil {
		return errors.New("it is not an armored OpenPGP keyring")
	}
	found := 0
	for _, entity := range entities {
		if entity.PrivateKey == nil {
			continue
		}
		if locked(entity) {
			return fmt.Errorf("the private key %X has a passphrase; only keys without one can be used", entity.PrimaryKey.Fingerprint)
		}
		k.pgp = append(k.pgp, entity)
		found++
	}
	if found == 0 {
		return errors.New("it holds no private key")
	}
	return nil
}

// locked reports whether a key of entity, or one of its subkeys, has a passphrase. A private part that is not there, as in
// an export of the subkeys only, is none.
func locked(entity *openpgp.Entity) bool {
	if entity.PrivateKey.Encrypted && !entity.PrivateKey.Dummy() {
		return true
	}
	return slices.ContainsFunc(entity.Subkeys, func(s openpgp.Subkey) bool {
		return s.PrivateKey != nil && s.PrivateKey.Encrypted && !s.PrivateKey.Dummy()
	})
}

func (k *keyring) addAWS(value []byte) error {
	var file struct {
		ID      string `json:"aws_access_key_id"`
		Secret  string `json:"aws_secret_access_key"`
		Session string `json:"aws_session_token"`
	}
	if err := yaml.Unmarshal(value, &file); err != nil {
		return errors.New("it is not YAML")
	}
	if file.ID == "" || file.Secret == "" {
		return errors.New("aws_access_key_id and aws_secret_access_key are both needed")
	}
	static := credentials.NewStaticCredentialsProvider(file.ID, file.Secret, file.Session)
	k.aws = func(string) aws.CredentialsProvider { return static }
	return nil
}

// azureAuth is the file that Azure's command line writes for a service principal, in either of its two spellings.
type azureAuth struct {
	AppID    string `json:"appId"`
	Tenant   string `json:"tenant"`
	Password string `json:"password"`

	TenantID            string `json:"tenantId"`
	ClientID            string `json:"clientId"`
	ClientSecret        string `json:"clientSecret"`
	Certificate         string `json:"clientCertificate"`
	CertificatePassword string `json:"clientCertificatePassword"`
	CertificateChain    bool   `json:"clientCertificateSendChain"`
	Authority           string `json:"authorityHost"`
}

func (k *keyring) addAzure(value []byte, tenants bool) error {
	// What Azure's command line writes on Windows is UTF-16.
	text, _, err := transform.Bytes(unicode.BOMOverride(unicode.UTF8.NewDecoder()), value)
	if err != nil {
		return errors.New("it is not text")
	}
	var file azureAuth
	if err := yaml.Unmarshal(text, &file); err != nil {
		return errors.New("it is not YAML or JSON")
	}
	var options azcore.ClientOptions
	if options.Cloud.ActiveDirectoryAuthorityHost = file.Authority; file.Authority == "" {
		options.Cloud.ActiveDirectoryAuthorityHost = "https://login.microsoftonline.com/"
	}
	if k.azure, err = file.credential(options, tenants); err != nil {
		return err
	}
	return nil
}

func (f azureAuth) credential(options azcore.ClientOptions, tenants bool) (credential azcore.TokenCredential, err error) {
	switch {
	case f.TenantID != "" && f.ClientID != "" && f.ClientSecret != "":
		credential, err = azidentity.NewClientSecretCredential(f.TenantID, f.ClientID, f.ClientSecret, &azidentity.ClientSecretCredentialOptions{ClientOptions: options})
	case f.TenantID != "" && f.ClientID != "" && f.Certificate != "":
		certificates, key, parseErr := azidentity.ParseCertificates([]byte(f.Certificate), []byte(f.CertificatePassword))
		if parseErr != nil {
			return nil, errors.New("clientCertificate and clientCertificatePassword do not fit together")
		}
		credential, err = azidentity.NewClientCertificateCredential(f.TenantID, f.ClientID, certificates, key,
			&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, SendCertificateChain: f.CertificateChain})
	case f.Tenant != "" && f.AppID != "" && f.Password != "":
		credential, err = azidentity.NewClientSecretCredential(f.Tenant, f.AppID, f.Password, &azidentity.ClientSecretCredentialOptions{ClientOptions: options})
	case f.ClientID != "" && tenants:
		// An identity of the node, which is the agent's: with a default ServiceAccount nobody acts as the agent.
		return nil, errors.New("clientId alone means an identity of the node, which --default-decryption-service-account forbids")
	case f.ClientID != "":
		credential, err = azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ID: azidentity.ClientID(f.ClientID)})
	default:
		return nil, errors.New("it needs tenantId, clientId and clientSecret or clientCertificate; or tenant, appId and password; or clientId alone")
	}
	if err != nil {
		return nil, errors.New("the credentials cannot be used")
	}
	return credential, nil
}

// addGCP adds the key of a service account, or the token of a user. The other kinds of Google credentials say what to read
// or run to get a token and where to send it, which would be the agent's files to wherever the Secret says.
func (k *keyring) addGCP(value []byte) error {
	var kind struct {
		Type google.CredentialsType `json:"type"`
	}
	if err := yaml.Unmarshal(value, &kind); err != nil {
		return errors.New("it is not JSON")
	}
	if kind.Type != google.ServiceAccount && kind.Type != google.AuthorizedUser {
		return fmt.Errorf("its type is not one that is supported, %q or %q", google.ServiceAccount, google.AuthorizedUser)
	}
	// The context outlives the call, in the source of tokens; those it gets are waited for under a deadline.
	found, err := google.CredentialsFromJSONWithType(context.Background(), bytes.TrimSpace(value), kind.Type, kmsScopes...)
	if err != nil {
		return errors.New("the credentials cannot be used")
	}
	k.gcp = found.TokenSource
	return nil
}

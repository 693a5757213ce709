package decrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/ProtonMail/go-crypto/openpgp"
	pgparmor "github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/aws/smithy-go"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/kms"
	vault "github.com/hashicorp/vault/api"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

// keyTime is how long one key may take, with all that a server and a cloud's identity service need.
const keyTime = 30 * time.Second

// maxDataKey is more than a data key, or a share of one, ever has.
const maxDataKey = 4 << 10

// service answers what sops asks of a key service, for one document, from the keys of a keyring alone. sops asks without a
// context, so the document's is kept here.
type service struct {
	ctx      context.Context
	keys     *keyring
	failures []keyFailure
}

// keyFailure is why a key of a document could not be used.
type keyFailure struct {
	key string
	err error
}

// unavailableError means: a server did not answer, or said that it could not for now.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return e.err.Error() }

func (e *unavailableError) Unwrap() error { return e.err }

// errNoKey means: the Kustomization was given no key of the kind.
var errNoKey = errors.New("no such key was given")

// Decrypt opens a data key, or a share of one. It returns when the document's time is over, whatever the libraries do.
func (s *service) Decrypt(_ context.Context, request *keyservice.DecryptRequest, _ ...grpc.CallOption) (*keyservice.DecryptResponse, error) {
	ctx, cancel := context.WithTimeout(s.ctx, keyTime)
	defer cancel()
	type answer struct {
		plain []byte
		err   error
	}
	done := make(chan answer, 1)
	go func() { // not waited for longer than its time: it holds nothing but its own request
		var a answer
		defer func() {
			if recover() != nil {
				a = answer{err: errors.New("the key cannot be used")}
			}
			done <- a
		}()
		a.plain, a.err = s.keys.open(ctx, request.GetKey(), request.GetCiphertext())
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	if a.err != nil {
		a.err = steady(a.err)
		s.failures = append(s.failures, keyFailure{keyName(request.GetKey()), a.err})
		return nil, a.err
	}
	return &keyservice.DecryptResponse{Plaintext: a.plain}, nil
}

// Encrypt is never asked for.
func (s *service) Encrypt(context.Context, *keyservice.EncryptRequest, ...grpc.CallOption) (*keyservice.EncryptResponse, error) {
	return nil, errors.New("nothing is encrypted here")
}

// failure says which keys could not be used and why. Only the first of many is told of in full.
func (s *service) failure() error {
	if len(s.failures) == 0 {
		return errors.New("its metadata names no key")
	}
	parts := make([]string, 0, len(s.failures))
	var cause error
	for _, f := range s.failures {
		if len(parts) < 5 {
			parts = append(parts, f.key+": "+f.err.Error())
		}
		var away *unavailableError
		if cause == nil && errors.As(f.err, &away) {
			cause = f.err
		}
	}
	if more := len(s.failures) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	err := fmt.Errorf("the data key cannot be had with the keys that were given: %s", strings.Join(parts, "; "))
	if cause != nil {
		return &unavailableError{err}
	}
	return err
}

// keyName is how a message names a key of a document, all of which is public.
func keyName(key *keyservice.Key) string {
	switch k := key.GetKeyType().(type) {
	case *keyservice.Key_AgeKey:
		return "age " + k.AgeKey.GetRecipient()
	case *keyservice.Key_PgpKey:
		return "PGP " + k.PgpKey.GetFingerprint()
	case *keyservice.Key_KmsKey:
		return "AWS " + k.KmsKey.GetArn()
	case *keyservice.Key_GcpKmsKey:
		return "Google " + k.GcpKmsKey.GetResourceId()
	case *keyservice.Key_AzureKeyvaultKey:
		return "Azure " + k.AzureKeyvaultKey.GetVaultUrl() + "/keys/" + k.AzureKeyvaultKey.GetName()
	case *keyservice.Key_VaultKey:
		return "Vault " + k.VaultKey.GetVaultAddress() + "/v1/" + k.VaultKey.GetEnginePath() + "/keys/" + k.VaultKey.GetKeyName()
	}
	return "a key of an unknown kind"
}

// open opens what is encrypted for key. The master keys of sops look for credentials in the environment, in files and in
// programs of the host when they are given none, so none of them is ever asked without; those of age and PGP are not asked
// at all, since sops has no way to keep them from their keyrings.
func (k *keyring) open(ctx context.Context, key *keyservice.Key, ciphertext []byte) ([]byte, error) {
	switch wanted := key.GetKeyType().(type) {
	case *keyservice.Key_AgeKey:
		return k.openAge(ciphertext)
	case *keyservice.Key_PgpKey:
		return k.openPGP(ciphertext)
	case *keyservice.Key_KmsKey:
		return k.openAWS(ctx, wanted.KmsKey, ciphertext)
	case *keyservice.Key_GcpKmsKey:
		if k.gcp == nil {
			return nil, errNoKey
		}
		master := gcpkms.NewMasterKeyFromResourceID(wanted.GcpKmsKey.GetResourceId())
		master.EncryptedKey = string(ciphertext)
		gcpkms.NewTokenSource(k.gcp).ApplyToMasterKey(master)
		return master.DecryptContext(ctx)
	case *keyservice.Key_AzureKeyvaultKey:
		if k.azure == nil {
			return nil, errNoKey
		}
		named := wanted.AzureKeyvaultKey
		master := azkv.NewMasterKey(named.GetVaultUrl(), named.GetName(), named.GetVersion())
		master.EncryptedKey = string(ciphertext)
		azkv.NewTokenCredential(k.azure).ApplyToMasterKey(master)
		azkv.NewClientOptions(k.azureOptions).ApplyToMasterKey(master)
		return master.DecryptContext(ctx)
	case *keyservice.Key_VaultKey:
		return k.openVault(ctx, wanted.VaultKey, ciphertext)
	}
	return nil, errors.New("this version of the agent knows no keys of that kind")
}

func (k *keyring) openAge(ciphertext []byte) ([]byte, error) {
	if len(k.age) == 0 {
		return nil, errNoKey
	}
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(ciphertext)), k.age...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, errors.New("no age identity that was given fits")
	}
	if err != nil {
		return nil, errors.New("what is encrypted for it is not an age file")
	}
	return readDataKey(plain)
}

func (k *keyring) openPGP(ciphertext []byte) ([]byte, error) {
	if len(k.pgp) == 0 {
		return nil, errNoKey
	}
	block, err := pgparmor.Decode(bytes.NewReader(ciphertext))
	if err != nil {
		return nil, errors.New("what is encrypted for it is not an armored PGP message")
	}
	message, err := openpgp.ReadMessage(block.Body, k.pgp, nil, nil)
	if err != nil {
		return nil, errors.New("no PGP key that was given fits")
	}
	return readDataKey(message.UnverifiedBody)
}

// readDataKey reads no more than a data key has, whatever unpacks itself from the message.
func readDataKey(from io.Reader) ([]byte, error) {
	plain, err := io.ReadAll(io.LimitReader(from, maxDataKey+1))
	if err != nil {
		return nil, errors.New("what is encrypted for it is damaged")
	}
	if len(plain) > maxDataKey {
		return nil, errors.New("what is encrypted for it is no data key")
	}
	return plain, nil
}

// openAWS leaves out the profile that a document may name: it is a section of a file on the host of who encrypted it.
func (k *keyring) openAWS(ctx context.Context, named *keyservice.KmsKey, ciphertext []byte) ([]byte, error) {
	parts := strings.Split(named.GetArn(), ":") // arn:partition:kms:region:account:key
	if k.aws == nil || len(parts) < 6 {
		return nil, errNoKey
	}
	encryption := map[string]*string{}
	for name, value := range named.GetContext() {
		encryption[name] = &value
	}
	master := kms.NewMasterKey(named.GetArn(), named.GetRole(), encryption)
	master.EncryptedKey = string(ciphertext)
	kms.NewCredentialsProvider(k.aws(parts[3])).ApplyToMasterKey(master)
	return master.DecryptContext(ctx)
}

// openVault speaks to trusted servers only, whoever the token is from.
func (k *keyring) openVault(ctx context.Context, named *keyservice.VaultKey, ciphertext []byte) ([]byte, error) {
	address := vaultAddress(named.GetVaultAddress())
	login, trusted := k.vaults[address]
	if !trusted {
		return nil, errors.New("the server is not in the list of trusted Vaults, the ConfigMap that the agent's flag --sops-vault-configmap names")
	}
	if strings.Contains("/"+named.GetEnginePath()+"/"+named.GetKeyName()+"/", "/../") {
		return nil, errors.New("its path leads out of the engine")
	}
	token := k.vaultToken
	if token == "" {
		if login == "" || k.vaultLogin == nil {
			return nil, errors.New("the Secret has no sops.vault-token, and the list of trusted Vaults no loginPath for the server")
		}
		var err error
		if token, err = k.vaultLogin(ctx, address, login); err != nil {
			return nil, err
		}
	}
	master := hcvault.NewMasterKey(address, named.GetEnginePath(), named.GetKeyName())
	master.EncryptedKey = string(ciphertext)
	hcvault.Token(token).ApplyToMasterKey(master)
	return master.DecryptContext(ctx)
}

// steady gives the error of a server or of the way to it a text that is the same for the same failure: without the numbers
// of requests, ports and times. It says which may pass by themselves.
func steady(err error) error {
	var (
		fromVault *vault.ResponseError
		fromAWS   smithy.APIError
		fromAzure *azcore.ResponseError
		dns       *net.DNSError
		op        *net.OpError
		wrapped   *url.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled):
		return &unavailableError{errors.New("there was no answer in time")}
	case errors.As(err, &fromVault):
		return answered(fromVault.StatusCode, fmt.Sprintf("the server answered %d: %s", fromVault.StatusCode, strings.Join(fromVault.Errors, ", ")))
	case errors.As(err, &fromAWS):
		if fromAWS.ErrorFault() == smithy.FaultServer {
			return &unavailableError{fmt.Errorf("the server answered %s", fromAWS.ErrorCode())}
		}
		return fmt.Errorf("the server answered %s: %s", fromAWS.ErrorCode(), fromAWS.ErrorMessage())
	case errors.As(err, &fromAzure):
		return answered(fromAzure.StatusCode, fmt.Sprintf("the server answered %d %s", fromAzure.StatusCode, fromAzure.ErrorCode))
	case errors.As(err, &dns):
		return &unavailableError{fmt.Errorf("looking up %s failed", dns.Name)}
	case errors.As(err, &op):
		return &unavailableError{fmt.Errorf("the server cannot be reached: %s failed", op.Op)}
	case errors.As(err, &wrapped):
		return &unavailableError{fmt.Errorf("the server cannot be reached: %s failed", wrapped.Op)}
	}
	if status, ok := grpcstatus.FromError(err); ok && status.Code() != grpccodes.Unknown {
		told := fmt.Errorf("the server answered %s: %s", status.Code(), status.Message())
		if slices.Contains([]grpccodes.Code{grpccodes.Unavailable, grpccodes.Internal, grpccodes.DeadlineExceeded}, status.Code()) {
			return &unavailableError{told}
		}
		return told
	}
	return err
}

// answered is the error of a server's answer: one of its own failures may pass.
func answered(status int, text string) error {
	if status >= 500 || status == 429 {
		return &unavailableError{errors.New(text)}
	}
	return errors.New(text)
}

package decrypt

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	pgparmor "github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/pgp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// fixedKey is a data key. The documents of the tests are encrypted with it, so that who may have it is all that differs.
var fixedKey = bytes.Repeat([]byte{7}, 32)

// canary is a value that must be in no error.
const canary = "canary-Zx81-plaintext"

// encryptTo writes plain as sops does, for these master keys, whose EncryptedKey holds fixedKey.
func encryptTo(t testing.TB, plain string, f format, change func(*sops.Metadata), masters ...keys.MasterKey) []byte {
	t.Helper()
	store := f.store()
	branches, err := store.LoadPlainFile([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{
		KeyGroups: []sops.KeyGroup{masters}, UnencryptedSuffix: "_unencrypted", Version: "3.13.2",
		LastModified: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}}
	if change != nil {
		change(&tree.Metadata)
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(fixedKey, cipher)
	if err != nil {
		t.Fatal(err)
	}
	tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, fixedKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		t.Fatal(err)
	}
	text, err := store.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// secretOnly leaves what is not in data or stringData of an object as it is, as everybody does.
func secretOnly(m *sops.Metadata) {
	m.UnencryptedSuffix, m.EncryptedRegex = "", "^(data|stringData)$"
}

// ageKeys makes an identity and a master key that it opens.
func ageKeys(t testing.TB) (identity string, master keys.MasterKey) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := sopsage.MasterKeyFromRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Encrypt(fixedKey); err != nil {
		t.Fatal(err)
	}
	return id.String(), key
}

// pgpKeys makes an armored private key and a master key that it opens.
func pgpKeys(t testing.TB, passphrase string) (armored string, master keys.MasterKey) {
	t.Helper()
	entity, err := openpgp.NewEntity("test", "", "test@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var message bytes.Buffer
	armor, err := pgparmor.Encode(&message, "PGP MESSAGE", nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openpgp.Encrypt(armor, []*openpgp.Entity{entity}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(fixedKey); err != nil {
		t.Fatal(err)
	}
	for _, c := range []interface{ Close() error }{w, armor} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if passphrase != "" {
		if err := entity.EncryptPrivateKeys([]byte(passphrase), nil); err != nil {
			t.Fatal(err)
		}
	}
	var private bytes.Buffer
	armor, err = pgparmor.Encode(&private, openpgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := entity.SerializePrivateWithoutSigning(armor, nil); err != nil {
		t.Fatal(err)
	}
	if err := armor.Close(); err != nil {
		t.Fatal(err)
	}
	key := pgp.NewMasterKeyFromFingerprint(hexOf(entity.PrimaryKey.Fingerprint))
	key.EncryptedKey = message.String()
	return private.String(), key
}

func hexOf(b []byte) string {
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// kustomization is one of the namespace apps that decrypts with the Secret keys.
func kustomization(change func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
	ks := &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "shop"},
		Spec: kustomizev1.KustomizationSpec{
			Decryption: &kustomizev1.Decryption{Provider: "sops", SecretRef: &meta.LocalObjectReference{Name: "keys"}},
		},
	}
	if change != nil {
		change(ks)
	}
	return ks
}

// secret is a decryption Secret.
func secret(namespace, name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	return s
}

// load returns the Decryptor of kustomization(nil), with these keys.
func loadKeys(t testing.TB, options Options, data map[string]string, more ...client.Object) *Decryptor {
	t.Helper()
	c := fake.NewClientBuilder().WithObjects(append(more, secret("apps", "keys", data))...).Build()
	d, err := NewLoader(c, options).Load(t.Context(), c, kustomization(nil))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func decode(s string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	return string(b), err
}

func itoa(i int) string { return strconv.Itoa(i) }

package decrypt

import (
	"errors"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/getsops/sops/v3/keys"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
)

func loadFrom(t testing.TB, options Options, ks *kustomizev1.Kustomization, objects ...client.Object) (*Decryptor, error) {
	t.Helper()
	c := fake.NewClientBuilder().WithObjects(objects...).Build()
	return NewLoader(c, options).Load(t.Context(), c, ks)
}

// opens reports whether d has the key of text.
func opens(t testing.TB, d *Decryptor, text []byte) error {
	t.Helper()
	_, err := d.open(t.Context(), text, formatYAML, formatYAML, true)
	return err
}

// TestA20_OwnNamespace: keys come from the Kustomization's own namespace, or from the agent's Secret and then only those of age.
func TestA20_OwnNamespace(t *testing.T) {
	id, master := ageKeys(t)
	pgpKey, pgpMaster := pgpKeys(t, "")
	ours := encryptTo(t, "a: b\n", formatYAML, nil, master)
	theirs := secret("other", "keys", map[string]string{"x.agekey": id})
	if _, err := loadFrom(t, Options{}, kustomization(nil), theirs); err == nil || !strings.Contains(err.Error(), "'apps/keys'") {
		t.Errorf("with a Secret of that name in another namespace: %v", err)
	}
	unnamed := kustomization(func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption.SecretRef = nil })
	global := secret("cleat", "global", map[string]string{"x.agekey": id, "y.asc": pgpKey, vaultToken: "t"})
	options := Options{Namespace: "cleat", AgeSecret: "global"}
	d, err := loadFrom(t, options, unnamed, global)
	if err != nil {
		t.Fatal(err)
	}
	if err := opens(t, d, ours); err != nil {
		t.Errorf("with the global Secret: %v", err)
	}
	if err := opens(t, d, encryptTo(t, "a: b\n", formatYAML, nil, pgpMaster)); err == nil || d.keys.vaultToken != "" {
		t.Error("the global Secret lends more than age keys")
	}
	// A Kustomization that names a Secret does not get the agent's keys beside.
	d, err = loadFrom(t, options, kustomization(nil), global, secret("apps", "keys", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := opens(t, d, ours); err == nil {
		t.Error("the global keys serve a Kustomization that names a Secret")
	}
}

// TestEnvironment: neither the agent's environment nor its files give anybody a key.
func TestEnvironment(t *testing.T) {
	id, master := ageKeys(t)
	t.Setenv("SOPS_AGE_KEY", id)
	t.Setenv("SOPS_AGE_KEY_CMD", "echo "+id)
	home := tree(t, map[string]string{".config/sops/age/keys.txt": id, ".vault-token": "agents"})
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home+"/.config")
	d := loadKeys(t, Options{}, nil)
	if err := opens(t, d, encryptTo(t, "a: b\n", formatYAML, nil, master)); err == nil {
		t.Error("a key of the agent's was used")
	}
}

// TestSeveralKeys: all age identities of all files are tried.
func TestSeveralKeys(t *testing.T) {
	one, first := ageKeys(t)
	two, second := ageKeys(t)
	three, third := ageKeys(t)
	d := loadKeys(t, Options{}, map[string]string{"a.agekey": one + "\n" + two, "b.agekey": three, "unrelated": "x"})
	for i, master := range []keys.MasterKey{first, second, third} {
		text := encryptTo(t, "a: b\n", formatYAML, nil, master)
		if err := opens(t, d, text); err != nil {
			t.Errorf("key %d: %v", i, err)
		}
	}
}

// TestBadKeys: a key that cannot be used is named, and not quoted.
func TestBadKeys(t *testing.T) {
	lockedKey, _ := pgpKeys(t, "passphrase")
	for name, c := range map[string]struct {
		file, value, want string
		tenants           bool
	}{
		"age":          {file: "x.agekey", value: "AGE-SECRET-KEY-1" + canary, want: "x.agekey: line 1 is not an age identity"},
		"age empty":    {file: "x.agekey", value: "# nothing\n", want: "no age identity"},
		"age plugin":   {file: "x.agekey", value: "AGE-PLUGIN-" + canary, want: "plugin"},
		"pgp":          {file: "x.asc", value: canary, want: "not an armored"},
		"pgp locked":   {file: "x.asc", value: lockedKey, want: "has a passphrase"},
		"aws":          {file: awsFile, value: "aws_access_key_id: " + canary, want: "both needed"},
		"aws no yaml":  {file: awsFile, value: "{" + canary, want: "not YAML"},
		"azure":        {file: azureFile, value: "clientSecret: " + canary, want: "it needs"},
		"azure node":   {file: azureFile, value: "clientId: " + canary, want: "forbids", tenants: true},
		"gcp":          {file: gcpFile, value: canary, want: "not JSON"},
		"gcp external": {file: gcpFile, value: `{"type":"external_account","token_url":"https://` + canary + `"}`, want: "not one that is supported"},
		"gcp broken":   {file: gcpFile, value: `{"type":"service_account","private_key":"` + canary + `","token_uri":1}`, want: "cannot be used"},
		"empty vault":  {file: vaultToken, value: " \n", want: "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			options := Options{}
			if c.tenants {
				options.DefaultServiceAccount = "sops"
			}
			_, err := loadFrom(t, options, kustomization(nil), secret("apps", "keys", map[string]string{c.file: c.value}))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Load = %v; want %q", err, c.want)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error quotes the key: %v", err)
			}
			var f *api.Fault
			if !errors.As(err, &f) || f.Reason != meta.BuildFailedReason {
				t.Errorf("the fault is %+v", f)
			}
		})
	}
}

// TestRefusedSpec: what cannot be honoured is refused.
func TestRefusedSpec(t *testing.T) {
	for reason, change := range map[string]func(*kustomizev1.Kustomization){
		api.UnsupportedReason:          func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption.Provider = "vals" },
		meta.FeatureGateDisabledReason: func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption.ServiceAccountName = "sops" },
	} {
		var f *api.Fault
		if _, err := loadFrom(t, Options{}, kustomization(change), secret("apps", "keys", nil)); !errors.As(err, &f) || f.Reason != reason || f.Retry != api.RetryNever {
			t.Errorf("want %s, got %v", reason, err)
		}
	}
	none := kustomization(func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption = nil })
	d, err := (*Loader)(nil).Load(t.Context(), nil, none)
	if d != nil || err != nil || d.Digest() != "" || d.Sensitive() != nil {
		t.Errorf("without decryption: %v, %v", d, err)
	}
}

// TestDigest: it changes with the keys and with the flags, and with nothing else.
func TestDigest(t *testing.T) {
	id, _ := ageKeys(t)
	other, _ := ageKeys(t)
	digest := func(o Options, data map[string]string) string { return loadKeys(t, o, data).Digest() }
	base := digest(Options{}, map[string]string{"x.agekey": id})
	if again := digest(Options{}, map[string]string{"x.agekey": id}); again != base {
		t.Error("the same keys have two digests")
	}
	for name, changed := range map[string]string{
		"another key":  digest(Options{}, map[string]string{"x.agekey": other}),
		"another name": digest(Options{}, map[string]string{"y.agekey": id}),
		"a flag":       digest(Options{IgnoreMAC: true}, map[string]string{"x.agekey": id}),
	} {
		if changed == base {
			t.Errorf("%s has the same digest", name)
		}
	}
}

package sync

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/kustomizer"
	"github.com/cleat-dev/cleat/internal/object"
)

// encrypted returns the first revision of the end-to-end script about SOPS, and the two keys of that script, of which the
// first opens it.
func encrypted(t *testing.T) (archive string, identities []string) {
	t.Helper()
	text, err := os.ReadFile("../../e2e/testdata/script/sops.txtar")
	if err != nil {
		t.Fatal(err)
	}
	script := txtar.Parse(text)
	var out txtar.Archive
	for _, f := range script.Files {
		if name, first := strings.CutPrefix(f.Name, "v1/"); first {
			out.Files = append(out.Files, txtar.File{Name: name, Data: f.Data})
		}
	}
	identities = regexp.MustCompile("AGE-SECRET-KEY-[0-9A-Z]+").FindAllString(string(script.Comment), -1)
	if len(out.Files) == 0 || len(identities) != 2 {
		t.Fatalf("the script has %d files and %d keys", len(out.Files), len(identities))
	}
	return string(txtar.Format(&out)), identities
}

// keysOf is a decryption Secret of a namespace.
func keysOf(namespace, identity string) client.Object {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keys"}, Data: map[string][]byte{"x.agekey": []byte(identity)},
	}
}

// TestA20_DecryptedIsNotShared: what was decrypted for one Kustomization is in no build of another that reads the very same
// files, whether that has other keys, or none.
func TestA20_DecryptedIsNotShared(t *testing.T) {
	archive, identities := encrypted(t)
	c := fake.NewClientBuilder().WithObjects(keysOf("demo", identities[0]), keysOf("other", identities[1])).Build()
	r := &renderer{strict: true, variables: c, decryption: decrypt.NewLoader(c, decrypt.Options{})}
	snapshot := tree(t, archive)
	const spec = "{decryption: {provider: sops, secretRef: {name: keys}}}"
	b, err := buildWith(r, kustomization(t, spec), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	password := ""
	for _, u := range b.Objects {
		if u.GetName() == "db" {
			data, _ := u.Object["data"].(map[string]any)
			password, _ = data["password"].(string)
		}
	}
	if password != "Y2FuYXJ5LW9uZS1aeDgx" {
		t.Fatalf("the password is %q", password)
	}
	// The build is another when its keys are: it knows what they came from.
	if v := b.from.references[object.Ref{Version: "v1", Kind: "Secret", Namespace: "demo", Name: "keys"}]; v == (version{}) {
		t.Errorf("the Secret is not among what the build was made from: %v", b.from.references)
	}
	// A generator's file alone, which is decrypted before the kustomize library runs.
	generator := tree(t, strings.Replace(archive, "resources: [db.yaml]\n", "", 1))
	if _, err := buildWith(r, kustomization(t, spec), generator); err != nil {
		t.Fatal(err)
	}
	theirs := kustomization(t, spec)
	theirs.Namespace = "other"
	if _, err := buildWith(r, theirs, generator); err == nil || !strings.Contains(err.Error(), "no age identity") {
		t.Errorf("with another key: %v", err)
	}
	without, err := buildWith(r, kustomization(t, "{}"), generator)
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := without.Objects[0].Object["data"].(map[string]any); data["TOKEN"] == nil || data["TOKEN"] == "Y2FuYXJ5LXRva2VuLVp4ODE=" {
		t.Errorf("without a key, the token is %v", data["TOKEN"])
	}
}

// TestA29_DecryptedIsMasked: an error about an object that is no Secret does not hold what was decrypted, and what is
// remembered of a build does not either.
func TestA29_DecryptedIsMasked(t *testing.T) {
	archive, identities := encrypted(t)
	c := fake.NewClientBuilder().WithObjects(keysOf("demo", identities[0])).Build()
	r := &renderer{strict: true, variables: c, decryption: decrypt.NewLoader(c, decrypt.Options{})}
	b, err := buildWith(r, kustomization(t, "{decryption: {provider: sops, secretRef: {name: keys}}}"), tree(t, archive))
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.Join(context.DeadlineExceeded, errors.New(`ConfigMap/x invalid: "canary-one-Zx81"`))
	f := masked(api.AsFault(cause, meta.ReconciliationFailedReason, api.RetryBackoff), b)
	if strings.Contains(f.Error(), "Zx81") || f.Reason != meta.ReconciliationFailedReason || f.Retry != api.RetryBackoff || !errors.Is(f, context.DeadlineExceeded) {
		t.Errorf("the fault is %+v", f)
	}
	builds, key := newBuilds(), types.NamespacedName{Name: "x"}
	builds.keep(key, b)
	if builds.by[key] == nil || builds.by[key].Sensitive != nil {
		t.Error("what was decrypted is remembered")
	}
}

// A key service that does not answer holds up no build but its own: not even one that has to be alone with the schema.
func TestDecryptionIsOutsideOfTheSchemaLock(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		http.Error(w, "{}", http.StatusForbidden)
	}))
	defer vault.Close()
	keys := keysOf("demo", "").(*corev1.Secret)
	keys.Data = map[string][]byte{"sops.vault-token": []byte("token")}
	vaults := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "vaults"},
		Data:       map[string]string{"config.yaml": "instances: [{address: '" + vault.URL + "', loginPath: auth/kubernetes/login}]"},
	}
	c := fake.NewClientBuilder().WithObjects(keys, vaults).Build()
	r := &renderer{variables: c, decryption: decrypt.NewLoader(c, decrypt.Options{Namespace: "flux-system", VaultConfigMap: "vaults"})}
	snapshot := tree(t, `
-- kustomization.yaml --
secretGenerator: [{name: a, files: [secret.yaml]}]
-- secret.yaml --
token: ENC[AES256_GCM,data:aGVsbG8=,iv:aGVsbG8=,tag:aGVsbG8=,type:str]
sops:
  hc_vault: [{vault_address: "`+vault.URL+`", engine_path: sops, key_name: k, created_at: "2024-01-01T00:00:00Z", enc: "vault:v1:abc"}]
  lastmodified: "2024-01-01T00:00:00Z"
  mac: ENC[AES256_GCM,data:aGVsbG8=,iv:aGVsbG8=,tag:aGVsbG8=,type:str]
  version: 3.9.0
`)
	built := make(chan error, 1)
	go func() {
		_, err := buildWith(r, kustomization(t, "{decryption: {provider: sops, secretRef: {name: keys}}}"), snapshot)
		built <- err
	}()
	select {
	case <-asked:
	case err := <-built:
		t.Fatalf("the Vault was not asked: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done, err := kustomizer.Schema.Replace(ctx)
	if err != nil {
		t.Errorf("while the Vault is silent: %v", err)
	} else {
		done()
	}
	close(answer)
	if err := <-built; err == nil {
		t.Error("a Vault that refuses is no error")
	}
}

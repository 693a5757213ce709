package sync

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/decrypt"
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

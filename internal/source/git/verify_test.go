package git

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// author signs with SSH as Git does, and with PGP.
type author struct {
	t   *testing.T
	key string // file of the SSH key
	pgp *openpgp.Entity
	pub ssh.PublicKey
}

func newAuthor(t *testing.T) *author {
	t.Helper()
	signer, private := newKey(t)
	a := &author{t: t, key: filepath.Join(t.TempDir(), "key"), pub: signer.PublicKey()}
	if err := os.WriteFile(a.key, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.pgp, err = openpgp.NewEntity("author", "", "author@example.com", nil); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *author) sshpub() []byte { return ssh.MarshalAuthorizedKey(a.pub) }

func (a *author) asc() []byte {
	a.t.Helper()
	var buf bytes.Buffer
	w, err := armor.Encode(&buf, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(a.pgp.Serialize(w), w.Close())
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return buf.Bytes()
}

// signing runs a Git command that signs with SSH.
func (r *repo) signing(a *author, args ...string) string {
	return r.git(append([]string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + a.key}, args...)...)
}

func (r *repo) object(kind, content string) string {
	r.t.Helper()
	cmd := exec.Command("git", "hash-object", "-t", kind, "-w", "--stdin")
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) content(kind, name string) string {
	r.t.Helper()
	cmd := exec.Command("git", "cat-file", kind, name)
	cmd.Dir = r.dir
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return string(out)
}

// signPGP replaces HEAD by the same commit with a PGP signature.
func (r *repo) signPGP(a *author) string {
	r.t.Helper()
	header, body, _ := strings.Cut(r.content("commit", "HEAD"), "\n\n")
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, a.pgp, strings.NewReader(header+"\n\n"+body), nil); err != nil {
		r.t.Fatal(err)
	}
	signed := r.object("commit", header+"\ngpgsig "+strings.ReplaceAll(strings.TrimSpace(sig.String()), "\n", "\n ")+"\n\n"+body)
	r.git("update-ref", "HEAD", signed)
	return signed
}

func TestA12_Signatures(t *testing.T) {
	me, other := newAuthor(t), newAuthor(t)
	keys := func(data map[string][]byte) Keys {
		t.Helper()
		k, err := KeysFrom(data)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	mine := keys(map[string][]byte{"me.asc": me.asc(), "me.sshpub": me.sshpub(), "note": []byte("x")})
	others := keys(map[string][]byte{"other.asc": other.asc(), "other.sshpub": append([]byte("# other\nother@example.com "), other.sshpub()...)})
	branch, tag := Ref{Branch: "main"}, Ref{Tag: "v1"}
	for name, tt := range map[string]struct {
		make      func(r *repo)
		ref       Ref
		head, tag bool
		want      error
	}{
		"commit by SSH": {func(r *repo) { r.signing(me, "commit", "-q", "--allow-empty", "-S", "-m", "x") }, branch, true, false, nil},
		"commit by PGP": {func(r *repo) { r.signPGP(me) }, branch, true, false, nil},
		"tag by SSH":    {func(r *repo) { r.signing(me, "tag", "-s", "-m", "x", "v1") }, tag, false, true, nil},
		"tag and commit": {func(r *repo) {
			r.signPGP(me)
			r.signing(me, "tag", "-s", "-m", "x", "v1")
		}, tag, true, true, nil},
		"a signed tag on an unsigned commit": {func(r *repo) { r.signing(me, "tag", "-s", "-m", "x", "v1") }, tag, true, true, ErrCommitSignature},
		"unsigned commit":                    {func(*repo) {}, branch, true, false, ErrCommitSignature},
		"unsigned tag":                       {func(r *repo) { r.git("tag", "-a", "-m", "x", "v1") }, tag, false, true, ErrTagSignature},
		"lightweight tag":                    {func(r *repo) { r.git("tag", "v1") }, tag, false, true, ErrNoTag},
		"tag mode on a branch":               {func(*repo) {}, branch, false, true, ErrNoTag},
		"another key, SSH":                   {func(r *repo) { r.signing(other, "commit", "-q", "--allow-empty", "-S", "-m", "x") }, branch, true, false, ErrCommitSignature},
		"another key, PGP":                   {func(r *repo) { r.signPGP(other) }, branch, true, false, ErrCommitSignature},
		"another key, tag":                   {func(r *repo) { r.signing(other, "tag", "-s", "-m", "x", "v1") }, tag, false, true, ErrTagSignature},
		"the signature of another commit": {func(r *repo) {
			signed := r.signing(me, "commit", "-q", "--allow-empty", "-S", "-m", "x") + r.content("commit", "HEAD")
			r.git("update-ref", "HEAD", r.object("commit", strings.Replace(signed, "\n\nx", "\n\ny", 1)))
		}, branch, true, false, ErrCommitSignature},
		"two signatures": {func(r *repo) {
			r.signPGP(me)
			header, body, _ := strings.Cut(r.content("commit", "HEAD"), "\n\n")
			_, sig, _ := strings.Cut(header, "gpgsig ")
			r.git("update-ref", "HEAD", r.object("commit", header+"\ngpgsig "+sig+"\n\n"+body))
		}, branch, true, false, ErrCommitSignature},
		"an old tag under a new name": {func(r *repo) {
			r.signing(me, "tag", "-s", "-m", "x", "v0")
			r.git("update-ref", "refs/tags/v1", r.git("rev-parse", "refs/tags/v0"))
		}, tag, false, true, ErrTagSignature},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			r.commit("c", map[string]string{"n": "1"})
			tt.make(r)
			g, remote := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}
			c, err := g.Fetch(context.Background(), remote, tt.ref, Question{})
			if err != nil {
				t.Fatal(err)
			}
			said, err := g.Verify(context.Background(), remote, tt.ref, c, tt.head, tt.tag, mine)
			if !errors.Is(err, tt.want) || (err == nil) != (said != "") {
				t.Fatalf("said %q, %v", said, err)
			}
			if _, err := g.Verify(context.Background(), remote, tt.ref, c, tt.head, tt.tag, others); tt.want == nil && err == nil {
				t.Error("verified with keys of others")
			}
			if _, err := g.Verify(context.Background(), remote, tt.ref, c, tt.head, tt.tag, Keys{}); err == nil {
				t.Error("verified without keys")
			}
		})
	}
}

func TestTagIsFetchedForACommitThatIsThere(t *testing.T) {
	r, me := newRepo(t), newAuthor(t)
	r.commit("c", map[string]string{"n": "1"})
	r.git("tag", "v1")
	g, remote, ref := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}, Ref{Tag: "v1"}
	pull(t, g, r, remote, ref)
	r.signing(me, "tag", "-f", "-s", "-m", "x", "v1")
	c, err := g.Fetch(context.Background(), remote, ref, Question{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := KeysFrom(map[string][]byte{"x.sshpub": me.sshpub()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Verify(context.Background(), remote, ref, c, false, true, keys); err != nil {
		t.Error(err)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	me := newAuthor(t)
	for name, data := range map[string]map[string][]byte{
		"none":         {},
		"other names":  {"key": me.asc()},
		"no PGP":       {"a.asc": []byte("x")},
		"one bad":      {"a.asc": me.asc(), "b.asc": nil},
		"no SSH":       {"a.sshpub": []byte("ssh-ed25519 AAAA")},
		"an option":    {"a.sshpub": append([]byte(`me@example.com valid-before="20200101" `), me.sshpub()...)},
		"an authority": {"a.sshpub": append([]byte("cert-authority "), me.sshpub()...)},
	} {
		if _, err := KeysFrom(data); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestA12_UnverifiedIsNotServed goes from a signed commit to an unsigned one, to one whose keys are gone, and back.
func TestA12_UnverifiedIsNotServed(t *testing.T) {
	r, me := newRepo(t), newAuthor(t)
	r.commit("c", map[string]string{"n": "1"})
	signed := r.signPGP(me)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "keys"}, Data: map[string][]byte{"me.asc": me.asc()}}
	w := newWorld(t, secret, gitRepository(serveHTTP(t, r, nil).url, func(s *sourcev1.GitRepositorySpec) {
		s.Verification = &sourcev1.GitRepositoryVerification{Mode: "HEAD", SecretRef: meta.LocalObjectReference{Name: "keys"}}
	}))
	o, _ := w.reconcile()
	want := append([]string{"SourceVerified=True Succeeded"}, healthy...)
	if diff := cmp.Diff(sorted(want), sorted(conditions(o))); diff != "" {
		t.Fatal(diff)
	}
	message := "verified signature of\n\t- commit '" + signed + "' with key '" + me.pgp.PrimaryKey.KeyIdString() + "'"
	if got := reconcile.Condition(o, sourcev1.SourceVerifiedCondition).Message; got != message {
		t.Errorf("message is %q, want %q", got, message)
	}
	if o.Status.SourceVerificationMode == nil || *o.Status.SourceVerificationMode != "HEAD" {
		t.Errorf("mode is %v", o.Status.SourceVerificationMode)
	}
	good := o.Status.Artifact

	r.commit("unsigned", map[string]string{"n": "2"})
	o, _ = w.reconcile()
	want = []string{"ArtifactInStorage=True Succeeded", "Ready=False InvalidCommitSignature", "SourceVerified=False InvalidCommitSignature"}
	if diff := cmp.Diff(want, sorted(conditions(o))); diff != "" {
		t.Error(diff)
	}
	if o.Status.Artifact.Revision != good.Revision {
		t.Errorf("serves %s", o.Status.Artifact.Revision)
	}

	r.git("reset", "-q", "--hard", signed)
	if err := w.client.Delete(context.Background(), secret); err != nil {
		t.Fatal(err)
	}
	if o, _ = w.reconcile(); reconcile.Condition(o, "Ready").Reason != "VerificationError" {
		t.Errorf("without keys: %v", conditions(o))
	}
	secret.ResourceVersion = ""
	if err := w.client.Create(context.Background(), secret); err != nil {
		t.Fatal(err)
	}
	if o, _ = w.reconcile(); reconcile.Condition(o, "Ready").Status != metav1.ConditionTrue {
		t.Errorf("at last: %v", conditions(o))
	}
	w.change(func(o *sourcev1.GitRepository) { o.Spec.Verification = nil })
	if o, _ = w.reconcile(); o.Status.SourceVerificationMode != nil || len(conditions(o)) != len(healthy) {
		t.Errorf("without spec.verify: %v, %v", conditions(o), o.Status.SourceVerificationMode)
	}
}

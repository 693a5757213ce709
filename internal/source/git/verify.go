package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/cleat-dev/cleat/internal/source"
)

// Errors of verification that callers tell apart.
var (
	ErrKeys            = errors.New("no usable public keys")
	ErrCommitSignature = errors.New("invalid commit signature")
	ErrTagSignature    = errors.New("invalid tag signature")
	ErrNoTag           = errors.New("no tag to verify")
)

const (
	// maxSigned is the size up to which a commit or tag is verified.
	maxSigned = 1 << 20
	// sshNamespace is what Git signs for; a signature made for anything else does not count.
	sshNamespace = "git"
)

// Keys are those of the authors who are trusted.
type Keys struct {
	pgp openpgp.EntityList
	ssh []ssh.PublicKey
}

// KeysFrom reads the Secret of spec.verify.secretRef: PGP keys in armour under *.asc, and SSH keys under *.sshpub, a line
// each as in authorized_keys or, with the principals before it, as in Git's allowed signers. All of them must be readable:
// one that is left out by mistake should not be noticed only when its owner commits.
func KeysFrom(data map[string][]byte) (Keys, error) {
	var keys Keys
	for _, name := range slices.Sorted(maps.Keys(data)) {
		switch {
		case strings.HasSuffix(name, ".asc"):
			ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data[name]))
			if err != nil {
				return Keys{}, fmt.Errorf("%w: %q holds no PGP public key in armour", ErrKeys, name)
			}
			keys.pgp = append(keys.pgp, ring...)
		case strings.HasSuffix(name, ".sshpub"):
			signers, err := allowedSigners(string(data[name]))
			if err != nil {
				return Keys{}, fmt.Errorf("%w: %q: %w", ErrKeys, name, err)
			}
			keys.ssh = append(keys.ssh, signers...)
		default:
			// Another use of the same Secret.
		}
	}
	if len(keys.pgp) == 0 && len(keys.ssh) == 0 {
		return Keys{}, fmt.Errorf("%w: the Secret has neither a PGP key under a name with .asc nor an SSH key under one with .sshpub", ErrKeys)
	}
	return keys, nil
}

func allowedSigners(text string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d is no SSH public key", number)
		case len(options) > 0 && !onlyPrincipals(line, key):
			// An option such as valid-before or cert-authority restricts what a key may do, so it cannot be passed over.
			return nil, fmt.Errorf("line %d has options, which are not supported; leave only the key", number)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// onlyPrincipals reports whether all that stands before the key in its line is a list of e-mail addresses or names.
func onlyPrincipals(line string, key ssh.PublicKey) bool {
	before, _, _ := strings.Cut(line, key.Type())
	fields := strings.Fields(before)
	return len(fields) == 1 && !strings.ContainsAny(fields[0], `="`) && fields[0] != "cert-authority"
}

// Verify checks the signature of a fetched commit (head), of the annotated tag that led to it (tag), or both, and says in
// Flux's words what it found. Whatever is missing or does not fit is an error (faults.md A12).
func (g *Fetcher) Verify(ctx context.Context, remote Remote, ref Ref, c Commit, head, tag bool, keys Keys) (string, error) {
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		return "", err
	}
	return source.Detached(ctx, &g.mirrors.work, func() (string, error) {
		if err := mi.take(ctx); err != nil {
			return "", err
		}
		defer mi.give()
		if err := mi.open(time.Now()); err != nil {
			return "", err
		}
		said := ""
		err := mi.read(ctx, func() (err error) {
			said, err = mi.verify(c, head, tag, keys)
			return err
		})
		return said, err
	}, func(string) {})
}

func (mi *mirror) verify(c Commit, head, tag bool, keys Keys) (string, error) {
	var said []string
	if tag {
		if c.Tag == "" {
			return "", fmt.Errorf("%w: the ref leads to commit %s without an annotated tag, which alone can be signed; use spec.ref.tag or spec.ref.semver with such a tag, or spec.verify.mode HEAD", ErrNoTag, c.Hash)
		}
		name, key, err := mi.verifyTag(c, keys)
		if err != nil {
			return "", err
		}
		said = append(said, fmt.Sprintf("tag '%s@%s' with key '%s'", name, c.Tag, key))
	}
	if head {
		key, err := mi.verifyCommit(c, keys)
		if err != nil {
			return "", err
		}
		said = append(said, fmt.Sprintf("commit '%s' with key '%s'", c.Hash, key))
	}
	if len(said) == 0 {
		return "", errors.New("nothing was verified")
	}
	return "verified signature of\n\t- " + strings.Join(said, "\n\t- "), nil
}

func (mi *mirror) verifyCommit(c Commit, keys Keys) (string, error) {
	raw, err := mi.raw(plumbing.CommitObject, c.Hash)
	if err != nil {
		return "", err
	}
	commit, err := mi.commit(plumbing.NewHash(c.Hash))
	if err != nil {
		return "", err
	}
	payload, signature, err := splitCommit(raw)
	// What is signed must be what is used, however strangely the object is written.
	if err == nil && !bytes.HasPrefix(payload, []byte("tree "+commit.TreeHash.String()+"\n")) {
		err = errors.New("the object is malformed")
	}
	if err == nil {
		var key string
		if key, err = keys.check(payload, signature); err == nil {
			return key, nil
		}
	}
	return "", fmt.Errorf("%w: signature verification of commit '%s' failed: %w", ErrCommitSignature, c.Hash, err)
}

// verifyTag returns the name that the tag was signed under. It must be the one that was asked for: otherwise whoever can
// push might give an old signed tag out as a new version.
func (mi *mirror) verifyTag(c Commit, keys Keys) (name, key string, err error) {
	raw, err := mi.raw(plumbing.TagObject, c.Tag)
	if err != nil {
		return "", "", err
	}
	payload, signature, err := splitTag(raw)
	if err == nil {
		name, _, _ = strings.Cut(c.Revision, "@")
		name = strings.TrimPrefix(name, tags)
		want := fmt.Sprintf("object %s\ntype commit\ntag %s\n", c.Hash, name)
		if !bytes.HasPrefix(payload, []byte(want)) {
			err = fmt.Errorf("it was not made for commit %s under the name %q", c.Hash, name)
		}
	}
	if err == nil {
		key, err = keys.check(payload, signature)
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: signature verification of tag '%s@%s' failed: %w", ErrTagSignature, name, c.Tag, err)
	}
	return name, key, nil
}

// raw returns the bytes of an object, the ones that its hash and its signature are about.
func (mi *mirror) raw(kind plumbing.ObjectType, hash string) ([]byte, error) {
	o, err := mi.storage.EncodedObject(kind, plumbing.NewHash(hash))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMirror, err)
	}
	if o.Size() > maxSigned {
		return nil, fmt.Errorf("%w: the %s %s is larger than %d bytes", source.ErrLimit, kind, hash, maxSigned)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMirror, err)
	}
	defer r.Close()
	return io.ReadAll(r)
}

// errUnsigned: there is no signature.
var errUnsigned = errors.New("it is not signed")

// splitCommit takes the header gpgsig, with its continuation lines, out of a commit: the rest is what was signed.
func splitCommit(raw []byte) (payload, signature []byte, err error) {
	header, body, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		return nil, nil, errors.New("the object is malformed")
	}
	signatures, inside := 0, false
	for line := range bytes.SplitSeq(header, []byte("\n")) {
		switch first, isFirst := bytes.CutPrefix(line, []byte("gpgsig ")); {
		case isFirst:
			signatures, inside = signatures+1, true
			signature = append(append(signature, first...), '\n')
		case inside && bytes.HasPrefix(line, []byte(" ")):
			signature = append(append(signature, line[1:]...), '\n')
		default:
			inside = false
			payload = append(append(payload, line...), '\n')
		}
	}
	if signatures == 0 {
		return nil, nil, errUnsigned
	}
	if signatures > 1 {
		return nil, nil, errors.New("it has more than one signature")
	}
	return append(append(payload, '\n'), body...), signature, nil
}

// splitTag takes the signature off the end of a tag's message.
func splitTag(raw []byte) (payload, signature []byte, err error) {
	at := -1
	for _, begin := range []string{pgpBegin, sshBegin} {
		at = max(at, bytes.LastIndex(raw, []byte("\n"+begin)))
	}
	if at < 0 {
		return nil, nil, errUnsigned
	}
	return raw[:at+1], raw[at+1:], nil
}

const (
	pgpBegin = "-----BEGIN PGP SIGNATURE-----"
	sshBegin = "-----BEGIN SSH SIGNATURE-----"
)

// check returns the id of the key that made the signature, if it is one of k.
func (k Keys) check(payload, signature []byte) (string, error) {
	switch {
	case bytes.HasPrefix(signature, []byte(pgpBegin)):
		return k.checkPGP(payload, signature)
	case bytes.HasPrefix(signature, []byte(sshBegin)):
		return k.checkSSH(payload, signature)
	}
	return "", errors.New("the signature is of another kind than PGP and SSH")
}

func (k Keys) checkPGP(payload, signature []byte) (string, error) {
	signer, err := openpgp.CheckArmoredDetachedSignature(k.pgp, bytes.NewReader(payload), bytes.NewReader(signature), nil)
	if err != nil {
		return "", fmt.Errorf("unable to verify payload with any of the given key rings: %w", err)
	}
	return signer.PrimaryKey.KeyIdString(), nil
}

func (k Keys) checkSSH(payload, signature []byte) (string, error) {
	s, err := sshsig.Unarmor(signature)
	if err != nil {
		return "", errors.New("the SSH signature cannot be read")
	}
	if s.Signature.Format == ssh.KeyAlgoRSA {
		return "", errors.New("the SSH signature is made with SHA-1")
	}
	for _, key := range k.ssh {
		if bytes.Equal(key.Marshal(), s.PublicKey.Marshal()) {
			if err := sshsig.Verify(bytes.NewReader(payload), s, key, s.HashAlgorithm, sshNamespace); err != nil {
				return "", errors.New("the SSH signature does not fit")
			}
			return ssh.FingerprintSHA256(key), nil
		}
	}
	return "", fmt.Errorf("the key %s is not among the allowed signers", ssh.FingerprintSHA256(s.PublicKey))
}

package oci

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

const (
	bundleType        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	classicBundleType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	payloadType       = "application/vnd.dev.cosign.simplesigning.v1+json"
	payloadPurpose    = "cosign container image signature"
	// signPredicate is the one kind of statement that is a signature. A bundle can also hold an attestation, which says
	// something about the artifact, but not that it is to be trusted.
	signPredicate = "https://sigstore.dev/cosign/sign/v1"

	signatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	rekorAnnotation       = "dev.sigstore.cosign/bundle"
	timestampAnnotation   = "dev.sigstore.cosign/rfc3161timestamp"

	publicKeySuffix = ".pub"
	trustedRootKey  = "trusted_root.json"
)

// cosign accepts what cosign signs, in both formats: the classic one, a manifest under the tag sha256-<hex>.sig, and
// bundles that refer to the digest, which is what version 3 writes.
type cosign struct {
	// trust returns what signatures are checked against; one of them must accept.
	trust       func(context.Context) ([]trust, error)
	anyIdentity bool
}

// trust is one way to accept a signature.
type trust struct {
	verifier *verify.Verifier
	policy   []verify.PolicyOption
}

// newCosignKeys trusts the public keys of a Secret. The transparency log is not asked for, as Flux does not: whoever has
// the key has no need of it.
func newCosignKeys(secret map[string][]byte) (*cosign, error) {
	var all []trust
	for _, name := range sortedKeys(secret) {
		if !strings.HasSuffix(name, publicKeySuffix) {
			continue
		}
		key, err := cryptoutils.UnmarshalPEMToPublicKey(secret[name])
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's %q is not a public key in PEM", errPolicy, name)
		}
		v, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%w: the Secret's %q is a kind of key that cannot be used", errPolicy, name)
		}
		material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(v, time.Time{}, time.Time{}), nil
		})
		verifier, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errPolicy, err)
		}
		all = append(all, trust{verifier, []verify.PolicyOption{verify.WithKey()}})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: the Secret of spec.verify.secretRef has no key that ends in %q with a public key", errPolicy, publicKeySuffix)
	}
	return &cosign{trust: func(context.Context) ([]trust, error) { return all, nil }}, nil
}

// newCosignKeyless trusts certificates of the given identities that a trusted authority issued at the time of signing. The
// root of that trust is the Secret's, or that of the public Sigstore instance.
func newCosignKeyless(matches []sourcev1.OIDCIdentityMatch, secret map[string][]byte, public func(context.Context) (root.TrustedMaterial, error)) (*cosign, error) {
	var options []verify.PolicyOption
	for i, m := range matches {
		identity, err := verify.NewShortCertificateIdentity("", m.Issuer, "", m.Subject)
		if err != nil {
			return nil, fmt.Errorf("%w: spec.verify.matchOIDCIdentity[%d] holds no two regular expressions: %w", errPolicy, i, err)
		}
		options = append(options, verify.WithCertificateIdentity(identity))
	}
	c := &cosign{anyIdentity: len(matches) == 0}
	if c.anyIdentity {
		options = append(options, verify.WithoutIdentitiesUnsafe())
	}
	var given root.TrustedMaterial
	if secret != nil {
		var err error
		if given, err = root.NewTrustedRootFromJSON(secret[trustedRootKey]); err != nil {
			return nil, fmt.Errorf("%w: the Secret of spec.verify.trustedRootSecretRef has no key %q with a trusted root of Sigstore", errPolicy, trustedRootKey)
		}
	}
	c.trust = func(ctx context.Context) ([]trust, error) {
		m := given
		if m == nil {
			var err error
			if m, err = public(ctx); err != nil {
				return nil, err
			}
		}
		verifier, err := verify.NewVerifier(m, keylessRules(m)...)
		if err != nil {
			return nil, fmt.Errorf("%w: the trusted root cannot be used: %w", errPolicy, err)
		}
		return []trust{{verifier, options}}, nil
	}
	return c, nil
}

// keylessRules asks for a time that somebody else vouches for, at which the certificate was valid, and for an entry in each
// log that the trusted root knows. An installation of one's own may have none of a kind.
func keylessRules(m root.TrustedMaterial) []verify.VerifierOption {
	rules := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
	if len(m.RekorLogs()) > 0 {
		rules = append(rules, verify.WithTransparencyLog(1))
	}
	if len(m.CTLogs()) > 0 {
		rules = append(rules, verify.WithSignedCertificateTimestamps(1))
	}
	return rules
}

func (c *cosign) told() string {
	if c.anyIdentity {
		return ", made by anybody: name whom to trust in spec.verify.matchOIDCIdentity"
	}
	return ""
}

func (c *cosign) verify(ctx context.Context, s *session, target v1.Descriptor, notBefore time.Time) error {
	trusted, err := c.trust(ctx)
	if err != nil {
		return err
	}
	var rejected verdicts
	for _, list := range []func(context.Context, *session, string, time.Time) ([]candidate, error){bundles, classic} {
		candidates, err := list(ctx, s, target.Digest.String(), notBefore)
		if err != nil {
			return err
		}
		for _, found := range candidates {
			err := found.check(ctx, s, target.Digest, trusted)
			if err == nil {
				return nil
			}
			if ended := ends(ctx, err); ended != nil {
				return ended
			}
			rejected.reject(err)
		}
	}
	return rejected.err(target.Digest.String())
}

// candidate is a signature that has been found and not yet looked at.
type candidate interface {
	check(ctx context.Context, s *session, target v1.Hash, trusted []trust) error
}

// accepted tries one bundle against all that is trusted.
func accepted(b *bundle.Bundle, of verify.ArtifactPolicyOption, trusted []trust) (*verify.VerificationResult, error) {
	var first error
	for _, t := range trusted {
		result, err := t.verifier.Verify(b, verify.NewPolicy(of, t.policy...))
		if err == nil {
			return result, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// bundles lists what refers to the digest as a Sigstore bundle.
func bundles(ctx context.Context, s *session, digest string, notBefore time.Time) ([]candidate, error) {
	all, err := s.referrers(ctx, digest, bundleType, notBefore)
	if err != nil {
		return nil, fmt.Errorf("looking for signatures of %s: %w", digest, err)
	}
	var found []candidate
	for _, d := range all {
		found = append(found, bundleCandidate(d))
	}
	return found, nil
}

// bundleCandidate describes the manifest that holds a bundle as its layer.
type bundleCandidate v1.Descriptor

func (c bundleCandidate) check(ctx context.Context, s *session, target v1.Hash, trusted []trust) error {
	text, err := signatureLayer(ctx, s, c.Digest.String(), func(d v1.Descriptor) bool { return string(d.MediaType) == bundleType })
	if err != nil {
		return err
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(text.content); err != nil {
		return errors.New("the bundle cannot be read")
	}
	digest, err := hex.DecodeString(target.Hex)
	if err != nil {
		return err
	}
	result, err := accepted(&b, verify.WithArtifactDigest(target.Algorithm, digest), trusted)
	if err != nil {
		return err
	}
	if result.Statement != nil && result.Statement.GetPredicateType() != signPredicate {
		return fmt.Errorf("it is an attestation (%s) and not a signature", result.Statement.GetPredicateType())
	}
	return nil
}

// signatureBlob is a layer of a manifest that holds signatures.
type signatureBlob struct {
	v1.Descriptor
	content []byte
}

// signatureLayer reads the first layer of a manifest that is wanted.
func signatureLayer(ctx context.Context, s *session, manifest string, wanted func(v1.Descriptor) bool) (signatureBlob, error) {
	text, err := s.manifest(ctx, manifest)
	if err != nil {
		return signatureBlob{}, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return signatureBlob{}, errors.New("the manifest of a signature cannot be read")
	}
	for _, l := range m.Layers {
		if wanted(l) {
			content, err := s.small(ctx, l)
			return signatureBlob{l, content}, err
		}
	}
	return signatureBlob{}, errors.New("the manifest of a signature has no layer with one")
}

// classic lists the signatures in the manifest that is tagged after the digest.
func classic(ctx context.Context, s *session, digest string, notBefore time.Time) ([]candidate, error) {
	d, err := s.head(ctx, strings.Replace(digest, ":", "-", 1)+".sig", notBefore)
	if errors.Is(err, errNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for signatures of %s: %w", digest, err)
	}
	text, err := s.manifest(ctx, d.Digest)
	if err != nil {
		return nil, fmt.Errorf("reading the signatures of %s: %w", digest, err)
	}
	m, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w: the manifest of the signatures of %s cannot be read", errUnsigned, digest)
	}
	var found []candidate
	for _, l := range m.Layers {
		if l.MediaType == payloadType && len(found) < maxSignatures {
			found = append(found, classicCandidate(l))
		}
	}
	return found, nil
}

// classicCandidate describes a layer that is the signed payload; the signature is in its annotations.
type classicCandidate v1.Descriptor

func (c classicCandidate) check(ctx context.Context, s *session, target v1.Hash, trusted []trust) error {
	payload, err := s.small(ctx, v1.Descriptor(c))
	if err != nil {
		return err
	}
	b, err := classicBundle(c.Annotations, payload)
	if err != nil {
		return err
	}
	if _, err := accepted(b, verify.WithArtifact(bytes.NewReader(payload)), trusted); err != nil {
		return err
	}
	return checkPayload(payload, target.String())
}

// checkPayload makes sure that what was signed speaks of the artifact.
func checkPayload(payload []byte, digest string) error {
	var p struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	switch err := json.Unmarshal(payload, &p); {
	case err != nil:
		return errors.New("the signed payload cannot be read")
	case p.Critical.Type != payloadPurpose:
		return errors.New("what was signed is not an artifact")
	case p.Critical.Image.Digest != digest:
		return errors.New("the signature is for another digest")
	}
	return nil
}

// classicBundle puts the annotations of a classic signature into the form of a bundle, so that one verifier judges both.
func classicBundle(annotations map[string]string, payload []byte) (*bundle.Bundle, error) {
	sig, err := base64.StdEncoding.DecodeString(annotations[signatureAnnotation])
	if err != nil || len(sig) == 0 {
		return nil, errors.New("the signature cannot be read")
	}
	material := &protobundle.VerificationMaterial{}
	if err := addCertificates(material, annotations); err != nil {
		return nil, err
	}
	if err := addLogEntry(material, annotations[rekorAnnotation]); err != nil {
		return nil, err
	}
	if err := addTimestamp(material, annotations[timestampAnnotation]); err != nil {
		return nil, err
	}
	digest, err := hex.DecodeString(strings.TrimPrefix(digestOf(payload), "sha256:"))
	if err != nil {
		return nil, err
	}
	return bundle.NewBundle(&protobundle.Bundle{
		MediaType:            classicBundleType,
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest},
			Signature:     sig,
		}},
	})
}

func addCertificates(material *protobundle.VerificationMaterial, annotations map[string]string) error {
	text := annotations[certificateAnnotation]
	if text == "" {
		material.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}
		return nil
	}
	chain := &protocommon.X509CertificateChain{}
	for rest := []byte(text + "\n" + annotations[chainAnnotation]); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		chain.Certificates = append(chain.Certificates, &protocommon.X509Certificate{RawBytes: block.Bytes})
	}
	if len(chain.Certificates) == 0 {
		return errors.New("the certificate of the signature cannot be read")
	}
	material.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: chain}
	return nil
}

// addLogEntry takes over what the transparency log promised when the signature was made.
func addLogEntry(material *protobundle.VerificationMaterial, text string) error {
	if text == "" {
		return nil
	}
	var entry struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	unreadable := errors.New("the log entry of the signature cannot be read")
	if json.Unmarshal([]byte(text), &entry) != nil || json.Unmarshal(entry.Payload.Body, &kind) != nil {
		return unreadable
	}
	id, err := hex.DecodeString(entry.Payload.LogID)
	if err != nil {
		return unreadable
	}
	material.TlogEntries = []*protorekor.TransparencyLogEntry{{
		LogIndex: entry.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    entry.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: entry.SignedEntryTimestamp},
		CanonicalizedBody: entry.Payload.Body,
	}}
	return nil
}

func addTimestamp(material *protobundle.VerificationMaterial, text string) error {
	if text == "" {
		return nil
	}
	var stamp struct{ SignedRFC3161Timestamp []byte }
	if json.Unmarshal([]byte(text), &stamp) != nil {
		return errors.New("the timestamp of the signature cannot be read")
	}
	material.TimestampVerificationData = &protobundle.TimestampVerificationData{
		Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamp.SignedRFC3161Timestamp}},
	}
	return nil
}

package oci

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	coresignature "github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/testhelper"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"golang.org/x/crypto/ocsp"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// attached is a layer with a signature or what surrounds one, and how it is attached.
type attached struct {
	content     []byte
	mediaType   types.MediaType
	annotations map[string]string
}

// attachClassic puts signatures where cosign 2 puts those of a digest.
func attachClassic(t *testing.T, s *server, of v1.Hash, signatures ...attached) {
	t.Helper()
	made := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, sig := range signatures {
		var err error
		if made, err = mutate.Append(made, mutate.Addendum{Layer: static.NewLayer(sig.content, payloadType), Annotations: sig.annotations}); err != nil {
			t.Fatal(err)
		}
	}
	s.push(t, "app", strings.Replace(of.String(), ":", "-", 1)+".sig", made)
}

// attachReferrer puts an artifact of the type beside the one it refers to.
func attachReferrer(t *testing.T, s *server, of v1.Descriptor, artifactType string, sig attached) {
	t.Helper()
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(artifactType))
	made, err := mutate.Append(made, mutate.Addendum{Layer: static.NewLayer(sig.content, sig.mediaType)})
	if err != nil {
		t.Fatal(err)
	}
	s.push(t, "app", "", mutate.Subject(made, of).(v1.Image))
}

func describe(t *testing.T, image v1.Image) v1.Descriptor {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := image.Size()
	if err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: d, Size: size}
}

func payloadFor(digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, digest, payloadPurpose)
}

func sign(t *testing.T, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func classicByKey(t *testing.T, key *ecdsa.PrivateKey, digest string) attached {
	payload := payloadFor(digest)
	return attached{payload, payloadType, map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sign(t, key, payload))}}
}

func statement(digest, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		strings.TrimPrefix(digest, "sha256:"), predicate)
}

const inToto = "application/vnd.in-toto+json"

// bundleByKey makes what cosign 3 makes with a key.
func bundleByKey(t *testing.T, key *ecdsa.PrivateKey, digest, predicate string) attached {
	t.Helper()
	body := statement(digest, predicate)
	sig := sign(t, key, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(inToto), inToto, len(body), body))
	return encodeBundle(t, &protobundle.Bundle{
		MediaType: bundleType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "k"}}},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: body, PayloadType: inToto, Signatures: []*protodsse.Signature{{Sig: sig}}}},
	})
}

func encodeBundle(t *testing.T, b *protobundle.Bundle) attached {
	t.Helper()
	made, err := bundle.NewBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	text, err := made.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return attached{content: text, mediaType: bundleType}
}

func publicPEM(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// verified expects the object to be stored, or not to be for want of a signature.
func verified(t *testing.T, w *world, accepted bool) *sourcev1.OCIRepository {
	t.Helper()
	o, _ := w.reconcile()
	want := []string{"Ready=True Succeeded", "SourceVerified=True Succeeded", "ArtifactInStorage=True Succeeded"}
	if !accepted {
		want = []string{"Reconciling=True ProgressingWithRetry", "Ready=False VerificationError", "SourceVerified=False VerificationError"}
	}
	t.Log(message(o, "SourceVerified")) // so that a refusal for another reason can be seen
	got := map[string]bool{}
	for _, c := range conditions(o) {
		got[c] = true
	}
	for _, c := range want {
		if !got[c] {
			t.Errorf("no condition %s in %q: %s", c, conditions(o), message(o, "Ready"))
		}
	}
	if (o.Status.Artifact != nil) != accepted {
		t.Errorf("artifact is %+v", o.Status.Artifact)
	}
	return o
}

func TestA12_CosignKeys(t *testing.T) {
	key, other := newKey(t), newKey(t)
	elsewhere := files(t, map[string]string{"n": "other"})
	signedElsewhere := describe(t, elsewhere).Digest.String()
	for name, tt := range map[string]struct {
		sign     func(t *testing.T, s *server, d v1.Descriptor)
		accepted bool
	}{
		"classic": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, classicByKey(t, key, d.Digest.String()))
		}, true},
		"classic, second of two": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, classicByKey(t, other, d.Digest.String()), classicByKey(t, key, d.Digest.String()))
		}, true},
		"bundle": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleByKey(t, key, d.Digest.String(), signPredicate))
		}, true},
		"none": {func(*testing.T, *server, v1.Descriptor) {}, false},
		"classic by another key": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, classicByKey(t, other, d.Digest.String()))
		}, false},
		"classic for another digest": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, classicByKey(t, key, signedElsewhere))
		}, false},
		"classic whose payload was changed": {func(t *testing.T, s *server, d v1.Descriptor) {
			sig := classicByKey(t, key, signedElsewhere)
			sig.content = payloadFor(d.Digest.String())
			attachClassic(t, s, d.Digest, sig)
		}, false},
		"classic without a signature": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, attached{content: payloadFor(d.Digest.String())})
		}, false},
		"bundle by another key": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleByKey(t, other, d.Digest.String(), signPredicate))
		}, false},
		"bundle for another digest": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleByKey(t, key, signedElsewhere, signPredicate))
		}, false},
		"bundle that is an attestation": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleByKey(t, key, d.Digest.String(), "https://slsa.dev/provenance/v1"))
		}, false},
		"bundle that is none": {func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, attached{content: []byte("{}"), mediaType: bundleType})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			artifact := files(t, map[string]string{"n": "1"})
			s.push(t, "app", "latest", artifact)
			tt.sign(t, s, describe(t, artifact))
			w := newWorld(t, secretOf("keys", map[string]string{"cosign.pub": publicPEM(t, key)}), verifying(s, &sourcev1.OCIRepositoryVerification{
				Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"},
			}))
			o := verified(t, w, tt.accepted)
			if tt.accepted && message(o, "SourceVerified") != "verified signature of revision "+o.Status.Artifact.Revision {
				t.Errorf("message is %q", message(o, "SourceVerified"))
			}
		})
	}
}

func verifying(s *server, v *sourcev1.OCIRepositoryVerification) client.Object {
	return repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Verify = v })
}

func TestA12_SecretsWithoutKeysAreRefused(t *testing.T) {
	s := serve(t)
	s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	ref := &meta.LocalObjectReference{Name: "keys"}
	for name, tt := range map[string]struct {
		verify *sourcev1.OCIRepositoryVerification
		data   map[string]string
	}{
		"empty":            {&sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: ref}, nil},
		"no key":           {&sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: ref}, map[string]string{"cosign.pub": "x"}},
		"no trusted root":  {&sourcev1.OCIRepositoryVerification{Provider: "cosign", TrustedRootSecretRef: ref}, map[string]string{"x": "y"}},
		"no trust policy":  {&sourcev1.OCIRepositoryVerification{Provider: "notation", SecretRef: ref}, map[string]string{"ca.crt": "x"}},
		"nothing to trust": {&sourcev1.OCIRepositoryVerification{Provider: "notation"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, secretOf("keys", tt.data), verifying(s, tt.verify))
			if o, _ := w.reconcile(); ready(o) != "False VerificationError" || o.Status.Artifact != nil {
				t.Errorf("%s: %s", ready(o), message(o, "Ready"))
			}
		})
	}
}

// TestA12_WhatIsVerifiedIsPulled moves the tag as soon as the signature is looked for.
func TestA12_WhatIsVerifiedIsPulled(t *testing.T) {
	s, key := serve(t), newKey(t)
	good, evil := files(t, map[string]string{"n": "good"}), files(t, map[string]string{"n": "evil"})
	digest := s.push(t, "app", "latest", good)
	attachClassic(t, s, digest, classicByKey(t, key, digest.String()))
	s.hook(func(_ http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, ".sig") {
			s.push(t, "app", "latest", evil)
		}
		return false
	})
	w := newWorld(t, secretOf("keys", map[string]string{"cosign.pub": publicPEM(t, key)}), verifying(s, &sourcev1.OCIRepositoryVerification{
		Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"},
	}))
	o := verified(t, w, true)
	if diff := cmp.Diff([]string{"n=good"}, w.stored(o)); diff != "" || o.Status.Artifact.Revision != "latest@"+digest.String() {
		t.Errorf("stored %s:\n%s", o.Status.Artifact.Revision, diff)
	}
	// The next poll finds what the tag was moved to: unsigned, so the good one stays.
	w.clock.pass(time.Minute)
	o, _ = w.reconcile()
	if diff := cmp.Diff([]string{"n=good"}, w.stored(o)); diff != "" || ready(o) != "False VerificationError" {
		t.Errorf("%s, stored:\n%s", ready(o), diff)
	}
	// And when it is moved back, what is stored is verified again before it is called so.
	s.push(t, "app", "latest", good)
	s.hook(nil)
	w.clock.pass(time.Minute)
	verified(t, w, true)
}

// TestA12_SwitchingVerificationOn looks at what is stored already.
func TestA12_SwitchingVerificationOn(t *testing.T) {
	s, key := serve(t), newKey(t)
	digest := s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
	w := newWorld(t, secretOf("keys", map[string]string{"cosign.pub": publicPEM(t, key)}), repository(s.url("app"), nil))
	w.reconcile()
	w.change(func(o *sourcev1.OCIRepository) {
		o.Generation = 2
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"}}
	})
	if o, _ := w.reconcile(); ready(o) != "False VerificationError" {
		t.Errorf("unsigned: %s", ready(o))
	}
	attachClassic(t, s, digest, classicByKey(t, key, digest.String()))
	w.clock.pass(5 * time.Second)
	verified(t, w, true)
}

// sigstore is an installation of Sigstore without a log of certificates.
type sigstore struct{ *ca.VirtualSigstore }

func (sigstore) CTLogs() map[string]*root.TransparencyLog { return nil }

const issuer, subject = "https://issuer.example.com", "builder@example.com"

// logged adds to an entry what the log itself says of it.
func logged(t *testing.T, of *ca.VirtualSigstore, e *tlog.Entry) *protorekor.TransparencyLogEntry {
	t.Helper()
	entry := e.TransparencyLogEntry()
	id, err := of.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	promise, err := of.RekorSignPayload(tlog.RekorPayload{
		LogID: id, IntegratedTime: entry.IntegratedTime, LogIndex: entry.LogIndex, Body: base64.StdEncoding.EncodeToString(entry.CanonicalizedBody),
	})
	if err != nil {
		t.Fatal(err)
	}
	entry.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: promise}
	var kind struct{ Kind, APIVersion string }
	if err := json.Unmarshal(entry.CanonicalizedBody, &kind); err != nil {
		t.Fatal(err)
	}
	entry.KindVersion = &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion}
	return entry
}

// classicKeyless makes what cosign 2 makes of an identity.
func classicKeyless(t *testing.T, of *ca.VirtualSigstore, who, digest string, at time.Time) attached {
	t.Helper()
	payload := payloadFor(digest)
	entity, err := of.SignAtTime(who, issuer, payload, at)
	if err != nil {
		t.Fatal(err)
	}
	content, err := entity.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	material, err := entity.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	entry := logged(t, of, entries[0])
	text, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.InclusionPromise.SignedEntryTimestamp,
		"Payload": map[string]any{"body": entry.CanonicalizedBody, "integratedTime": entry.IntegratedTime, "logIndex": entry.LogIndex,
			"logID": hex.EncodeToString(entry.LogId.KeyId)},
	})
	if err != nil {
		t.Fatal(err)
	}
	var chain bytes.Buffer
	for _, authority := range of.FulcioCertificateAuthorities() {
		for _, c := range authority.(*root.FulcioCertificateAuthority).Intermediates {
			_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		}
	}
	return attached{payload, payloadType, map[string]string{
		signatureAnnotation:   base64.StdEncoding.EncodeToString(content.Signature()),
		certificateAnnotation: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: material.Certificate().Raw})),
		chainAnnotation:       chain.String(), rekorAnnotation: string(text),
	}}
}

// bundleKeyless makes what cosign 3 makes of an identity.
func bundleKeyless(t *testing.T, of *ca.VirtualSigstore, who, digest string) attached {
	t.Helper()
	entity, err := of.AttestAtTime(who, issuer, statement(digest, signPredicate), time.Now().Add(5*time.Minute), true)
	if err != nil {
		t.Fatal(err)
	}
	content, err := entity.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	material, err := entity.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	verification := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: material.Certificate().Raw}}}
	for _, e := range entries {
		verification.TlogEntries = append(verification.TlogEntries, logged(t, of, e))
	}
	return encodeBundle(t, &protobundle.Bundle{MediaType: bundleType, VerificationMaterial: verification,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement(digest, signPredicate), PayloadType: inToto, Signatures: []*protodsse.Signature{{Sig: content.Signature()}}}}})
}

func TestA12_CosignKeyless(t *testing.T) {
	trusted, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(5 * time.Minute)
	strict := []sourcev1.OIDCIdentityMatch{{Issuer: "^https://issuer\\.example\\.com$", Subject: "^builder@example\\.com$"}}
	classic := func(make func(t *testing.T, digest string) attached) func(*testing.T, *server, v1.Descriptor) {
		return func(t *testing.T, s *server, d v1.Descriptor) {
			attachClassic(t, s, d.Digest, make(t, d.Digest.String()))
		}
	}
	for name, tt := range map[string]struct {
		who      []sourcev1.OIDCIdentityMatch
		sign     func(t *testing.T, s *server, d v1.Descriptor)
		accepted bool
	}{
		"classic": {strict, classic(func(t *testing.T, digest string) attached { return classicKeyless(t, trusted, subject, digest, soon) }), true},
		"bundle": {strict, func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleKeyless(t, trusted, subject, d.Digest.String()))
		}, true},
		"anybody": {nil, classic(func(t *testing.T, digest string) attached {
			return classicKeyless(t, trusted, "x@example.net", digest, soon)
		}), true},
		"another identity": {strict, classic(func(t *testing.T, digest string) attached {
			return classicKeyless(t, trusted, "builder@example.com.evil.net", digest, soon)
		}), false},
		"another identity, bundle": {strict, func(t *testing.T, s *server, d v1.Descriptor) {
			attachReferrer(t, s, d, bundleType, bundleKeyless(t, trusted, "x@example.net", d.Digest.String()))
		}, false},
		"another authority": {strict, classic(func(t *testing.T, digest string) attached { return classicKeyless(t, foreign, subject, digest, soon) }), false},
		"expired when it was logged": {strict, classic(func(t *testing.T, digest string) attached {
			return classicKeyless(t, trusted, subject, digest, time.Now().Add(30*time.Minute))
		}), false},
		"log entry of another artifact": {strict, classic(func(t *testing.T, digest string) attached {
			sig := classicKeyless(t, trusted, subject, digest, soon)
			sig.annotations[rekorAnnotation] = classicKeyless(t, trusted, subject, digestOf([]byte("x")), soon).annotations[rekorAnnotation]
			return sig
		}), false},
		"no log entry": {strict, classic(func(t *testing.T, digest string) attached {
			sig := classicKeyless(t, trusted, subject, digest, soon)
			delete(sig.annotations, rekorAnnotation)
			return sig
		}), false},
		"by a key": {nil, classic(func(t *testing.T, digest string) attached { return classicByKey(t, newKey(t), digest) }), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			artifact := files(t, map[string]string{"n": "1"})
			s.push(t, "app", "latest", artifact)
			tt.sign(t, s, describe(t, artifact))
			w := newWorld(t, verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "cosign", MatchOIDCIdentity: tt.who}))
			w.root = sigstore{trusted}
			verified(t, w, tt.accepted)
		})
	}
}

// envelopeOf is signed by a certificate of the authority, an hour after that has become valid; nobody vouches for the time.
func envelopeOf(t *testing.T, by *authority, d v1.Descriptor, set func(*x509.Certificate)) attached {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "signer", Organization: []string{"Notary"}, Country: []string{"US"}, Province: []string{"WA"}},
		NotBefore: time.Now().Add(-47 * time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	set(template)
	local, err := coresignature.NewLocalSigner([]*x509.Certificate{signed(t, template, by.cert, key, by.key), by.cert}, key)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(map[string]any{"targetArtifact": d})
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := coresignature.NewEnvelope("application/jose+json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := envelope.Sign(&coresignature.SignRequest{
		Payload: coresignature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload},
		Signer:  local, SigningTime: template.NotBefore.Add(time.Hour), SigningScheme: coresignature.SigningSchemeX509, SigningAgent: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return attached{content: text, mediaType: "application/jose+json"}
}

// revoking answers for an authority who asks about the certificate with the number 3.
type revoking struct {
	by      *authority
	revoked bool
	silent  bool
	asked   atomic.Int32
}

func (r *revoking) ServeHTTP(res http.ResponseWriter, req *http.Request) {
	r.asked.Add(1)
	var answer []byte
	var err error
	now := time.Now()
	switch {
	case r.silent:
		res.WriteHeader(http.StatusInternalServerError)
		return
	case req.URL.Path == "/crl":
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
		if r.revoked {
			list.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(3), RevocationTime: now.Add(-time.Hour)}}
		}
		answer, err = x509.CreateRevocationList(rand.Reader, list, r.by.cert, r.by.key)
	default:
		status := ocsp.Response{Status: ocsp.Good, SerialNumber: big.NewInt(3), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
		if r.revoked {
			status.Status, status.RevokedAt = ocsp.Revoked, now.Add(-time.Hour)
		}
		answer, err = ocsp.CreateResponse(r.by.cert, r.by.cert, status, r.by.key)
	}
	if err != nil {
		res.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = res.Write(answer)
}

// TestA12_RevokedCertificates: whether that is asked, and what it means that nobody answers, the trust policy says.
func TestA12_RevokedCertificates(t *testing.T) {
	const ownWords = `,"override":{"revocation":"skip"}`
	for name, tt := range map[string]struct {
		level           string
		list            bool // of revoked certificates, instead of a responder
		host            string
		revoked, silent bool
		asked, accepted bool
	}{
		"good":                                  {level: `"strict"`, asked: true, accepted: true},
		"good by the list":                      {level: `"strict"`, list: true, asked: true, accepted: true},
		"revoked":                               {level: `"strict"`, revoked: true, asked: true},
		"revoked by the list":                   {level: `"strict"`, list: true, revoked: true, asked: true},
		"nobody answers":                        {level: `"strict"`, silent: true, asked: true},
		"nobody has the list":                   {level: `"strict"`, list: true, silent: true, asked: true},
		"nobody answers, which is allowed":      {level: `"permissive"`, silent: true, asked: true, accepted: true},
		"not asked":                             {level: `"strict"` + ownWords, revoked: true, accepted: true},
		"A18 at an address that is no source's": {level: `"strict"`, host: "0.0.0.0"},
		"A18 a list at an address that is no source's": {level: `"strict"`, list: true, host: "0.0.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			by := newAuthority(t)
			r := &revoking{by: by, revoked: tt.revoked, silent: tt.silent}
			responder := httptest.NewServer(r)
			t.Cleanup(responder.Close)
			at := responder.URL
			if tt.host != "" {
				at = strings.Replace(at, "127.0.0.1", tt.host, 1)
			}
			s := serve(t)
			artifact := files(t, map[string]string{"n": "1"})
			s.push(t, "app", "latest", artifact)
			attachReferrer(t, s, describe(t, artifact), notationType, envelopeOf(t, by, describe(t, artifact), func(c *x509.Certificate) {
				if tt.list {
					c.CRLDistributionPoints = []string{at + "/crl"}
				} else {
					c.OCSPServer = []string{at}
				}
			}))
			policy := `{"version":"1.0","trustPolicies":[{"name":"p","registryScopes":["*"],"signatureVerification":{"level":` + tt.level + `},` +
				`"trustStores":["ca:any"],"trustedIdentities":["*"]}]}`
			w := newWorld(t, secretOf("trust", map[string]string{"trustpolicy.json": policy, "ca.crt": by.pem}),
				verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "notation", SecretRef: &meta.LocalObjectReference{Name: "trust"}}))
			verified(t, w, tt.accepted)
			if asked := r.asked.Load() > 0; asked != tt.asked {
				t.Errorf("asked: %v", asked)
			}
		})
	}
}

// TestA12_TrustedRoot: an installation of one's own is trusted by the Secret that names it, and what its root knows of must
// have been asked.
func TestA12_TrustedRoot(t *testing.T) {
	own, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		logs     map[string]*root.TransparencyLog // of certificates
		accepted bool
	}{
		"without a log of certificates":              {nil, true},
		"the log of certificates has not been asked": {own.CTLogs(), false},
	} {
		t.Run(name, func(t *testing.T) {
			material, err := root.NewTrustedRoot(root.TrustedRootMediaType01, own.FulcioCertificateAuthorities(), named(t, tt.logs), own.TimestampingAuthorities(), named(t, own.RekorLogs()))
			if err != nil {
				t.Fatal(err)
			}
			text, err := material.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			s := serve(t)
			digest := s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
			attachClassic(t, s, digest, classicKeyless(t, own, subject, digest.String(), time.Now().Add(5*time.Minute)))
			w := newWorld(t, secretOf("root", map[string]string{"trusted_root.json": string(text)}), verifying(s, &sourcev1.OCIRepositoryVerification{
				Provider: "cosign", TrustedRootSecretRef: &meta.LocalObjectReference{Name: "root"},
				MatchOIDCIdentity: []sourcev1.OIDCIdentityMatch{{Issuer: ".*", Subject: subject}},
			}))
			verified(t, w, tt.accepted)
		})
	}
}

// named gives logs the ID that their entries have, which the library for tests leaves in hexadecimal.
func named(t *testing.T, logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
	t.Helper()
	for id, l := range logs {
		var err error
		if l.ID, err = hex.DecodeString(id); err != nil {
			t.Fatal(err)
		}
	}
	return logs
}

func TestA12_Notation(t *testing.T) {
	leaf, authority := testhelper.GetRSALeafCertificate(), testhelper.GetRSARootCertificate()
	certPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Cert.Raw}))
	foreign := testhelper.GetRSASelfSignedSigningCertTuple("somebody else")
	old := newAuthority(t)
	policy := func(level, identity string) string {
		return fmt.Sprintf(`{"version":"1.0","trustPolicies":[{"name":"p","registryScopes":["*"],"signatureVerification":{"level":%q},`+
			`"trustStores":["ca:any"],"trustedIdentities":[%q]}]}`, level, identity)
	}
	const skip = `{"version":"1.0","trustPolicies":[{"name":"p","registryScopes":["*"],"signatureVerification":{"level":"skip"}}]}`
	envelope := func(t *testing.T, by testhelper.RSACertTuple, chain []*x509.Certificate, d v1.Descriptor, lasts time.Duration) attached {
		t.Helper()
		s, err := signer.NewGenericSigner(by.PrivateKey, chain)
		if err != nil {
			t.Fatal(err)
		}
		described := ocispec.Descriptor{MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size}
		text, _, err := s.Sign(context.Background(), described, notation.SignerSignOptions{SignatureMediaType: "application/jose+json", ExpiryDuration: lasts})
		if err != nil {
			t.Fatal(err)
		}
		return attached{content: text, mediaType: "application/jose+json"}
	}
	chain := []*x509.Certificate{leaf.Cert, authority.Cert}
	for name, tt := range map[string]struct {
		policy   string
		sign     func(t *testing.T, d v1.Descriptor) *attached
		accepted bool
	}{
		"signed": {policy("strict", "*"), func(t *testing.T, d v1.Descriptor) *attached {
			sig := envelope(t, leaf, chain, d, 0)
			return &sig
		}, true},
		"none": {policy("strict", "*"), func(*testing.T, v1.Descriptor) *attached { return nil }, false},
		"for another digest": {policy("strict", "*"), func(t *testing.T, d v1.Descriptor) *attached {
			sig := envelope(t, leaf, chain, describe(t, files(t, map[string]string{"n": "other"})), 0)
			return &sig
		}, false},
		"by another authority": {policy("strict", "*"), func(t *testing.T, d v1.Descriptor) *attached {
			sig := envelope(t, foreign, []*x509.Certificate{foreign.Cert}, d, 0)
			return &sig
		}, false},
		"by a chain that has expired": {policy("strict", "*"), func(t *testing.T, d v1.Descriptor) *attached {
			sig := envelopeOf(t, old, d, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
			return &sig
		}, false},
		"by another identity": {policy("strict", "x509.subject:C=US,ST=WA,O=Somebody"), func(t *testing.T, d v1.Descriptor) *attached {
			sig := envelope(t, leaf, chain, d, 0)
			return &sig
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			artifact := files(t, map[string]string{"n": "1"})
			s.push(t, "app", "latest", artifact)
			if sig := tt.sign(t, describe(t, artifact)); sig != nil {
				attachReferrer(t, s, describe(t, artifact), notationType, *sig)
			}
			w := newWorld(t, secretOf("trust", map[string]string{"trustpolicy.json": tt.policy, "ca.crt": certPEM, "old.pem": old.pem}),
				verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "notation", SecretRef: &meta.LocalObjectReference{Name: "trust"}}))
			verified(t, w, tt.accepted)
		})
	}
	t.Run("skipped by the policy", func(t *testing.T) {
		s := serve(t)
		s.push(t, "app", "latest", files(t, map[string]string{"n": "1"}))
		w := newWorld(t, secretOf("trust", map[string]string{"trustpolicy.json": skip, "ca.crt": certPEM}),
			verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "notation", SecretRef: &meta.LocalObjectReference{Name: "trust"}}))
		o, _ := w.reconcile()
		if diff := cmp.Diff(healthy, conditions(o)); diff != "" {
			t.Errorf("conditions:\n%s", diff)
		}
	})
}

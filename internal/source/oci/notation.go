package oci

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/cleat-dev/cleat/internal/source"
)

const (
	notationType    = "application/vnd.cncf.notary.signature"
	trustPolicyKey  = "trustpolicy.json"
	revocationLimit = 10 * time.Second
	// maxRevoked is what the library takes of a list of revoked certificates; the largest there are have half of that.
	maxRevoked = 32 << 20
)

// notary accepts signatures of Notary Project by a trust policy and certificates.
type notary struct {
	document trustpolicy.Document
	verifier notation.Verifier
}

// newNotation reads a Secret with a trust policy and certificates, which stand in every trust store the policy names.
func newNotation(secret map[string][]byte, network source.Network) (*notary, error) {
	if secret == nil {
		return nil, fmt.Errorf("%w: provider notation needs spec.verify.secretRef, a Secret with %q and certificates", errPolicy, trustPolicyKey)
	}
	var n notary
	if json.Unmarshal(secret[trustPolicyKey], &n.document) != nil {
		return nil, fmt.Errorf("%w: the Secret of spec.verify.secretRef has no key %q with a trust policy of Notary Project", errPolicy, trustPolicyKey)
	}
	if err := n.document.Validate(); err != nil {
		return nil, fmt.Errorf("%w: the Secret's %q: %w", errPolicy, trustPolicyKey, err)
	}
	var store certificates
	for _, name := range sortedKeys(secret) {
		if ext := path.Ext(name); ext != ".crt" && ext != ".pem" {
			continue
		}
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM(secret[name])
		if err != nil || truststore.ValidateCertificates(certs) != nil {
			return nil, fmt.Errorf("%w: the Secret's %q holds no certificate of an authority or of a signer who is his own", errPolicy, name)
		}
		store = append(store, certs...)
	}
	if len(store) == 0 {
		return nil, fmt.Errorf("%w: the Secret of spec.verify.secretRef has no key that ends in .crt or .pem with a certificate", errPolicy)
	}
	options, err := revocationBy(network)
	if err != nil {
		return nil, err
	}
	// Without a manager of plugins a signature that asks for one is refused: nothing is executed here.
	n.verifier, err = verifier.NewWithOptions(&n.document, store, nil, options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	return &n, nil
}

// revocationBy makes the library ask about revoked certificates on connections of ours. Whether that is asked, and what it
// means when nobody answers, is said by the level of the trust policy, as in Flux: "strict" refuses then, "permissive" and
// "audit" do not, and "override" can say otherwise for revocation alone.
func revocationBy(network source.Network) (verifier.VerifierOptions, error) {
	transport, err := network.Transport(source.TLS{}, nil)
	if err != nil {
		return verifier.VerifierOptions{}, err
	}
	transport.DisableKeepAlives = true // it is asked rarely, and nobody closes it
	client := &http.Client{Transport: &bounded{transport, maxRevoked}, Timeout: revocationLimit}
	lists, err := crl.NewHTTPFetcher(client) // by default it has a client of its own, which goes to any address
	if err != nil {
		return verifier.VerifierOptions{}, err
	}
	signing, err := revocation.NewWithOptions(revocation.Options{OCSPHTTPClient: client, CRLFetcher: lists, CertChainPurpose: purpose.CodeSigning})
	if err != nil {
		return verifier.VerifierOptions{}, err
	}
	stamping, err := revocation.NewWithOptions(revocation.Options{OCSPHTTPClient: client, CRLFetcher: lists, CertChainPurpose: purpose.Timestamping})
	return verifier.VerifierOptions{RevocationCodeSigningValidator: signing, RevocationTimestampingValidator: stamping}, err
}

// bounded caps every answer, and counts it against the budget of whoever asks.
type bounded struct {
	next http.RoundTripper
	most int64
}

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	budget := source.BudgetOf(req.Context())
	if err := budget.Request(); err != nil {
		return nil, err
	}
	res, err := b.next.RoundTrip(req)
	if err == nil {
		res.Body = capped(budget.Body(res.Body), b.most)
	}
	return res, err
}

// certificates is a trust store with one set of certificates under all names.
type certificates []*x509.Certificate

func (c certificates) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return c, nil
}

func (n *notary) told() string { return "" }

func (n *notary) verify(ctx context.Context, s *session, target v1.Descriptor, notBefore time.Time) error {
	reference := s.repository.Name() + "@" + target.Digest.String()
	skip, err := n.skips(reference)
	if err != nil {
		return err
	}
	if skip {
		return errSkipped
	}
	all, err := s.referrers(ctx, target.Digest.String(), notationType, notBefore)
	if err != nil {
		return fmt.Errorf("looking for signatures of %s: %w", target.Digest, err)
	}
	described := ocispec.Descriptor{MediaType: string(target.MediaType), Digest: digest.Digest(target.Digest.String()), Size: target.Size}
	var rejected verdicts
	for _, d := range all {
		err := n.check(ctx, s, d, described, reference)
		if err == nil {
			return nil
		}
		if ended := ends(ctx, err); ended != nil {
			return ended
		}
		rejected.reject(err)
	}
	return rejected.err(target.Digest.String())
}

// errSkipped: the user's trust policy says that this repository is not to be verified.
var errSkipped = errors.New("the trust policy skips verification")

func (n *notary) skips(reference string) (bool, error) {
	p, err := n.document.GetApplicableTrustPolicy(reference)
	if err != nil {
		return false, fmt.Errorf("%w: the Secret's %q: %w", errPolicy, trustPolicyKey, err)
	}
	level, err := p.SignatureVerification.GetVerificationLevel()
	if err != nil {
		return false, fmt.Errorf("%w: the Secret's %q: %w", errPolicy, trustPolicyKey, err)
	}
	return reflect.DeepEqual(level, trustpolicy.LevelSkip), nil
}

func (n *notary) check(ctx context.Context, s *session, d v1.Descriptor, target ocispec.Descriptor, reference string) error {
	blob, err := signatureLayer(ctx, s, d.Digest.String(), func(v1.Descriptor) bool { return true })
	if err != nil {
		return err
	}
	_, err = n.verifier.Verify(ctx, target, blob.content, notation.VerifierVerifyOptions{
		ArtifactReference: reference, SignatureMediaType: string(blob.MediaType),
	})
	return err
}

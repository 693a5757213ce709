package oci

import (
	"context"
	"errors"
	"fmt"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cleat-dev/cleat/internal/source"
)

var (
	// errUnsigned: there is no signature that says what must be said.
	errUnsigned = errors.New("not verified")
	// errPolicy: spec.verify or its Secrets do not say whom to trust.
	errPolicy = errors.New("invalid verification")
)

// maxSignatures is how many signatures of one artifact are looked at. Whoever can write to the repository can add any
// number of them.
const maxSignatures = 64

// policy says whose signatures count.
type policy interface {
	// verify fails unless the registry has a signature of the target that the policy accepts. The signature is looked for
	// under the digest, so it speaks of nothing else. Its error wraps errUnsigned when signatures are what is wrong.
	verify(ctx context.Context, s *session, target v1.Descriptor, notBefore time.Time) error
	// told is what is added to the message about a success, when the policy accepts more than a reader would expect.
	told() string
}

// parsePolicy reads spec.verify with the Secrets it names; a nil map means that there is no such reference.
func (o *repositories) parsePolicy(v *sourcev1.OCIRepositoryVerification, keys, trustedRoot map[string][]byte) (policy, error) {
	switch v.Provider {
	case "cosign", "":
		if keys != nil {
			return newCosignKeys(keys)
		}
		return newCosignKeyless(v.MatchOIDCIdentity, trustedRoot, o.publicRoot)
	case "notation":
		return newNotation(keys, o.network)
	}
	return nil, fmt.Errorf("%w: spec.verify.provider %q is neither cosign nor notation", errPolicy, v.Provider)
}

// verdicts collects why signatures were not accepted. The first reason is the one told: the order of the signatures is the
// registry's and the same every time.
type verdicts struct {
	count int
	first error
}

func (v *verdicts) reject(err error) {
	v.count++
	if v.first == nil {
		v.first = err
	}
}

// ends returns the error that ends the search for signatures: it is not one of them that is wrong.
func ends(ctx context.Context, err error) error {
	if errors.Is(err, source.ErrSpent) {
		return source.ErrSpent
	}
	return ctx.Err()
}

func (v *verdicts) err(digest string) error {
	if v.count == 0 {
		return fmt.Errorf("%w: %s has no signature", errUnsigned, digest)
	}
	return fmt.Errorf("%w: none of the %d signatures of %s is accepted: %s", errUnsigned, v.count, digest, source.OneLine(v.first.Error()))
}

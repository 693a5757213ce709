package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"mime"
	"net/http"
	"slices"
	"strings"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
)

// errForged means: whoever has sent this has not shown that he may.
var errForged = errors.New("the request is not signed as it must be")

// sender is what is particular to one spec.type. Fields that are nil or empty mean that there is nothing to do.
type sender struct {
	// knock judges by the header alone, before anything of the body is read. It may return the claims of the caller's token.
	knock func(ctx context.Context, keys *issuers, h *hook, header http.Header, data secret) (claims map[string]any, err error)
	// seal judges the signature of the body, before anything of it is parsed, and returns what the signature says.
	seal func(header http.Header, body, token []byte) ([]byte, error)
	// deliveries are headers of which the sender's own deliveries have one, which tells that the body names what has happened, and
	// when: it is signed once, and the same again is a replay, or was delivered again. What else somebody signs with the token may be
	// the same for different things, like an empty body.
	deliveries []string
	// event is the header that says what has happened, which spec.events may choose from.
	event string
	// ping is the event by which the sender tries whether the hook is there. It is answered well even if it is not chosen.
	ping string
	// payload says whether the body is what is sent. What it returns, unless nil, is what filters see of it.
	payload func(body []byte) (map[string]any, error)
}

// senderOf returns what is particular to a type.
func senderOf(kind string) (sender, error) {
	switch kind {
	case notificationv1.GenericReceiver:
		return sender{}, nil
	case notificationv1.GenericHMACReceiver:
		return sender{seal: genericSeal}, nil
	case notificationv1.GenericOIDCReceiver:
		return sender{knock: oidcKnock}, nil
	case notificationv1.GitHubReceiver:
		return sender{seal: gitHubSeal, deliveries: []string{"X-GitHub-Delivery"}, event: "X-GitHub-Event", ping: "ping"}, nil
	case notificationv1.GitLabReceiver:
		return sender{knock: tokenIn("X-Gitlab-Token"), event: "X-Gitlab-Event"}, nil
	case notificationv1.BitbucketReceiver:
		return sender{seal: bitbucketSeal, deliveries: []string{"X-Request-Id", "X-Request-Uuid"}, event: "X-Event-Key", ping: "diagnostics:ping"}, nil
	case notificationv1.HarborReceiver:
		return sender{knock: tokenIn("Authorization")}, nil
	case notificationv1.DockerHubReceiver:
		return sender{payload: dockerHubPayload}, nil
	case notificationv1.QuayReceiver:
		return sender{payload: quayPayload}, nil
	case notificationv1.ACRReceiver:
		return sender{payload: acrPayload}, nil
	case notificationv1.GCRReceiver:
		return sender{knock: gcrKnock, payload: gcrPayload}, nil
	case notificationv1.NexusReceiver:
		return sender{seal: nexusSeal, deliveries: []string{"X-Nexus-Webhook-Delivery"}, payload: nexusPayload}, nil
	case notificationv1.CDEventsReceiver:
		return sender{event: "Ce-Type", payload: cdEventsPayload}, nil
	default:
		return sender{}, fmt.Errorf("spec.type %q is not known", kind)
	}
}

// delivered says whether the sender says of a request that it is a delivery of its own.
func (s *sender) delivered(header http.Header) bool {
	return slices.ContainsFunc(s.deliveries, func(name string) bool { return header.Get(name) != "" })
}

// tokenIn judges by a header that repeats the token.
func tokenIn(name string) func(context.Context, *issuers, *hook, http.Header, secret) (map[string]any, error) {
	return func(_ context.Context, _ *issuers, _ *hook, header http.Header, data secret) (map[string]any, error) {
		if !same([]byte(header.Get(name)), data.token) {
			return nil, fmt.Errorf("%w: the header %s is not the Receiver's token", errForged, name)
		}
		return nil, nil
	}
}

// same compares in a time that tells neither where the two differ nor how long they are.
func same(a, b []byte) bool {
	left, right := sha256.Sum256(a), sha256.Sum256(b)
	return subtle.ConstantTimeCompare(left[:], right[:]) == 1
}

// signed judges a signature in hex.
func signed(algorithm func() hash.Hash, signature string, body, token []byte) ([]byte, error) {
	given, err := hex.DecodeString(signature)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature is not hexadecimal", errForged)
	}
	mac := hmac.New(algorithm, token)
	mac.Write(body)
	if !hmac.Equal(given, mac.Sum(nil)) {
		return nil, fmt.Errorf("%w: the signature is another", errForged)
	}
	return given, nil
}

// genericSeal judges `X-Signature: sha256=<hex>`. Gitea cannot be told to send that, and sends the same under a name of its
// own, without the algorithm.
func genericSeal(header http.Header, body, token []byte) ([]byte, error) {
	given := header.Get("X-Signature")
	if bare := header.Get("X-Gitea-Signature"); given == "" && bare != "" {
		return signed(sha256.New, bare, body, token)
	}
	algorithm, signature, _ := strings.Cut(given, "=")
	switch algorithm {
	case "":
		return nil, fmt.Errorf("%w: the header X-Signature is missing", errForged)
	case "sha1": // documented by Flux; HMAC does not suffer from what is wrong with SHA-1
		return signed(sha1.New, signature, body, token)
	case "sha256":
		return signed(sha256.New, signature, body, token)
	case "sha512":
		return signed(sha512.New, signature, body, token)
	default:
		return nil, fmt.Errorf("%w: the header X-Signature begins with none of sha1=, sha256= and sha512=", errForged)
	}
}

// gitHubSeal judges `X-Hub-Signature-256`. GitHub, its Enterprise Server and Gitea all send it; a request with the SHA-1 of
// old alone is none of theirs.
func gitHubSeal(header http.Header, body, token []byte) ([]byte, error) {
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || kind != "application/json" && kind != "application/x-www-form-urlencoded" {
		return nil, fmt.Errorf("%w: the Content-Type is none of GitHub's", errPayload)
	}
	signature, ok := strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
	if !ok {
		return nil, fmt.Errorf("%w: the header X-Hub-Signature-256 with sha256= is missing", errForged)
	}
	return signed(sha256.New, signature, body, token)
}

// bitbucketSeal judges the `X-Hub-Signature` of Bitbucket's own servers and cloud, which is SHA-256 there.
func bitbucketSeal(header http.Header, body, token []byte) ([]byte, error) {
	signature, ok := strings.CutPrefix(header.Get("X-Hub-Signature"), "sha256=")
	if !ok {
		return nil, fmt.Errorf("%w: the header X-Hub-Signature with sha256= is missing", errForged)
	}
	return signed(sha256.New, signature, body, token)
}

// nexusSeal judges the only signature that Nexus has: of HMAC with SHA-1.
func nexusSeal(header http.Header, body, token []byte) ([]byte, error) {
	signature := header.Get("X-Nexus-Webhook-Signature")
	if signature == "" {
		return nil, fmt.Errorf("%w: the header X-Nexus-Webhook-Signature is missing", errForged)
	}
	return signed(sha1.New, signature, body, token)
}

package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

const (
	// google issues the tokens with which Pub/Sub pushes.
	google = "https://accounts.google.com"
	// maxSkew is by how much the clock of an issuer may be ahead of ours.
	maxSkew = time.Minute
	// maxAnswer bounds what an issuer may answer, in bytes. Key sets have some thousand.
	maxAnswer = 1 << 20
	// discoverEvery is how long what an issuer says of itself is believed, and retryEvery how long it is left alone when it
	// says nothing.
	discoverEvery = time.Hour
	retryEvery    = 10 * time.Second
	// maxIssuers is how many issuers are remembered. Receivers name them, not callers.
	maxIssuers = 256
)

// errIdentity means: the token of a request is not one that is believed.
var errIdentity = fmt.Errorf("%w: the bearer token is not accepted", errForged)

// oidcKnock judges the token of a caller of type generic-oidc by the issuer that it names, if the Receiver trusts that one.
func oidcKnock(ctx context.Context, keys *issuers, h *hook, header http.Header, _ secret) (map[string]any, error) {
	raw, err := bearer(header)
	if err != nil {
		return nil, err
	}
	issuer, err := issuerOf(raw)
	if err != nil {
		return nil, err
	}
	for i := range h.trusts {
		t := &h.trusts[i]
		if t.issuer != issuer {
			continue
		}
		claims, err := keys.verify(ctx, t.issuer, t.audience, raw)
		if err != nil {
			return nil, err
		}
		return claims, t.judge(claims)
	}
	return nil, fmt.Errorf("%w: spec.oidcProviders has no issuer like the token's", errIdentity)
}

// judge holds the claims against the validations.
func (t *trust) judge(claims map[string]any) error {
	values := map[string]any{}
	vars := map[string]any{claimsVar: claims, variablesVar: values}
	for _, v := range t.variables {
		value, err := v.value.Value(vars)
		if err != nil {
			return fmt.Errorf("%w: the variable %s cannot be evaluated for it", errIdentity, v.name)
		}
		values[v.name] = value
	}
	var failed []string
	for _, v := range t.validations {
		if yes, err := v.holds.True(vars); err != nil || !yes {
			failed = append(failed, v.message)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%w: %s", errIdentity, strings.Join(failed, "; "))
	}
	return nil
}

// gcrKnock judges the token that Pub/Sub pushes with: Google's, for the audience and the account that the Secret names.
func gcrKnock(ctx context.Context, keys *issuers, _ *hook, header http.Header, data secret) (map[string]any, error) {
	raw, err := bearer(header)
	if err != nil {
		return nil, err
	}
	issuer, err := issuerOf(raw)
	if err != nil {
		return nil, err
	}
	if issuer != keys.google {
		return nil, fmt.Errorf("%w: it is not Google's", errIdentity)
	}
	claims, err := keys.verify(ctx, keys.google, data.audience, raw)
	if err != nil {
		return nil, err
	}
	email, _ := claims["email"].(string)
	verified, _ := claims["email_verified"].(bool)
	if !verified || data.email == "" || !same([]byte(email), []byte(data.email)) {
		return nil, fmt.Errorf("%w: it is not of the account that the Secret names", errIdentity)
	}
	return nil, nil // filters of this type see no claims
}

func bearer(header http.Header) (string, error) {
	scheme, token, _ := strings.Cut(header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", fmt.Errorf("%w: the header Authorization holds no bearer token", errForged)
	}
	return token, nil
}

// issuerOf reads who says to have issued a token. It is believed only for choosing whose keys the token is held against.
func issuerOf(raw string) (string, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%w: it is no JWT", errIdentity)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("%w: it is no JWT", errIdentity)
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err := decode(text, &claims); err != nil {
		return "", fmt.Errorf("%w: it is no JWT", errIdentity)
	}
	return claims.Issuer, nil
}

// issuers knows the keys of those whose tokens are believed.
type issuers struct {
	transport http.RoundTripper
	google    string
	now       func() time.Time

	mu    sync.Mutex
	known map[string]*issuer
}

func newIssuers(transport http.RoundTripper) *issuers {
	return &issuers{transport: transport, google: google, now: time.Now, known: map[string]*issuer{}}
}

// issuer is what is known of one.
type issuer struct {
	client *http.Client

	mu       sync.Mutex // held while it is asked about itself
	provider *oidc.Provider
	failure  error
	asked    time.Time
}

// of returns an issuer. Which ones there are say the Receivers; the limit is for those who change theirs again and again.
func (i *issuers) of(url string) *issuer {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.known[url]; known != nil {
		return known
	}
	if len(i.known) >= maxIssuers {
		clear(i.known)
	}
	fresh := &issuer{client: &http.Client{
		Timeout:       callTimeout,
		Transport:     &cautious{next: i.transport, pace: rate.NewLimiter(rate.Every(retryEvery), 5)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	i.known[url] = fresh
	return fresh
}

// discover returns what an issuer says of itself: where its keys are, and which algorithms they are for.
func (i *issuer) discover(ctx context.Context, url string, now time.Time) (*oidc.Provider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	age := now.Sub(i.asked)
	if i.provider != nil && age < discoverEvery || i.failure != nil && age < retryEvery {
		return i.provider, i.failure
	}
	// Who comes next needs the answer even if this caller does not wait for it.
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.WithoutCancel(ctx), i.client), callTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, url)
	i.asked = now
	if err != nil {
		i.failure = fmt.Errorf("%w: its issuer cannot be asked for its keys", errIdentity)
		i.provider = nil
		return nil, i.failure
	}
	i.provider, i.failure = provider, nil
	return provider, nil
}

// verify returns the claims of a token of an issuer for an audience. Signature, issuer, audience and expiry are go-oidc's to
// check, with keys of the issuer and asymmetric algorithms only; a key that is not known has them fetched again, at a pace.
func (i *issuers) verify(ctx context.Context, url, audience, raw string) (map[string]any, error) {
	if audience == "" {
		return nil, fmt.Errorf("%w: no audience is known that it must be for", errIdentity)
	}
	now := i.now()
	from := i.of(url)
	provider, err := from.discover(ctx, url, now)
	if err != nil {
		return nil, err
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: audience, Now: i.now}).Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return nil, fmt.Errorf("%w: it has expired", errIdentity)
	case err != nil:
		return nil, fmt.Errorf("%w: its issuer, audience or signature is another", errIdentity)
	}
	var times struct {
		NotBefore json.Number `json:"nbf"`
		IssuedAt  json.Number `json:"iat"`
	}
	var claims map[string]any
	if err := errors.Join(token.Claims(&times), token.Claims(&claims)); err != nil {
		return nil, fmt.Errorf("%w: its claims are no JSON object", errIdentity)
	}
	for _, since := range []json.Number{times.NotBefore, times.IssuedAt} {
		if seconds, err := since.Float64(); err == nil && seconds > float64(now.Add(maxSkew).Unix()) {
			return nil, fmt.Errorf("%w: it is not valid yet", errIdentity)
		}
	}
	return claims, nil
}

// cautious is the way to an issuer: answers are bounded, and it is not asked more often than at a pace, whatever tokens
// callers invent.
type cautious struct {
	next http.RoundTripper
	pace *rate.Limiter
}

var errTooOften = errors.New("the issuer has been asked too often")

func (c *cautious) RoundTrip(req *http.Request) (*http.Response, error) {
	if !c.pace.Allow() {
		return nil, errTooOften
	}
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	return res, nil
}

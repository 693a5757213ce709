package git

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cleat-dev/cleat/internal/source"
)

// ErrProvider means: spec.provider and the Secret do not go together.
var ErrProvider = errors.New("invalid provider configuration")

const (
	githubAPI = "https://api.github.com"
	// appAccount is the user name that goes with an installation's token.
	appAccount = "x-access-token"
	// appLife is how long the key's signature under a request is valid; GitHub allows ten minutes. appSkew is how far the
	// two clocks may differ.
	appLife = 5 * time.Minute
	appSkew = time.Minute
	// tokenMargin is how long before it expires a token is replaced: a fetch that begins with it must end with it.
	tokenMargin = 10 * time.Minute
	// maxTokenBytes bounds GitHub's answers.
	maxTokenBytes = 1 << 20
)

// githubApp is what a Secret says of an App: by its key, tokens are minted for one installation.
type githubApp struct {
	id, installation, owner, baseURL, privateKey string
	tls                                          source.TLS
}

// isGitHubApp reports whether the Secret describes one.
func isGitHubApp(data map[string][]byte) bool {
	_, ok := data["githubAppID"]
	return ok
}

func githubAppFrom(data map[string][]byte) (githubApp, error) {
	a := githubApp{
		id: string(data["githubAppID"]), installation: string(data["githubAppInstallationID"]), owner: string(data["githubAppInstallationOwner"]),
		privateKey: string(data["githubAppPrivateKey"]), baseURL: strings.TrimSuffix(string(data["githubAppBaseURL"]), "/"),
	}
	if a.baseURL == "" {
		a.baseURL = githubAPI
	}
	base, err := url.Parse(a.baseURL)
	switch {
	case a.id == "":
		return a, fmt.Errorf("%w: the Secret has no key \"githubAppID\"", ErrProvider)
	case (a.installation == "") == (a.owner == ""):
		return a, fmt.Errorf("%w: the Secret needs one of \"githubAppInstallationID\" and \"githubAppInstallationOwner\"", ErrProvider)
	case a.installation != "" && !isNumber(a.installation):
		return a, fmt.Errorf("%w: the Secret's \"githubAppInstallationID\" is not a number", ErrProvider)
	case err != nil || (base.Scheme != "https" && base.Scheme != "http") || base.Host == "":
		return a, fmt.Errorf("%w: the Secret's \"githubAppBaseURL\" is not a URL", ErrProvider)
	}
	if _, err := a.key(); err != nil {
		return a, err
	}
	a.tls, err = source.TLSFrom(data)
	return a, err
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 63)
	return err == nil
}

func (a githubApp) key() (*rsa.PrivateKey, error) {
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(a.privateKey))
	if err != nil {
		// The parser's words may repeat parts of the input.
		return nil, fmt.Errorf("%w: the Secret's \"githubAppPrivateKey\" is not an RSA private key in PEM", ErrProvider)
	}
	return key, nil
}

// tokens keeps what was minted until shortly before it expires. Its methods may be called concurrently.
type tokens struct {
	network source.Network

	mu    sync.Mutex
	known map[tokenKey]*token
}

type tokenKey struct {
	app   githubApp
	proxy source.Proxy
}

// token is one installation's. turn is held while it is asked for, so that a hundred objects ask once.
type token struct {
	turn    chan struct{}
	value   string
	expires time.Time
}

// get returns a token of the App's installation.
func (t *tokens) get(ctx context.Context, app githubApp, proxy *source.Proxy) (string, error) {
	k := t.entry(app, proxy)
	select {
	case <-k.turn:
		defer func() { k.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if time.Until(k.expires) > tokenMargin {
		return k.value, nil
	}
	value, expires, err := t.mint(ctx, app, proxy)
	if err != nil {
		return "", fmt.Errorf("asking %s for a token of the GitHub App: %w", app.baseURL, source.Steady(err))
	}
	k.value, k.expires = value, expires
	return value, nil
}

func (t *tokens) entry(app githubApp, proxy *source.Proxy) *token {
	key := tokenKey{app: app}
	if proxy != nil {
		key.proxy = *proxy
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if k, ok := t.known[key]; ok {
		return k
	}
	const most = 1024 // of Apps; beyond that all are asked for anew
	if t.known == nil || len(t.known) >= most {
		t.known = map[tokenKey]*token{}
	}
	k := &token{turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	t.known[key] = k
	return k
}

func (t *tokens) mint(ctx context.Context, app githubApp, proxy *source.Proxy) (string, time.Time, error) {
	key, err := app.key()
	if err != nil {
		return "", time.Time{}, err
	}
	base, err := url.Parse(app.baseURL)
	if err != nil {
		return "", time.Time{}, err
	}
	now := time.Now()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: app.id, IssuedAt: jwt.NewNumericDate(now.Add(-appSkew)), ExpiresAt: jwt.NewNumericDate(now.Add(appLife)),
	}).SignedString(key)
	if err != nil {
		return "", time.Time{}, err
	}
	client, err := source.HTTP{
		Network: t.network, Origin: base, Proxy: proxy, UserAgent: "cleat", Credentials: source.Credentials{BearerToken: signed, TLS: app.tls},
	}.Client()
	if err != nil {
		return "", time.Time{}, err
	}
	defer client.CloseIdleConnections()
	installation := app.installation
	if installation == "" {
		if installation, err = findInstallation(ctx, client, app); err != nil {
			return "", time.Time{}, err
		}
	}
	var minted struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	err = askGitHub(ctx, client, http.MethodPost, app.baseURL+"/app/installations/"+installation+"/access_tokens", &minted)
	if err == nil && minted.Token == "" {
		err = errors.New("the answer holds no token")
	}
	return minted.Token, minted.ExpiresAt, err
}

// findInstallation looks for the installation of an organisation, and then for that of a user of the name.
func findInstallation(ctx context.Context, client *http.Client, app githubApp) (string, error) {
	var found struct {
		ID int64 `json:"id"`
	}
	owner := url.PathEscape(app.owner)
	err := askGitHub(ctx, client, http.MethodGet, app.baseURL+"/orgs/"+owner+"/installation", &found)
	if errors.Is(err, errNoSuch) {
		err = askGitHub(ctx, client, http.MethodGet, app.baseURL+"/users/"+owner+"/installation", &found)
	}
	switch {
	case errors.Is(err, errNoSuch):
		return "", fmt.Errorf("%w: the App is not installed for %q", source.ErrAuthentication, app.owner)
	case err != nil:
		return "", err
	case found.ID <= 0:
		return "", errors.New("the answer holds no installation")
	}
	return strconv.FormatInt(found.ID, 10), nil
}

// errNoSuch: GitHub knows nothing of the name.
var errNoSuch = errors.New("the server answers 404: there is no such App or installation")

func askGitHub(ctx context.Context, client *http.Client, method, to string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusCreated:
	case http.StatusNotFound:
		return errNoSuch
	default:
		if err := source.CheckStatus(res); err != nil {
			return err
		}
	}
	body, err := io.ReadAll(&source.Capped{R: res.Body, N: maxTokenBytes, What: "data"})
	if err != nil {
		return err
	}
	if json.Unmarshal(body, into) != nil {
		return errors.New("the answer is not JSON") // the body may hold a token
	}
	return nil
}

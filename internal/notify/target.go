package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// maxAnswer is how much of an endpoint's answer is read, in bytes: a page of a hundred comments is the longest.
	maxAnswer = 8 << 20
	// maxTimeout bounds spec.timeout, so that an endpoint that never answers does not hold a message for ever.
	maxTimeout = 5 * time.Minute
)

var (
	// errConfig means: the Provider cannot be used as it is. Trying again is no use until somebody has changed it.
	errConfig = errors.New("invalid Provider")
	// errSuspended means: nobody wants to be told at present.
	errSuspended = errors.New("the Provider is suspended")
)

func configf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errConfig, fmt.Errorf(format, args...))
}

// refused is an answer that is not the one that was hoped for.
type refused struct {
	status int
	after  time.Duration // how long the endpoint wants to be left alone
	text   string
}

func (r *refused) Error() string { return r.text }

// final says that the same message would be refused again.
func final(err error) bool {
	var r *refused
	if errors.As(err, &r) {
		return r.status >= 300 && r.status < 500 && r.status != http.StatusRequestTimeout && r.status != http.StatusTooEarly && r.status != http.StatusTooManyRequests
	}
	return errors.Is(err, errConfig)
}

// target is a Provider with all that its Secrets hold, ready to be told.
type target struct {
	spec      alerting.ProviderSpec
	namespace string
	name      string
	uid       types.UID

	address, username, channel string
	token, password            string
	headers                    map[string]string
	data                       map[string][]byte // of spec.secretRef, for what only one type wants
	tls                        source.TLS
	proxy                      *source.Proxy
	network                    source.Network
	clouds                     clouds

	minted []string // tokens that clouds gave for it
	client *http.Client
	object map[string]any // as expressions see it
}

// clouds are where tokens of clouds and of GitHub Apps come from.
type clouds interface {
	// Token returns a token for a scope, for the ServiceAccount of the Provider or the agent itself.
	Token(ctx context.Context, cloud cloud, t *target) (string, error)
}

// resolve reads a Provider and its Secrets.
func (d *Dispatcher) resolve(ctx context.Context, key types.NamespacedName) (*target, error) {
	u := api.Undecoded(api.ProviderKind)
	if err := d.options.Watched.Get(ctx, key, u); err != nil {
		return nil, configf("reading the Provider %s of spec.providerRef: %w", key.Name, err)
	}
	var p alerting.Provider
	if err := api.Decode(u, &p); err != nil {
		return nil, configf("%w", err)
	}
	if p.Spec.Suspend {
		return nil, errSuspended
	}
	t := &target{
		spec: p.Spec, namespace: p.Namespace, name: p.Name, uid: p.UID, address: p.Spec.Address, username: p.Spec.Username, channel: p.Spec.Channel,
		network: d.options.Network, clouds: d.options.clouds, object: u.Object,
	}
	if err := t.readSecrets(ctx, d.options.Secrets); err != nil {
		return t, t.masked(err)
	}
	return t, t.connect()
}

func (t *target) readSecrets(ctx context.Context, from client.Reader) (err error) {
	if ref := t.spec.SecretRef; ref != nil {
		if t.data, err = t.secret(ctx, from, ref.Name, "spec.secretRef"); err != nil {
			return err
		}
		if err := t.takeData(); err != nil {
			return err
		}
	}
	if ref := t.spec.CertSecretRef; ref != nil {
		data, err := t.secret(ctx, from, ref.Name, "spec.certSecretRef")
		if err != nil {
			return err
		}
		if t.tls, err = source.TLSFrom(data); err != nil {
			return configf("spec.certSecretRef: %w", err)
		}
	}
	proxy := map[string][]byte{}
	switch ref := t.spec.ProxySecretRef; {
	case ref != nil:
		if proxy, err = t.secret(ctx, from, ref.Name, "spec.proxySecretRef"); err != nil {
			return err
		}
	case len(t.data["proxy"]) > 0:
		proxy["address"] = t.data["proxy"]
	case t.spec.Proxy != "":
		proxy["address"] = []byte(t.spec.Proxy)
	default:
		return nil // none is asked for: that of the environment
	}
	if t.proxy, err = proxyFrom(proxy); err != nil {
		return configf("%w", err)
	}
	return nil
}

// proxyFrom reads a proxy whose address, in the fields that are deprecated, may hold the user and the password.
func proxyFrom(data map[string][]byte) (*source.Proxy, error) {
	u, err := url.Parse(string(data["address"]))
	if err == nil && u.User != nil && len(data["username"]) == 0 {
		password, _ := u.User.Password()
		name := u.User.Username()
		u.User = nil
		data = map[string][]byte{"address": []byte(u.String()), "username": []byte(name), "password": []byte(password)}
	}
	return source.ProxyFrom(data)
}

func (t *target) secret(ctx context.Context, from client.Reader, name, field string) (map[string][]byte, error) {
	var s corev1.Secret
	if err := from.Get(ctx, types.NamespacedName{Namespace: t.namespace, Name: name}, &s); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return nil, configf("reading the Secret %s of %s: %w", name, field, err)
		}
		return nil, fmt.Errorf("reading the Secret %s of %s: %w", name, field, err)
	}
	return s.Data, nil
}

// takeData takes what the Secret says over what the spec says.
func (t *target) takeData() error {
	of := func(key string) string { return strings.TrimSpace(string(t.data[key])) }
	t.address, t.username = cmp.Or(of("address"), t.address), cmp.Or(of("username"), t.username)
	t.token, t.password = of("token"), of("password")
	if err := yaml.Unmarshal(t.data["headers"], &t.headers); err != nil {
		return configf("the Secret's \"headers\" are no map of names to values in YAML") // not quoted: they may hold a token
	}
	return nil
}

// connect makes the client, through which all that the Provider is told goes.
func (t *target) connect() error {
	transport, err := t.network.Transport(t.tls, t.proxy)
	if err != nil {
		return configf("%w", err)
	}
	t.client = &http.Client{
		Transport: transport,
		// What is posted is for the endpoint that is named, and nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

func (t *target) close() {
	if t != nil && t.client != nil {
		t.client.CloseIdleConnections()
	}
}

func (t *target) timeout() time.Duration {
	p := alerting.Provider{Spec: t.spec}
	return min(max(p.GetTimeout(), time.Second), maxTimeout)
}

// masked returns err without anything that the Secret holds, or that was made of it. A service may repeat in its answer all that
// it was sent.
func (t *target) masked(err error) error {
	if err == nil || t == nil {
		return err
	}
	data := map[string]any{}
	for i, value := range t.sensitive() {
		data[strconv.Itoa(i)] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	secret := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": data}}
	var no *refused
	if errors.As(err, &no) { // what is to be done about the answer must still be known
		return &refused{status: no.status, after: no.after, text: object.MaskText(err.Error(), secret)}
	}
	return object.MaskError(err, secret)
}

// separators divide what holds a secret and something else: a header's scheme, a connection string, a user and a password.
const separators = " ;:=&?,\n"

// shortSecret is the length below which a part of something is no secret by itself: paths have many short words.
const shortSecret = 8

// sensitive returns what must be told nobody: values as they are, and what they are made of.
func (t *target) sensitive() []string {
	all := slices.Clone(t.minted)
	for _, value := range t.data {
		all = append(all, string(value))
	}
	for _, value := range t.headers {
		all = append(all, value)
	}
	all = append(all, t.username+":"+t.password, ":"+t.token)
	if p := t.proxy; p != nil && p.Password != "" { // it may repeat what it was sent, too
		all = append(all, p.Username+":"+p.Password, p.Password, url.QueryEscape(p.Password))
	}
	parts := []string{}
	for _, value := range all {
		parts = append(parts, strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(separators, r) })...)
	}
	if u, err := url.Parse(t.address); err == nil { // one that cannot be parsed is told nobody either
		parts = append(parts, strings.Split(u.Path, "/")...)
		for _, values := range u.Query() {
			parts = append(parts, values...)
		}
		if u.User != nil {
			password, _ := u.User.Password()
			parts = append(parts, u.User.Username(), password)
			all = append(all, u.User.Username()+":"+password)
		}
	}
	return append(all, slices.DeleteFunc(parts, func(p string) bool { return len(p) < shortSecret || t.plain(p) })...)
}

// plain says whether a part is one that messages need: the host's name.
func (t *target) plain(part string) bool {
	u, err := url.Parse(t.address)
	return err == nil && (strings.Trim(part, "/") == u.Host || part == u.Hostname())
}

// endpoint is the URL that the Provider's address is.
func (t *target) endpoint() (*url.URL, error) {
	u, err := url.Parse(t.address)
	switch {
	case t.address == "":
		return nil, configf("it has no address, neither in spec.address nor in the Secret")
	case err != nil || u.Hostname() == "":
		return nil, configf("its address is no URL") // not quoted: it may hold a token
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, configf("its address does not begin with http:// or https://")
	}
	return u, nil
}

// service is the URL of a service that has only one, unless the Provider names another.
func (t *target) service(public string) (*url.URL, error) {
	if t.address == "" {
		t.address = public
	}
	return t.endpoint()
}

// cloudToken asks a cloud for a token.
func (t *target) cloudToken(ctx context.Context, c cloud) (string, error) {
	token, err := t.clouds.Token(ctx, c, t)
	if err != nil {
		return "", err
	}
	t.minted = append(t.minted, token)
	return token, nil
}

func (t *target) needs(what, value string) error {
	if value == "" {
		return configf("the type %s needs %s", t.spec.Type, what)
	}
	return nil
}

// call is one request.
type call struct {
	method string // POST when empty
	url    string
	header map[string]string
	body   any // JSON, unless it is []byte
	basic  [2]string
	absent bool // 404 is an answer too, an empty one
}

// bearer is the header by which a token is shown.
func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// post sends a body to the endpoint.
func (t *target) post(ctx context.Context, to *url.URL, body any, header map[string]string) error {
	_, err := t.do(ctx, call{url: to.String(), body: body, header: header})
	return err
}

// get decodes the answer to a GET, and says whether there was one.
func (t *target) get(ctx context.Context, c call, into any) (bool, error) {
	c.method, c.absent = http.MethodGet, true
	answer, err := t.do(ctx, c)
	if err != nil || answer == nil {
		return false, err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return false, fmt.Errorf("the answer of %s is not the JSON that was expected", hostOf(c.url))
	}
	return true, nil
}

// do makes the request and returns the answer.
func (t *target) do(ctx context.Context, c call) ([]byte, error) {
	body, kind, err := encode(c.body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(c.method, http.MethodPost), c.url, body)
	if err != nil {
		return nil, configf("its address is no URL")
	}
	req.Header.Set("User-Agent", "cleat")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	if c.basic != [2]string{} {
		req.SetBasicAuth(c.basic[0], c.basic[1])
	}
	res, err := t.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("telling %s: %w", req.URL.Host, steady(err))
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case res.StatusCode == http.StatusNotFound && c.absent:
		return nil, nil
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, &refused{
			status: res.StatusCode, after: retryAfter(res.Header),
			text: strings.TrimSpace(fmt.Sprintf("%s answers %d %s", req.URL.Host, res.StatusCode, source.OneLine(string(answer)))),
		}
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", req.URL.Host, steady(err))
	}
	return answer, nil
}

// steady gives an error words that are the same every time, and that hold no URL.
func steady(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &source.Failure{Text: "it did not answer within spec.timeout", Err: err}
	case errors.Is(err, source.ErrForbiddenAddress):
		return &source.Failure{Text: "the name leads to an address that is not allowed (link-local or reserved)", Err: err}
	}
	return source.Steady(err)
}

func encode(body any) (io.Reader, string, error) {
	switch body := body.(type) {
	case nil:
		return http.NoBody, "", nil
	case []byte:
		return bytes.NewReader(body), "application/json", nil
	case url.Values:
		return strings.NewReader(body.Encode()), "application/x-www-form-urlencoded", nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		return nil, "", fmt.Errorf("encoding the message: %w", err)
	}
	return bytes.NewReader(bytes.TrimSuffix(out.Bytes(), []byte("\n"))), "application/json", nil
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "the endpoint"
	}
	return u.Host
}

// retryAfter is how long an endpoint asks to be left alone, in seconds; a date is not believed.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxPause)
}

// dial connects for protocols other than HTTP.
func (t *target) dial(ctx context.Context, address string) (net.Conn, error) {
	return t.network.Dial(ctx, address, t.proxy)
}

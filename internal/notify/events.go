package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"github.com/nats-io/nats.go"

	"github.com/cleat-dev/cleat/internal/source"
)

// tellGeneric posts the event as Flux's controllers do, signed if the type says so.
func tellGeneric(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	header := map[string]string{"Gotk-Component": m.ReportingController}
	for name, value := range t.headers {
		header[name] = value
	}
	if t.spec.Type == alerting.GenericHMACProvider {
		if err := t.needs("a \"token\" in its Secret", t.token); err != nil {
			return err
		}
		mac := hmac.New(sha256.New, []byte(t.token))
		mac.Write(body)
		header["X-Signature"] = "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	return t.post(ctx, to, body, header)
}

// json is the event as Flux's controllers write it.
func (m *Message) json() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	if err := encoder.Encode(m.News); err != nil {
		return nil, fmt.Errorf("encoding the event: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// tellDispatch starts the workflows of a GitHub repository that listen for the object.
func tellDispatch(ctx context.Context, t *target, m *Message) error {
	r, err := t.repository()
	if err != nil {
		return err
	}
	header, err := t.github(ctx)
	if err != nil {
		return err
	}
	o := m.InvolvedObject
	_, err = t.do(ctx, call{url: r.github() + "/dispatches", header: header, body: map[string]any{
		"event_type": o.Kind + "/" + o.Name + "." + o.Namespace, "client_payload": m.News,
	}})
	return err
}

// tellNATS publishes the event under the subject that the channel is, and waits until the server has it.
func tellNATS(ctx context.Context, t *target, m *Message) error {
	if err := cmp.Or(t.needs("the subject as spec.channel", t.channel), t.needs("the server as address", t.address)); err != nil {
		return err
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	options := []nats.Option{nats.Name("cleat"), nats.NoReconnect(), nats.SetCustomDialer(natsDialer{ctx, t}), nats.Timeout(t.timeout()), nats.IgnoreDiscoveredServers()}
	switch {
	case len(t.data["creds"]) > 0:
		options = append(options, nats.UserCredentialBytes(t.data["creds"]))
	case t.username != "" || t.password != "":
		options = append(options, nats.UserInfo(t.username, t.password))
	case t.token != "":
		options = append(options, nats.Token(t.token))
	}
	if t.tls != (source.TLS{}) {
		config, err := t.tls.Config()
		if err != nil {
			return configf("%w", err)
		}
		options = append(options, nats.Secure(config))
	}
	conn, err := nats.Connect(t.address, options...)
	if err != nil {
		return fmt.Errorf("connecting to the NATS server: %w", steady(err))
	}
	defer conn.Close()
	if err := conn.Publish(t.channel, body); err != nil {
		return fmt.Errorf("publishing to the NATS server: %w", steady(err))
	}
	if err := conn.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("publishing to the NATS server: %w", steady(err))
	}
	if err := conn.LastError(); err != nil {
		return fmt.Errorf("publishing to the NATS server: %w", steady(err))
	}
	return nil
}

// natsDialer has the library's connections made where all are made.
type natsDialer struct {
	ctx context.Context
	t   *target
}

// Dial implements nats.CustomDialer.
func (d natsDialer) Dial(_, address string) (net.Conn, error) { return d.t.dial(d.ctx, address) }

// cloud is a scope that a cloud gives tokens for.
type cloud struct{ name, scope string }

// tellPubSub publishes the event to a topic by Google's REST API. The address is the project, the channel the topic.
func tellPubSub(ctx context.Context, t *target, m *Message) error {
	if err := cmp.Or(t.needs("the ID of the project as address", t.address), t.needs("the ID of the topic as spec.channel", t.channel)); err != nil {
		return err
	}
	token, err := t.cloudToken(ctx, cloud{"gcp", "https://www.googleapis.com/auth/pubsub"})
	if err != nil {
		return err
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	message := map[string]any{"data": base64.StdEncoding.EncodeToString(body)}
	if len(t.headers) > 0 {
		message["attributes"] = t.headers
	}
	const google = "https://pubsub.googleapis.com"
	_, err = t.do(ctx, call{
		url:    google + "/v1/projects/" + url.PathEscape(t.address) + "/topics/" + url.PathEscape(t.channel) + ":publish",
		header: bearer(token), body: map[string]any{"messages": []any{message}},
	})
	return err
}

// tellEventHub sends the event to an Azure Event Hub by its REST API: with the key of a connection string, with a token, or
// as whom the cloud knows. The address is then the namespace's, and the channel the hub.
func tellEventHub(ctx context.Context, t *target, m *Message) error {
	to, authorization, err := t.eventHub(ctx)
	if err != nil {
		return err
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	return t.post(ctx, to, body, map[string]string{
		"Authorization": authorization, "Content-Type": "application/json; charset=utf-8",
	})
}

func (t *target) eventHub(ctx context.Context) (to *url.URL, authorization string, err error) {
	hub, key := t.channel, map[string]string{}
	host := t.address
	if strings.HasPrefix(t.address, "Endpoint=") {
		for part := range strings.SplitSeq(t.address, ";") {
			name, value, _ := strings.Cut(part, "=")
			key[name] = value
		}
		hub, host = cmp.Or(key["EntityPath"], hub), key["Endpoint"]
	}
	if err := t.needs("the name of the hub as spec.channel", hub); err != nil {
		return nil, "", err
	}
	// A namespace is a name below Azure's domain, or all of the host's name.
	_, bare, found := strings.Cut(host, "://")
	if !found {
		bare = host
	}
	bare = strings.Trim(bare, "/")
	if bare != "" && !strings.ContainsAny(bare, ".:") {
		bare += ".servicebus.windows.net"
	}
	if to, err = url.Parse("https://" + bare + "/" + url.PathEscape(hub)); err != nil || to.Hostname() == "" {
		return nil, "", configf("its address is no namespace of event hubs and no connection string")
	}
	resource := *to
	to = to.JoinPath("messages")
	switch {
	case key["SharedAccessKey"] != "":
		return to, sharedAccess(resource.String(), key["SharedAccessKeyName"], key["SharedAccessKey"], time.Now().Add(time.Hour)), nil
	case t.token != "":
		return to, "Bearer " + t.token, nil
	}
	token, err := t.cloudToken(ctx, cloud{"azure", "https://eventhubs.azure.net/.default"})
	return to, "Bearer " + token, err
}

// sharedAccess signs the right to send to a resource, as Azure documents it for shared access signatures.
func sharedAccess(resource, name, key string, until time.Time) string {
	expiry, audience := strconv.FormatInt(until.Unix(), 10), url.QueryEscape(strings.ToLower(resource))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(audience + "\n" + expiry))
	signature := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return "SharedAccessSignature sr=" + audience + "&sig=" + url.QueryEscape(signature) + "&se=" + expiry + "&skn=" + url.QueryEscape(name)
}

// tellOTel sends the event as a span to a collector, by OTLP over HTTP in JSON. Spans of one object at one revision share a
// trace: their trace ID is made of both.
func tellOTel(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	if !strings.HasSuffix(to.Path, "/v1/traces") {
		to = to.JoinPath("v1/traces")
	}
	header := map[string]string{}
	if t.token != "" {
		header = bearer(t.token)
	}
	for name, value := range t.headers {
		header[name] = value
	}
	_, err = t.do(ctx, call{url: to.String(), body: m.spans(), header: header, basic: t.basic()})
	return err
}

// basic are the user and the password to show where there is no token.
func (t *target) basic() [2]string {
	if t.token != "" || t.username == "" || t.password == "" {
		return [2]string{}
	}
	return [2]string{t.username, t.password}
}

func (m *Message) spans() map[string]any {
	o := m.InvolvedObject
	trace := sha256.Sum256([]byte(string(o.UID) + "/" + m.revision()))
	span := make([]byte, 8)
	rand.Read(span)
	at := strconv.FormatInt(m.Timestamp.UnixNano(), 10)
	attributes := []any{
		attribute("k8s.object.kind", o.Kind), attribute("k8s.object.name", o.Name), attribute("k8s.namespace.name", o.Namespace),
		attribute("k8s.object.uid", string(o.UID)), attribute("event.severity", string(m.Severity)),
		attribute("event.reason", m.Reason), attribute("event.message", m.Message),
	}
	for _, f := range m.fields() {
		attributes = append(attributes, attribute("event.metadata."+f.key, f.value))
	}
	status := map[string]any{"code": 1}
	if m.failed() {
		status = map[string]any{"code": 2, "message": m.Message}
	}
	return map[string]any{"resourceSpans": []any{map[string]any{
		"resource": map[string]any{"attributes": []any{
			attribute("service.name", m.ReportingController), attribute("service.instance.id", m.ReportingInstance),
		}},
		"scopeSpans": []any{map[string]any{
			"scope": map[string]any{"name": "cleat"},
			"spans": []any{map[string]any{
				"traceId": hex.EncodeToString(trace[:16]), "spanId": hex.EncodeToString(span), "kind": 1,
				"name": o.Kind + "/" + m.Reason, "startTimeUnixNano": at, "endTimeUnixNano": at,
				"attributes": attributes, "status": status,
			}},
		}},
	}}}
}

func attribute(key, value string) map[string]any {
	return map[string]any{"key": key, "value": map[string]any{"stringValue": value}}
}

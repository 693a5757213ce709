package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cleat-dev/cleat/internal/source"
)

// level is the severity in the word that most services have for it.
func (m *Message) level() string {
	if m.failed() {
		return "error"
	}
	return "info"
}

// tags are the object and the metadata, for services that file by them.
func (m *Message) tags() []field {
	o := m.InvolvedObject
	return append([]field{
		{"kind", o.Kind}, {"name", o.Name}, {"namespace", o.Namespace}, {"reason", m.Reason}, {"reportingController", m.ReportingController},
	}, m.fields()...)
}

// tellAlertmanager posts an alert that is named by the kind and the reason.
func tellAlertmanager(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	o, at := m.InvolvedObject, m.Timestamp.UTC()
	labels := map[string]string{}
	annotations := map[string]string{"message": m.Message}
	for _, f := range m.fields() {
		if f.key == summaryKey {
			annotations[summaryKey] = f.value
			continue
		}
		labels[labelName(f.key)] = f.value
	}
	for name, value := range map[string]string{
		"alertname": "Flux" + o.Kind + m.Reason, "severity": m.level(), "reason": m.Reason,
		"kind": o.Kind, "name": o.Name, "namespace": o.Namespace, "reportingcontroller": m.ReportingController,
	} {
		labels[name] = value
	}
	alert := map[string]any{"labels": labels, "annotations": annotations, "startsAt": at.Format(time.RFC3339)}
	header := map[string]string{}
	if t.token != "" {
		header = bearer(t.token)
	}
	_, err = t.do(ctx, call{url: to.String(), body: []any{alert}, header: header, basic: t.basic()})
	return err
}

// labelName makes a key one that Prometheus takes for a label.
func labelName(key string) string {
	name := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, key)
	if name != "" && unicode.IsDigit(rune(name[0])) {
		return "_" + name
	}
	return name
}

// tellOpsgenie makes an alert.
func tellOpsgenie(ctx context.Context, t *target, m *Message) error {
	to, err := t.service("https://api.opsgenie.com/v2/alerts")
	if err != nil {
		return err
	}
	if err := t.needs("the API key as \"token\" in its Secret", t.token); err != nil {
		return err
	}
	details := map[string]string{"severity": m.level()}
	for _, f := range m.tags() {
		details[f.key] = f.value
	}
	const maxMessage, maxDescription = 130, 15000
	return t.post(ctx, to, map[string]any{
		"message": clip(m.InvolvedObject.Kind+"/"+m.InvolvedObject.Name+" "+words(m.Reason), maxMessage), "description": clip(m.Message, maxDescription),
		"alias": m.incident(), "entity": m.object(), "source": m.ReportingController, "details": details,
	}, map[string]string{"Authorization": "GenieKey " + t.token})
}

// incident names what is wrong with one object, the same for as long as it lasts.
func (m *Message) incident() string { return cmp.Or(string(m.InvolvedObject.UID), m.object()) }

// tellPagerDuty triggers an incident and resolves it, and tells of changes. The channel is the routing key.
func tellPagerDuty(ctx context.Context, t *target, m *Message) error {
	if m.underway() && !m.failed() {
		return nil // it neither begins nor ends an incident, and is no change yet
	}
	to, err := t.service("https://events.pagerduty.com")
	if err != nil {
		return err
	}
	key := cmp.Or(t.channel, t.token)
	if err := t.needs("the routing key as spec.channel", key); err != nil {
		return err
	}
	details := map[string]string{"message": m.Message}
	for _, f := range m.tags() {
		details[f.key] = f.value
	}
	o := m.InvolvedObject
	const maxSummary = 1024
	summary := clip(o.Kind+"/"+o.Namespace+"/"+o.Name+": "+firstLine(m.Message), maxSummary)
	event := map[string]any{"routing_key": key, "event_action": "resolve", "dedup_key": m.incident()}
	if m.failed() {
		event["event_action"], event["client"] = "trigger", "Cleat"
		event["payload"] = map[string]any{
			"summary": summary, "source": "Flux " + m.ReportingController, "severity": m.level(), "timestamp": m.Timestamp.UTC().Format(time.RFC3339),
			"component": o.Name, "group": o.Kind, "class": m.Reason, "custom_details": details,
		}
	}
	if err := t.post(ctx, to.JoinPath("v2/enqueue"), event, nil); err != nil || m.failed() {
		return err
	}
	return t.post(ctx, to.JoinPath("v2/change/enqueue"), map[string]any{"routing_key": key, "payload": map[string]any{
		"summary": summary, "source": "Flux " + m.ReportingController, "timestamp": m.Timestamp.UTC().Format(time.RFC3339), "custom_details": details,
	}}, nil)
}

// tellDatadog makes an event.
func tellDatadog(ctx context.Context, t *target, m *Message) error {
	to, err := t.service("https://api.datadoghq.com")
	if err != nil {
		return err
	}
	if err := t.needs("the API key as \"token\" in its Secret", t.token); err != nil {
		return err
	}
	tags := []string{}
	for _, f := range m.tags() {
		tags = append(tags, f.key+":"+f.value)
	}
	const maxText = 4000
	return t.post(ctx, to.JoinPath("api/v1/events"), map[string]any{
		"title": m.object(), "text": clip(m.Message, maxText), "tags": tags, "alert_type": m.level(),
		"aggregation_key": clip(m.incident(), 100), "source_type_name": "fluxcd", "date_happened": m.Timestamp.Unix(),
	}, map[string]string{"DD-API-KEY": t.token})
}

// tellGrafana draws an annotation.
func tellGrafana(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	tags := []string{"flux", m.ReportingController}
	for _, f := range append(m.tags()[:3], m.fields()...) {
		tags = append(tags, strings.ReplaceAll(f.key+": "+f.value, ",", " "))
	}
	header := map[string]string{}
	if t.token != "" {
		header = bearer(t.token)
	}
	_, err = t.do(ctx, call{url: to.String(), header: header, basic: t.basic(), body: map[string]any{
		"time": m.Timestamp.UnixMilli(), "text": m.object() + " " + m.Message, "tags": tags,
	}})
	return err
}

// tellSentry sends an envelope to the DSN that the address is: what failed as an error, other events as transactions. The
// channel is the environment.
func tellSentry(ctx context.Context, t *target, m *Message) error {
	dsn, err := t.endpoint()
	if err != nil {
		return err
	}
	key, path := "", strings.Trim(dsn.Path, "/")
	if dsn.User != nil {
		key = dsn.User.Username()
	}
	if err := cmp.Or(t.needs("a DSN with a key as address", key), t.needs("a DSN with a project as address", path)); err != nil {
		return err
	}
	prefix, project := "", path
	if i := strings.LastIndex(path, "/"); i >= 0 {
		prefix, project = path[:i+1], path[i+1:]
	}
	to := url.URL{Scheme: dsn.Scheme, Host: dsn.Host, Path: "/" + prefix + "api/" + project + "/envelope/"}
	body, err := m.envelope(t.channel)
	if err != nil {
		return err
	}
	return t.post(ctx, &to, body, map[string]string{
		"Content-Type":  "application/x-sentry-envelope",
		"X-Sentry-Auth": "Sentry sentry_version=7, sentry_client=cleat/1.0, sentry_key=" + key,
	})
}

// envelope is the message as three lines of JSON.
func (m *Message) envelope(environment string) ([]byte, error) {
	ids := make([]byte, 40)
	rand.Read(ids)
	id, at := hex.EncodeToString(ids[:16]), float64(m.Timestamp.UnixMilli())/1000
	extra, tags := map[string]string{}, map[string]string{}
	for _, f := range m.fields() {
		extra[f.key] = f.value
	}
	for _, f := range m.tags()[:4] {
		tags[f.key] = clip(f.value, 200)
	}
	event := map[string]any{
		"event_id": id, "timestamp": at, "platform": "other", "server_name": m.ReportingController, "tags": tags, "extra": extra, "level": m.level(),
	}
	if environment != "" {
		event["environment"] = environment
	}
	kind := "event"
	if m.failed() {
		event["message"] = map[string]any{"formatted": m.object() + ": " + m.Message}
		event["fingerprint"] = []string{m.incident(), m.Reason}
	} else {
		kind, extra["message"] = "transaction", m.Message
		event["type"], event["transaction"], event["start_timestamp"], event["spans"] = kind, m.object(), at, []any{}
		event["contexts"] = map[string]any{"trace": map[string]any{
			"trace_id": hex.EncodeToString(ids[16:32]), "span_id": hex.EncodeToString(ids[32:]), "op": m.Reason, "status": "ok",
		}}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	for _, line := range []any{map[string]any{"event_id": id}, map[string]any{"type": kind}, event} {
		if err := encoder.Encode(line); err != nil {
			return nil, fmt.Errorf("encoding the message: %w", err)
		}
	}
	return out.Bytes(), nil
}

// tellIncident tells an HTTP alert source of incident.io, whose URL is the address. One alert stands for an object.
func tellIncident(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	if err := t.needs("a \"token\" in its Secret", t.token); err != nil {
		return err
	}
	metadata := map[string]string{"severity": m.level()}
	for _, f := range m.tags() {
		metadata[f.key] = f.value
	}
	status := "resolved"
	if m.failed() {
		status = "firing"
	}
	answer, err := t.do(ctx, call{url: to.String(), header: bearer(t.token), body: map[string]any{
		"title": m.object(), "description": m.Message, "deduplication_key": m.incident(), "status": status, "metadata": metadata,
	}})
	if err != nil {
		return err
	}
	var said struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(answer, &said) == nil && said.Status != "" && said.Status != "success" {
		return &refused{status: http.StatusBadRequest, text: to.Host + " does not take the alert: " + strconv.Quote(source.OneLine(said.Status))}
	}
	return nil
}

package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/cleat-dev/cleat/internal/source"
)

// sender is under which name messages appear.
func (t *target) sender(m *Message) string { return cmp.Or(t.username, m.ReportingController) }

// slackPayload is what Slack's webhooks take, and what Rocket.Chat has taken over from them.
type slackPayload struct {
	Channel     string            `json:"channel"`
	Username    string            `json:"username"`
	IconURL     string            `json:"icon_url"`
	IconEmoji   string            `json:"icon_emoji"`
	Attachments []slackAttachment `json:"attachments,omitempty"`
}

type slackAttachment struct {
	Fallback   string       `json:"fallback,omitempty"`
	Color      string       `json:"color"`
	AuthorName string       `json:"author_name,omitempty"`
	Text       string       `json:"text"`
	MrkdwnIn   []string     `json:"mrkdwn_in,omitempty"`
	Fields     []slackField `json:"fields"`
}

type slackField struct {
	Title string `json:"title"`
	Value string `json:"value"`
	Short bool   `json:"short"`
}

func (t *target) slackPayload(m *Message) slackPayload {
	a := slackAttachment{Fallback: m.title(), Color: "good", AuthorName: m.object(), Text: m.Message, MrkdwnIn: []string{"text"}, Fields: []slackField{}}
	if m.failed() {
		a.Color = "danger"
	}
	for _, f := range m.fields() {
		a.Fields = append(a.Fields, slackField{Title: f.key, Value: f.value})
	}
	return slackPayload{Channel: t.channel, Username: t.sender(m), Attachments: []slackAttachment{a}}
}

// tellSlack posts to a webhook, or with a token to the method chat.postMessage, which tells in its answer whether it worked.
func tellSlack(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	c := call{url: to.String(), body: t.slackPayload(m)}
	if t.token != "" {
		c.header = bearer(t.token)
	}
	answer, err := t.do(ctx, c)
	if err != nil || !strings.HasSuffix(to.Path, "/chat.postMessage") {
		return err
	}
	var said struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &said) == nil && said.OK {
		return nil
	}
	status := http.StatusBadRequest
	if said.Error == "" || said.Error == "ratelimited" || said.Error == "internal_error" {
		status = http.StatusBadGateway // worth another try
	}
	return &refused{status: status, text: fmt.Sprintf("%s does not take the message: %s", to.Host, source.OneLine(cmp.Or(said.Error, "its answer is no JSON")))}
}

// tellRocket posts to a webhook of Rocket.Chat.
func tellRocket(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	p := t.slackPayload(m)
	for i := range p.Attachments {
		p.Attachments[i].Color = colour(m)
	}
	return t.post(ctx, to, p, nil)
}

// colour is red for what failed, as HTML writes it.
func colour(m *Message) string {
	if m.failed() {
		return "#FF0000"
	}
	return "#2EB886"
}

// tellDiscord posts an embed. The path of Discord's imitation of Slack's webhooks, with which Flux had them, is taken off.
func tellDiscord(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	to.Path = strings.TrimSuffix(strings.TrimSuffix(to.Path, "/"), "/slack")
	type embedded struct {
		Name   string `json:"name"`
		Value  string `json:"value"`
		Inline bool   `json:"inline"`
	}
	// A webhook refuses longer ones than these.
	const maxFields, maxName, maxValue, maxText = 25, 256, 1024, 4096
	fields, room := []embedded{}, 1500
	for _, f := range m.fields() {
		if room -= len(f.key) + len(f.value); len(fields) == maxFields || room < 0 {
			break
		}
		fields = append(fields, embedded{Name: clip(f.key, maxName), Value: clip(cmp.Or(f.value, "-"), maxValue)})
	}
	shade := 0x2EB886
	if m.failed() {
		shade = 0xFF0000
	}
	body := map[string]any{"username": clip(t.sender(m), 80), "embeds": []any{map[string]any{
		"author": map[string]any{"name": clip(m.object(), maxName)}, "description": clip(m.Message, maxText), "color": shade, "fields": fields,
	}}}
	return t.post(ctx, to, body, nil)
}

// tellTeams posts an adaptive card, or to the older connectors a message card.
func tellTeams(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	if strings.HasSuffix(to.Hostname(), ".webhook.office.com") {
		return t.post(ctx, to, messageCard(m), nil)
	}
	return t.post(ctx, to, adaptiveCard(m), nil)
}

func messageCard(m *Message) map[string]any {
	facts := []any{}
	for _, f := range m.fields() {
		facts = append(facts, map[string]any{"name": f.key, "value": f.value})
	}
	return map[string]any{
		"@type": "MessageCard", "@context": "http://schema.org/extensions", "themeColor": strings.TrimPrefix(colour(m), "#"), "summary": m.title(),
		"sections": []any{map[string]any{"activityTitle": m.Message, "activitySubtitle": m.object(), "facts": facts}},
	}
}

func adaptiveCard(m *Message) map[string]any {
	shade, facts := "good", []any{}
	if m.failed() {
		shade = "attention"
	}
	for _, f := range m.fields() {
		facts = append(facts, map[string]any{"title": f.key, "value": f.value})
	}
	elements := []any{
		map[string]any{"type": "TextBlock", "text": m.object(), "size": "large", "weight": "bolder", "wrap": true},
		map[string]any{"type": "TextBlock", "text": m.Message, "color": shade, "wrap": true},
	}
	if len(facts) > 0 {
		elements = append(elements, map[string]any{"type": "FactSet", "facts": facts})
	}
	return map[string]any{"type": "message", "attachments": []any{map[string]any{
		"contentType": "application/vnd.microsoft.card.adaptive",
		"content": map[string]any{
			"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": elements,
			"msteams": map[string]any{"width": "Full"},
		},
	}}}
}

// tellGoogleChat posts a card to the webhook of a space.
func tellGoogleChat(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	mark := "<font color=\"" + colour(m) + "\">" + strings.ToUpper(string(m.Severity)) + "</font>"
	widgets := []any{map[string]any{"textParagraph": map[string]any{"text": mark + "<br>" + strings.ReplaceAll(html.EscapeString(m.Message), "\n", "<br>")}}}
	for _, f := range m.fields() {
		widgets = append(widgets, map[string]any{"decoratedText": map[string]any{"topLabel": f.key, "text": html.EscapeString(f.value), "wrapText": true}})
	}
	return t.post(ctx, to, map[string]any{"cardsV2": []any{map[string]any{"cardId": "cleat", "card": map[string]any{
		"header": map[string]any{"title": m.object(), "subtitle": m.ReportingController}, "sections": []any{map[string]any{"widgets": widgets}},
	}}}}, nil)
}

// tellWebex sends a message to the room that the channel is.
func tellWebex(ctx context.Context, t *target, m *Message) error {
	to, err := t.service("https://webexapis.com/v1/messages")
	if err != nil {
		return err
	}
	if err := cmp.Or(t.needs("the ID of the room as spec.channel", t.channel), t.needs("a \"token\" in its Secret", t.token)); err != nil {
		return err
	}
	mark := "✅"
	if m.failed() {
		mark = "❗"
	}
	return t.post(ctx, to, map[string]any{"roomId": t.channel, "markdown": markdown(mark, m)}, bearer(t.token))
}

// markdown is a message with its metadata as a list.
func markdown(mark string, m *Message) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s **%s**\n\n%s\n", mark, m.object(), m.Message)
	for _, f := range m.fields() {
		fmt.Fprintf(&out, "\n* **%s**: %s", f.key, f.value)
	}
	return out.String()
}

// tellTelegram sends a message to the chat that the channel is, or to the topic of one: chat:topic.
func tellTelegram(ctx context.Context, t *target, m *Message) error {
	to, err := t.service("https://api.telegram.org")
	if err != nil {
		return err
	}
	if err := cmp.Or(t.needs("the ID of the chat as spec.channel", t.channel), t.needs("a \"token\" in its Secret", t.token)); err != nil {
		return err
	}
	chat, topic, _ := strings.Cut(t.channel, ":")
	if _, err := strconv.Atoi(topic); topic != "" && err != nil {
		return configf("the topic in spec.channel is no number: CHAT:TOPIC")
	}
	const maxText = 3500 // of 4096, which counts what is around it
	text := "<b>" + html.EscapeString(m.object()) + "</b>\n" + html.EscapeString(clip(m.Message, maxText))
	for _, f := range m.fields() {
		if line := "\n<b>" + html.EscapeString(f.key) + "</b>: " + html.EscapeString(f.value); len(text)+len(line) <= 4096 {
			text += line
		}
	}
	body := map[string]any{"chat_id": chat, "text": text, "parse_mode": "HTML"}
	if topic != "" {
		body["message_thread_id"] = json.Number(topic)
	}
	return t.post(ctx, to.JoinPath("bot"+t.token, "sendMessage"), body, nil)
}

// tellLark posts a card to a bot of Lark, which tells in its answer whether it worked.
func tellLark(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	shade, text := "turquoise", "**"+m.Message+"**"
	if m.failed() {
		shade = "red"
	}
	for _, f := range m.fields() {
		text += "\n" + f.key + ": " + f.value
	}
	answer, err := t.do(ctx, call{url: to.String(), body: map[string]any{"msg_type": "interactive", "card": map[string]any{
		"config":   map[string]any{"wide_screen_mode": true},
		"header":   map[string]any{"title": map[string]any{"tag": "plain_text", "content": m.object()}, "template": shade},
		"elements": []any{map[string]any{"tag": "div", "text": map[string]any{"tag": "lark_md", "content": text}}},
	}}})
	if err != nil {
		return err
	}
	var said struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	}
	if json.Unmarshal(answer, &said) == nil && said.Code != 0 {
		const tooOften = 11232
		status := http.StatusBadRequest
		if said.Code == tooOften {
			status = http.StatusTooManyRequests
		}
		return &refused{status: status, text: fmt.Sprintf("%s does not take the message: %d %s", to.Host, said.Code, source.OneLine(said.Msg))}
	}
	return nil
}

// tellMatrix sends a message to the room that the channel is. Its transaction is named by what it says, so that the server
// shows a message once however often it comes.
func tellMatrix(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	if err := cmp.Or(t.needs("the ID of the room as spec.channel", t.channel), t.needs("a \"token\" in its Secret", t.token)); err != nil {
		return err
	}
	text := m.title()
	if rest := strings.TrimPrefix(m.Message, firstLine(m.Message)); rest != "" {
		text += rest
	}
	for _, f := range m.fields() {
		text += "\n" + f.key + ": " + f.value
	}
	body, err := m.json()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	address := strings.TrimSuffix(to.String(), "/") + "/_matrix/client/v3/rooms/" + url.PathEscape(t.channel) + "/send/m.room.message/" + hex.EncodeToString(sum[:16])
	_, err = t.do(ctx, call{method: http.MethodPut, url: address, header: bearer(t.token), body: map[string]any{"msgtype": "m.text", "body": text}})
	return err
}

// tellZulip sends a message to the stream and topic that the channel is: stream/topic.
func tellZulip(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	stream, topic, _ := strings.Cut(t.channel, "/")
	if err := cmp.Or(t.needs("stream/topic as spec.channel", stream), t.needs("stream/topic as spec.channel", topic),
		t.needs("the bot's address as username and its key as password in its Secret", t.username), t.needs("the bot's key as password in its Secret", t.password)); err != nil {
		return err
	}
	if !strings.HasSuffix(to.Path, "/api/v1/messages") {
		to = to.JoinPath("api/v1/messages")
	}
	mark := ":check:"
	if m.failed() {
		mark = ":warning:"
	}
	const maxContent = 10000
	_, err = t.do(ctx, call{url: to.String(), basic: [2]string{t.username, t.password}, body: url.Values{
		"type": {"stream"}, "to": {stream}, "topic": {topic}, "content": {clip(markdown(mark, m), maxContent)},
	}})
	return err
}

// tellZoom posts to the incoming webhook of a Zoom chat, whose verification token is the Secret's.
func tellZoom(ctx context.Context, t *target, m *Message) error {
	to, err := t.endpoint()
	if err != nil {
		return err
	}
	if err := t.needs("a \"token\" in its Secret", t.token); err != nil {
		return err
	}
	query := to.Query()
	query.Set("format", "full")
	to.RawQuery = query.Encode()
	items := []any{}
	for _, f := range m.fields() {
		items = append(items, map[string]any{"key": f.key, "value": f.value})
	}
	body := []any{map[string]any{"type": "message", "text": m.Message}}
	if len(items) > 0 {
		body = append(body, map[string]any{"type": "fields", "items": items})
	}
	return t.post(ctx, to, map[string]any{"content": map[string]any{
		"head": map[string]any{"text": m.object(), "style": map[string]any{"color": colour(m), "bold": true}}, "body": body,
	}}, map[string]string{"Authorization": t.token})
}

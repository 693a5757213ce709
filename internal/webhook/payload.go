package webhook

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"
)

// errPayload means: the body is not what the sender sends.
var errPayload = errors.New("the payload is not as this type of sender sends it")

// errTooComplex means: decoding the body would take more memory than it is worth.
var errTooComplex = fmt.Errorf("%w: it is nested deeper than %d, or holds more than %d values", errPayload, maxDepth, maxValues)

// decode decodes a JSON body, whose nesting and number of values it counts first.
func decode(body []byte, into any) error {
	if !modest(body) {
		return errTooComplex
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: it is no JSON, or holds values of other types", errPayload) // what it holds is not repeated
	}
	return nil
}

// modest says whether a JSON text can be decoded within the limits. Of a text that is not JSON it may say either.
func modest(text []byte) bool {
	depth, values, quoted := 0, 1, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++ // whatever is escaped ends no string
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
			values++
		case c == '}', c == ']':
			depth--
		case c == ',':
			values++
		}
		if depth > maxDepth || values > maxValues {
			return false
		}
	}
	return true
}

// object decodes a body that filters look at.
func object(body []byte) (map[string]any, error) {
	var fields map[string]any
	if err := decode(body, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, fmt.Errorf("%w: it is no JSON object", errPayload)
	}
	return fields, nil
}

// isJSON says whether a Content-Type is that of JSON; filters see nothing of other bodies, as with Flux.
func isJSON(contentType string) bool {
	for part := range strings.SplitSeq(contentType, ",") {
		if kind, _, err := mime.ParseMediaType(part); err == nil && kind == "application/json" {
			return true
		}
	}
	return false
}

// What registries send about an image that was pushed. Only what Flux looks at is looked at.

func dockerHubPayload(body []byte) (map[string]any, error) {
	var p struct {
		PushData struct {
			Tag string `json:"tag"`
		} `json:"push_data"`
		Repository struct {
			URL string `json:"repo_url"`
		} `json:"repository"`
	}
	return nil, decode(body, &p)
}

func quayPayload(body []byte) (map[string]any, error) {
	var p struct {
		URL  string   `json:"docker_url"`
		Tags []string `json:"updated_tags"`
	}
	return nil, decode(body, &p)
}

func acrPayload(body []byte) (map[string]any, error) {
	var p struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
		} `json:"target"`
	}
	return nil, decode(body, &p)
}

func nexusPayload(body []byte) (map[string]any, error) {
	var p struct {
		Action     string `json:"action"`
		Repository string `json:"repositoryName"`
	}
	return nil, decode(body, &p)
}

// gcrPayload unwraps what Google's registry has published to Pub/Sub. Filters see what was wrapped.
func gcrPayload(body []byte) (map[string]any, error) {
	var envelope struct {
		Message struct {
			Data string `json:"data"`
		} `json:"message"`
	}
	if err := decode(body, &envelope); err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(envelope.Message.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: message.data is not base64", errPayload)
	}
	var p struct {
		Action string `json:"action"`
		Digest string `json:"digest"`
		Tag    string `json:"tag"`
	}
	if err := decode(raw, &p); err != nil {
		return nil, err
	}
	return map[string]any{"action": p.Action, "digest": p.Digest, "tag": p.Tag}, nil
}

// cdEventsPayload checks what the CDEvents specification requires of every event: who tells what about which subject, when.
func cdEventsPayload(body []byte) (map[string]any, error) {
	var p struct {
		Context struct {
			Version   string `json:"version"`
			ID        string `json:"id"`
			Source    string `json:"source"`
			Type      string `json:"type"`
			Timestamp string `json:"timestamp"`
		} `json:"context"`
		Subject struct {
			ID      string         `json:"id"`
			Content map[string]any `json:"content"`
		} `json:"subject"`
	}
	if err := decode(body, &p); err != nil {
		return nil, err
	}
	for field, value := range map[string]string{"context.version": p.Context.Version, "context.id": p.Context.ID,
		"context.source": p.Context.Source, "context.type": p.Context.Type, "subject.id": p.Subject.ID} {
		if value == "" {
			return nil, fmt.Errorf("%w: a CDEvent has %s", errPayload, field)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, p.Context.Timestamp); err != nil {
		return nil, fmt.Errorf("%w: a CDEvent's context.timestamp is a time", errPayload)
	}
	if !strings.HasPrefix(p.Context.Type, "dev.cdevents.") {
		return nil, fmt.Errorf("%w: a CDEvent's context.type begins with dev.cdevents", errPayload)
	}
	if p.Subject.Content == nil {
		return nil, fmt.Errorf("%w: a CDEvent has subject.content", errPayload)
	}
	return nil, nil
}

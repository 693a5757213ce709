package notify

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// eventGroup prefixes the metadata that is for everybody, whatever the kind of the object.
const eventGroup = "event.toolkit.fluxcd.io"

// Keys of metadata that mean something, once their prefix is off.
const (
	revisionKey       = "revision"
	originRevisionKey = "originRevision"
	summaryKey        = "summary"
	tokenKey          = "token" // makes an event another for the rate limit; nobody else is to see it
	commitStatusKey   = "commit_status"
	changeRequestKey  = "change_request"

	commitStatusUpdate = "update"
)

// Reasons of events that tell of something under way rather than of how it ended.
var underway = []string{"Progressing", "ProgressingWithRetry", "DependencyNotReady", "HealthCheckCanceled", "Suspended"}

// Message is an event as a Provider is to tell it: the metadata are merged, and their keys without prefixes.
type Message struct {
	reconcile.News
	// pending has a commit be shown as in the works, which otherwise is not told.
	pending bool
	alert   *alerting.Alert
}

// incoming is an event as it came.
type incoming struct {
	reconcile.News
	// foreign events came over HTTP. Theirs is all of the metadata; in those of this process the keys of eventGroup are
	// annotations that a user has put on the object.
	foreign bool
	// repeated says that the same was told not long ago.
	repeated bool
}

// group is the API group of the object.
func (n incoming) group() string {
	return schema.FromAPIVersionAndKind(n.InvolvedObject.APIVersion, n.InvolvedObject.Kind).Group
}

// stripped returns the metadata with keys in one of the groups, without the group.
func (n incoming) stripped(groups ...string) map[string]string {
	out := map[string]string{}
	for key, value := range n.Metadata {
		group, rest, found := strings.Cut(key, "/")
		if found && rest != tokenKey && group != "" && slices.Contains(groups, group) {
			out[rest] = value
		}
	}
	return out
}

// layers returns the event's metadata of lowest and of highest precedence.
func (n incoming) layers() (annotations, controller map[string]string) {
	if n.foreign {
		return nil, n.stripped(eventGroup, n.group())
	}
	return n.stripped(eventGroup), n.stripped(n.group())
}

// metadata merges what an event and an Alert say, and returns the keys about which they disagree, sorted. The object's
// annotations count least, then the Alert, and the controller counts most.
func (n incoming) metadata(alert map[string]string, summary string) (merged map[string]string, conflicts []string) {
	annotations, controller := n.layers()
	merged, taken := map[string]string{}, map[string]bool{}
	add := func(layer map[string]string) {
		for key, value := range layer {
			if old, ok := merged[key]; ok && old != value {
				taken[key] = true
			}
			merged[key] = value
		}
	}
	add(annotations)
	add(alert)
	if summary != "" {
		add(map[string]string{summaryKey: summary})
	}
	add(controller)
	delete(merged, tokenKey)
	if len(merged) == 0 {
		merged = nil
	}
	return merged, slices.Sorted(maps.Keys(taken))
}

// underway says that the event tells of no end.
func (m *Message) underway() bool { return slices.Contains(underway, m.Reason) }

// statusOnly says that the event is for those who keep a status, and no news for people.
func (m *Message) statusOnly() bool { return m.Metadata[commitStatusKey] == commitStatusUpdate }

func (m *Message) failed() bool { return m.Severity == reconcile.SeverityError }

// object names the object as Flux does in titles: kustomization/name.namespace.
func (m *Message) object() string {
	o := m.InvolvedObject
	return strings.ToLower(o.Kind) + "/" + o.Name + "." + o.Namespace
}

// title is the first line of the message, after the object.
func (m *Message) title() string { return m.object() + ": " + firstLine(m.Message) }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// field is one of the metadata.
type field struct{ key, value string }

// fields returns the metadata in the order of their keys, the revision first.
func (m *Message) fields() []field {
	out := make([]field, 0, len(m.Metadata))
	for key, value := range m.Metadata {
		out = append(out, field{key, value})
	}
	slices.SortFunc(out, func(a, b field) int {
		if (a.key == revisionKey) != (b.key == revisionKey) {
			if a.key == revisionKey {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.key, b.key)
	})
	return out
}

// revision is what the event is about: that of the origin if an artifact was made of it.
func (m *Message) revision() string {
	return cmp.Or(m.Metadata[originRevisionKey], m.Metadata[revisionKey])
}

// words takes a CamelCase reason apart: "health check failed".
func words(reason string) string {
	var out strings.Builder
	for i, r := range reason {
		if unicode.IsUpper(r) && i > 0 {
			out.WriteByte(' ')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}

// clip shortens a text to at most limit characters, for services that refuse more.
func clip(s string, limit int) string {
	runes := []rune(s)
	if len(runes) <= limit {
		return s
	}
	return string(runes[:limit-1]) + "…"
}

package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

const (
	// groupQuiet is how long nothing more must be heard of a revision before it is told.
	groupQuiet = 10 * time.Second
	// maxGroupAge is after which time it is told all the same, and the rest in another message.
	maxGroupAge = 2 * time.Minute
	// maxNamed is how many objects that fail a message names.
	maxNamed = 10
	// maxGroups is how many revisions are gathered at a time, and maxMembers how many objects of one.
	maxGroups, maxMembers = 1024, 10000
)

// groups gathers what happens because of one revision, for the Alerts that want one message about it. It is used by one
// goroutine.
type groups struct {
	open map[groupKey]*gathered
}

type groupKey struct {
	alert    string
	revision string
}

// gathered is what is known of a revision.
type gathered struct {
	rule        *rule
	revision    string
	first, last time.Time
	latest      *Message
	members     map[string]*Message // the last of each object
}

func newGroups() *groups { return &groups{open: map[groupKey]*gathered{}} }

func (g *groups) add(r *rule, m *Message, now time.Time) {
	key := groupKey{r.key().String(), m.revision()}
	of := g.open[key]
	if of == nil {
		if len(g.open) >= maxGroups {
			return // more revisions at a time than anybody reads about
		}
		of = &gathered{rule: r, revision: m.revision(), first: now, members: map[string]*Message{}}
		g.open[key] = of
	}
	of.rule, of.last, of.latest = r, now, m
	if old := of.members[m.identity()]; old != nil && m.underway() && !m.failed() {
		return // how it ended last says more than that it goes on
	}
	if len(of.members) < maxMembers {
		of.members[m.identity()] = m
	}
}

// has says whether the revision of a message is being gathered.
func (g *groups) has(r *rule, m *Message) bool {
	return g.open[groupKey{r.key().String(), m.revision()}] != nil
}

// complete returns the groups of which nothing more is awaited, in the order in which they began.
func (g *groups) complete(now time.Time) []*gathered {
	var out []*gathered
	for key, of := range g.open {
		if now.Sub(of.last) >= groupQuiet || now.Sub(of.first) >= maxGroupAge {
			out = append(out, of)
			delete(g.open, key)
		}
	}
	slices.SortFunc(out, func(a, b *gathered) int { return a.first.Compare(b.first) })
	return out
}

// message tells of all of a group. Its object is the Alert that has asked for it.
func (g *gathered) message() *Message {
	var failed []string
	ended, going := 0, 0
	for _, m := range g.members {
		switch {
		case m.failed():
			o := m.InvolvedObject
			failed = append(failed, fmt.Sprintf("%s/%s/%s: %s", o.Kind, o.Namespace, o.Name, firstLine(m.Message)))
		case m.underway():
			going++
		default:
			ended++
		}
	}
	slices.Sort(failed)
	counts := []string{}
	for _, c := range []struct {
		n    int
		what string
	}{{ended, "succeeded"}, {len(failed), "failed"}, {going, "in progress"}} {
		if c.n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	text := g.revision + ": " + strings.Join(counts, ", ")
	for _, line := range failed[:min(len(failed), maxNamed)] {
		text += "\n" + line
	}
	if more := len(failed) - maxNamed; more > 0 {
		text += fmt.Sprintf("\nand %d more", more)
	}
	out := &Message{News: g.latest.News, alert: g.rule.alert}
	a := g.rule.alert
	out.InvolvedObject = corev1.ObjectReference{
		APIVersion: a.APIVersion, Kind: a.Kind, Namespace: a.Namespace, Name: a.Name, UID: a.UID, ResourceVersion: a.ResourceVersion,
	}
	out.Metadata = map[string]string{revisionKey: g.revision}
	for key, value := range a.Spec.EventMetadata {
		out.Metadata[key] = value
	}
	out.Severity, out.Reason, out.Message = reconcile.SeverityInfo, "RevisionReconciled", text
	if len(failed) > 0 {
		out.Severity = reconcile.SeverityError
	} else if going > 0 && ended == 0 {
		out.Reason = "Progressing"
	}
	return out
}

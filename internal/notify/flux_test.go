package notify

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cleat-dev/cleat/internal/reconcile"
)

// fluxNotification is what a Provider of Flux 2.9 was sent.
type fluxNotification struct{ Path, Component, Body string }

// fluxNotifications reads testdata/flux-notifications.jsonl: every request that Flux 2.9 made to a Provider of type generic and
// to one of type slack, for the repository and the chart of its recording, with the header Gotk-Component as "component".
func fluxNotifications(t *testing.T) []fluxNotification {
	t.Helper()
	file, err := os.Open("testdata/flux-notifications.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out []fluxNotification
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var n fluxNotification
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// told is the event that a controller must have sent for Flux to tell what it has told: keys of metadata have the prefix of the
// kind's group, but for what the Alert adds.
func told(t *testing.T, body string) reconcile.News {
	t.Helper()
	var n reconcile.News
	if err := json.Unmarshal([]byte(body), &n); err != nil {
		t.Fatal(err)
	}
	metadata := map[string]string{}
	for key, value := range n.Metadata {
		if key != "cluster" {
			metadata[incoming{News: n}.group()+"/"+key] = value
		}
	}
	n.Metadata = metadata
	return n
}

func revisionOf(p slackPayload) string {
	for _, f := range p.Attachments[0].Fields {
		if f.Title == revisionKey {
			return f.Value
		}
	}
	return ""
}

// TestFluxGeneric holds that the type generic is sent, byte by byte, what Flux 2.9 sends it.
func TestFluxGeneric(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`/generic"}`)+newAlert(`{providerRef: {name: sink}, eventSeverity: info, eventMetadata: {cluster: one}, eventSources: [
		{kind: GitRepository, name: "*"}, {kind: OCIRepository, name: "*"}, {kind: HelmRepository, name: "*"}, {kind: HelmChart, name: "*"}, {kind: Kustomization, name: "*"}, {kind: HelmRelease, name: "*"}]}`))
	checked := 0
	for _, n := range fluxNotifications(t) {
		if n.Path != "/generic" {
			continue
		}
		w.limit = newLimiter(0) // each of these was told
		w.hear(told(t, n.Body))
		got := sink.take()
		if len(got) != 1 {
			t.Fatalf("%d requests for %s", len(got), n.Body)
		}
		if diff := cmp.Diff(n.Body, got[0].Body); diff != "" {
			t.Error(diff)
		}
		if got[0].Header.Get("Gotk-Component") != n.Component || got[0].Path != n.Path || got[0].Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v", got[0].Path, got[0].Header)
		}
		checked++
	}
	if checked < 20 {
		t.Fatalf("%d notifications only", checked)
	}
}

// TestFluxSlack holds that the type slack is sent what Flux 2.9 sends it, in any order of the fields.
func TestFluxSlack(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: slack, channel: general, address: "`+sink.URL+`/slack"}`)+
		newAlert(`{providerRef: {name: sink}, eventSeverity: error, eventSources: [{kind: Kustomization, name: "*"}, {kind: HelmRelease, name: "*"}]}`))
	w.limit = newLimiter(0)
	sorted := cmpopts.SortSlices(func(a, b slackField) bool { return a.Title < b.Title })
	all := fluxNotifications(t)
	checked := 0
	for _, n := range all {
		if n.Path != "/slack" {
			continue
		}
		var want, got slackPayload
		if err := json.Unmarshal([]byte(n.Body), &want); err != nil {
			t.Fatal(err)
		}
		// The event is the one of which generic was told with the same message.
		i := slices.IndexFunc(all, func(g fluxNotification) bool {
			return g.Path == "/generic" && strings.Contains(n.Body, told(t, g.Body).InvolvedObject.Name+".demo") && told(t, g.Body).Message == want.Attachments[0].Text && revisionOf(want) == told(t, g.Body).Metadata[incoming{News: told(t, g.Body)}.group()+"/revision"]
		})
		if i < 0 {
			t.Fatalf("no event for %s", n.Body)
		}
		w.hear(told(t, all[i].Body))
		requests := sink.take()
		if len(requests) != 1 {
			t.Fatalf("%d requests for %s", len(requests), n.Body)
		}
		if err := json.Unmarshal([]byte(requests[0].Body), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, sorted, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		checked++
	}
	if checked < 5 {
		t.Fatalf("%d notifications only", checked)
	}
}

package webhook

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"testing"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
)

// sent is what a sender sends: a payload, and the headers that go with it for a token.
type sent struct {
	kind    string // of the Receiver
	payload string
	header  func(body []byte, token string) map[string]string
	// open says that the path is all that such a sender can be known by.
	open bool
}

const jsonType = "application/json"

// senders are one request of each sender, as its documentation describes it; those with tokens of an issuer are in oidc_test.go.
var senders = map[string]sent{
	"generic": {kind: "generic", payload: "generic.json", open: true, header: func([]byte, string) map[string]string {
		return map[string]string{"Content-Type": jsonType}
	}},
	"generic-hmac sha256": {kind: "generic-hmac", payload: "generic.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Signature": "sha256=" + mac(sha256.New, token, body)}
	}},
	"generic-hmac sha512": {kind: "generic-hmac", payload: "generic.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Signature": "sha512=" + mac(sha512.New, token, body)}
	}},
	"generic-hmac sha1": {kind: "generic-hmac", payload: "generic.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Signature": "sha1=" + mac(sha1.New, token, body)}
	}},
	"gitea as generic-hmac": {kind: "generic-hmac", payload: "gitea-push.json", header: giteaHeader},
	"gitea as github":       {kind: "github", payload: "gitea-push.json", header: giteaHeader},
	"github": {kind: "github", payload: "github-push.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "User-Agent": "GitHub-Hookshot/044aadd", "X-GitHub-Event": "push",
			"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X-Hub-Signature": "sha1=" + mac(sha1.New, token, body),
			"X-Hub-Signature-256": "sha256=" + mac(sha256.New, token, body)}
	}},
	"gitlab": {kind: "gitlab", payload: "gitlab-push.json", header: func(_ []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": token}
	}},
	"bitbucket": {kind: "bitbucket", payload: "bitbucket-push.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Event-Key": "repo:refs_changed", "X-Hub-Signature": "sha256=" + mac(sha256.New, token, body)}
	}},
	"harbor": {kind: "harbor", payload: "harbor-push.json", header: func(_ []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "Authorization": token}
	}},
	"dockerhub": {kind: "dockerhub", payload: "dockerhub-push.json", open: true, header: plain},
	"quay":      {kind: "quay", payload: "quay-push.json", open: true, header: plain},
	"acr":       {kind: "acr", payload: "acr-push.json", open: true, header: plain},
	"nexus": {kind: "nexus", payload: "nexus-push.json", header: func(body []byte, token string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "X-Nexus-Webhook-Id": "rm:repository:component", "X-Nexus-Webhook-Signature": mac(sha1.New, token, body)}
	}},
	"cdevents": {kind: "cdevents", payload: "cdevents-change-merged.json", open: true, header: func([]byte, string) map[string]string {
		return map[string]string{"Content-Type": jsonType, "Ce-Type": "dev.cdevents.change.merged.0.2.0"}
	}},
}

func plain([]byte, string) map[string]string { return map[string]string{"Content-Type": jsonType} }

func giteaHeader(body []byte, token string) map[string]string {
	seal := mac(sha256.New, token, body)
	return map[string]string{"Content-Type": jsonType, "X-Gitea-Event": "push", "X-Gitea-Signature": seal, "X-Gogs-Signature": seal,
		"X-GitHub-Event": "push", "X-Hub-Signature": "sha1=" + mac(sha1.New, token, body), "X-Hub-Signature-256": "sha256=" + seal}
}

// TestSenders: what each sender sends has the source looked at again, and has nothing fetched.
func TestSenders(t *testing.T) {
	for name, s := range senders {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, repository("demo", "shop", nil))
			path, body := w.add(newReceiver(s.kind)), payload(t, s.payload)
			if status, text := w.do(post(path, body, s.header(body, token))); status != http.StatusOK {
				t.Fatalf("%d: %s", status, text)
			}
			if got := w.wrote(1); got[0] != "GitRepository/demo/shop" {
				t.Errorf("requested: %v", got)
			}
		})
	}
}

// TestEvents: spec.events chooses, without regard to case, and pings are answered without being acted on.
func TestEvents(t *testing.T) {
	for _, test := range []struct {
		sender, event string
		events        []string
		status        int
		acts          bool
	}{
		{"github", "push", []string{"ping", "Push"}, 200, true},
		{"github", "issues", []string{"push"}, 400, false},
		{"github", "", []string{"push"}, 400, false},
		{"github", "ping", []string{"push"}, 200, false},
		{"github", "ping", nil, 200, true},
		{"gitlab", "push hook", []string{"Push Hook"}, 200, true},
		{"gitlab", "Tag Push Hook", []string{"Push Hook"}, 400, false},
		{"bitbucket", "repo:refs_changed", []string{"repo:refs_changed"}, 200, true},
		{"bitbucket", "pr:opened", []string{"repo:refs_changed"}, 400, false},
		{"bitbucket", "diagnostics:ping", []string{"repo:refs_changed"}, 200, false},
		{"cdevents", "dev.cdevents.change.merged.0.2.0", []string{"dev.cdevents.change.merged.0.2.0"}, 200, true},
		{"cdevents", "dev.cdevents.build.started.0.2.0", []string{"dev.cdevents.change.merged.0.2.0"}, 400, false},
		{"harbor", "", []string{"PUSH_ARTIFACT"}, 200, true}, // has no such header: Flux does not look either
	} {
		w := newIdleWorld(t)
		r := newReceiver(test.sender)
		r.Spec.Events = test.events
		s := senders[test.sender]
		path, body := w.add(r), payload(t, s.payload)
		header := s.header(body, token)
		if kind, err := senderOf(test.sender); err != nil {
			t.Fatal(err)
		} else if kind.event != "" {
			header[kind.event] = test.event
		}
		status, text := w.do(post(path, body, header))
		if acts := len(w.jobs) == 1; status != test.status || acts != test.acts {
			t.Errorf("%s, %q of %v: %d %s, acted on: %t", test.sender, test.event, test.events, status, text, acts)
		}
	}
}

// TestGitHubForm: GitHub may be told to send a form; what is signed is the body as it is sent.
func TestGitHubForm(t *testing.T) {
	w := newIdleWorld(t)
	path := w.add(newReceiver("github"))
	body := []byte(url.Values{"payload": {string(payload(t, "github-push.json"))}}.Encode())
	header := senders["github"].header(body, token)
	header["Content-Type"] = "application/x-www-form-urlencoded"
	if status, text := w.do(post(path, body, header)); status != http.StatusOK {
		t.Errorf("%d: %s", status, text)
	}
	header["Content-Type"] = "text/plain"
	if status, _ := w.do(post(path, body, header)); status != http.StatusBadRequest {
		t.Errorf("of a type that GitHub does not send: %d", status)
	}
}

// TestA34_Forged: nobody who has not the token gets anything done, whatever he has seen of others (faults.md A34).
func TestA34_Forged(t *testing.T) {
	for name, s := range senders {
		if s.open {
			continue
		}
		body := payload(t, s.payload)
		genuine := s.header(body, token)
		var proofs []string
		for header := range genuine {
			if s.header(body, "another")[header] != genuine[header] {
				proofs = append(proofs, header)
			}
		}
		if len(proofs) == 0 {
			t.Fatalf("%s proves nothing", name)
		}
		attacks := map[string]call{
			"another token":                   post("", body, s.header(body, "another")),
			"no token":                        post("", body, s.header(body, "")),
			"the proof of another payload":    post("", bytes.ReplaceAll(body, []byte("shop"), []byte("shap")), genuine),
			"the proof, cut":                  post("", body, changed(genuine, proofs, func(v string) string { return v[:len(v)-2] })),
			"the proof, longer":               post("", body, changed(genuine, proofs, func(v string) string { return v + "00" })),
			"no proof":                        post("", body, changed(genuine, proofs, func(string) string { return "" })),
			"a proof without its algorithm":   post("", body, changed(genuine, proofs, func(v string) string { return v[max(0, len(v)-64):] + " " })),
			"a proof of no known algorithm":   post("", body, changed(genuine, proofs, func(v string) string { return "md5=" + v })),
			"a proof that is not hexadecimal": post("", body, changed(genuine, proofs, func(v string) string { return v[:len(v)-1] + "z" })),
		}
		if s.kind == "gitlab" || s.kind == "harbor" {
			delete(attacks, "the proof of another payload") // they sign nothing: the token itself is the proof
		}
		for attack, c := range attacks {
			w := newIdleWorld(t)
			c.path = w.add(newReceiver(s.kind))
			if status, text := w.do(c); status != http.StatusBadRequest || len(w.jobs) != 0 {
				t.Errorf("%s, %s: %d %s, %d acted on", name, attack, status, text, len(w.jobs))
			}
		}
	}
}

// changed changes some headers.
func changed(header map[string]string, names []string, change func(string) string) map[string]string {
	header = maps.Clone(header)
	for _, name := range names {
		header[name] = change(header[name])
	}
	return header
}

// TestA34_SHA1Only: a request that only has the signature of old is none of GitHub's or Bitbucket's.
func TestA34_SHA1Only(t *testing.T) {
	for _, kind := range []string{"github", "bitbucket"} {
		w := newIdleWorld(t)
		path, body := w.add(newReceiver(kind)), payload(t, kind+"-push.json")
		status, _ := w.do(post(path, body, map[string]string{"Content-Type": jsonType, "X-Hub-Signature": "sha1=" + mac(sha1.New, token, body)}))
		if status != http.StatusBadRequest || len(w.jobs) != 0 {
			t.Errorf("%s: %d, %d acted on", kind, status, len(w.jobs))
		}
	}
}

// TestA34_AnotherReceivers: what is signed for one Receiver is nothing to another with another token.
func TestA34_AnotherReceivers(t *testing.T) {
	w := newIdleWorld(t, secretOf("other", map[string]string{"token": "other-token"}))
	w.add(newReceiver("github"))
	other := newReceiver("github")
	other.Name, other.Spec.SecretRef.Name = "other", "other"
	other.Status.WebhookPath = other.GetWebhookPath("other-token")
	body := payload(t, "github-push.json")
	if status, _ := w.do(post(w.add(other), body, senders["github"].header(body, token))); status != http.StatusBadRequest || len(w.jobs) != 0 {
		t.Errorf("%d, %d acted on", status, len(w.jobs))
	}
}

// TestEverySenderIsTested keeps the table above whole.
func TestEverySenderIsTested(t *testing.T) {
	var tested []string
	for _, s := range senders {
		tested = append(tested, s.kind)
	}
	tested = append(tested, notificationv1.GCRReceiver, notificationv1.GenericOIDCReceiver) // in oidc_test.go
	for _, kind := range []string{"acr", "bitbucket", "cdevents", "dockerhub", "gcr", "generic", "generic-hmac", "generic-oidc", "github", "gitlab", "harbor", "nexus", "quay"} {
		if _, err := senderOf(kind); err != nil || !slices.Contains(tested, kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := senderOf("fax"); err == nil {
		t.Error("a type that there is not was taken")
	}
}

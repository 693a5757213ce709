package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// everywhere is a network in which every host is the one server. The host that was meant is in the request.
type everywhere struct{ server *url.URL }

func (e everywhere) RoundTrip(req *http.Request) (*http.Response, error) {
	meant := req.URL.Scheme + "://" + req.URL.Host
	req = req.Clone(req.Context())
	req.Header.Set("Meant", meant)
	req.URL.Scheme, req.URL.Host = e.server.Scheme, e.server.Host
	return http.DefaultTransport.RoundTrip(req)
}

var sinkKey = types.NamespacedName{Namespace: "demo", Name: "sink"}

// tellOf has a Provider told a message. All hosts are the one server.
func (w *world) tellOf(server *endpoint, m *Message) error {
	w.t.Helper()
	to, err := url.Parse(server.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.tellBy(everywhere{to}, m)
}

// tellBy has a Provider told a message by a way of the test's own.
func (w *world) tellBy(way http.RoundTripper, m *Message) error {
	w.t.Helper()
	t, err := w.resolve(context.Background(), sinkKey)
	if err != nil {
		return err
	}
	defer t.close()
	t.client.Transport = way
	tell := teller(t.spec.Type)
	if tell == nil {
		w.t.Fatalf("no type %q", t.spec.Type)
	}
	return t.masked(tell(context.Background(), t, m))
}

// messageOf is news as the Alert of everything has them told.
func (w *world) messageOf(r *rule, severity string) *Message {
	n := successNews()
	if severity == "error" {
		n = failureNews()
	}
	return w.message(r, incoming{News: n})
}

// service is a Provider as its user writes it, and what the service answers.
type service struct {
	kind    string
	spec    string
	secret  string
	answers map[string]string // by method and path; {} to others
}

// services are of every type.
var services = []service{
	{kind: "generic", spec: `address: "https://hooks.example.com/flux"`, secret: `{headers: "Authorization: Bearer canary-s3cret"}`},
	{kind: "generic-hmac", spec: `address: "https://hooks.example.com/flux"`, secret: `{token: canary-s3cret}`},
	{kind: "slack", spec: `channel: general, username: cleat`, secret: `{address: "https://slack.com/api/chat.postMessage", token: canary-s3cret}`,
		answers: map[string]string{"POST /api/chat.postMessage": `{"ok": true}`}},
	{kind: "rocket", spec: `channel: general`, secret: `{address: "https://rocket.example.com/hooks/canary-s3cret"}`},
	{kind: "discord", spec: `username: cleat`, secret: `{address: "https://discord.com/api/webhooks/1/canary-s3cret/slack"}`},
	{kind: "msteams", spec: ``, secret: `{address: "https://prod-1.westeurope.logic.azure.com/workflows/canary-s3cret"}`},
	{kind: "googlechat", spec: ``, secret: `{address: "https://chat.googleapis.com/v1/spaces/A/messages?key=k&token=canary-s3cret"}`},
	{kind: "webex", spec: `channel: room`, secret: `{token: canary-s3cret}`},
	{kind: "telegram", spec: `channel: "-100:7"`, secret: `{token: "1:canary-s3cret"}`},
	{kind: "lark", spec: ``, secret: `{address: "https://open.larksuite.com/open-apis/bot/v2/hook/canary-s3cret"}`,
		answers: map[string]string{"POST /open-apis/bot/v2/hook/canary-s3cret": `{"code": 0, "msg": "success"}`}},
	{kind: "matrix", spec: `address: "https://matrix.org", channel: "!room:matrix.org"`, secret: `{token: canary-s3cret}`},
	{kind: "zulip", spec: `address: "https://acme.zulipchat.com", channel: "ops/flux"`, secret: `{username: bot@acme.zulipchat.com, password: canary-s3cret}`},
	{kind: "zoom", spec: `address: "https://integrations.zoom.us/chat/webhooks/incomingwebhook/A"`, secret: `{token: canary-s3cret}`},
	{kind: "alertmanager", spec: `address: "https://alertmanager.example.com/api/v2/alerts"`, secret: `{username: cleat, password: canary-s3cret}`},
	{kind: "opsgenie", spec: ``, secret: `{token: canary-s3cret}`},
	{kind: "pagerduty", spec: `channel: canary-s3cret`},
	{kind: "datadog", spec: `address: "https://api.datadoghq.eu"`, secret: `{token: canary-s3cret}`},
	{kind: "grafana", spec: `address: "https://grafana.example.com/api/annotations"`, secret: `{token: canary-s3cret}`},
	{kind: "sentry", spec: `channel: production`, secret: `{address: "https://canary-s3cret@o1.ingest.sentry.io/42"}`},
	{kind: "incident.io", spec: `address: "https://api.incident.io/v2/alert_events/http/01"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"POST /v2/alert_events/http/01": `{"status": "success"}`}},
	{kind: "githubdispatch", spec: `address: "https://github.com/acme/shop"`, secret: `{token: canary-s3cret}`},
	{kind: "googlepubsub", spec: `address: project, channel: topic`, secret: `{headers: "team: shop"}`},
	{kind: "azureeventhub", spec: `channel: hub`, secret: `{address: "Endpoint=sb://acme.servicebus.windows.net/;SharedAccessKeyName=send;SharedAccessKey=canary-s3cret;EntityPath=flux"}`},
	{kind: "otel", spec: `address: "https://collector.example.com:4318"`, secret: `{token: canary-s3cret}`},
	{kind: "github", spec: `address: "https://github.com/acme/shop.git"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /repos/acme/shop/commits/" + commit + "/statuses": `[{"context": "kustomization/shop/16131a8a", "state": "pending", "description": "progressing"}]`}},
	{kind: "gitlab", spec: `address: "https://gitlab.example.com/acme/web/shop"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /api/v4/projects/acme%2Fweb%2Fshop/repository/commits/" + commit + "/statuses": `[]`}},
	{kind: "gitea", spec: `address: "https://gitea.example.com/acme/shop"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /api/v1/repos/acme/shop/commits/" + commit + "/statuses": `[]`}},
	{kind: "bitbucket", spec: `address: "https://bitbucket.org/acme/shop"`, secret: `{token: "robot:canary-s3cret"}`},
	{kind: "bitbucketserver", spec: `address: "https://bitbucket.example.com/git/scm/ACME/shop.git"`, secret: `{token: canary-s3cret}`},
	{kind: "azuredevops", spec: `address: "https://dev.azure.com/acme/web/_git/shop"`, secret: `{token: canary-s3cret}`},
	{kind: "githubpullrequestcomment", spec: `address: "https://github.example.com/acme/shop"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /api/v3/repos/acme/shop/issues/7/comments": `[{"id": 11, "body": "hello"}, {"id": 12, "body": "<!-- cleat: Kustomization/demo/shop/16131a8a-a5b7-4e09-a285-1674adf55b83 -->\nold"}]`}},
	{kind: "gitlabmergerequestcomment", spec: `address: "https://gitlab.com/acme/shop"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /api/v4/projects/acme%2Fshop/merge_requests/7/notes": `[{"id": 12, "body": "<!-- cleat: Kustomization/demo/shop/16131a8a-a5b7-4e09-a285-1674adf55b83 -->\nold"}]`}},
	{kind: "giteapullrequestcomment", spec: `address: "https://gitea.example.com/acme/shop"`, secret: `{token: canary-s3cret}`,
		answers: map[string]string{"GET /api/v1/repos/acme/shop/issues/7/comments": `[]`}},
}

// TestProviders holds what each type is sent, against testdata/providers: written after the documentation of the services, and
// rewritten by -update.
func TestProviders(t *testing.T) {
	for _, s := range services {
		t.Run(s.kind, func(t *testing.T) {
			server := newEndpoint(t, func(w http.ResponseWriter, r request) {
				switch answer, ok := s.answers[r.Method+" "+r.Path]; {
				case ok && answer != "":
					fmt.Fprint(w, answer)
				case r.Method == http.MethodGet:
					http.Error(w, "{}", http.StatusNotFound)
				default:
					fmt.Fprint(w, "{}")
				}
			})
			w := newWorld(t, serviceYAML(s.kind, s.spec, s.secret)+newAlert(everything))
			var out strings.Builder
			for _, severity := range []string{"error", "info"} {
				if err := w.tellOf(server, w.messageOf(w.current()[0], severity)); err != nil {
					t.Fatal(err)
				}
				requests := server.take()
				if len(requests) == 0 {
					t.Fatal("nothing was sent")
				}
				for _, r := range requests {
					fmt.Fprintf(&out, "## %s\n%s", severity, r.show())
				}
			}
			golden(t, filepath.Join("testdata", "providers", s.kind), out.String())
		})
	}
}

// TestTypesAreAllTested holds the table against the types that the API knows.
func TestTypesAreAllTested(t *testing.T) {
	for _, kind := range crdTypes(t) {
		if teller(kind) == nil {
			t.Errorf("the CRD has the type %s, which nobody can tell", kind)
		}
		if kind == alerting.NATSProvider {
			continue // it is told by a protocol of its own: TestNATS
		}
		if !slices.ContainsFunc(services, func(s service) bool { return s.kind == kind }) {
			t.Errorf("the type %s is not tested", kind)
		}
	}
}

// crdTypes reads the types that the API server takes.
func crdTypes(t *testing.T) []string {
	t.Helper()
	crd, err := os.ReadFile("../../manifests/crds/notification.toolkit.fluxcd.io_providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(crd), "              type:\n                enum:\n")
	if !found {
		t.Fatal("the CRD has no types")
	}
	var out []string
	for line := range strings.Lines(after) {
		kind, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if !ok {
			break
		}
		out = append(out, kind)
	}
	if len(out) < 30 {
		t.Fatalf("types: %v", out)
	}
	return out
}

func serviceYAML(kind, spec, secret string) string {
	if spec != "" {
		spec = ", " + spec
	}
	if secret == "" {
		return newProvider("{type: " + kind + spec + "}")
	}
	return newProvider("{type: "+kind+spec+", secretRef: {name: sink}}") + newSecret(secret)
}

// What differs from one time to the next.
var random = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`("(?:event_id|trace_id|span_id|spanId)": )"[0-9a-f]+"`), `$1"…"`},
	{regexp.MustCompile(`sig=[^&]*&se=\d+`), `sig=…&se=…`},
}

// show is a request as golden files have it.
func (r request) show() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s%s\n", r.Method, r.Header.Get("Meant"), r.Path)
	if len(r.Query) > 0 {
		fmt.Fprintf(&out, "? %s\n", r.Query.Encode())
	}
	names := []string{}
	for name := range r.Header {
		if !slices.Contains([]string{"Accept-Encoding", "Content-Length", "Meant", "User-Agent"}, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&out, "%s: %s\n", name, r.Header.Get(name))
	}
	out.WriteString("\n")
	switch {
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form"):
		form, err := url.ParseQuery(r.Body)
		if err != nil {
			return err.Error()
		}
		for _, key := range []string{"type", "to", "topic", "content"} {
			fmt.Fprintf(&out, "%s=%s\n", key, form.Get(key))
		}
	default:
		for line := range strings.Lines(r.Body) {
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, []byte(strings.TrimSpace(line)), "", "  "); err != nil {
				return "no JSON: " + line
			}
			out.WriteString(pretty.String() + "\n")
		}
	}
	text := out.String() + "\n"
	for _, one := range random {
		text = one.pattern.ReplaceAllString(text, one.with)
	}
	return text
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// TestRefusals holds which answers are final, for types that tell by status and for those that tell in the answer.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		kind, spec, secret string
		status             int
		answer             string
		final              bool
	}{
		{kind: "generic", spec: `address: "https://x.example.com"`, status: 500},
		{kind: "generic", spec: `address: "https://x.example.com"`, status: 429},
		{kind: "generic", spec: `address: "https://x.example.com"`, status: 408},
		{kind: "generic", spec: `address: "https://x.example.com"`, status: 404, final: true},
		{kind: "generic", spec: `address: "https://x.example.com"`, status: 302, final: true},
		{kind: "generic", spec: `address: "ftp://x.example.com"`, status: 200, final: true},
		{kind: "generic", spec: `suspend: false`, status: 200, final: true},
		{kind: "slack", secret: `{address: "https://slack.com/api/chat.postMessage", token: canary-s3cret}`, status: 200, answer: `{"ok": false, "error": "channel_not_found"}`, final: true},
		{kind: "slack", secret: `{address: "https://slack.com/api/chat.postMessage", token: canary-s3cret}`, status: 200, answer: `{"ok": false, "error": "ratelimited"}`},
		{kind: "lark", spec: `address: "https://open.larksuite.com/hook"`, status: 200, answer: `{"code": 19001, "msg": "param invalid"}`, final: true},
		{kind: "lark", spec: `address: "https://open.larksuite.com/hook"`, status: 200, answer: `{"code": 11232, "msg": "frequency limited"}`},
		{kind: "webex", spec: `channel: room`, status: 200, final: true},
		{kind: "githubpullrequestcomment", spec: `address: "https://github.com/acme"`, secret: `{token: canary-s3cret}`, status: 200, final: true},
		{kind: "bitbucketserver", spec: `address: "https://x.example.com/acme/shop"`, secret: `{token: canary-s3cret}`, status: 200, final: true},
	} {
		t.Run(fmt.Sprint(tt.kind, tt.spec, tt.status, tt.answer), func(t *testing.T) {
			server := newEndpoint(t, func(w http.ResponseWriter, _ request) {
				w.Header().Set("Location", "https://elsewhere.example.com/")
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.answer)
			})
			w := newWorld(t, serviceYAML(tt.kind, tt.spec, tt.secret)+newAlert(everything))
			err := w.tellOf(server, w.messageOf(w.current()[0], "error"))
			if err == nil || final(err) != tt.final {
				t.Errorf("%v, final: %v", err, final(err))
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("A29: %v", err)
			}
		})
	}
}

// TestStatusIsKept holds that a commit is left alone whose status is what it should be.
func TestStatusIsKept(t *testing.T) {
	for kind, answer := range map[string]string{
		"github":          `[{"context": "kustomization/shop/16131a8a", "state": "failure", "description": "build failed"}, {"context": "kustomization/shop/16131a8a", "state": "success"}]`,
		"gitlab":          `[{"name": "kustomization/shop/16131a8a", "status": "failed", "description": "build failed"}]`,
		"gitea":           `[{"context": "kustomization/shop/16131a8a", "status": "failure", "description": "build failed"}]`,
		"bitbucket":       `{"state": "FAILED", "description": "build failed"}`,
		"bitbucketserver": `{"state": "FAILED", "description": "build failed"}`,
		"azuredevops":     `{"value": [{"state": "failed", "description": "build failed", "context": {"name": "kustomization/shop/16131a8a", "genre": "fluxcd"}}]}`,
	} {
		t.Run(kind, func(t *testing.T) {
			i := slices.IndexFunc(services, func(s service) bool { return s.kind == kind })
			server := newEndpoint(t, func(w http.ResponseWriter, _ request) { fmt.Fprint(w, answer) })
			w := newWorld(t, serviceYAML(kind, services[i].spec, services[i].secret)+newAlert(everything))
			for severity, want := range map[string]int{"error": 1, "info": 2} {
				if err := w.tellOf(server, w.messageOf(w.current()[0], severity)); err != nil {
					t.Fatal(err)
				}
				if got := server.take(); len(got) != want {
					t.Errorf("%s: %d requests, want %d: %v", severity, len(got), want, got)
				}
			}
		})
	}
}

// TestCommits holds which revisions are commits.
func TestCommits(t *testing.T) {
	for revision, want := range map[string]string{
		"main@sha1:" + commit: commit, "sha1:" + commit: commit, "main/" + commit: commit, commit: commit, "refs/heads/a@b@sha1:" + commit: commit,
		"latest@sha256:5465ff7896d3e7f5ff17a99920dde26778e98e2c07015dea974f4b2cffabd44c": "", "1.0.0": "", "": "", "main@sha1:" + commit[1:]: "",
	} {
		m := &Message{}
		m.Metadata = map[string]string{revisionKey: revision}
		if got := m.commit(); got != want {
			t.Errorf("%q: %q", revision, got)
		}
	}
}

// TestCommitStatusExpr holds how a status is called.
func TestCommitStatusExpr(t *testing.T) {
	for text, want := range map[string]string{
		"": "kustomization/shop/16131a8a",
		"event.involvedObject.name + '/' + provider.metadata.name + '/' + alert.metadata.name + '/' + event.metadata.revision.split(':')[1].substring(0, 4)": "shop/sink/all/f12a",
		"event.nonsense": "!", "1": "!", "''": "!", "'": "!",
	} {
		spec := `{type: github, address: "https://github.com/acme/shop", commitStatusExpr: ` + fmt.Sprintf("%q", text) + `}`
		w := newWorld(t, newProvider(spec)+newAlert(everything))
		target, err := w.resolve(context.Background(), sinkKey)
		if err != nil {
			t.Fatal(err)
		}
		got, err := target.commitID(w.messageOf(w.current()[0], "info"))
		if want == "!" {
			if !errors.Is(err, errConfig) {
				t.Errorf("%q: %q, %v", text, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

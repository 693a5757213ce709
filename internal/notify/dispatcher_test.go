package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

const shop = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: shop, namespace: demo, labels: {team: shop}}\n---\n"

// TestMatching holds which events an Alert is about.
func TestMatching(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spec    string // of the Alert, beside its Provider
		strict  bool   // --no-cross-namespace-refs
		other   string // the namespace of the object, if not that of the Alert
		want    int
		problem string // the reason of an event on the Alert
	}{
		{name: "any name", spec: `eventSources: [{kind: Kustomization, name: "*"}]`, want: 1},
		{name: "the name", spec: `eventSources: [{kind: Kustomization, name: shop}]`, want: 1},
		{name: "another name", spec: `eventSources: [{kind: Kustomization, name: shop-2}]`},
		{name: "another kind", spec: `eventSources: [{kind: HelmRelease, name: "*"}]`},
		{name: "its group", spec: `eventSources: [{apiVersion: kustomize.toolkit.fluxcd.io/v1beta2, kind: Kustomization, name: shop}]`, want: 1},
		{name: "another group", spec: `eventSources: [{apiVersion: example.com/v1, kind: Kustomization, name: shop}]`},
		{name: "its labels", spec: `eventSources: [{kind: Kustomization, name: "*", matchLabels: {team: shop}}]`, want: 1},
		{name: "other labels", spec: `eventSources: [{kind: Kustomization, name: "*", matchLabels: {team: web}}]`},
		{name: "one of two", spec: `eventSources: [{kind: Kustomization, name: nobody}, {kind: Kustomization, name: shop}]`, want: 1},
		{name: "its own namespace", spec: `eventSources: [{kind: Kustomization, name: "*"}]`, other: "web"},
		{name: "another namespace", spec: `eventSources: [{kind: Kustomization, name: "*", namespace: web}]`, other: "web", want: 1},
		{name: "all namespaces", spec: `eventSources: [{kind: Kustomization, name: "*", namespace: "*"}]`, other: "web", want: 1},
		{name: "strict: its own namespace", spec: `eventSources: [{kind: Kustomization, name: "*", namespace: demo}]`, strict: true, want: 1},
		{name: "strict: another", spec: `eventSources: [{kind: Kustomization, name: "*", namespace: web}]`, strict: true, other: "web", problem: "InvalidConfig"},
		{name: "strict: all", spec: `eventSources: [{kind: Kustomization, name: "*", namespace: "*"}]`, strict: true, other: "web", problem: "InvalidConfig"},
		{name: "errors only", spec: `eventSeverity: error, eventSources: [{kind: Kustomization, name: "*"}]`},
		{name: "included", spec: `eventSources: [{kind: Kustomization, name: "*"}], inclusionList: ["^nothing", "finished$"]`, want: 1},
		{name: "not included", spec: `eventSources: [{kind: Kustomization, name: "*"}], inclusionList: ["^nothing"]`},
		{name: "excluded", spec: `eventSources: [{kind: Kustomization, name: "*"}], inclusionList: ["finished"], exclusionList: ["^Recon"]`},
		{name: "suspended", spec: `suspend: true, eventSources: [{kind: Kustomization, name: "*"}]`},
		{name: "a bad pattern", spec: `eventSources: [{kind: Kustomization, name: "*"}], exclusionList: ["("]`, problem: "InvalidConfig"},
		{name: "undecodable", spec: `eventSources: [{kind: Kustomization, name: "*"}], exclusionList: 7`, problem: "InvalidConfig"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sink := newEndpoint(t, nil)
			w := newWorld(t, shop+newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert("{providerRef: {name: sink}, "+tt.spec+"}"),
				func(o *Options) { o.NoCrossNamespace = tt.strict })
			n := successNews()
			if tt.other != "" {
				n.InvolvedObject.Namespace = tt.other
			}
			w.hear(n)
			if got := sink.take(); len(got) != tt.want {
				t.Errorf("%d requests, want %d", len(got), tt.want)
			}
			events := w.events.Words()
			if tt.problem == "" && len(events) > 0 || tt.problem != "" && (len(events) != 1 || !strings.HasPrefix(events[0], "Warning "+tt.problem)) {
				t.Errorf("events: %q", events)
			}
			w.clock = w.clock.Add(time.Hour)
			w.hear(n)
			if again := w.events.Words(); len(again) > 0 {
				t.Errorf("told again: %q", again)
			}
		})
	}
}

// TestTraceIsNotTold holds that events that are for logs are told nobody.
func TestTraceIsNotTold(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	w.hear(newNews("trace", "Succeeded", "no changes"))
	if got := sink.take(); len(got) > 0 {
		t.Error(got)
	}
}

// TestLabelsCannotBeRead holds that an Alert is told so, and that a rule without labels works all the same.
func TestLabelsCannotBeRead(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+
		newAlert(`{providerRef: {name: sink}, eventSources: [{kind: Kustomization, name: "*", matchLabels: {team: shop}}]}`), func(o *Options) {
		o.Objects = func(schema.GroupVersionKind) client.Reader {
			return interceptor.NewClient(o.Secrets.(client.WithWatch), interceptor.Funcs{
				Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
					return errors.New("out of order")
				},
			})
		}
	})
	w.hear(successNews())
	if events := w.events.Words(); len(events) != 1 || !strings.Contains(events[0], "Warning SourceFetchFailed reading the labels of the object: out of order") {
		t.Errorf("%q", events)
	}
	if got := sink.take(); len(got) > 0 {
		t.Error(got)
	}
}

// TestMetadata holds whose metadata count most, and that what is nobody's business is left out.
func TestMetadata(t *testing.T) {
	n := successNews()
	n.Metadata = map[string]string{
		"event.toolkit.fluxcd.io/a": "object", "event.toolkit.fluxcd.io/b": "object", "event.toolkit.fluxcd.io/token": "x",
		"kustomize.toolkit.fluxcd.io/a": "controller", "kustomize.toolkit.fluxcd.io/c": "controller", "kustomize.toolkit.fluxcd.io/token": "x",
		"helm.toolkit.fluxcd.io/d": "of another kind", "e": "without a group", "summary": "no",
	}
	alert := map[string]string{"a": "alert", "b": "alert", "c": "controller", "f": "alert", "token": "x"}
	for _, tt := range []struct {
		foreign   bool
		want      map[string]string
		conflicts []string
	}{
		{false, map[string]string{"a": "controller", "b": "alert", "c": "controller", "f": "alert", "summary": "brief"}, []string{"a", "b"}},
		{true, map[string]string{"a": "controller", "b": "object", "c": "controller", "f": "alert", "summary": "brief"}, []string{"a", "b"}},
	} {
		in := incoming{News: n, foreign: tt.foreign}
		if tt.foreign {
			delete(in.Metadata, "event.toolkit.fluxcd.io/a") // which of both groups wins is nobody's concern
		}
		got, conflicts := in.metadata(alert, "brief")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("foreign %v: %s", tt.foreign, diff)
		}
		if diff := cmp.Diff(tt.conflicts, conflicts); diff != "" {
			t.Errorf("foreign %v: %s", tt.foreign, diff)
		}
	}
}

// TestMetadataConflict holds that the Alert is told of keys that it cannot have.
func TestMetadataConflict(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+
		newAlert(`{providerRef: {name: sink}, eventMetadata: {revision: mine}, eventSources: [{kind: Kustomization, name: "*"}]}`))
	w.hear(successNews())
	if events := w.events.Words(); len(events) != 1 || !strings.HasPrefix(events[0], "Warning MetadataAppendFailed") || !strings.HasSuffix(events[0], ": revision") {
		t.Errorf("%q", events)
	}
	if got := sink.take()[0].json(t)["metadata"].(map[string]any)["revision"]; got != "main@sha1:"+commit {
		t.Error(got)
	}
}

// TestA28_PatternsAreBounded holds that no pattern is taken that could take long on a message.
func TestA28_PatternsAreBounded(t *testing.T) {
	for _, text := range []string{"((a{0,100}){0,100}){0,100}", strings.Repeat("a", 1025), "(", `\p{L}{1000}`} {
		if _, _, err := pattern(text); err == nil {
			t.Errorf("%.30q is taken", text)
		}
	}
	worst, _, err := pattern("(x+x+)+y|(.*){20}[^z]{400}z")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	worst.MatchString(strings.Repeat("x", 39000))
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it takes %s", took)
	}
	if _, _, err := patterns("spec.inclusionList", slices.Repeat([]string{"(.*){20}[^z]{400}z"}, 6)); err == nil {
		t.Error("any size of patterns is taken")
	}
	if _, _, err := patterns("spec.inclusionList", make([]string, maxPatterns+1)); err == nil {
		t.Error("any number of patterns is taken")
	}
}

// TestF52_TheSameIsToldOnce holds Flux's rate limit, which durations in messages do not get around.
func TestF52_TheSameIsToldOnce(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	tell := func(change func(*reconcile.News)) int {
		n := newNews(reconcile.SeverityInfo, "DependencyNotReady", "Dependencies do not meet ready condition, retrying in 5.645600936s")
		if change != nil {
			change(&n)
		}
		w.hear(n)
		return len(sink.take())
	}
	for _, tt := range []struct {
		name   string
		change func(*reconcile.News)
		after  time.Duration
		want   int
	}{
		{name: "new", want: 1},
		{name: "the same"},
		{name: "another duration", change: func(n *reconcile.News) { n.Message = strings.Replace(n.Message, "5.645600936s", "1m30s", 1) }},
		{name: "another object", change: func(n *reconcile.News) { n.InvolvedObject.Name = "web" }, want: 1},
		{name: "another revision", change: func(n *reconcile.News) { n.Metadata["kustomize.toolkit.fluxcd.io/revision"] = "x" }, want: 1},
		{name: "another token", change: func(n *reconcile.News) { n.Metadata["kustomize.toolkit.fluxcd.io/token"] = "x" }, want: 1},
		{name: "another text", change: func(n *reconcile.News) { n.Message = "something else" }, want: 1},
		{name: "not yet", after: 4*time.Minute + 59*time.Second},
		{name: "again", after: time.Second, want: 1},
	} {
		w.clock = w.clock.Add(tt.after)
		if got := tell(tt.change); got != tt.want {
			t.Errorf("%s: %d", tt.name, got)
		}
	}
}

// TestLimiterIsBounded holds that any number of different events is remembered in so much memory.
func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(time.Hour)
	for i := range 3 * maxRemembered {
		if l.repeated(fmt.Sprint(i)) {
			t.Fatal(i)
		}
	}
	if len(l.seen) > maxRemembered || l.oldest.Len() != len(l.seen) {
		t.Errorf("%d, %d", len(l.seen), l.oldest.Len())
	}
}

const annotated = "apiVersion: notification.toolkit.fluxcd.io/v1beta3\nkind: Alert\nmetadata: {name: all, namespace: demo, annotations: {%s}}\nspec: %s\n---\n"

// messages returns what an endpoint was told.
func (e *endpoint) messages(t *testing.T) string {
	t.Helper()
	var got []string
	for _, r := range e.take() {
		got = append(got, r.json(t)["message"].(string))
	}
	return strings.Join(got, ",")
}

// TestF25_OneMessageAnIncident holds that an Alert with cleat.dev/on: transitions tells when an object is not ready any more and
// when it is again, whatever severity it asks for, and of no event between: a correction of drift is no recovery, a warning about
// something that is ready no failure, and neither keeps the next failure from being told.
func TestF25_OneMessageAnIncident(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+fmt.Sprintf(annotated, "cleat.dev/on: transitions",
		`{providerRef: {name: sink}, eventSeverity: error, exclusionList: ["^ignored"], eventSources: [{kind: Kustomization, name: "*"}]}`))
	bad := func(message string) reconcile.News {
		n := newNews(reconcile.SeverityError, "BuildFailed", message)
		n.Turn = reconcile.TurnedBad
		return n
	}
	good := newNews(reconcile.SeverityInfo, "ReconciliationSucceeded", "Applied revision: main")
	good.Turn = reconcile.TurnedGood
	const recovered = "Recovered: Applied revision: main"
	for i, step := range []struct {
		news reconcile.News
		want string
	}{
		{successNews(), ""},
		{bad("ignored"), ""},
		{good, ""}, // nobody was told of the failure
		{newNews(reconcile.SeverityError, "DriftDetected", "ConfigMap/demo/one"), ""},
		{bad("one"), "one"},
		{newNews(reconcile.SeverityError, "BuildFailed", "one"), ""},
		{newNews(reconcile.SeverityInfo, "DriftCorrected", "put right"), ""},
		{newNews(reconcile.SeverityInfo, "Progressing", "Deployment/shop configured"), ""},
		{good, recovered},
		// The same again within the time of the rate limit is another incident.
		{bad("one"), "one"},
		{good, recovered},
		// It has failed before this agent began.
		{good, recovered},
	} {
		w.hear(step.news)
		if got := sink.messages(t); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// TestTurnsAreNoEvents holds that an Alert without the annotation is told events and no turns, and that a turn does not count for the
// rate limit of events.
func TestTurnsAreNoEvents(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	turn := failureNews()
	turn.Turn = reconcile.TurnedBad
	w.hear(turn)
	if got := sink.messages(t); got != "" {
		t.Errorf("told: %s", got)
	}
	w.hear(failureNews())
	if got := sink.messages(t); got != failureNews().Message {
		t.Errorf("told: %q", got)
	}
}

// TestTransitionsOfOthers holds that of objects of other controllers, which send events only, the severity tells what has changed.
func TestTransitionsOfOthers(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+fmt.Sprintf(annotated, "cleat.dev/on: transitions",
		`{providerRef: {name: sink}, exclusionList: ["^ignored"], eventSources: [{kind: Kustomization, name: "*"}]}`))
	for i, step := range []struct {
		news reconcile.News
		want string
	}{
		{successNews(), ""},
		{newNews(reconcile.SeverityError, "BuildFailed", "ignored"), ""},
		{successNews(), ""},
		{newNews(reconcile.SeverityError, "BuildFailed", "one"), "one"},
		{newNews(reconcile.SeverityError, "HealthCheckFailed", "two"), ""},
		{newNews(reconcile.SeverityInfo, "DependencyNotReady", "waiting"), ""},
		{successNews(), "Recovered: Reconciliation finished"},
		{successNews(), ""},
		{newNews(reconcile.SeverityError, "BuildFailed", "one"), "one"},
	} {
		in := incoming{News: step.news, foreign: true}
		in.repeated = w.limit.repeated(in.key())
		w.take(context.Background(), in)
		w.settle()
		if got := sink.messages(t); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// TestTurnsAreBounded holds that what is remembered of failures has an end, and that a recovery is told all the same.
func TestTurnsAreBounded(t *testing.T) {
	turns, r := newTurns(), &rule{alert: &alerting.Alert{}}
	yes := func() bool { return true }
	for i := range 2 * maxTurns {
		m := &Message{News: newNews(reconcile.SeverityError, "BuildFailed", "one")}
		m.InvolvedObject.Name = fmt.Sprint(i)
		if !turns.turn(r, m, false, yes) {
			t.Fatal(i)
		}
	}
	if len(turns.told) > maxTurns {
		t.Errorf("%d are remembered", len(turns.told))
	}
	m := &Message{News: successNews()}
	m.InvolvedObject.Name = "0"
	if !turns.turn(r, m, false, yes) {
		t.Error("its recovery is lost")
	}
}

// TestA28_Shares holds that Alerts whose patterns are slow cost their namespace its alerts, which they are told once, and no other.
func TestA28_Shares(t *testing.T) {
	sink := newEndpoint(t, nil)
	spec := `{providerRef: {name: sink}, exclusionList: [nothing], eventSources: [{kind: Kustomization, name: "*", namespace: "*"}]}`
	provider := newProvider(`{type: generic, address: "` + sink.URL + `"}`)
	quick := strings.NewReplacer("namespace: demo", "namespace: web")
	w := newWorld(t, provider+newAlert(spec)+quick.Replace(provider+newAlert(spec)))
	now := w.clock
	var slow bool
	w.shares.now = func() time.Time {
		if slow {
			now = now.Add(maxSpent / 10)
		}
		return now
	}
	const many = 20
	for i := range many {
		for _, r := range w.current() {
			slow = r.alert.Namespace == "demo" // the clock goes while its patterns are matched
			w.offer(context.Background(), r, incoming{News: newNews(reconcile.SeverityInfo, "Progressing", fmt.Sprint(i))}, nil)
		}
	}
	w.settle()
	if got := len(sink.take()); got < many+10 || got > many+15 {
		t.Errorf("%d messages, of %d for each of two", got, many)
	}
	if events := w.events.Words(); len(events) != 1 || events[0] != "Warning InvalidConfig "+errShare.Error() {
		t.Errorf("%q", events)
	}
	slow, now = false, now.Add(time.Minute)
	w.hear(newNews(reconcile.SeverityInfo, "Progressing", "later"))
	if got := len(sink.take()); got != 2 {
		t.Errorf("later: %d messages", got)
	}
}

// TestA28_OneMatch holds that the worst patterns that an Alert may have are held against the longest message in about a second: the
// time is linear in both, and the message is cut for patterns that are many.
func TestA28_OneMatch(t *testing.T) {
	worst := `(?:[a-q][^u-z]{13}x?)+(?:.?){100}y$`
	list := slices.Repeat([]string{worst}, 8)
	include, one, err := patterns("spec.inclusionList", list)
	if err != nil {
		t.Fatal(err)
	}
	exclude, other, err := patterns("spec.exclusionList", list)
	if err != nil {
		t.Fatal(err)
	}
	r := &rule{include: include, exclude: exclude, size: one + other}
	if r.size < maxListSize {
		t.Fatalf("they are small: %d instructions", r.size)
	}
	began := time.Now()
	r.lists(strings.Repeat("abcdefghijklmnop", 256<<10/16))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	short := &rule{include: include[:1], size: one / len(list)}
	if !short.lists(strings.Repeat("a", 39000) + strings.Repeat("b", 200) + "y") {
		t.Error("the end of a long message is not seen by a single pattern")
	}
}

// TestGroupHearsTheLast holds that a group has what was last heard of an object, though the same was heard not long ago.
func TestGroupHearsTheLast(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+fmt.Sprintf(annotated, "cleat.dev/group-by: revision", everything))
	for _, n := range []reconcile.News{failureNews(), successNews(), failureNews()} {
		w.hear(n)
	}
	w.flush(time.Now().Add(groupQuiet))
	w.settle()
	if got := sink.messages(t); !strings.Contains(got, ": 1 failed\n") {
		t.Errorf("%q", got)
	}
	w.hear(failureNews()) // an attempt later
	w.flush(time.Now().Add(groupQuiet))
	w.settle()
	if got := sink.messages(t); got != "" {
		t.Errorf("told again: %q", got)
	}
}

// TestNothingStaysOfAlertsThatGo holds that a failing Provider costs no memory when its Alerts are gone, and that nobody tries to
// tell it what they wanted to be told.
func TestNothingStaysOfAlertsThatGo(t *testing.T) {
	sink := newEndpoint(t, func(w http.ResponseWriter, _ request) { http.Error(w, "", http.StatusBadRequest) })
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	w.hear(failureNews())
	if len(w.outbox.queues) != 1 {
		t.Fatal("nothing is known of the failure")
	}
	r := w.current()[0]
	gone := api.Undecoded(api.AlertKind)
	gone.SetNamespace("demo")
	gone.SetName("all")
	w.unknow(gone)
	if len(w.outbox.queues) != 0 {
		t.Error("what has failed is remembered")
	}
	sink.take()
	w.outbox.add(r, w.messageOf(r, "error"))
	w.settle()
	if got := sink.take(); len(got) != 0 || len(w.outbox.queues) != 0 {
		t.Errorf("%d requests, %d queues", len(got), len(w.outbox.queues))
	}
}

// TestGroupByRevision holds that all that happens because of one revision is one message.
func TestGroupByRevision(t *testing.T) {
	sink := newEndpoint(t, nil)
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+fmt.Sprintf(annotated, "cleat.dev/group-by: revision",
		`{providerRef: {name: sink}, eventMetadata: {cluster: one}, eventSources: [{kind: Kustomization, name: "*"}]}`))
	for i := range 100 {
		n := successNews()
		if i%8 == 0 {
			n = failureNews()
		}
		n.InvolvedObject.Name = fmt.Sprintf("app-%03d", i)
		progress := n
		progress.Severity, progress.Reason, progress.Message = reconcile.SeverityInfo, "Progressing", "configured"
		w.hear(progress)
		w.hear(n)
	}
	now := time.Now()
	w.flush(now)
	w.settle()
	if got := sink.take(); len(got) > 0 {
		t.Fatalf("told before it was quiet: %v", got)
	}
	w.flush(now.Add(groupQuiet))
	w.flush(now.Add(2 * groupQuiet))
	w.settle()
	got := sink.take()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	body := got[0].json(t)
	want := []string{"main@sha1:" + commit + ": 87 succeeded, 13 failed"}
	for i := range maxNamed {
		want = append(want, fmt.Sprintf("Kustomization/demo/app-%03d: kustomization path not found: ./nowhere", 8*i))
	}
	want = append(want, "and 3 more")
	if diff := cmp.Diff(strings.Join(want, "\n"), body["message"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"revision": "main@sha1:" + commit, "cluster": "one"}, body["metadata"]); diff != "" {
		t.Error(diff)
	}
	if body["severity"] != "error" || body["involvedObject"].(map[string]any)["kind"] != "Alert" {
		t.Error(body)
	}
}

// TestCommitStatusEvents holds who hears that a commit is done, and that it is pending.
func TestCommitStatusEvents(t *testing.T) {
	update := successNews()
	update.Metadata["kustomize.toolkit.fluxcd.io/commit_status"] = "update"
	progress := newNews(reconcile.SeverityInfo, "Progressing", "Deployment/shop/shop configured")
	for _, tt := range []struct {
		kind, annotations string
		update, progress  bool
	}{
		{"generic", "", true, true}, {"generic-hmac", "", true, true}, {"slack", "", false, true}, {"githubpullrequestcomment", "", false, true},
		{"github", "", true, false}, {"gitlab", `cleat.dev/pending: "true"`, true, true}, {"gitea", `cleat.dev/pending: "false"`, true, false},
	} {
		t.Run(tt.kind+tt.annotations, func(t *testing.T) {
			sink := newEndpoint(t, func(w http.ResponseWriter, r request) {
				if r.Method == http.MethodGet {
					fmt.Fprint(w, "[]")
				}
			})
			w := newWorld(t, newProvider(`{type: `+tt.kind+`, address: "`+sink.URL+`/acme/shop", secretRef: {name: sink}}`)+newSecret(`{token: x}`)+fmt.Sprintf(annotated, tt.annotations, everything))
			for _, n := range []reconcile.News{update, progress} {
				want := n.Reason == "Progressing" && tt.progress || n.Reason != "Progressing" && tt.update
				w.hear(n)
				writes := slices.DeleteFunc(sink.take(), func(r request) bool { return r.Method == http.MethodGet })
				if (len(writes) == 1) != want {
					t.Errorf("%s: %v", n.Reason, writes)
				}
				if want && strings.HasPrefix(tt.kind, "git") && !strings.Contains(tt.kind, "comment") {
					state := map[string]string{"Progressing": "running", "ReconciliationSucceeded": "success"}[n.Reason]
					if got := writes[0].json(t)["state"]; got != state {
						t.Errorf("%v, want %s", got, state)
					}
				}
			}
			if events := w.events.Words(); len(events) > 0 {
				t.Errorf("%q", events)
			}
		})
	}
}

// TestCommitStatusChangesBack holds that a commit that fails, succeeds and fails within the time of the rate limit is failed.
func TestCommitStatusChangesBack(t *testing.T) {
	sink := newEndpoint(t, func(w http.ResponseWriter, r request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, "[]")
		}
	})
	w := newWorld(t, newProvider(`{type: github, address: "`+sink.URL+`/acme/shop", secretRef: {name: sink}}`)+newSecret(`{token: x}`)+newAlert(everything))
	var states []string
	for _, n := range []reconcile.News{failureNews(), successNews(), failureNews()} {
		w.hear(n)
	}
	for _, r := range sink.take() {
		if r.Method == http.MethodPost {
			states = append(states, r.json(t)["state"].(string))
		}
	}
	if diff := cmp.Diff([]string{"failure", "success", "failure"}, states); diff != "" {
		t.Error(diff)
	}
}

// TestDownIsToldOnce holds that an endpoint that is down is tried again with longer and longer pauses, that the Alert is told
// once, and once more when it is back, and that all that was queued arrives in order.
func TestDownIsToldOnce(t *testing.T) {
	failures := 5
	sink := newEndpoint(t, func(w http.ResponseWriter, _ request) {
		if failures > 0 {
			failures--
			http.Error(w, "out of order", http.StatusBadGateway)
		}
	})
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	for i := range 3 {
		in := incoming{News: newNews(reconcile.SeverityInfo, "Progressing", fmt.Sprint(i))}
		w.take(context.Background(), in)
	}
	w.settle()
	var messages []string
	for _, r := range sink.take() {
		messages = append(messages, r.json(t)["message"].(string))
	}
	if diff := cmp.Diff([]string{"0", "0", "0", "0", "0", "0", "1", "2"}, messages); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}, w.pauses); diff != "" {
		t.Error(diff)
	}
	host := strings.TrimPrefix(sink.URL, "http://")
	if diff := cmp.Diff([]string{
		"Warning NotificationDispatchFailed telling the Provider sink: " + host + " answers 502 out of order",
		"Normal NotificationDispatchResumed the Provider sink is told again",
	}, w.events.Words()); diff != "" {
		t.Error(diff)
	}
}

// TestOldNewsIsNotTold holds that a message that cannot be delivered for an hour is given up, and the next one tried.
func TestOldNewsIsNotTold(t *testing.T) {
	requests := 0
	sink := newEndpoint(t, func(w http.ResponseWriter, r request) {
		if requests++; requests < 200 && strings.Contains(r.Body, "old news") {
			http.Error(w, "out of order", http.StatusBadGateway)
		}
	})
	w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
	began := w.clock
	w.hear(newNews(reconcile.SeverityInfo, "Progressing", "old news"))
	if took := w.clock.Sub(began); took < maxAge || took > maxAge+maxPause || requests > 60 {
		t.Errorf("tried for %s, %d times", took, requests)
	}
	w.hear(newNews(reconcile.SeverityInfo, "Progressing", "fresh"))
	if got := sink.messages(t); !strings.HasSuffix(got, "old news,fresh") {
		t.Errorf("%q", got)
	}
}

// TestQueueIsBounded holds that of too many messages for one Provider the oldest are lost, that adding them waits for nobody,
// and that another Provider's arrive meanwhile.
func TestQueueIsBounded(t *testing.T) {
	block, entered := make(chan struct{}), make(chan struct{}, 1)
	slow := newEndpoint(t, func(http.ResponseWriter, request) {
		select {
		case entered <- struct{}{}:
		default: // a later one: they all wait for block
		}
		<-block
	})
	quick := newEndpoint(t, nil)
	other := strings.NewReplacer("name: sink", "name: quick", "name: all", "name: others")
	w := newWorld(t, newProvider(`{type: generic, address: "`+slow.URL+`"}`)+newAlert(everything)+
		other.Replace(newProvider(`{type: generic, address: "`+quick.URL+`"}`)+newAlert(everything)))
	const many = 3 * maxQueued
	began := time.Now()
	for i := range many {
		w.take(context.Background(), incoming{News: newNews(reconcile.SeverityInfo, "Progressing", fmt.Sprint(i))})
		if i == 0 {
			<-entered
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("telling has waited: %s", took)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		quick.mu.Lock()
		n := len(quick.requests)
		quick.mu.Unlock()
		if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("one Provider waits for another")
		}
	}
	close(block)
	w.settle()
	got := slow.take()
	if len(got) != maxQueued+1 || got[0].json(t)["message"] != "0" || got[maxQueued].json(t)["message"] != fmt.Sprint(many-1) {
		t.Errorf("%d messages", len(got))
	}
}

// TestStopping holds that what is queued when the agent stops is delivered in one try each, and that an endpoint that hangs
// does not keep it from stopping.
func TestStopping(t *testing.T) {
	for name, hang := range map[string]bool{"answers": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			block := make(chan struct{})
			sink := newEndpoint(t, func(http.ResponseWriter, request) {
				if hang {
					<-block
				}
			})
			defer close(block)
			w := newWorld(t, newProvider(`{type: generic, address: "`+sink.URL+`"}`)+newAlert(everything))
			ctx, cancel := context.WithCancel(context.Background())
			recorder := reconcile.NewRecorder(w.events).Telling(w.bus, reconcile.Reporter{Scheme: w.client.Scheme(), Controller: "kustomize-controller"})
			about := &unstructuredShop
			recorder.Record(about, reconcile.Event{Type: "Normal", Reason: "Progressing", Message: "one"})
			cancel()
			began := time.Now()
			if err := w.Run(ctx); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > drainTime+5*time.Second {
				t.Errorf("it takes %s to stop", took)
			}
			if got := sink.take(); len(got) != 1 {
				t.Errorf("%d requests", len(got))
			}
		})
	}
}

// TestProviderProblems holds what an Alert is told of a Provider that cannot be used.
func TestProviderProblems(t *testing.T) {
	for _, tt := range []struct{ name, provider, want string }{
		{"none", "", `Warning InvalidConfig telling the Provider sink: invalid Provider: reading the Provider sink of spec.providerRef: `},
		{"no type", newProvider(`{type: pigeon, address: "https://x.example.com"}`), `Warning InvalidConfig telling the Provider sink: invalid Provider: there is no type "pigeon"`},
		{"no Secret", newProvider(`{type: generic, secretRef: {name: sink}}`), `Warning InvalidConfig telling the Provider sink: invalid Provider: reading the Secret sink of spec.secretRef: `},
		{"bad headers", newProvider(`{type: generic, secretRef: {name: sink}}`) + newSecret(`{headers: "canary-s3cret"}`), `Warning InvalidConfig telling the Provider sink: invalid Provider: the Secret's "headers" are no map`},
		{"bad proxy", newProvider(`{type: generic, proxySecretRef: {name: sink}}`) + newSecret(`{address: "ftp://u:canary-s3cret@x"}`), `Warning InvalidConfig telling the Provider sink: invalid Provider: invalid proxy`},
		{"bad CA", newProvider(`{type: generic, certSecretRef: {name: sink}}`) + newSecret(`{ca.crt: canary-s3cret}`), `Warning InvalidConfig telling the Provider sink: invalid Provider: spec.certSecretRef: `},
		{"suspended", newProvider(`{type: generic, suspend: true}`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.provider+newAlert(everything))
			w.hear(successNews())
			events := w.events.Words()
			if tt.want == "" && len(events) > 0 || tt.want != "" && (len(events) != 1 || !strings.HasPrefix(events[0], tt.want)) {
				t.Errorf("%q", events)
			}
			if strings.Contains(strings.Join(events, "")+w.log.String(), canary) {
				t.Errorf("A29: %q", events)
			}
		})
	}
}

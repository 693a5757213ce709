package e2e_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/jsonpath"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
	"github.com/cleat-dev/cleat/e2e/testenv"
	"github.com/cleat-dev/cleat/internal/agent"
)

// commands are what a script can do beside what testscript brings. Except for kubectl, helm, apply and cleat none can be negated.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"agent":      cmdAgent,
	"apply":      cmdApply,
	"artifact":   positive(cmdArtifact),
	"asked":      positive(cmdAsked),
	"chart":      positive(cmdChart),
	"cleat":      cmdCleat,
	"helm":       cmdHelm,
	"image":      positive(cmdImage),
	"deliveries": positive(cmdDeliveries),
	"hook":       positive(cmdHook),
	"hooks":      positive(cmdHooks),
	"kubectl":    cmdKubectl,
	"kubeconfig": positive(cmdKubeconfig),
	"managed":    positive(cmdManaged),
	"objects":    positive(cmdObjects),
	"poke":       positive(cmdPoke),
	"news":       positive(cmdNews),
	"push":       positive(cmdPush),
	"refused":    positive(cmdRefused),
	"rewind":     positive(cmdRewind),
	"scale":      positive(cmdScale),
	"sink":       positive(cmdSink),
	"timer":      positive(cmdTimer),
	"told":       positive(cmdTold),
	"untold":     positive(cmdUntold),
	"await":      positive(cmdAwait),
	"requests":   positive(cmdRequests),
	"spared":     positive(cmdSpared),
	"writes":     positive(cmdWrites),
}

func positive(cmd func(*testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("this command cannot be negated")
		}
		cmd(ts, args)
	}
}

// agent start [binary | as USER | with FLAG...] | stop | lose | log: starts or stops the script's agent, which runs when the script begins: in this
// process, or bin/cleat for a script that measures, since this process may be slowed by the race detector; with all rights,
// or with those of a user; with more flags, then and later. Lose removes what it has stored, after it was stopped. Log prints its log.
func cmdAgent(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg {
		ts.Fatalf("agent cannot be negated")
	}
	ctx, cancel := bounded()
	defer cancel()
	if len(args) == 3 && args[0] == "start" && args[1] == "as" {
		ts.Check(s.agent.StartAs(ctx, args[2]))
		return
	}
	if len(args) > 2 && args[0] == "start" && args[1] == "with" {
		s.agent.With(args[2:]...)
		args = args[:1]
	}
	switch strings.Join(args, " ") {
	case "start":
		ts.Check(s.agent.Start(ctx))
	case "start binary":
		ts.Check(s.agent.StartChild(ctx, s.cluster.Kubeconfig))
	case "stop":
		ts.Check(s.agent.Stop())
	case "lose":
		ts.Check(s.agent.LoseStorage())
	case "log":
		fmt.Fprint(ts.Stdout(), s.agent.Log())
	default:
		ts.Fatalf("usage: agent start [binary | as USER | with FLAG...] | stop | lose | log")
	}
}

// apply FILE...: applies objects after expanding $NAME and ${NAME} in the files. Objects without a namespace get the
// script's.
func cmdApply(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	for _, file := range args {
		_, err := s.cluster.Apply(ctx, []byte(os.Expand(ts.ReadFile(file), ts.Getenv)), s.namespace)
		if err != nil {
			fmt.Fprintln(ts.Stderr(), err)
		}
		if (err != nil) != neg {
			ts.Fatalf("apply %s: %v", file, err)
		}
	}
}

// artifact KIND/NAME [FILE]: downloads the artifact of a source from its URL, compares it with its digest, and prints revision,
// digest and size; FILE gets the bytes.
func cmdArtifact(ts *testscript.TestScript, args []string) {
	if len(args) != 1 && len(args) != 2 {
		ts.Fatalf("usage: artifact KIND/NAME [FILE]")
	}
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	obj, err := s.cluster.Get(ctx, s.ref(ts, args[0]))
	ts.Check(err)
	digest := field(obj, "{.status.artifact.digest}")
	content, err := testenv.Download(field(obj, "{.status.artifact.url}"), digest)
	ts.Check(err)
	if len(args) == 2 {
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
	}
	fmt.Fprintln(ts.Stdout(), field(obj, "{.status.artifact.revision}"), digest, len(content))
}

// asked: prints what the servers of sources, except for those of Git with a password or by SSH, were asked since it was called
// last.
func cmdAsked(ts *testscript.TestScript, args []string) {
	if len(args) != 0 {
		ts.Fatalf("usage: asked")
	}
	printLines(ts, append(of(ts).git.Asked(), of(ts).sources.Asked()...))
}

// cleat ARG...: runs a command of the agent's binary.
func cmdCleat(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := bounded()
	defer cancel()
	code := agent.Run(ctx, args, []string{"KUBECONFIG=" + ts.Getenv("KUBECONFIG")}, ts.Stdout(), ts.Stderr())
	if (code != 0) != neg {
		ts.Fatalf("cleat %s: exit code %d", strings.Join(args, " "), code)
	}
}

// sink hang|resume: has the endpoint for Providers answer nothing, or answer again.
func cmdSink(ts *testscript.TestScript, args []string) {
	switch strings.Join(args, " ") {
	case "hang":
		of(ts).sink.Hang()
	case "resume":
		of(ts).sink.Resume()
	default:
		ts.Fatalf("usage: sink hang|resume")
	}
}

// told COUNT: prints the next events that the endpoint for Providers is told, when it was told so many.
func cmdTold(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: told COUNT")
	}
	count, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := bounded()
	defer cancel()
	var lines []string
	for len(lines) < count {
		select {
		case line := <-of(ts).sink.Told():
			lines = append(lines, line)
		case <-ctx.Done():
			ts.Fatalf("told %d events only: %q", len(lines), lines)
		}
	}
	printLines(ts, lines)
}

// hook REPO RECEIVER TOKEN: has every later push to the repository posted to the Receiver, signed with the token, as a Git host
// does; returns when the Receiver takes hooks.
func cmdHook(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) != 3 {
		ts.Fatalf("usage: hook REPO RECEIVER TOKEN")
	}
	s.git.Hook(args[0], s.receiver(ts, args[1]), args[2])
}

// hooks REPO RECEIVER TOKEN COUNT: posts that many hooks about a push to the repository to the Receiver, one after the other.
func cmdHooks(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) != 4 {
		ts.Fatalf("usage: hooks REPO RECEIVER TOKEN COUNT")
	}
	count, err := strconv.Atoi(args[3])
	ts.Check(err)
	url, answers := s.receiver(ts, args[1]), map[int]int{}
	for range count {
		answers[gitserver.Deliver(url, args[2], args[0], "", "").Status]++
	}
	fmt.Fprintln(ts.Stdout(), answers)
}

// deliveries: prints how the hooks that pushes have brought were answered since it was called last.
func cmdDeliveries(ts *testscript.TestScript, args []string) {
	if len(args) != 0 {
		ts.Fatalf("usage: deliveries")
	}
	var lines []string
	for _, d := range of(ts).git.Deliveries() {
		lines = append(lines, fmt.Sprintf("%s %d %v", d.Commit, d.Status, d.Err))
	}
	printLines(ts, lines)
}

// receiver returns the URL of a Receiver that the agent takes hooks at. There is nothing to watch for when it does: the path
// is in the status a moment before.
func (s *script) receiver(ts *testscript.TestScript, name string) string {
	ctx, cancel := bounded()
	defer cancel()
	obj, err := s.cluster.Until(ctx, s.ref(ts, "receivers/"+name), live.Ready)
	ts.Check(err)
	url := s.agent.Hooks() + field(obj, "{.status.webhookPath}")
	ts.Check(proc.AwaitHook(ctx, url))
	return url
}

// image REPOSITORY:TAG DIR: pushes the files of DIR to the OCI registry.
func cmdImage(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image REPOSITORY:TAG DIR")
	}
	ts.Check(of(ts).sources.PushImage(args[0], ts.MkAbs(args[1])))
}

// objects BUCKET DIR: puts the files of DIR into a bucket of the S3 server.
func cmdObjects(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: objects BUCKET DIR")
	}
	ts.Check(of(ts).sources.PutObjects(args[0], ts.MkAbs(args[1])))
}

// kubectl ARG...: runs kubectl in the script's namespace.
func cmdKubectl(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	err := ts.Exec(s.kubectl, append([]string{"kubectl", "--namespace=" + s.namespace}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
}

// kubeconfig SECRET ACCOUNT [SERVER]: makes a Secret that holds a kubeconfig of this cluster with a token of a ServiceAccount, or
// of another server. A change of it wakes who refers to it.
func cmdKubeconfig(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) != 2 && len(args) != 3 {
		ts.Fatalf("usage: kubeconfig SECRET ACCOUNT [SERVER]")
	}
	ctx, cancel := bounded()
	defer cancel()
	token, err := exec.CommandContext(ctx, s.kubectl, "kubectl", "--kubeconfig="+s.cluster.Kubeconfig, "--namespace="+s.namespace, "create", "token", args[1]).Output()
	ts.Check(err)
	config := rest.CopyConfig(s.cluster.Config)
	ts.Check(rest.LoadTLSFiles(config))
	server := config.Host
	if len(args) == 3 {
		server = args[2]
	}
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: server, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: strings.TrimSpace(string(token))}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	})
	ts.Check(err)
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, labels: {reconcile.fluxcd.io/watch: Enabled}}\ndata: {value: %s}\n",
		args[0], base64.StdEncoding.EncodeToString(kubeconfig))
	_, err = s.cluster.Apply(ctx, []byte(secret), s.namespace)
	ts.Check(err)
}

// managed NAME KIND...: prints what the Kustomization NAME owns on the cluster of these kinds, one line an object with
// its UID and generation, or none: a line that stays the same is an object that nobody touched.
func cmdManaged(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) < 2 {
		ts.Fatalf("usage: managed NAME KIND...")
	}
	ctx, cancel := bounded()
	defer cancel()
	selector := fmt.Sprintf("kustomize.toolkit.fluxcd.io/name=%s,kustomize.toolkit.fluxcd.io/namespace=%s", args[0], s.namespace)
	var lines []string
	for _, kind := range args[1:] {
		objects, err := s.cluster.List(ctx, kind, s.namespace, selector)
		ts.Check(err)
		for i := range objects {
			obj := &objects[i]
			if obj.GetDeletionTimestamp() == nil {
				lines = append(lines, fmt.Sprintf("%s/%s %s %d", obj.GetKind(), obj.GetName(), obj.GetUID(), obj.GetGeneration()))
			}
		}
	}
	slices.Sort(lines)
	printLines(ts, lines)
}

// printLines prints lines for a script to look at, or "none": testscript keeps the output of the command before when a
// command prints nothing.
func printLines(ts *testscript.TestScript, lines []string) {
	if len(lines) == 0 {
		lines = []string{"none"}
	}
	for _, line := range lines {
		fmt.Fprintln(ts.Stdout(), line)
	}
}

// poke KIND/NAME...: asks for a reconciliation. `await KIND/NAME handled` then waits until it was done.
func cmdPoke(ts *testscript.TestScript, args []string) {
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	s.token = testenv.Token()
	for _, arg := range args {
		ts.Check(s.cluster.Poke(ctx, s.ref(ts, arg), s.token))
	}
}

// push REPO DIR [--force]: makes the files of DIR the content of the repository, commits and pushes, and sets REV to the
// commit. The first push makes the repository. One named private/NAME asks for a password.
func cmdPush(ts *testscript.TestScript, args []string) {
	s := of(ts)
	force := len(args) == 3 && args[2] == "--force"
	if len(args) != 2 && !force {
		ts.Fatalf("usage: push REPO DIR [--force]")
	}
	repo := s.repos[args[0]]
	if repo == nil {
		var err error
		if name, private := strings.CutPrefix(args[0], "private/"); private {
			repo, err = s.private.Create(name)
		} else {
			repo, err = s.git.Create(args[0])
		}
		ts.Check(err)
		s.repos[args[0]] = repo
	}
	commit, err := repo.Commit(os.DirFS(ts.MkAbs(args[1])), "content of "+args[1])
	ts.Check(err)
	ts.Check(repo.Push(force))
	ts.Setenv("REV", commit)
}

// refused FILE: returns when the API server refuses the object in a dry run. An admission policy takes effect some time
// after it was made, and there is nothing to watch for that.
func cmdRefused(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) != 1 {
		ts.Fatalf("usage: refused FILE")
	}
	ctx, cancel := bounded()
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if ts.Exec(s.kubectl, "kubectl", "--namespace="+s.namespace, "create", "--dry-run=server", "-f", ts.MkAbs(args[0])) != nil {
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("the API server still accepts %s", args[0])
		case <-again.C:
		}
	}
}

// rewind REPO: drops the last commit from the work tree's branch, so that the next push replaces it.
func cmdRewind(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: rewind REPO")
	}
	ts.Check(of(ts).repos[args[0]].Rewind())
}

// scale KIND/NAME REPLICAS: sets the replicas as Kubernetes' own autoscaler does.
func cmdScale(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) != 2 {
		ts.Fatalf("usage: scale KIND/NAME REPLICAS")
	}
	ctx, cancel := bounded()
	defer cancel()
	ts.Check(s.cluster.Scale(ctx, s.ref(ts, args[0]), args[1]))
}

// timer start | timer max DURATION TEXT: measures from start to now, prints it, and fails when it took longer.
func cmdTimer(ts *testscript.TestScript, args []string) {
	s := of(ts)
	switch {
	case len(args) == 1 && args[0] == "start":
		s.started = time.Now()
	case len(args) == 3 && args[0] == "max":
		limit, err := time.ParseDuration(args[1])
		ts.Check(err)
		took := time.Since(s.started).Round(time.Millisecond)
		ts.Logf("%s took %s", args[2], took)
		if took > limit {
			ts.Fatalf("%s took %s, more than %s", args[2], took, limit)
		}
	default:
		ts.Fatalf("usage: timer start | timer max DURATION TEXT")
	}
}

// untold WORD...: fails when the agent has told a word, or its base64 at any offset: in its log, its metrics, its answer to
// the probe, an Event of the namespace, or anything but the spec of our objects there.
func cmdUntold(ts *testscript.TestScript, args []string) {
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	told := map[string]string{"log": s.agent.Log()}
	for name, url := range map[string]string{"metrics": s.agent.Metrics(), "probe": s.agent.Health()} {
		text, err := answerOf(ctx, url)
		ts.Check(err)
		told[name] = text
	}
	for _, kind := range []string{"events", "events.events.k8s.io", "kustomizations,helmreleases,gitrepositories,helmcharts"} {
		path := "{.items}"
		if !strings.HasPrefix(kind, "events") {
			path = "{.items[*]['metadata','status']}"
		}
		out, err := exec.CommandContext(ctx, s.kubectl, "kubectl", "--kubeconfig="+s.cluster.Kubeconfig, "--namespace="+s.namespace,
			"get", kind, "--output=jsonpath="+path).Output()
		ts.Check(err)
		told[kind] = string(out)
	}
	for where, text := range told {
		if text == "" {
			ts.Fatalf("there is nothing in %s to search", where)
		}
		for _, word := range args {
			for _, form := range encodings(word) {
				if at := strings.Index(text, form); at >= 0 {
					ts.Fatalf("%s tells %q: …%s", where, form, text[max(0, at-300):min(len(text), at+len(form)+50)])
				}
			}
		}
	}
}

// encodings returns a word and what is always in the base64 of a text that holds it: its first and last letters there depend on
// what is around it.
func encodings(word string) []string {
	out := []string{word}
	for before := range 3 {
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", before) + word))
		out = append(out, text[(before*8+5)/6:len(text)-1])
	}
	return out
}

// answerOf returns what a URL answers.
func answerOf(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// await KIND/NAME CHECK...: waits until all checks hold at once. A check is
//
//	absent               there is no such object
//	ready                Ready=True for its generation, and nothing is going on
//	TYPE=STATUS[/REASON] it has this condition for its generation
//	at=COMMIT            it has fetched or applied this commit
//	handled              it has done what the last poke asked for
//	message=REGEXP       the message of its condition Ready matches
//	{JSONPATH}=VALUE     the field has this value
func cmdAwait(ts *testscript.TestScript, args []string) {
	s := of(ts)
	if len(args) < 2 {
		ts.Fatalf("usage: await KIND/NAME CHECK...")
	}
	var checks []func(*unstructured.Unstructured) bool
	for _, arg := range args[1:] {
		check, err := s.check(arg)
		ts.Check(err)
		checks = append(checks, check)
	}
	ctx, cancel := bounded()
	defer cancel()
	obj, err := s.cluster.Until(ctx, s.ref(ts, args[0]), live.All(checks...))
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), live.Describe(obj))
}

func (s *script) check(text string) (func(*unstructured.Unstructured) bool, error) {
	switch text {
	case "absent":
		return func(obj *unstructured.Unstructured) bool { return obj == nil }, nil
	case "ready":
		return live.Ready, nil
	case "handled":
		token := s.token
		return func(obj *unstructured.Unstructured) bool {
			return token != "" && field(obj, "{.status.lastHandledReconcileAt}") == token
		}, nil
	}
	if path, value, ok := strings.Cut(text, "}="); ok && path[0] == '{' {
		return func(obj *unstructured.Unstructured) bool { return field(obj, path+"}") == value }, nil
	}
	key, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return nil, fmt.Errorf("no such check: %q", text)
	case key == "at":
		return func(obj *unstructured.Unstructured) bool { return strings.HasSuffix(live.Revision(obj), value) }, nil
	case key == "message":
		pattern, err := regexp.Compile(value)
		return func(obj *unstructured.Unstructured) bool {
			return pattern.MatchString(field(obj, `{.status.conditions[?(@.type=="Ready")].message}`))
		}, err
	default:
		status, reason, _ := strings.Cut(value, "/")
		return live.Condition(key, status, reason), nil
	}
}

// field returns what a JSONPath finds in an object, as text; nothing when there is no such field.
func field(obj *unstructured.Unstructured, path string) string {
	if obj == nil {
		return ""
	}
	parsed := jsonpath.New("field").AllowMissingKeys(true)
	if err := parsed.Parse(path); err != nil {
		return err.Error()
	}
	var out strings.Builder
	if err := parsed.Execute(&out, obj.Object); err != nil {
		return err.Error()
	}
	return out.String()
}

// writes mark | writes until REGEXP: prints what the agent wrote to the API server since the mark about the script's
// namespace, without dry runs, Events and Leases, as the API server's audit log has it, once that holds a write that
// matches. REGEXP is to match the last write: the log follows what `await` has seen by a moment, and there is nothing to
// watch on a file. Scripts that use it begin with `[!audit] skip`, since another cluster's audit log is out of reach.
func cmdWrites(ts *testscript.TestScript, args []string) {
	s := of(ts)
	switch {
	case len(args) == 1 && args[0] == "mark":
		var err error
		s.audit, err = s.cluster.AuditLog()
		ts.Check(err)
		s.mark, err = s.audit.Mark()
		ts.Check(err)
	case len(args) == 2 && args[0] == "until":
		last, err := regexp.Compile(args[1])
		ts.Check(err)
		lines, err := s.requestsUntil(last, testenv.Request.Writes)
		ts.Check(err)
		printLines(ts, lines)
	default:
		ts.Fatalf("usage: writes mark | writes until REGEXP")
	}
}

// news NAME REASON REGEXP: waits until there is an Event with that reason about an object of that name, whose type and message
// match. Events follow what `await` has seen by a moment.
func cmdNews(ts *testscript.TestScript, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: news NAME REASON REGEXP")
	}
	wanted, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	ts.Check(s.cluster.UntilAll(ctx, "Event", s.namespace, 1, func(event *unstructured.Unstructured) bool {
		return field(event, "{.involvedObject.name}") == args[0] && field(event, "{.reason}") == args[1] &&
			wanted.MatchString(field(event, "{.type}")+" "+field(event, "{.message}"))
	}))
}

// requests until REGEXP: as `writes until`, with what the agent only read, and with dry runs, which begin with "try".
func cmdRequests(ts *testscript.TestScript, args []string) {
	if len(args) != 2 || args[0] != "until" {
		ts.Fatalf("usage: requests until REGEXP")
	}
	last, err := regexp.Compile(args[1])
	ts.Check(err)
	lines, err := of(ts).requestsUntil(last, func(testenv.Request) bool { return true })
	ts.Check(err)
	printLines(ts, lines)
}

// spared NAME DIR REGEXP: pushes DIR to the repository NAME again and again, each time with another file "notes", until the
// Kustomization NAME has applied such a revision without a request that matches. What a build has read from the cluster is known to
// be the same once a watch tells of it, and nothing says when that is.
func cmdSpared(ts *testscript.TestScript, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: spared NAME DIR REGEXP")
	}
	unwanted, err := regexp.Compile(args[2])
	ts.Check(err)
	reported := regexp.MustCompile(`patch kustomizations.*/status`)
	end, cancel := bounded()
	defer cancel()
	for i := 0; ; i++ {
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs(args[1]), "notes"), []byte(strconv.Itoa(i)), 0o600))
		cmdWrites(ts, []string{"mark"})
		cmdPush(ts, args[:2])
		cmdPoke(ts, []string{"gitrepo/" + args[0]})
		cmdAwait(ts, []string{"ks/" + args[0], "ready", "at=" + ts.Getenv("REV")})
		lines, err := of(ts).requestsUntil(reported, func(testenv.Request) bool { return true })
		ts.Check(err)
		switch {
		case !slices.ContainsFunc(lines, unwanted.MatchString):
			printLines(ts, lines)
			return
		case end.Err() != nil:
			ts.Fatalf("each of %d revisions that changed nothing made requests, the last %v", i+1, lines)
		}
	}
}

func (s *script) requestsUntil(last *regexp.Regexp, which func(testenv.Request) bool) ([]string, error) {
	ctx, cancel := bounded()
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		requests, err := s.audit.AgentRequests(s.mark, s.namespace)
		if err != nil {
			return nil, err
		}
		var lines []string
		for _, r := range requests {
			if which(r) {
				lines = append(lines, r.String())
			}
		}
		if slices.ContainsFunc(lines, last.MatchString) {
			return lines, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a request that matches %q: %w; there are %v", last, ctx.Err(), lines)
		case <-tick.C:
		}
	}
}

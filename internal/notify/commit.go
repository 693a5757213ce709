package notify

import (
	"context"
	"crypto/sha1" //nolint:gosec // a name that Bitbucket takes, no secret
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
	"github.com/google/cel-go/common/types"

	"github.com/cleat-dev/cleat/internal/expr"
)

// state is what a commit is said to be. Each host has words of its own for these.
type state string

const (
	succeeded state = "success"
	failing   state = "failure"
	waiting   state = "pending"
)

// word is the state in the words of a host.
func (s state) word(success, failure, pending string) string {
	switch s {
	case succeeded:
		return success
	case failing:
		return failure
	case waiting:
		return pending
	}
	return ""
}

// status is what is said about a commit.
type status struct {
	commit string
	id     string
	state  state
	text   string
}

// hash finds the commit in a revision: main@sha1:…, sha1:…, or main/… as Flux once wrote it.
var hash = regexp.MustCompile(`(?:^|@)sha1:([0-9a-f]{40})$|^(?:.*/)?([0-9a-f]{40})$`)

// commit returns the commit that the message is about; empty when it is about none, such as an artifact of a registry.
func (m *Message) commit() string {
	found := hash.FindStringSubmatch(m.revision())
	if found == nil {
		return ""
	}
	return found[1] + found[2]
}

// commitID is the name of the status: what the Provider's expression gives, or one with a part of the Provider's UID, so that
// two clusters do not overwrite each other's.
func (t *target) commitID(m *Message) (string, error) {
	if t.spec.CommitStatusExpr == "" {
		uid := string(t.uid)
		return strings.ToLower(m.InvolvedObject.Kind + "/" + m.InvolvedObject.Name + "/" + uid[:min(8, len(uid))]), nil
	}
	e, err := expr.CompileValue(t.spec.CommitStatusExpr, "event", "provider", "alert")
	if err != nil {
		return "", configf("spec.commitStatusExpr: %w", err)
	}
	event, err := plain(m.News)
	if err != nil {
		return "", err
	}
	alert, err := plain(m.alert)
	if err != nil {
		return "", err
	}
	value, err := e.Value(map[string]any{"event": event, "provider": t.object, "alert": alert})
	if err != nil {
		return "", configf("spec.commitStatusExpr: %w", err)
	}
	id, ok := value.(types.String)
	if !ok || id == "" {
		return "", configf("spec.commitStatusExpr must be a text, and gives none")
	}
	return string(id), nil
}

// plain is a value as expressions see it.
func plain(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	return out, json.Unmarshal(text, &out)
}

// host sets statuses of commits, by the API of one kind of Git host.
type host interface {
	// has says whether the commit has this status already, as the last that was set under its ID.
	has(ctx context.Context, s status) (bool, error)
	set(ctx context.Context, s status) error
}

// tellCommit sets the status of the commit that the message is about, unless it is that already.
func tellCommit(ctx context.Context, t *target, m *Message) error {
	s := status{commit: m.commit(), state: succeeded, text: words(m.Reason)}
	if s.commit == "" {
		return nil // the event is about no commit
	}
	var err error
	if s.id, err = t.commitID(m); err != nil {
		return err
	}
	if m.failed() {
		s.state = failing
	} else if m.underway() {
		s.state = waiting
	}
	h, err := t.host(ctx)
	if err != nil {
		return err
	}
	if same, err := h.has(ctx, s); err != nil || same {
		return err
	}
	return h.set(ctx, s)
}

func (t *target) host(ctx context.Context) (host, error) {
	r, err := t.repository()
	if err != nil {
		return nil, err
	}
	switch t.spec.Type {
	case alerting.GitHubProvider:
		header, err := t.github(ctx)
		return &github{t, r, header}, err
	case alerting.GitLabProvider:
		return &gitlab{t, r}, t.needs("a \"token\" in its Secret", t.token)
	case alerting.GiteaProvider:
		return &gitea{t, r}, t.needs("a \"token\" in its Secret", t.token)
	case alerting.BitbucketProvider:
		return newBitbucket(t, r)
	case alerting.BitbucketServerProvider:
		return newBitbucketServer(t, r)
	case alerting.AzureDevOpsProvider:
		return newAzureDevOps(ctx, t, r)
	}
	return nil, configf("%q is no type that keeps the status of commits", t.spec.Type)
}

// repository is the address of a repository: the server, and the path below it.
type repository struct {
	server *url.URL // without the path
	path   string   // without slashes around it, and without .git
}

func (t *target) repository() (repository, error) {
	if u, err := url.Parse(t.address); err == nil && u.Scheme == "ssh" && u.Hostname() != "" {
		t.address = "https://" + u.Hostname() + u.Path // the API of the host that is cloned from by SSH
	}
	u, err := t.endpoint()
	if err != nil {
		return repository{}, err
	}
	path := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	if !strings.Contains(path, "/") {
		return repository{}, configf("its address is not that of a repository")
	}
	return repository{server: &url.URL{Scheme: u.Scheme, Host: u.Host}, path: path}, nil
}

// escaped is the path with each of its parts as it is in a URL.
func escaped(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// api returns where the API of a public host is; of others it is on the server itself, at a path.
func (r repository) api(domain, public, path string) string {
	if strings.EqualFold(r.server.Hostname(), domain) {
		return public
	}
	return r.server.String() + path
}

func (r repository) github() string {
	return r.api("github.com", "https://api.github.com", "/api/v3") + "/repos/" + escaped(r.path)
}

// github sets statuses by GitHub's REST API.
type github struct {
	*target
	repo   repository
	header map[string]string
}

// github returns the headers that the API wants.
func (t *target) github(ctx context.Context) (map[string]string, error) {
	token := t.token
	if len(t.data["githubAppID"]) > 0 {
		var err error
		if token, err = t.cloudToken(ctx, cloud{name: "github"}); err != nil {
			return nil, err
		}
	}
	if err := t.needs("a \"token\" or a GitHub App in its Secret", token); err != nil {
		return nil, err
	}
	header := bearer(token)
	header["Accept"], header["X-GitHub-Api-Version"] = "application/vnd.github+json", "2022-11-28"
	return header, nil
}

func (h *github) has(ctx context.Context, s status) (bool, error) {
	var all []struct{ State, Description, Context string } // the newest first
	if _, err := h.get(ctx, call{url: h.repo.github() + "/commits/" + s.commit + "/statuses?per_page=100", header: h.header}, &all); err != nil {
		return false, err
	}
	for _, old := range all {
		if old.Context == s.id {
			return old.State == string(s.state) && old.Description == s.text, nil
		}
	}
	return false, nil
}

func (h *github) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{url: h.repo.github() + "/statuses/" + s.commit, header: h.header, body: map[string]any{
		"state": s.state, "context": s.id, "description": clip(s.text, 140),
	}})
	return err
}

// gitlab sets statuses by GitLab's REST API.
type gitlab struct {
	*target
	repo repository
}

func (r repository) gitlab() string {
	return r.server.String() + "/api/v4/projects/" + url.PathEscape(r.path)
}

func (t *target) privateToken() map[string]string { return map[string]string{"PRIVATE-TOKEN": t.token} }

func (h *gitlab) state(s status) string { return s.state.word("success", "failed", "running") }

func (h *gitlab) has(ctx context.Context, s status) (bool, error) {
	var all []struct{ Name, Status, Description string }
	address := h.repo.gitlab() + "/repository/commits/" + s.commit + "/statuses?per_page=100&name=" + url.QueryEscape(s.id)
	if _, err := h.get(ctx, call{url: address, header: h.privateToken()}, &all); err != nil {
		return false, err
	}
	for _, old := range all {
		if old.Name == s.id {
			return old.Status == h.state(s) && old.Description == s.text, nil
		}
	}
	return false, nil
}

func (h *gitlab) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{url: h.repo.gitlab() + "/statuses/" + s.commit, header: h.privateToken(), body: map[string]any{
		"state": h.state(s), "name": s.id, "description": clip(s.text, 255),
	}})
	return err
}

// gitea sets statuses by the REST API of Gitea and Forgejo.
type gitea struct {
	*target
	repo repository
}

func (r repository) gitea() string { return r.server.String() + "/api/v1/repos/" + escaped(r.path) }

func (t *target) giteaToken() map[string]string {
	return map[string]string{"Authorization": "token " + t.token}
}

func (h *gitea) has(ctx context.Context, s status) (bool, error) {
	var all []struct{ Status, Description, Context string }
	address := h.repo.gitea() + "/commits/" + s.commit + "/statuses?sort=recentupdate&limit=50"
	if _, err := h.get(ctx, call{url: address, header: h.giteaToken()}, &all); err != nil {
		return false, err
	}
	for _, old := range all {
		if old.Context == s.id {
			return old.Status == string(s.state) && old.Description == s.text, nil
		}
	}
	return false, nil
}

func (h *gitea) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{url: h.repo.gitea() + "/statuses/" + s.commit, header: h.giteaToken(), body: map[string]any{
		"state": s.state, "context": s.id, "description": s.text,
	}})
	return err
}

// bitbucket sets build statuses by the REST API of Bitbucket's cloud.
type bitbucket struct {
	*target
	commits string
	page    string // what people see, which a status must lead to
	header  map[string]string
	basic   [2]string
}

func newBitbucket(t *target, r repository) (*bitbucket, error) {
	if err := t.needs("a \"token\" in its Secret", t.token); err != nil {
		return nil, err
	}
	h := &bitbucket{
		target: t, commits: r.api("bitbucket.org", "https://api.bitbucket.org", "") + "/2.0/repositories/" + escaped(r.path) + "/commit/",
		page: r.server.String() + "/" + escaped(r.path) + "/commits/",
	}
	if user, password, ok := strings.Cut(t.token, ":"); ok {
		h.basic = [2]string{user, password}
	} else {
		h.header = bearer(t.token)
	}
	return h, nil
}

// buildKey is an ID as short as Bitbucket wants keys.
func buildKey(s status) string {
	sum := sha1.Sum([]byte(s.id)) //nolint:gosec // no secret
	return hex.EncodeToString(sum[:])
}

// build is a status as both of Bitbucket's APIs have it.
type build struct {
	Key         string `json:"key"`
	State       string `json:"state"`
	Name        string `json:"name"`
	Description string `json:"description"`
	URL         string `json:"url"`
}

func (s status) build(page string) build {
	return build{Key: buildKey(s), State: s.state.word("SUCCESSFUL", "FAILED", "INPROGRESS"), Name: s.id, Description: s.text, URL: page + s.commit}
}

func (b build) same(other build) bool {
	return b.State == other.State && b.Description == other.Description
}

func (h *bitbucket) has(ctx context.Context, s status) (bool, error) {
	var old build
	found, err := h.get(ctx, call{url: h.commits + s.commit + "/statuses/build/" + buildKey(s), header: h.header, basic: h.basic}, &old)
	return found && old.same(s.build(h.page)), err
}

func (h *bitbucket) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{url: h.commits + s.commit + "/statuses/build", header: h.header, basic: h.basic, body: s.build(h.page)})
	return err
}

// bitbucketServer sets build statuses by the REST API of Bitbucket's servers.
type bitbucketServer struct {
	*target
	commits string
	page    string
	header  map[string]string
	basic   [2]string
}

// newBitbucketServer takes the addresses that the server shows: for cloning, …/scm/PROJECT/NAME.git, and for looking,
// …/projects/PROJECT/repos/NAME.
func newBitbucketServer(t *target, r repository) (*bitbucketServer, error) {
	parts := strings.Split(r.path, "/")
	n := len(parts)
	var project, name string
	switch {
	case n >= 4 && parts[n-4] == "projects" && parts[n-2] == "repos":
		project, name, parts = parts[n-3], parts[n-1], parts[:n-4]
	case n >= 3 && parts[n-3] == "scm":
		project, name, parts = parts[n-2], parts[n-1], parts[:n-3]
	default:
		return nil, configf("its address is not that of a repository: https://HOST/scm/PROJECT/NAME.git")
	}
	base := r.server.String()
	if len(parts) > 0 {
		base += "/" + escaped(strings.Join(parts, "/"))
	}
	where := "/projects/" + url.PathEscape(project) + "/repos/" + url.PathEscape(name) + "/commits/"
	h := &bitbucketServer{target: t, commits: base + "/rest/api/latest" + where, page: base + where, header: map[string]string{"X-Atlassian-Token": "no-check"}}
	switch {
	case t.token != "":
		h.header["Authorization"] = "Bearer " + t.token
	case t.username != "" && t.password != "":
		h.basic = [2]string{t.username, t.password}
	default:
		return nil, configf("the type %s needs a \"token\", or a \"username\" and a \"password\", in its Secret", t.spec.Type)
	}
	return h, nil
}

func (h *bitbucketServer) has(ctx context.Context, s status) (bool, error) {
	var old build
	found, err := h.get(ctx, call{url: h.commits + s.commit + "/builds?key=" + buildKey(s), header: h.header, basic: h.basic}, &old)
	return found && old.same(s.build(h.page)), err
}

func (h *bitbucketServer) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{url: h.commits + s.commit + "/builds", header: h.header, basic: h.basic, body: s.build(h.page)})
	return err
}

// azureDevOps sets statuses by Azure's REST API.
type azureDevOps struct {
	*target
	commits string
	header  map[string]string
	basic   [2]string
}

// newAzureDevOps takes the address for cloning: https://dev.azure.com/ORGANISATION/PROJECT/_git/NAME.
func newAzureDevOps(ctx context.Context, t *target, r repository) (*azureDevOps, error) {
	above, name, found := strings.Cut(r.path, "/_git/")
	if !found {
		return nil, configf("its address is not that of a repository: https://dev.azure.com/ORGANISATION/PROJECT/_git/NAME")
	}
	h := &azureDevOps{target: t, commits: r.server.String() + "/" + escaped(above) + "/_apis/git/repositories/" + url.PathEscape(name) + "/commits/"}
	if t.token != "" {
		h.basic = [2]string{"", t.token}
		return h, nil
	}
	const devops = "499b84ac-1321-427f-aa17-267ca6975798/.default" // Azure DevOps, as Azure names it
	token, err := t.cloudToken(ctx, cloud{"azure", devops})
	h.header = bearer(token)
	return h, err
}

// genre is what the IDs of our statuses are below.
const genre = "fluxcd"

func (h *azureDevOps) state(s status) string { return s.state.word("succeeded", "failed", "pending") }

func (h *azureDevOps) has(ctx context.Context, s status) (bool, error) {
	var all struct {
		Value []struct {
			State, Description string
			Context            struct{ Name, Genre string }
		}
	}
	address := h.commits + s.commit + "/statuses?latestOnly=true&api-version=6.0"
	if _, err := h.get(ctx, call{url: address, header: h.header, basic: h.basic}, &all); err != nil {
		return false, err
	}
	for _, old := range all.Value {
		if old.Context.Name == s.id && old.Context.Genre == genre {
			return old.State == h.state(s) && old.Description == s.text, nil
		}
	}
	return false, nil
}

func (h *azureDevOps) set(ctx context.Context, s status) error {
	_, err := h.do(ctx, call{
		method: http.MethodPost, url: h.commits + s.commit + "/statuses?api-version=6.0", header: h.header, basic: h.basic,
		body: map[string]any{"state": h.state(s), "description": s.text, "context": map[string]any{"name": s.id, "genre": genre}},
	})
	return err
}

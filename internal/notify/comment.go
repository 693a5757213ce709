package notify

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
)

// maxPages is how many pages of a hundred comments are looked through for our own.
const maxPages = 20

// number is that of a change request.
var number = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)

// comments are how one kind of Git host keeps the comments of a change request.
type comments struct {
	list   string // with a query
	add    string
	edit   string // the ID of the comment is appended
	method string // of edit
	header map[string]string
}

// tellComment writes what the object is at into a comment of the change request that the event names, one for each object
// and Provider: the second message about the same replaces the first.
func tellComment(ctx context.Context, t *target, m *Message) error {
	request := m.Metadata[changeRequestKey]
	switch {
	case request == "":
		return nil // the event is about no change request
	case !number.MatchString(request):
		return configf("the event's change_request is no number of a change request")
	}
	c, err := t.comments(ctx, request)
	if err != nil {
		return err
	}
	mark := t.commentMark(m)
	text := mark + "\n" + commentText(m)
	id, old, err := t.findComment(ctx, c, mark)
	switch {
	case err != nil:
		return err
	case id == "":
		_, err = t.do(ctx, call{url: c.add, header: c.header, body: map[string]any{"body": text}})
	case strings.TrimSpace(old) != strings.TrimSpace(text):
		_, err = t.do(ctx, call{method: c.method, url: c.edit + id, header: c.header, body: map[string]any{"body": text}})
	}
	return err
}

// commentMark is how a comment is known again. People do not see it.
func (t *target) commentMark(m *Message) string {
	o := m.InvolvedObject
	return fmt.Sprintf("<!-- cleat: %s/%s/%s/%s -->", o.Kind, o.Namespace, o.Name, t.uid)
}

func commentText(m *Message) string {
	mark := "✅"
	switch {
	case m.failed():
		mark = "❌"
	case m.underway():
		mark = "⏳"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s **%s**: %s\n\n%s\n", mark, m.object(), words(m.Reason), fenced(m.Message))
	for _, f := range m.fields() {
		if f.key != changeRequestKey {
			fmt.Fprintf(&out, "\n* %s: `%s`", f.key, strings.ReplaceAll(f.value, "`", "'"))
		}
	}
	return out.String()
}

// fenced shows a message as it is, whatever it holds: it must not be able to call people by their names.
func fenced(message string) string {
	const maxText = 30000
	fence := "```"
	for strings.Contains(message, fence) {
		fence += "`"
	}
	return fence + "\n" + clip(message, maxText) + "\n" + fence
}

func (t *target) comments(ctx context.Context, request string) (comments, error) {
	r, err := t.repository()
	if err != nil {
		return comments{}, err
	}
	switch t.spec.Type {
	case alerting.GitHubPullRequestCommentProvider:
		header, err := t.github(ctx)
		issues := r.github() + "/issues/"
		add := issues + request + "/comments"
		return comments{list: add + "?per_page=100", add: add, edit: issues + "comments/", method: http.MethodPatch, header: header}, err
	case alerting.GiteaPullRequestCommentProvider:
		issues := r.gitea() + "/issues/"
		add := issues + request + "/comments"
		// Gitea lists all of an issue's comments at once, whatever page is asked for.
		return comments{list: add, add: add, edit: issues + "comments/", method: http.MethodPatch, header: t.giteaToken()}, t.needs("a \"token\" in its Secret", t.token)
	case alerting.GitLabMergeRequestCommentProvider:
		notes := r.gitlab() + "/merge_requests/" + request + "/notes"
		return comments{list: notes + "?per_page=100", add: notes, edit: notes + "/", method: http.MethodPut, header: t.privateToken()}, t.needs("a \"token\" in its Secret", t.token)
	}
	return comments{}, configf("%q is no type that writes comments", t.spec.Type)
}

// findComment looks for the comment with the mark.
func (t *target) findComment(ctx context.Context, c comments, mark string) (id, body string, err error) {
	paged := strings.Contains(c.list, "?")
	for page := 1; page <= maxPages; page++ {
		address := c.list
		if paged {
			address += "&page=" + strconv.Itoa(page)
		}
		var all []struct {
			ID   int64
			Body string
		}
		if _, err := t.get(ctx, call{url: address, header: c.header}, &all); err != nil {
			return "", "", err
		}
		for _, one := range all {
			if strings.HasPrefix(one.Body, mark) {
				return strconv.FormatInt(one.ID, 10), one.Body, nil
			}
		}
		if !paged || len(all) < 100 {
			break
		}
	}
	return "", "", nil
}

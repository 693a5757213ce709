package gitserver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// hookTimeout is how long a Git host waits for an answer.
const hookTimeout = 10 * time.Second

// Delivery is what became of one hook that was posted.
type Delivery struct {
	Commit string
	// Status is 0 when there was no answer, and Err says why.
	Status   int
	Err      error
	Answered time.Time
}

// hook is where pushes to a repository are posted, and what signs them.
type hook struct{ url, secret string }

// Hook has every later push to a branch main of the repository that is named posted to a URL, once, as Gitea posts it.
func (s *Server) Hook(name, url, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks[name] = hook{url, secret}
}

// Deliveries returns what became of the hooks since the last call, when those that are on their way have been answered.
func (s *Server) Deliveries() []Delivery {
	s.posting.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.deliveries
	s.deliveries = nil
	return all
}

// announce posts what a push has changed, when the client has been answered: a post-receive hook.
func (s *Server) announce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, push := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), ".git/git-receive-pack")
		s.mu.Lock()
		to, hooked := s.hooks[name]
		s.mu.Unlock()
		if !push || !hooked {
			next.ServeHTTP(w, r)
			return
		}
		before := s.main(name)
		next.ServeHTTP(w, r)
		after := s.main(name)
		if after == before {
			return // the push was refused, or was of something else
		}
		s.posting.Go(func() {
			d := Deliver(to.url, to.secret, name, before, after)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.deliveries = append(s.deliveries, d)
		})
	})
}

// main is the commit of the branch main, empty when there is none.
func (s *Server) main(name string) string {
	out, err := run(filepath.Join(s.root, name+".git"), "rev-parse", "--verify", "--quiet", "refs/heads/main")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// Deliver posts one push as Gitea does.
func Deliver(url, secret, repository, before, after string) Delivery {
	d := Delivery{Commit: after}
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/main", "before": before, "after": after,
		"repository": map[string]any{"name": repository, "full_name": "example/" + repository, "default_branch": "main", "updated_at": time.Now().Format(time.RFC3339Nano)},
		"pusher":     map[string]any{"login": "ada"},
	})
	if err != nil {
		d.Err = err
		return d
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	signature := hex.EncodeToString(mac.Sum(nil))
	d.Status, d.Err = post(url, body, map[string]string{
		"X-Gitea-Event": "push", "X-Gitea-Signature": signature, "X-GitHub-Event": "push", "X-GitHub-Delivery": signature[:32], "X-Hub-Signature-256": "sha256=" + signature,
	})
	d.Answered = time.Now()
	return d
}

func post(url string, body []byte, header map[string]string) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), hookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the hook was answered with %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return res.StatusCode, err
}

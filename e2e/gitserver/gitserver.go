// Package gitserver serves Git repositories over smart HTTP from a real Git, with fixed authors and dates, so that a
// commit has the same hash on every machine and in every run.
package gitserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/tools/txtar"
)

// epoch is the date of the first commit of every repository; each further one is a minute later.
var epoch = time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)

// Server serves the repositories below one folder on a loopback address.
type Server struct {
	root     string
	url      string
	server   *http.Server
	username string
	password string
	served   chan error

	posting sync.WaitGroup // hooks that are on their way

	mu         sync.Mutex
	asked      []string
	hooks      map[string]hook // by the name of the repository
	deliveries []Delivery
}

// Start serves the bare repositories that are in root or that are made there later, on loopback. With a username, both reading
// and pushing ask for it and for the password.
func Start(root, username, password string) (*Server, error) {
	return StartAt("127.0.0.1", root, username, password)
}

// StartAt is Start on another address of this machine.
func StartAt(host, root, username, password string) (*Server, error) {
	out, err := run("", "--exec-path")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	s := &Server{root: root, url: "http://" + listener.Addr().String(), username: username, password: password, served: make(chan error, 1), hooks: map[string]hook{}}
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(out), "git-http-backend"),
		Env:    append([]string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=" + author}, environment...),
		Stderr: io.Discard, // Clients are told; nobody reads the server's log.
	}
	s.server = &http.Server{Handler: s.record(s.authenticate(s.announce(backend))), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Close ends the server and every transfer.
func (s *Server) Close() error {
	err := s.server.Close()
	s.posting.Wait()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		return errors.Join(err, served)
	}
	return err
}

// URL is where a client clones the named repository.
func (s *Server) URL(name string) string { return s.url + "/" + name + ".git" }

// Asked returns, one line each, what those who fetch asked for since the last call.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *Server) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/git-upload-pack") || r.URL.Query().Get("service") == "git-upload-pack" {
			s.mu.Lock()
			s.asked = append(s.asked, "git "+r.Method+" "+r.URL.Path)
			s.mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) authenticate(next http.Handler) http.Handler {
	if s.username == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != s.username || password != s.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "wrong username or password", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Repo is a repository on the server with a work tree of its own, as a developer has one.
type Repo struct {
	URL  string
	dir  string // work tree
	push string // URL with credentials

	mu      sync.Mutex
	commits int
}

// Create makes an empty repository with a branch main.
func (s *Server) Create(name string) (*Repo, error) {
	bare := filepath.Join(s.root, name+".git")
	if _, err := run("", "init", "--quiet", "--bare", "--initial-branch=main", bare); err != nil {
		return nil, err
	}
	for key, value := range map[string]string{"http.receivepack": "true", "uploadpack.allowAnySHA1InWant": "true"} {
		if _, err := run(bare, "config", key, value); err != nil {
			return nil, err
		}
	}
	r := &Repo{URL: s.URL(name), dir: filepath.Join(s.root, name+".work")}
	r.push = r.URL
	if s.username != "" {
		r.push = strings.Replace(r.URL, "://", "://"+s.username+":"+s.password+"@", 1)
	}
	_, err := run("", "init", "--quiet", "--initial-branch=main", r.dir)
	return r, err
}

// Import makes a repository of a bundle's branches and tags.
func (s *Server) Import(name, bundle string) (*Repo, error) {
	r, err := s.Create(name)
	if err != nil {
		return nil, err
	}
	_, err = run(filepath.Join(s.root, name+".git"), "fetch", "--quiet", bundle, "+refs/*:refs/*")
	return r, err
}

// Point sets a branch of the repository on the server to a commit that it has, as a forced push does.
func (s *Server) Point(name, branch, commit string) error {
	_, err := run(filepath.Join(s.root, name+".git"), "update-ref", "refs/heads/"+branch, commit)
	return err
}

// CommitTxtar replaces everything in the work tree by the files of a txtar archive and commits. It returns the commit.
func (r *Repo) CommitTxtar(archive []byte, message string) (string, error) {
	files, err := txtar.FS(txtar.Parse(archive))
	if err != nil {
		return "", err
	}
	return r.Commit(files, message)
}

// Commit replaces everything in the work tree by files and commits. A commit that changes nothing is one too. It returns
// the commit's hash.
func (r *Repo) Commit(files fs.FS, message string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.Name() != ".git" {
			if err := os.RemoveAll(filepath.Join(r.dir, entry.Name())); err != nil {
				return "", err
			}
		}
	}
	if err := os.CopyFS(r.dir, files); err != nil {
		return "", err
	}
	if _, err := run(r.dir, "add", "--all"); err != nil {
		return "", err
	}
	date := epoch.Add(time.Duration(r.commits) * time.Minute).Format(time.RFC3339)
	r.commits++
	dates := []string{"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date}
	if _, err := runEnv(dates, r.dir, "commit", "--quiet", "--allow-empty", "--message", message); err != nil {
		return "", err
	}
	return r.head()
}

// Push sends the branch main to the server over HTTP. Force lets it replace commits that are there.
func (r *Repo) Push(force bool) error {
	args := []string{"push", "--quiet", r.push, "HEAD:refs/heads/main"}
	if force {
		args = append(args, "--force")
	}
	_, err := run(r.dir, args...)
	return err
}

// Rewind drops the last commit, so that the next one replaces it when it is pushed by force.
func (r *Repo) Rewind() error {
	_, err := run(r.dir, "reset", "--quiet", "--hard", "HEAD~1")
	return err
}

// Tag names the present commit and sends the tag to the server.
func (r *Repo) Tag(name string) error {
	if _, err := run(r.dir, "tag", "--force", name); err != nil {
		return err
	}
	_, err := run(r.dir, "push", "--quiet", "--force", r.push, "refs/tags/"+name)
	return err
}

func (r *Repo) head() (string, error) {
	out, err := run(r.dir, "rev-parse", "HEAD")
	return strings.TrimSpace(out), err
}

const author = "Ada Example"

// environment keeps the configuration of whoever runs the tests out of them.
var environment = []string{
	"GIT_CONFIG_NOSYSTEM=1",
	"GIT_CONFIG_GLOBAL=" + os.DevNull,
	// Folders that a container mounts may belong to another user.
	"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	"GIT_TERMINAL_PROMPT=0",
	"GIT_AUTHOR_NAME=" + author, "GIT_AUTHOR_EMAIL=ada@example.com",
	"GIT_COMMITTER_NAME=" + author, "GIT_COMMITTER_EMAIL=ada@example.com",
}

func run(dir string, args ...string) (string, error) { return runEnv(nil, dir, args...) }

func runEnv(env []string, dir string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), environment...), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

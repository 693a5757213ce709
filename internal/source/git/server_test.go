package git

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// repo is a repository that the test commits to and that a server serves. All its dates are the same.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB) *repo {
	t.Helper()
	r := &repo{t, filepath.Join(t.TempDir(), "repo.git")}
	r.run("", "init", "-q", "-b", "main", r.dir)
	return r
}

// golden is the repository from which Flux made the artifacts that tests compare with.
func golden(t testing.TB) *repo {
	t.Helper()
	bundle, err := filepath.Abs("testdata/shop.bundle")
	if err != nil {
		t.Fatal(err)
	}
	r := &repo{t, filepath.Join(t.TempDir(), "repo.git")}
	r.run("", "clone", "-q", bundle, r.dir)
	return r
}

func (r *repo) run(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=2026-11-23T12:00:00Z",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-11-23T12:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) git(args ...string) string { r.t.Helper(); return r.run(r.dir, args...) }

func (r *repo) write(name, content string) {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// commit writes the files, commits everything and returns the commit's hash.
func (r *repo) commit(subject string, files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		r.write(name, content)
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", subject)
	return r.git("rev-parse", "HEAD")
}

// files lists the regular files of a revision with the hash of their content, as a manifest does.
func (r *repo) files(rev string) map[string]artifact.File {
	r.t.Helper()
	files := map[string]artifact.File{}
	var names, blobs []string
	for line := range strings.SplitSeq(r.git("ls-tree", "-r", rev), "\n") {
		meta, name, ok := strings.Cut(line, "\t")
		if fields := strings.Fields(meta); ok && strings.HasPrefix(fields[0], "100") {
			names, blobs = append(names, name), append(blobs, fields[2])
			files[name] = artifact.File{Executable: fields[0] == "100755"}
		}
	}
	cmd := exec.Command("git", "cat-file", "--batch")
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(strings.Join(blobs, "\n")+"\n")
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range names {
		header, rest, _ := bytes.Cut(out, []byte("\n"))
		var hash, kind string
		var size int
		if _, err := fmt.Sscan(string(header), &hash, &kind, &size); err != nil {
			r.t.Fatal(err)
		}
		sum := sha256.Sum256(rest[:size])
		files[name] = artifact.File{Hash: hex.EncodeToString(sum[:]), Executable: files[name].Executable}
		out = rest[size+1:]
	}
	return files
}

// httpServer serves a repository with git http-backend.
type httpServer struct {
	*httptest.Server
	url   string
	lists atomic.Int64 // requests for the list of refs
	packs atomic.Int64 // requests for a pack
	bytes atomic.Int64 // sent in answer to those
}

func serveHTTP(t testing.TB, r *repo, wrap func(http.Handler) http.Handler) *httpServer {
	t.Helper()
	s := newHTTPServer(t, r, wrap)
	s.Start()
	s.url = s.URL + "/repo.git"
	return s
}

func newHTTPServer(t testing.TB, r *repo, wrap func(http.Handler) http.Handler) *httpServer {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := &httpServer{}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + filepath.Dir(r.dir), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent"},
	}
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			s.packs.Add(1)
			w = &countingWriter{w, &s.bytes}
		} else {
			s.lists.Add(1)
		}
		backend.ServeHTTP(w, req)
	})
	if wrap != nil {
		handler = wrap(handler)
	}
	s.Server = httptest.NewUnstartedServer(handler)
	t.Cleanup(s.Close)
	return s
}

type countingWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// sshServer runs git-upload-pack for whoever has the client key.
type sshServer struct {
	url      string
	known    string // its line for known_hosts
	identity string // a private key that it lets in
}

func serveSSH(t testing.TB, r *repo, hostKey ssh.Signer) *sshServer {
	t.Helper()
	client, identity := newKey(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() == "git" && bytes.Equal(key.Marshal(), client.PublicKey().Marshal()) {
			return &ssh.Permissions{}, nil
		}
		return nil, fmt.Errorf("unknown key")
	}}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { listener.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveSSHConn(conn, config, r.dir) })
		}
	})
	address := listener.Addr().String()
	host, port, _ := net.SplitHostPort(address)
	return &sshServer{
		url:      "ssh://git@" + address + "/repo.git",
		known:    fmt.Sprintf("[%s]:%s %s", host, port, ssh.MarshalAuthorizedKey(hostKey.PublicKey())),
		identity: identity,
	}
}

func serveSSHConn(conn net.Conn, config *ssh.ServerConfig, dir string) {
	defer conn.Close()
	c, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer c.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		for req := range requests {
			var command struct{ Value string }
			if req.Type != "exec" || ssh.Unmarshal(req.Payload, &command) != nil {
				_ = req.Reply(false, nil)
				continue
			}
			_ = req.Reply(true, nil)
			if command.Value != "git-upload-pack '/repo.git'" {
				_, _ = io.WriteString(channel.Stderr(), "ERROR: Repository not found.\n")
				channel.Close()
				continue
			}
			cmd := exec.Command("git-upload-pack", dir)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
			_ = cmd.Run()
			channel.Close()
		}
	}
}

// shown makes credentials of those for HTTP.
func shown(c source.Credentials) Credentials { return Credentials{Credentials: c} }

// newKey returns an Ed25519 key and its PEM.
func newKey(t testing.TB) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signerOf(t, private)
}

func signerOf(t testing.TB, private any) (ssh.Signer, string) {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

func newStore(t testing.TB) *artifact.Store {
	t.Helper()
	s, err := artifact.Open(artifact.Options{Dir: t.TempDir(), Address: "source-controller"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newGit(t testing.TB, limits Limits) *Fetcher {
	t.Helper()
	g, err := NewFetcher(newStore(t), source.Network{}, limits)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// pull fetches and writes a snapshot, and checks it against the repository.
func pull(t testing.TB, g *Fetcher, r *repo, remote Remote, ref Ref) Commit {
	t.Helper()
	c, err := g.Fetch(context.Background(), remote, ref, Question{})
	if err != nil {
		t.Fatal(err)
	}
	ignore := "" // not even the defaults
	s, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{Ignore: &ignore})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	want := r.files(c.Hash)
	if len(want) != len(s.Files()) {
		t.Errorf("commit %s: %d files, want %d", c.Hash, len(s.Files()), len(want))
	}
	for name, f := range want {
		if got, _ := s.File(name); got != f {
			t.Errorf("commit %s: %s is %+v, want %+v", c.Hash, name, got, f)
		}
	}
	return c
}

func sorted(s []string) []string { slices.Sort(s); return s }

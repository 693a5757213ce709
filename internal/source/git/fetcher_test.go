package git

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/crypto/ssh"

	"github.com/cleat-dev/cleat/internal/source"
)

func TestSnapshotsAreFluxsToTheByte(t *testing.T) {
	server := serveHTTP(t, golden(t), nil)
	charts := "/charts\n"
	for _, tt := range []struct {
		ref              Ref
		ignore           *string
		revision, digest string
	}{
		{Ref{Branch: "main"}, nil, "main@sha1:aa3e7da585bb7c53b55766c8714298088bd35d37", "sha256:45ff959e43c5a515a8d5fc6bfad64f5f74810a5e53ab8944efa786a33edc1152"},
		{Ref{Commit: "f12aaebd0ed930b86b96ed6583add2ad249033ae", Branch: "main"}, nil, "main@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", "sha256:f74a01a714810b54a272d1a97eb1381888bd5af3f214b58ed66846e87901be11"},
		{Ref{SemVer: ">=1.0.0"}, &charts, "v1.0.0@sha1:f12aaebd0ed930b86b96ed6583add2ad249033ae", "sha256:1a2880202bba408133a03b4fa62fc8b0257ffb402ae47c3944963e3c2c434531"},
	} {
		t.Run(tt.revision, func(t *testing.T) {
			g := newGit(t, Limits{})
			remote := Remote{URL: server.url}
			c, err := g.Fetch(context.Background(), remote, tt.ref, Question{})
			if err != nil {
				t.Fatal(err)
			}
			s, release, err := g.Snapshot(context.Background(), remote, tt.ref, c, Layout{Ignore: tt.ignore})
			if err != nil {
				t.Fatal(err)
			}
			defer release()
			if c.Revision != tt.revision || s.Digest != tt.digest {
				t.Errorf("revision %s, digest %s", c.Revision, s.Digest)
			}
		})
	}
}

// TestManyPushes holds one mirror against a server through everything that happens to a branch. Every snapshot is compared
// with what Git says the commit holds.
func TestManyPushes(t *testing.T) {
	for _, scheme := range []string{"http", "ssh"} {
		t.Run(scheme, func(t *testing.T) {
			r := newRepo(t)
			files := map[string]string{}
			for i := range 200 {
				files[fmt.Sprintf("apps/%02d/app-%03d.yaml", i%20, i)] = strings.Repeat(fmt.Sprintf("line of app %d\n", i), 40)
			}
			base := r.commit("base", files)
			r.git("branch", "side")
			server := serveHTTP(t, r, nil)
			remote := Remote{URL: server.url}
			if scheme == "ssh" {
				key, _ := newKey(t)
				s := serveSSH(t, r, key)
				remote = Remote{URL: s.url, Credentials: Credentials{Identity: s.identity, KnownHosts: s.known}}
			}
			g, ref := newGit(t, Limits{}), Ref{Branch: "main"}
			pull(t, g, r, remote, ref)
			first := server.bytes.Load()

			for i := range 12 { // one file changes
				r.commit(fmt.Sprint("push ", i), map[string]string{"apps/03/app-003.yaml": fmt.Sprint("changed ", i)})
				pull(t, g, r, remote, ref)
			}
			if scheme == "http" {
				if per := (server.bytes.Load() - first) / 12; per > first/5 {
					t.Errorf("a push of one file costs %d bytes, the clone cost %d", per, first)
				}
			}
			r.commit("several", map[string]string{"a": "1", "b/c": "2", "d/e/f": "3"})
			r.commit("at", map[string]string{"a": "2"})
			r.commit("once", map[string]string{"g": "3"})
			pull(t, g, r, remote, ref)
			r.git("rm", "-q", "-r", "apps/05")
			r.git("mv", "apps/06", "moved")
			r.commit("removed and moved", nil)
			pull(t, g, r, remote, ref)

			r.git("checkout", "-q", "side") // a branch that began before the mirror did is merged
			r.commit("on the side", map[string]string{"side.yaml": "1"})
			r.git("checkout", "-q", "main")
			r.git("merge", "-q", "--no-ff", "-m", "merge", "side")
			pull(t, g, r, remote, ref)

			r.git("commit", "-q", "--amend", "-m", "rewritten")
			pull(t, g, r, remote, ref)
			r.git("reset", "-q", "--hard", base) // rewound to where it began
			if c := pull(t, g, r, remote, ref); c.Hash != base {
				t.Errorf("a rewound branch is at %s", c.Hash)
			}
			r.commit("and forward", map[string]string{"new": "1"})
			r.git("reflog", "expire", "--expire=now", "--all") // the server forgets what the mirror has
			r.git("gc", "-q", "--prune=now")
			pull(t, g, r, remote, ref)

			r.git("checkout", "-q", "--orphan", "fresh") // a history without a common commit
			r.git("rm", "-q", "-rf", ".")
			r.commit("fresh", map[string]string{"only": "this"})
			r.git("branch", "-D", "main")
			if _, err := g.Fetch(context.Background(), remote, ref, Question{}); err == nil || !strings.Contains(err.Error(), `no branch "main"`) {
				t.Errorf("a deleted branch: %v", err)
			}
			r.git("branch", "main")
			pull(t, g, r, remote, ref)
			r.git("gc", "-q", "--prune=now")
			r.git("checkout", "-q", "main")
			for i := range 5 {
				r.commit(fmt.Sprint("again ", i), map[string]string{"only": fmt.Sprint("this ", i)})
				pull(t, g, r, remote, ref)
			}
		})
	}
}

// TestSharedFilesMakeTheSameArtifact compares an export that shares files with the one before to one that cannot.
func TestSharedFilesMakeTheSameArtifact(t *testing.T) {
	r := newRepo(t)
	r.commit("one", map[string]string{"same": "1", "d/changed": "1", "d/mode": "x", "gone": "1"})
	server := serveHTTP(t, r, nil)
	g, remote, ref := newGit(t, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
	first := pull(t, g, r, remote, ref)
	r.git("rm", "-q", "gone")
	r.write("d/changed", "2")
	if err := os.Chmod(filepath.Join(r.dir, "d/mode"), 0o755); err != nil {
		t.Fatal(err)
	}
	second := r.commit("two", map[string]string{"new": "1"})
	var previous Previous
	digest := func(g *Fetcher, hash string) (string, os.FileInfo) {
		t.Helper()
		c, err := g.Fetch(context.Background(), remote, ref, Question{})
		if err != nil {
			t.Fatal(err)
		}
		c.Hash = hash
		ignore := ""
		s, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{Ignore: &ignore, Previous: previous})
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		info, err := os.Stat(filepath.Join(s.Dir(), "same"))
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest, info
	}
	wrote, before := digest(g, first.Hash)
	previous = Previous{Commit: first.Hash, Digest: wrote}
	shared, after := digest(g, second)
	if alone, _ := digest(newGit(t, Limits{}), second); shared != alone {
		t.Errorf("digest %s, alone %s", shared, alone)
	}
	if !os.SameFile(before, after) {
		t.Error("a file that did not change was written again")
	}
}

func TestF28_MovedTags(t *testing.T) {
	r := newRepo(t)
	g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
	ref := Ref{Tag: "v1"}
	for i := range 6 {
		want := r.commit("c", map[string]string{"n": fmt.Sprint(i)})
		if i%2 == 0 {
			r.git("tag", "-f", "v1")
		} else {
			r.git("tag", "-f", "-a", "-m", "annotated", "v1")
		}
		if c := pull(t, g, r, Remote{URL: server.url}, ref); c.Hash != want || c.Revision != "v1@sha1:"+want {
			t.Errorf("tag is at %+v, want %s", c, want)
		}
	}
}

func TestRefs(t *testing.T) {
	r := newRepo(t)
	first := r.commit("first", map[string]string{"n": "1"})
	r.git("tag", "v1.0.0")
	r.git("tag", "1.5.0")
	second := r.commit("second", map[string]string{"n": "2"})
	r.git("tag", "-a", "-m", "x", "v1.10.0")
	r.git("tag", "v2.0.0-rc.1")
	r.git("tag", "not-a-version")
	third := r.commit("third", map[string]string{"n": "3"})
	r.git("branch", "master")
	r.git("branch", "feature/x", first)
	r.git("update-ref", "refs/pull/1/head", second)
	fourth := r.commit("fourth", map[string]string{"n": "4"})
	server := serveHTTP(t, r, nil)
	for name, tt := range map[string]struct {
		ref  Ref
		want string
	}{
		"default":            {Ref{}, "master@sha1:" + third},
		"branch":             {Ref{Branch: "feature/x"}, "feature/x@sha1:" + first},
		"tag over branch":    {Ref{Tag: "v1.0.0", Branch: "main"}, "v1.0.0@sha1:" + first},
		"annotated tag":      {Ref{Tag: "v1.10.0"}, "v1.10.0@sha1:" + second},
		"semver over tag":    {Ref{SemVer: ">=1.0.0", Tag: "v1.0.0"}, "v1.10.0@sha1:" + second},
		"semver without v":   {Ref{SemVer: "<1.10.0"}, "1.5.0@sha1:" + first},
		"pre-release":        {Ref{SemVer: ">=2.0.0-0"}, "v2.0.0-rc.1@sha1:" + second},
		"name over semver":   {Ref{Name: "refs/pull/1/head", SemVer: "*"}, "refs/pull/1/head@sha1:" + second},
		"name of a tag":      {Ref{Name: "refs/tags/v1.10.0"}, "refs/tags/v1.10.0@sha1:" + second},
		"HEAD":               {Ref{Name: "HEAD"}, "HEAD@sha1:" + fourth},
		"commit over name":   {Ref{Commit: first, Name: "HEAD"}, "sha1:" + first},
		"commit in a branch": {Ref{Commit: second, Branch: "main"}, "main@sha1:" + second},
		"commit at a tip":    {Ref{Commit: fourth}, "sha1:" + fourth},
	} {
		t.Run(name, func(t *testing.T) {
			if c := pull(t, newGit(t, Limits{}), r, Remote{URL: server.url}, tt.ref); c.Revision != tt.want {
				t.Errorf("revision %s, want %s", c.Revision, tt.want)
			}
		})
	}
	for name, ref := range map[string]Ref{
		"no such branch":  {Branch: "nope"},
		"no such tag":     {Tag: "v9"},
		"no such version": {SemVer: ">=9"},
		"no such name":    {Name: "refs/heads/nope"},
		"no such commit":  {Commit: strings.Repeat("1", 40)},
		"commit, branch":  {Commit: first, Branch: "nope"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGit(t, Limits{})
			_, err := g.Fetch(context.Background(), Remote{URL: server.url}, ref, Question{})
			if err == nil {
				t.Fatal("fetched")
			}
			if _, again := g.Fetch(context.Background(), Remote{URL: server.url}, ref, Question{}); again == nil || again.Error() != err.Error() {
				t.Errorf("the same failure has two texts:\n%v\n%v", err, again)
			}
		})
	}
	r.git("config", "uploadpack.allowReachableSHA1InWant", "true")
	server.bytes.Store(0)
	pull(t, newGit(t, Limits{}), r, Remote{URL: server.url}, Ref{Commit: first})
}

func TestF27_RefTypeChange(t *testing.T) {
	r := newRepo(t)
	tagged := r.commit("tagged", map[string]string{"n": "1"})
	r.git("tag", "same")
	branched := r.commit("branched", map[string]string{"n": "2"})
	r.git("branch", "same")
	g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
	for range 2 {
		if c := pull(t, g, r, Remote{URL: server.url}, Ref{Branch: "same"}); c.Hash != branched {
			t.Errorf("branch is at %s", c.Hash)
		}
		if c := pull(t, g, r, Remote{URL: server.url}, Ref{Tag: "same"}); c.Hash != tagged {
			t.Errorf("tag is at %s", c.Hash)
		}
	}
}

func TestNothingIsDownloadedWhenNothingMoved(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
	c := pull(t, g, r, Remote{URL: server.url}, Ref{Branch: "main"})
	for range 3 {
		if _, err := g.Fetch(context.Background(), Remote{URL: server.url}, Ref{Branch: "main"}, Question{}); err != nil {
			t.Fatal(err)
		}
	}
	// Nor by an agent that lost its mirrors, but not its artifacts.
	if _, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: server.url}, Ref{Branch: "main"}, Question{Current: c.Revision}); err != nil {
		t.Fatal(err)
	}
	if n := server.packs.Load(); n != 1 {
		t.Errorf("%d packs were asked for, want 1", n)
	}
}

func TestF35_SameMirrorIsAskedOnce(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	held, arrived := make(chan struct{}), make(chan struct{}, 100)
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			arrived <- struct{}{}
			<-held
			next.ServeHTTP(w, req)
		})
	})
	g := newGit(t, Limits{})
	var wg sync.WaitGroup
	fetch := func() {
		if _, err := g.Fetch(context.Background(), Remote{URL: server.url}, Ref{Branch: "main"}, Question{}); err != nil {
			t.Error(err)
		}
	}
	wg.Go(fetch)
	<-arrived // the first waits for the server, all others come meanwhile
	for range 20 {
		wg.Go(fetch)
	}
	close(held)
	wg.Wait()
	if lists, packs := server.lists.Load(), server.packs.Load(); lists > 4 || packs != 1 {
		t.Errorf("21 fetches made %d lists and %d packs", lists, packs)
	}
}

// brittle is a disk whose files make whoever opens one panic, as damage has made go-git before.
type brittle struct{ billy.Filesystem }

func (brittle) Open(string) (billy.File, error) { panic("index out of range") }

func (brittle) OpenFile(string, int, os.FileMode) (billy.File, error) { panic("index out of range") }

// breakMirror makes the mirror be read from such a disk the next time that it is.
func breakMirror(t *testing.T, g *Fetcher, remote Remote, ref Ref) {
	t.Helper()
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mi.take(t.Context()), mi.open(time.Now())); err != nil {
		t.Fatal(err)
	}
	mi.storage.Close()
	mi.storage = &mirrorStorage{filesystem.NewStorage(brittle{osfs.New(mi.dir)}, cache.NewObjectLRUDefault())}
	mi.turn <- struct{}{} // and not give, which would put it away
}

func TestF26_AMirrorThatMakesGoGitPanicIsClonedAfresh(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
	remote, ref := Remote{URL: server.url}, Ref{Branch: "main"}
	pull(t, g, r, remote, ref)
	breakMirror(t, g, remote, ref)
	pull(t, g, r, remote, ref) // nothing pushed
	breakMirror(t, g, remote, ref)
	r.commit("d", map[string]string{"n": "2"})
	pull(t, g, r, remote, ref)

	// What is only read does not fetch; the attempt after it does.
	for name, read := range map[string]func(Commit) error{
		"snapshot": func(c Commit) error {
			ignore := "x"
			_, release, err := g.Snapshot(t.Context(), remote, ref, c, Layout{Ignore: &ignore})
			if err == nil {
				release()
			}
			return err
		},
		"verify": func(c Commit) error {
			_, err := g.Verify(t.Context(), remote, ref, c, true, false, Keys{})
			if errors.Is(err, ErrCommitSignature) {
				return nil // it was read
			}
			return err
		},
	} {
		c, err := g.Fetch(t.Context(), remote, ref, Question{})
		if err != nil {
			t.Fatal(err)
		}
		breakMirror(t, g, remote, ref)
		if err := read(c); !errors.Is(err, errMirror) || !errors.Is(err, source.ErrPanic) {
			t.Errorf("%s: %v", name, err)
		}
		if c, err = g.Fetch(t.Context(), remote, ref, Question{}); err != nil {
			t.Fatal(err)
		}
		if err := read(c); err != nil {
			t.Errorf("%s, once more: %v", name, err)
		}
	}
}

func TestF26_DamagedMirrorIsClonedAfresh(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"a pack is gone": func(t *testing.T, dir string) {
			for _, f := range glob(t, dir, "objects/pack/*") {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a pack is cut off": func(t *testing.T, dir string) {
			for _, f := range glob(t, dir, "objects/pack/*.pack") {
				if err := errors.Join(os.Chmod(f, 0o600), os.Truncate(f, 40)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"an index is garbage": func(t *testing.T, dir string) {
			for _, f := range glob(t, dir, "objects/pack/*.idx") {
				if err := errors.Join(os.Chmod(f, 0o600), os.WriteFile(f, []byte("rot"), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"it claims a commit it lacks": func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "shallow"), []byte(strings.Repeat("1", 40)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"everything is gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name+", nothing pushed", func(t *testing.T) {
			r := newRepo(t)
			r.commit("c", map[string]string{"n": "1"})
			g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
			remote, ref := Remote{URL: server.url}, Ref{Branch: "main"}
			pull(t, g, r, remote, ref)
			mi, err := g.mirrors.get(remote, ref)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, mi.dir)
			pull(t, g, r, remote, ref)
		})
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			r.commit("c", map[string]string{"big": strings.Repeat("some text\n", 1000), "n": "1"})
			g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
			remote, ref := Remote{URL: server.url}, Ref{Branch: "main"}
			pull(t, g, r, remote, ref)
			mi, err := g.mirrors.get(remote, ref)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, mi.dir)
			// The file changes a little, so that the server sends a delta against the one that is lost.
			r.commit("d", map[string]string{"big": strings.Repeat("some text\n", 1000) + "more\n"})
			ignore := "x"
			for attempt := 1; ; attempt++ {
				c, err := g.Fetch(context.Background(), remote, ref, Question{})
				if err == nil {
					var release func()
					if _, release, err = g.Snapshot(context.Background(), remote, ref, c, Layout{Ignore: &ignore}); err == nil {
						release()
						break
					}
				}
				if attempt == 2 {
					t.Fatalf("still broken: %v", err)
				}
			}
			pull(t, g, r, remote, ref)
		})
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found
}

func TestMirrorIsClonedAfreshAfterManyFetches(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "0", "rest": "of it"})
	g, server := newGit(t, Limits{}), serveHTTP(t, r, nil)
	remote, ref := Remote{URL: server.url}, Ref{Branch: "main"}
	pull(t, g, r, remote, ref)
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		t.Fatal(err)
	}
	var full strings.Builder
	for i := range maxCommits {
		fmt.Fprintf(&full, "%040x\n", i+1)
	}
	if err := os.WriteFile(filepath.Join(mi.dir, "shallow"), []byte(full.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.commit("d", map[string]string{"n": "1"})
	pull(t, g, r, remote, ref)
	text, err := os.ReadFile(filepath.Join(mi.dir, "shallow"))
	if err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("shallow is %q, %v", text, err)
	}
}

func TestHTTPAuthentication(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	guard := func(want string) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if user, password, _ := req.BasicAuth(); user+":"+password != want && req.Header.Get("Authorization") != "Bearer "+want {
					w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
					http.Error(w, "s3cret is not the password", http.StatusUnauthorized)
					return
				}
				next.ServeHTTP(w, req)
			})
		}
	}
	basic, bearer := serveHTTP(t, r, guard("me:pa:ss")), serveHTTP(t, r, guard("t0ken"))
	ref := Ref{Branch: "main"}
	pull(t, newGit(t, Limits{}), r, Remote{URL: basic.url, Credentials: shown(source.Credentials{Username: "me", Password: "pa:ss"})}, ref)
	pull(t, newGit(t, Limits{}), r, Remote{URL: strings.Replace(basic.url, "http://", "http://me:pa%3Ass@", 1)}, ref)
	pull(t, newGit(t, Limits{}), r, Remote{URL: bearer.url, Credentials: shown(source.Credentials{BearerToken: "t0ken"})}, ref)

	for name, remote := range map[string]Remote{
		"anonymous":       {URL: basic.url},
		"wrong password":  {URL: basic.url, Credentials: shown(source.Credentials{Username: "me", Password: "s3cret"})},
		"wrong in URL":    {URL: strings.Replace(basic.url, "http://", "http://me:s3cret@", 1)},
		"wrong token":     {URL: bearer.url, Credentials: shown(source.Credentials{BearerToken: "s3cret"})},
		"broken password": {URL: "http://me:s3cret%zz@127.0.0.1/x"},
	} {
		_, err := newGit(t, Limits{}).Fetch(context.Background(), remote, ref, Question{})
		if !errors.Is(err, source.ErrAuthentication) && !errors.Is(err, source.ErrURL) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the text holds the password: %v", name, err)
		}
	}
}

func TestA11_TLS(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	server := newHTTPServer(t, r, nil)
	server.StartTLS()
	url := server.URL + "/repo.git"
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	ref := Ref{Branch: "main"}
	pull(t, newGit(t, Limits{}), r, Remote{URL: url, Credentials: shown(source.Credentials{TLS: source.TLS{CA: ca}})}, ref)

	_, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: url}, ref, Question{})
	if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
		t.Errorf("without the CA: %v", err)
	}
	other := strings.Replace(url, "127.0.0.1", "localhost", 1) // the certificate is for example.com and the address
	_, err = newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: other, Credentials: shown(source.Credentials{TLS: source.TLS{CA: ca}})}, ref, Question{})
	if host := new(x509.HostnameError); !errors.As(err, host) {
		t.Errorf("with another host's certificate: %v", err)
	}
}

func TestClientCertificate(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	server := newHTTPServer(t, r, nil)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	url := server.URL + "/repo.git"
	pair := server.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	for _, names := range [][3]string{{"ca.crt", "tls.crt", "tls.key"}, {"caFile", "certFile", "keyFile"}} {
		creds, err := CredentialsFrom(map[string][]byte{
			names[0]: certificate, names[1]: certificate,
			names[2]: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		}, "https")
		if err != nil {
			t.Fatal(err)
		}
		pull(t, newGit(t, Limits{}), r, Remote{URL: url, Credentials: creds}, Ref{Branch: "main"})
	}
	if _, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: url, Credentials: shown(source.Credentials{TLS: source.TLS{CA: string(certificate)}})}, Ref{Branch: "main"}, Question{}); err == nil {
		t.Error("fetched without the certificate")
	}
}

func TestA10_SSH(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	hostKey, _ := newKey(t)
	otherKey, otherIdentity := newKey(t)
	server := serveSSH(t, r, hostKey)
	weakKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakSigner, _ := signerOf(t, weakKey)
	weak := serveSSH(t, r, weakSigner)
	good := Credentials{Identity: server.identity, KnownHosts: server.known}
	host, _, _ := strings.Cut(server.known, " ")
	ref := Ref{Branch: "main"}

	pull(t, newGit(t, Limits{}), r, Remote{URL: server.url, Credentials: good}, ref)
	for name, tt := range map[string]struct {
		remote Remote
		want   error
	}{
		"another host key":    {Remote{URL: server.url, Credentials: Credentials{Identity: server.identity, KnownHosts: host + " " + string(ssh.MarshalAuthorizedKey(otherKey.PublicKey()))}}, errHostKey},
		"no such host":        {Remote{URL: server.url, Credentials: Credentials{Identity: server.identity, KnownHosts: "example.com " + string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))}}, errHostKey},
		"no known_hosts":      {Remote{URL: server.url, Credentials: Credentials{Identity: server.identity}}, source.ErrAuthentication},
		"no identity":         {Remote{URL: server.url, Credentials: Credentials{KnownHosts: server.known}}, source.ErrAuthentication},
		"no credentials":      {Remote{URL: server.url}, source.ErrAuthentication},
		"unknown identity":    {Remote{URL: server.url, Credentials: Credentials{Identity: otherIdentity, KnownHosts: server.known}}, source.ErrAuthentication},
		"RSA key of 1024 bit": {Remote{URL: weak.url, Credentials: Credentials{Identity: weak.identity, KnownHosts: weak.known}}, errHostKey},
	} {
		_, err := newGit(t, Limits{}).Fetch(context.Background(), tt.remote, ref, Question{})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: strings.Replace(server.url, "repo.git", "it's.git", 1), Credentials: good}, ref, Question{})
	if err == nil || !strings.Contains(err.Error(), "Repository not found") {
		t.Errorf("another repository: %v", err)
	}
}

func TestSSHIdentityWithPassphrase(t *testing.T) {
	_, private := newKey(t)
	key, err := ssh.ParseRawPrivateKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("open"))
	if err != nil {
		t.Fatal(err)
	}
	data := map[string][]byte{"identity": pem.EncodeToMemory(block), "known_hosts": []byte("x"), "password": []byte("open")}
	if _, err := CredentialsFrom(data, "ssh"); err != nil {
		t.Error(err)
	}
	data["password"] = []byte("wrong")
	if _, err := CredentialsFrom(data, "ssh"); !errors.Is(err, source.ErrAuthentication) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	data["identity"], data["password"] = []byte(private), []byte("not needed")
	if _, err := CredentialsFrom(data, "ssh"); err != nil {
		t.Error(err)
	}
}

func TestSecretsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		scheme string
		data   map[string]string
	}{
		"password missing":    {"https", map[string]string{"username": "me"}},
		"token and name":      {"https", map[string]string{"username": "me", "password": "x", "bearerToken": "y"}},
		"certificate alone":   {"https", map[string]string{"tls.crt": "x"}},
		"no certificate":      {"https", map[string]string{"ca.crt": "x"}},
		"key does not fit":    {"https", map[string]string{"tls.crt": "x", "tls.key": "y"}},
		"identity missing":    {"ssh", map[string]string{"known_hosts": "x"}},
		"known_hosts missing": {"ssh", map[string]string{"identity": "x"}},
		"no key":              {"ssh", map[string]string{"identity": "x", "known_hosts": "x"}},
	} {
		data := map[string][]byte{}
		for k, v := range tt.data {
			data[k] = []byte(v)
		}
		if _, err := CredentialsFrom(data, tt.scheme); !errors.Is(err, source.ErrAuthentication) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmptyRepository(t *testing.T) {
	server := serveHTTP(t, newRepo(t), nil)
	if _, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: server.url}, Ref{Branch: "main"}, Question{}); !errors.Is(err, ErrEmptyRepository) {
		t.Errorf("%v", err)
	}
}

func TestMirrorNamesTellNothing(t *testing.T) {
	dir := t.TempDir()
	m, err := openMirrors(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	remote := Remote{URL: "http://example.com/x", Credentials: shown(source.Credentials{Password: "one"})}
	one, err := m.get(remote, Ref{})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := m.get(remote, Ref{}); again != one {
		t.Error("the same remote has two mirrors")
	}
	for name, other := range map[string]func() (*mirror, error){
		"another password": func() (*mirror, error) {
			return m.get(Remote{URL: remote.URL, Credentials: shown(source.Credentials{Password: "two"})}, Ref{})
		},
		"another ref": func() (*mirror, error) { return m.get(remote, Ref{Branch: "x"}) },
		"another URL": func() (*mirror, error) {
			return m.get(Remote{URL: "http://example.com/y", Credentials: remote.Credentials}, Ref{})
		},
		"another storage": func() (*mirror, error) {
			m, err := openMirrors(filepath.Join(dir, "b"))
			if err != nil {
				return nil, err
			}
			return m.get(remote, Ref{})
		},
	} {
		if mi, err := other(); err != nil || filepath.Base(mi.dir) == filepath.Base(one.dir) {
			t.Errorf("%s: the same mirror, %v", name, err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "a", keyName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is %v, %v", info.Mode(), err)
	}
	reopened, err := openMirrors(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if mi, _ := reopened.get(remote, Ref{}); mi.dir != one.dir {
		t.Error("a restart lost the mirror")
	}
}

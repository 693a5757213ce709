package git

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// lay fetches main and lists the files of its snapshot.
func lay(t *testing.T, g *Fetcher, remote Remote, layout Layout) ([]string, error) {
	t.Helper()
	ref := Ref{Branch: "main"}
	c, err := g.Fetch(context.Background(), remote, ref, Question{})
	if err != nil {
		t.Fatal(err)
	}
	s, release, err := g.Snapshot(context.Background(), remote, ref, c, layout)
	if err != nil {
		return nil, err
	}
	defer release()
	return slices.Sorted(maps.Keys(s.Files())), nil
}

func TestSparseCheckout(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"top": "1", "a/x": "1", "a/b/y": "1", "ab/z": "1", "c/d/e/f": "1", "c/g": "1"})
	g, remote := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}
	for _, tt := range []struct{ sparse, want []string }{
		{nil, []string{"a/b/y", "a/x", "ab/z", "c/d/e/f", "c/g", "top"}},
		{[]string{"./"}, []string{"a/b/y", "a/x", "ab/z", "c/d/e/f", "c/g", "top"}},
		{[]string{"a"}, []string{"a/b/y", "a/x"}},
		{[]string{"./a/b/", "c/d"}, []string{"a/b/y", "c/d/e/f"}},
	} {
		dirs, err := sparseDirs(tt.sparse)
		if err != nil {
			t.Fatal(err)
		}
		got, err := lay(t, g, remote, Layout{Sparse: dirs})
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", tt.sparse, err, diff)
		}
	}
	for _, missing := range []string{"no", "top", "a/b/y"} {
		if _, err := lay(t, g, remote, Layout{Sparse: []string{missing}}); !errors.Is(err, ErrSparse) {
			t.Errorf("%q: %v", missing, err)
		}
	}
}

func TestA05_SparsePathsThatAreRefused(t *testing.T) {
	for _, dir := range []string{"..", "../..", "a/../../b", "/etc", "a//b", ".git", "a/.GIT", `a\b`, "a\x00", strings.Repeat("a/", 4000)} {
		if _, err := sparseDirs([]string{"ok", dir}); !errors.Is(err, ErrSparse) {
			t.Errorf("%.30q: %v", dir, err)
		}
		if _, err := includePath("x/" + dir); dir != "/etc" && !errors.Is(err, ErrInclude) && dir != ".." {
			t.Errorf("include %.30q: %v", dir, err)
		}
	}
	if _, err := includePath("../x"); !errors.Is(err, ErrInclude) {
		t.Error(err)
	}
}

func TestF33_PointersOfLFSAreNoContent(t *testing.T) {
	r := newRepo(t)
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("a", 64) + "\nsize 12345\n"
	r.commit("c", map[string]string{"deploy/values.yaml": pointer, "docs/x.bin": pointer, "ok": "version https://git-lfs.github.com/spec/v2\n"})
	g, remote := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}
	if _, err := lay(t, g, remote, Layout{}); !errors.Is(err, ErrLFS) || !strings.Contains(err.Error(), "deploy/values.yaml") {
		t.Errorf("%v", err)
	}
	for name, layout := range map[string]Layout{
		"ignored": {Ignore: new("deploy/values.yaml\ndocs/\n")}, "sparse": {Sparse: []string{"docs"}, Ignore: new("*.bin")},
	} {
		if files, err := lay(t, g, remote, layout); err != nil {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
}

// withSubmodule adds a submodule by hand: Git itself refuses the URLs that tests need.
func (r *repo) withSubmodule(path, url, commit string) {
	r.t.Helper()
	old, _ := os.ReadFile(filepath.Join(r.dir, ".gitmodules"))
	r.write(".gitmodules", string(old)+fmt.Sprintf("[submodule %q]\n\tpath = %s\n\turl = %s\n", path, path, url))
	r.git("add", ".gitmodules")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
	r.git("commit", "-q", "-m", "submodule "+path)
}

// beside makes another repository that the same server serves.
func (r *repo) beside(name string) *repo {
	r.t.Helper()
	other := &repo{r.t, filepath.Join(filepath.Dir(r.dir), name)}
	r.run("", "init", "-q", "-b", "main", other.dir)
	return other
}

func TestSubmodules(t *testing.T) {
	r := newRepo(t)
	lib, deep := r.beside("lib.git"), r.beside("deep.git")
	inner := deep.commit("d", map[string]string{"leaf": "1"})
	lib.commit("l", map[string]string{"code": "1", ".sourceignore": "skipped\n", "skipped": "1"})
	lib.withSubmodule("vendor/deep", "../deep.git", inner)
	pinned := lib.git("rev-parse", "HEAD")
	lib.commit("newer", map[string]string{"code": "2", "newer": "1"})
	r.commit("c", map[string]string{"n": "1"})
	r.withSubmodule("lib", "../lib.git", pinned)
	server := serveHTTP(t, r, nil)
	g, remote := newGit(t, Limits{}), Remote{URL: server.url}
	want := []string{"lib/.sourceignore", "lib/code", "lib/vendor/deep/leaf", "n"}
	got, err := lay(t, g, remote, Layout{Submodules: true})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = lay(t, g, remote, Layout{Submodules: true, Sparse: []string{"lib"}})
	if diff := cmp.Diff(want[:3], got); err != nil || diff != "" {
		t.Errorf("sparse: %v\n%s", err, diff)
	}
	if got, err = lay(t, g, remote, Layout{}); err != nil || len(got) != 1 {
		t.Errorf("without: %v, %v", got, err)
	}

	lib.withSubmodule("again", "../lib.git", pinned) // a bomb: each level names the level above
	for range maxNested + 1 {
		lib.withSubmodule("more", "../lib.git", lib.git("rev-parse", "HEAD"))
		lib.git("rm", "-q", "--cached", "again")
		lib.git("commit", "-q", "--allow-empty", "-m", "x")
		lib.withSubmodule("again", "../lib.git", lib.git("rev-parse", "HEAD"))
	}
	r.withSubmodule("bomb", "../lib.git", lib.git("rev-parse", "HEAD"))
	if _, err := lay(t, g, remote, Layout{Submodules: true}); !errors.Is(err, source.ErrLimit) {
		t.Errorf("bomb: %v", err)
	}
}

// TestF33_SubmodulesOfOthers lets one who may read a submodule ask before one who may not.
func TestF33_SubmodulesOfOthers(t *testing.T) {
	r := newRepo(t)
	lib := r.beside("lib.git")
	lib.commit("l", map[string]string{"code": "private"})
	r.withSubmodule("lib", "../lib.git", lib.git("rev-parse", "HEAD"))
	server := serveHTTP(t, r, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if _, password, _ := req.BasicAuth(); strings.Contains(req.URL.Path, "lib.git") && password != "s3cret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	g, layout := newGit(t, Limits{}), Layout{Submodules: true}
	member := Remote{URL: server.url, Credentials: shown(source.Credentials{Username: "me", Password: "s3cret"})}
	if got, err := lay(t, g, member, layout); err != nil || !slices.Contains(got, "lib/code") {
		t.Errorf("with credentials: %q, %v", got, err)
	}
	if got, err := lay(t, g, Remote{URL: server.url}, layout); !errors.Is(err, source.ErrAuthentication) {
		t.Errorf("without credentials: %q, %v", got, err)
	}
}

func TestF33_SubmodulesGetNoCredentialsOfAnotherHost(t *testing.T) {
	creds := shown(source.Credentials{Username: "me", Password: "s3cret"})
	for _, tt := range []struct {
		base, given, url string
		creds            bool
	}{
		{"https://a.example/org/repo.git", "../lib.git", "https://a.example/org/lib.git", true},
		{"https://a.example/org/repo.git", "../../other/lib", "https://a.example/other/lib", true},
		{"https://a.example/org/repo.git", "./sub", "https://a.example/org/repo.git/sub", true},
		{"https://me@a.example/org/repo.git", "../lib.git", "https://me@a.example/org/lib.git", true},
		{"ssh://git@a.example:2222/org/repo.git", "../lib.git", "ssh://git@a.example:2222/org/lib.git", true},
		{"https://a.example/org/repo.git", "https://A.example/x/y", "https://A.example/x/y", true},
		{"https://a.example/org/repo.git", "https://b.example/x/y", "https://b.example/x/y", false},
		{"https://a.example/org/repo.git", "https://a.example:8443/x/y", "https://a.example:8443/x/y", false},
		{"https://a.example/org/repo.git", "http://a.example/x/y", "http://a.example/x/y", false},
		{"https://a.example/org/repo.git", "git@a.example:x/y.git", "ssh://git@a.example/x/y.git", false},
	} {
		got, err := Remote{URL: tt.base, Credentials: creds}.submodule(tt.given)
		if err != nil || got.URL != tt.url || (got.Credentials == creds) != tt.creds || got.Credentials != creds && got.Credentials != (Credentials{}) {
			t.Errorf("%s %s: %+v, %v", tt.base, tt.given, got, err)
		}
	}
	for _, given := range []string{"../../../x", "file:///etc", "/etc", "-oProxyCommand=x", "ext::sh -c x", "git://a.example/x", "x"} {
		if got, err := (Remote{URL: "https://a.example/org/repo.git"}).submodule(given); !errors.Is(err, source.ErrURL) {
			t.Errorf("%s: %+v, %v", given, got, err)
		}
	}
}

var hostileModules = []string{
	"[submodule \"a\"]\n\tpath = lib\n\turl = -oProxyCommand=touch${IFS}pwned\n",
	"[submodule \"a\"]\n\tpath = lib\n\turl = ext::sh -c whoami\n",
	"[submodule \"a\"]\n\tpath = .git\n\turl = https://example.com/x\n",
	"[submodule \"a\"]\n\tpath = lib/.git/hooks\n\turl = https://example.com/x\n",
	"[submodule \"a\"]\n\tpath = ../lib\n\turl = https://example.com/x\n",
	"[submodule \"a\"]\n\tpath = /lib\n\turl = https://example.com/x\n",
	"[submodule \"a\"]\n\tpath = lib\n",
	"[submodule \"a\"\n",
}

func TestA06_SubmodulesThatAreRefused(t *testing.T) {
	for _, text := range hostileModules {
		// What the parser leaves out is refused as not described, when the tree has it.
		if m, err := parseModules(text); !errors.Is(err, ErrSubmodule) && len(m) > 0 {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	}
	r := newRepo(t)
	first := r.commit("c", map[string]string{"n": "1"})
	g, remote := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}
	for _, url := range []string{"file://" + r.dir, r.dir, "-oProxyCommand=x", "ext::sh", "ssh://-oProxyCommand=x/y"} {
		r.git("reset", "-q", "--hard", first)
		r.withSubmodule("lib", url, first)
		if files, err := lay(t, g, remote, Layout{Submodules: true}); !errors.Is(err, ErrSubmodule) {
			t.Errorf("%q: %v, %v", url, files, err)
		}
	}
	r.git("reset", "-q", "--hard", first)
	r.git("update-index", "--add", "--cacheinfo", "160000,"+first+",lib")
	r.git("commit", "-q", "-m", "no .gitmodules")
	if files, err := lay(t, g, remote, Layout{Submodules: true}); !errors.Is(err, ErrSubmodule) {
		t.Errorf("undescribed: %v, %v", files, err)
	}
}

func FuzzParseModules(f *testing.F) {
	for _, text := range append(hostileModules, "[submodule \"a\"]\n\tpath = lib\n\turl = ../lib.git\n") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseModules(text)
		if err != nil {
			return
		}
		for path, url := range m {
			if artifact.CheckPath(path) != nil || url == "" || strings.HasPrefix(url, "-") {
				t.Errorf("accepted %q from %q", path, url)
			}
			if sub, err := (Remote{URL: "https://a.example/o/r"}).submodule(url); err == nil {
				if _, _, err := sub.parse(); err != nil {
					t.Errorf("%q: %v", sub.URL, err)
				}
			}
		}
	})
}

// included adds a GitRepository of its own to a world and reconciles it.
func (w *world) other(name, url string, set func(*sourcev1.GitRepositorySpec)) *sourcev1.GitRepository {
	w.t.Helper()
	o := gitRepository(url, set)
	o.Name, o.UID = name, "2"
	if err := w.client.Create(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
	return w.again(name)
}

func (w *world) again(name string) *sourcev1.GitRepository {
	w.t.Helper()
	key := shop
	key.Name = name
	if _, err := w.run(context.Background(), ctrl.Request{NamespacedName: key}); err != nil {
		w.t.Fatal(err)
	}
	var o sourcev1.GitRepository
	if err := w.client.Get(context.Background(), key, &o); err != nil {
		w.t.Fatal(err)
	}
	return &o
}

func TestInclude(t *testing.T) {
	r, lib := newRepo(t), newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	lib.commit("l", map[string]string{"base/a": "1", "base/b/c": "1", "other": "1", ".sourceignore": "ignored\n"})
	w := newWorld(t, gitRepository(serveHTTP(t, r, nil).url, func(s *sourcev1.GitRepositorySpec) {
		s.Include = []sourcev1.GitRepositoryInclude{
			{GitRepositoryRef: meta.LocalObjectReference{Name: "lib"}},
			{GitRepositoryRef: meta.LocalObjectReference{Name: "lib"}, FromPath: "./base", ToPath: "vendor/base"},
		}
	}))
	o, result := w.reconcile()
	if diff := cmp.Diff([]string{"IncludeUnavailable=True NotFound", "Ready=False NotFound"}, sorted(conditions(o))); diff != "" || result.RequeueAfter == 0 {
		t.Errorf("before: %v\n%s", result, diff)
	}
	included := w.other("lib", serveHTTP(t, lib, nil).url, nil)
	o, _ = w.reconcile()
	if diff := cmp.Diff(healthy, conditions(o)); diff != "" {
		t.Fatal(diff)
	}
	want := []string{"lib/.sourceignore", "lib/base/a", "lib/base/b/c", "lib/other", "n", "vendor/base/a", "vendor/base/b/c"}
	if diff := cmp.Diff(want, w.files(o)); diff != "" {
		t.Error(diff)
	}
	if len(o.Status.IncludedArtifacts) != 2 || o.Status.IncludedArtifacts[0].Digest != included.Status.Artifact.Digest || len(o.Status.ObservedInclude) != 2 {
		t.Errorf("status is %+v", o.Status)
	}
	before := o.Status.Artifact.Digest
	if o, _ = w.reconcile(); o.Status.Artifact.Digest != before {
		t.Error("the same is not the same")
	}
	lib.commit("l2", map[string]string{"base/a": "2"})
	w.again("lib")
	if o, _ = w.reconcile(); o.Status.Artifact.Digest == before || reconcile.Condition(o, "Ready").Status != metav1.ConditionTrue {
		t.Errorf("a new artifact is not included: %v", conditions(o))
	}

	for name, tt := range map[string]struct {
		include sourcev1.GitRepositoryInclude
		reason  string
	}{
		"missing path": {sourcev1.GitRepositoryInclude{FromPath: "no"}, "CopyFailure"},
		"out of it":    {sourcev1.GitRepositoryInclude{FromPath: "../x"}, "IllegalPath"},
		"out of ours":  {sourcev1.GitRepositoryInclude{ToPath: "../x"}, "IllegalPath"},
		".git":         {sourcev1.GitRepositoryInclude{ToPath: "x/.git"}, "IllegalPath"},
		"over a file":  {sourcev1.GitRepositoryInclude{FromPath: "base/a", ToPath: "n"}, "CopyFailure"},
	} {
		tt.include.GitRepositoryRef.Name = "lib"
		w.change(func(o *sourcev1.GitRepository) {
			o.Spec.Include = []sourcev1.GitRepositoryInclude{tt.include}
			o.Generation++
		})
		if o, _ = w.reconcile(); reconcile.Condition(o, "Ready").Reason != tt.reason || reconcile.Condition(o, "IncludeUnavailable") == nil {
			t.Errorf("%s: %v %s", name, conditions(o), reconcile.Condition(o, "Ready").Message)
		}
	}
	w.change(func(o *sourcev1.GitRepository) {
		o.Spec.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: meta.LocalObjectReference{Name: "circle"}}}
		o.Generation++
	})
	circle := w.other("circle", serveHTTP(t, lib, nil).url, func(s *sourcev1.GitRepositorySpec) {
		s.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: meta.LocalObjectReference{Name: "shop"}}}
	})
	if reconcile.Condition(circle, "Stalled") == nil {
		t.Errorf("a circle: %v", conditions(circle))
	}
}

package git

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

const (
	// maxSubmodules and maxNested bound what one repository can make the agent fetch.
	maxSubmodules = 64
	maxNested     = 8
	// maxModulesBytes is the size up to which a .gitmodules is read.
	maxModulesBytes = 1 << 20
	modulesFile     = ".gitmodules"
)

// ErrSubmodule means: a submodule cannot be fetched as it is described.
var ErrSubmodule = errors.New("invalid submodule")

// submodule is one that is both in .gitmodules and in the tree.
type submodule struct {
	path   []string // in the artifact
	remote Remote
	commit string
}

// submodules reads which submodules the layer that was added last has, and where they are.
func (x *export) submodules(remote Remote, root int) ([]submodule, error) {
	l := x.layers[len(x.layers)-1]
	w := &walk{storage: l.mirror.storage}
	var text string
	var links []entry
	for _, e := range l.entries {
		switch {
		case e.mode == filemode.Submodule:
			links = append(links, e)
		case len(e.path) == root+1 && e.path[root] == modulesFile && e.mode == filemode.Symlink:
			return nil, fmt.Errorf("%w: %s is a symbolic link", ErrSubmodule, modulesFile)
		case len(e.path) == root+1 && e.path[root] == modulesFile && e.mode.IsFile():
			var err error
			if text, err = w.text(e, maxModulesBytes); err != nil {
				return nil, err
			}
		}
	}
	if len(links) == 0 {
		return nil, nil
	}
	described, err := parseModules(text)
	if err != nil {
		return nil, err
	}
	var found []submodule
	for _, e := range links {
		name := strings.Join(e.path[root:], "/")
		given, ok := described[name]
		if !ok {
			return nil, fmt.Errorf("%w: %s does not say where %q comes from", ErrSubmodule, modulesFile, name)
		}
		from, err := remote.submodule(given)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrSubmodule, name, err)
		}
		found = append(found, submodule{path: e.path, remote: from, commit: e.hash.String()})
	}
	return found, nil
}

// parseModules reads a .gitmodules: path → URL. Submodules that Git would refuse because of their name, path or URL are an
// error, since all of these have been used to run commands (faults.md A06).
func parseModules(text string) (map[string]string, error) {
	if len(text) > maxModulesBytes {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrSubmodule, modulesFile, maxModulesBytes)
	}
	modules := config.NewModules()
	if err := modules.Unmarshal([]byte(text)); err != nil {
		return nil, fmt.Errorf("%w: %s cannot be read", ErrSubmodule, modulesFile) // the parser's words repeat the input
	}
	described := map[string]string{}
	for name, m := range modules.Submodules {
		if err := artifact.CheckPath(m.Path); err != nil {
			return nil, fmt.Errorf("%w: the path of %q: %w", ErrSubmodule, source.OneLine(name), err)
		}
		if m.URL == "" || strings.HasPrefix(m.URL, "-") || strings.Contains(m.URL, "::") {
			return nil, fmt.Errorf("%w: the URL of %q is not one of http, https or ssh, nor relative", ErrSubmodule, source.OneLine(name))
		}
		described[m.Path] = m.URL
	}
	return described, nil
}

// submodule returns the remote of a submodule whose URL may be relative to r's. On another host there is nothing to show:
// the credentials are for the repository's own (faults.md F33), and a private one there is an error.
func (r Remote) submodule(given string) (Remote, error) {
	base, _, err := r.parse()
	if err != nil {
		return Remote{}, err
	}
	if strings.HasPrefix(given, "./") || strings.HasPrefix(given, "../") {
		u := *base.URL
		// Counted by hand: path.Join would swallow a "../" too many, and name a repository that nobody meant.
		at := strings.Split(strings.Trim(u.Path, "/"), "/")
		for part := range strings.SplitSeq(given, "/") {
			switch {
			case part == ".":
			case part == ".." && len(at) > 0:
				at = at[:len(at)-1]
			case part == "..":
				return Remote{}, fmt.Errorf("%w: the relative URL leads above the root of the host", source.ErrURL)
			case part != "":
				at = append(at, part)
			}
		}
		u.Path, u.RawPath = "/"+path.Join(at...), ""
		given = u.String()
		if base.Scheme == "ssh" {
			given = withUser(r.URL, given)
		}
	}
	sub := Remote{URL: scpLike(given), Proxy: r.Proxy}
	to, _, err := sub.parse()
	if err != nil {
		return Remote{}, err
	}
	if source.SameOrigin(base.URL, to.URL) {
		sub.Credentials, sub.Principal = r.Credentials, r.Principal
		if u, err := url.Parse(r.URL); err == nil && u.User != nil && base.Scheme != "ssh" {
			sub.URL = withUser(r.URL, sub.URL)
		}
	}
	return sub, nil
}

// withUser gives a URL the user information of another.
func withUser(from, to string) string {
	f, err1 := url.Parse(from)
	t, err2 := url.Parse(to)
	if err1 != nil || err2 != nil || f.User == nil {
		return to
	}
	t.User = f.User
	return t.String()
}

// scpLike writes `git@host:path` as the URL that it is short for.
func scpLike(given string) string {
	host, rest, ok := strings.Cut(given, ":")
	if !ok || strings.Contains(host, "/") || strings.HasPrefix(rest, "//") || !strings.Contains(host, "@") {
		return given
	}
	return "ssh://" + host + "/" + strings.TrimPrefix(rest, "/")
}

// nested fetches the submodules of the layer added last, and theirs, and adds their trees. The caller has no turn.
func (g *Fetcher) nested(ctx context.Context, x *export, subs []submodule, depth int, timeout time.Duration) error {
	if depth > maxNested {
		return fmt.Errorf("%w: submodules are nested more than %d deep", source.ErrLimit, maxNested)
	}
	for _, s := range subs {
		if x.nested++; x.nested > maxSubmodules {
			return fmt.Errorf("%w: more than %d submodules", source.ErrLimit, maxSubmodules)
		}
		name := strings.Join(s.path, "/")
		if err := g.fetchSubmodule(ctx, s, timeout); err != nil {
			return network(fmt.Errorf("submodule %q: %w", name, err))
		}
		below, err := g.addSubmodule(ctx, x, s)
		if err != nil {
			return fmt.Errorf("submodule %q: %w", name, err)
		}
		if err := g.nested(ctx, x, below, depth+1, timeout); err != nil {
			return err
		}
	}
	return nil
}

func (g *Fetcher) fetchSubmodule(ctx context.Context, s submodule, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := g.Fetch(ctx, s.remote, Ref{Commit: s.commit}, Question{})
	return err
}

func (g *Fetcher) addSubmodule(ctx context.Context, x *export, s submodule) ([]submodule, error) {
	mi, err := g.mirrors.get(s.remote, Ref{Commit: s.commit})
	if err != nil {
		return nil, err
	}
	if err := mi.take(ctx); err != nil {
		return nil, err
	}
	defer mi.give()
	if err := mi.open(time.Now()); err != nil {
		return nil, err
	}
	var below []submodule
	err = mi.read(ctx, func() error {
		commit, err := mi.commit(plumbing.NewHash(s.commit))
		if err != nil {
			return fmt.Errorf("%w: %w", errMirror, err)
		}
		below, err = x.addCommit(ctx, mi, commit, s.path, nil, s.remote)
		return err
	})
	return below, err
}

// addCommit adds the tree of a commit and returns the submodules in it.
func (x *export) addCommit(ctx context.Context, mi *mirror, c *object.Commit, at, sparse []string, remote Remote) ([]submodule, error) {
	if err := x.tree(ctx, mi, c.TreeHash, at, sparse); err != nil {
		return nil, err
	}
	return x.submodules(remote, len(at))
}

package git

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
)

const (
	heads         = "refs/heads/"
	tags          = "refs/tags/"
	defaultBranch = "master"
)

// errRef: the spec's ref cannot name anything.
var errRef = errors.New("invalid ref")

// Ref says which commit of a repository is wanted; of several fields the first in this order counts, and with none it is
// the branch master. Commit may come with Branch, which then is where to look for it.
type Ref struct{ Commit, Name, SemVer, Tag, Branch string }

// target is what a Ref names at one moment.
type target struct {
	commit plumbing.Hash
	// tag is the annotated tag that leads to it, if one does.
	tag plumbing.Hash
	// wants are what a server has to be asked for to get the commit.
	wants []plumbing.Hash
	// deep says that the server gives out no commit but the ends of its refs, so that all that leads to wants is needed
	// to reach this one.
	deep bool
	// revision is how Flux writes it: `main@sha1:…`, `v1.0.0@sha1:…`, `refs/pull/1/head@sha1:…` or `sha1:…`.
	revision string
}

// check refuses a ref that is no name Git would accept, before it is used for anything.
func (r Ref) check() error {
	if r.Commit != "" && !plumbing.IsHash(r.Commit) {
		return fmt.Errorf("%w: spec.ref.commit must be 40 hexadecimal digits", errRef)
	}
	if _, err := r.constraint(); err != nil {
		return err
	}
	for field, name := range map[string]string{"name": r.Name, "tag": r.withPrefix(tags, r.Tag), "branch": r.withPrefix(heads, r.Branch)} {
		if name == "" {
			continue
		}
		if err := checkRefName(name); err != nil {
			return fmt.Errorf("%w: spec.ref.%s: %w", errRef, field, err)
		}
	}
	return nil
}

func (r Ref) withPrefix(prefix, name string) string {
	if name == "" {
		return ""
	}
	return prefix + name
}

func (r Ref) constraint() (*semver.Constraints, error) {
	if r.SemVer == "" {
		return nil, nil
	}
	c, err := semver.NewConstraint(r.SemVer)
	if err != nil {
		return nil, fmt.Errorf("%w: spec.ref.semver %q: %w", errRef, r.SemVer, err)
	}
	return c, nil
}

// keep says which refs of a server must be known to resolve r.
func (r Ref) keep(name string) bool {
	switch {
	case r.Commit != "" && r.Branch != "":
		return name == heads+r.Branch
	case r.Commit != "":
		return strings.HasPrefix(name, heads) || strings.HasPrefix(name, tags)
	case r.Name != "":
		return name == r.Name
	case r.SemVer != "":
		return strings.HasPrefix(name, tags)
	case r.Tag != "":
		return name == tags+r.Tag
	default:
		return name == heads+r.branch()
	}
}

func (r Ref) branch() string {
	if r.Branch == "" {
		return defaultBranch
	}
	return r.Branch
}

// resolve finds what r names among the server's refs.
func (r Ref) resolve(a *advertisement) (target, error) {
	switch {
	case a.listed == 0:
		return target{}, fmt.Errorf("%w: push a commit to it", ErrEmptyRepository)
	case r.Commit != "":
		return r.find(a)
	case r.Name != "":
		return r.lookUp(a, r.Name, r.Name, "ref")
	case r.SemVer != "":
		tag, err := r.newest(a)
		if err != nil {
			return target{}, err
		}
		return r.lookUp(a, tags+tag, tag, "tag")
	case r.Tag != "":
		return r.lookUp(a, tags+r.Tag, r.Tag, "tag")
	default:
		return r.lookUp(a, heads+r.branch(), r.branch(), "branch")
	}
}

// find says how to get at the commit that the ref gives by its hash.
func (r Ref) find(a *advertisement) (target, error) {
	t := target{commit: plumbing.NewHash(r.Commit), revision: "sha1:" + strings.ToLower(r.Commit)}
	if r.Branch != "" {
		if _, err := r.lookUp(a, heads+r.Branch, r.Branch, "branch"); err != nil {
			return target{}, err
		}
		t.revision = r.Branch + "@" + t.revision
	}
	for _, name := range slices.Sorted(maps.Keys(a.refs)) {
		if a.refs[name].commit == t.commit {
			t.wants = []plumbing.Hash{a.refs[name].object}
			return t, nil
		}
	}
	if a.caps["allow-reachable-sha1-in-want"] || a.caps["allow-any-sha1-in-want"] {
		t.wants = []plumbing.Hash{t.commit}
		return t, nil
	}
	t.deep = true
	for _, name := range slices.Sorted(maps.Keys(a.refs)) {
		t.wants = append(t.wants, a.refs[name].object)
	}
	if len(t.wants) == 0 {
		return target{}, fmt.Errorf("the repository has neither a branch nor a tag that could lead to commit %s", r.Commit)
	}
	return t, nil
}

func (r Ref) lookUp(a *advertisement, full, short, kind string) (target, error) {
	ref, ok := a.refs[full]
	if !ok {
		return target{}, fmt.Errorf("there is no %s %q in the repository, correct spec.ref", kind, short)
	}
	t := target{commit: ref.commit, wants: []plumbing.Hash{ref.object}, revision: short + "@sha1:" + ref.commit.String()}
	if ref.object != ref.commit {
		t.tag = ref.object
	}
	return t, nil
}

// newest returns the tag with the highest version in the range. Of two tags with equal versions (they differ in build
// metadata) it is the last in the order of names, whatever order the server lists them in.
func (r Ref) newest(a *advertisement) (string, error) {
	constraint, err := r.constraint()
	if err != nil {
		return "", err
	}
	var best string
	var bestVersion *semver.Version
	for _, name := range slices.Sorted(maps.Keys(a.refs)) {
		tag := strings.TrimPrefix(name, tags)
		version, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
		if err != nil || !constraint.Check(version) {
			continue // not a version, or not in the range
		}
		if bestVersion == nil || !version.LessThan(bestVersion) {
			best, bestVersion = tag, version
		}
	}
	if best == "" {
		return "", fmt.Errorf("no tag of the repository is a version in the range %q, correct spec.ref.semver or push a tag", r.SemVer)
	}
	return best, nil
}

// checkRefName holds the rules of git-check-ref-format(1). No ref is ever written to disk under a server's name; the check
// keeps odd names out of requests, revisions and messages as well (faults.md A06).
func checkRefName(name string) error {
	if name == "HEAD" {
		return nil
	}
	switch {
	case len(name) > 1024:
		return errors.New("the name is too long")
	case !strings.HasPrefix(name, "refs/"):
		return errors.New("the name does not start with refs/")
	case strings.HasSuffix(name, "/") || strings.HasSuffix(name, "."):
		return errors.New("the name ends with a slash or dot")
	case strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.Contains(name, "//"):
		return errors.New(`the name holds "..", "@{" or "//"`)
	case strings.ContainsAny(name, " ~^:?*[\\\x7f") || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }):
		return errors.New("the name holds a character that Git does not allow")
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return errors.New(`a part of the name starts with a dot or ends with ".lock"`)
		}
	}
	return nil
}

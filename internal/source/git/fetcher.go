package git

import (
	"compress/flate"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

// Fetcher fetches commits into mirrors and writes them out as snapshots. Its methods may be called concurrently; those that
// concern the same mirror take turns, and those that come while a list of refs is waited for share the next one.
type Fetcher struct {
	store   *artifact.Store
	mirrors *mirrors
	network source.Network
	limits  Limits

	pauses source.Pauses
	polls  polls

	mu      sync.Mutex
	digests map[content]string // of snapshots that were written
}

// content is all that the digest of a snapshot follows from. The mirror stands for who asks: submodules are fetched with his
// credentials, and what somebody else was given is not for him.
type content struct {
	mirror string
	tree   plumbing.Hash
	layout string
}

// maxDigests bounds what is remembered of snapshots; forgetting one costs writing it again to learn its digest.
const maxDigests = 4096

// NewFetcher keeps its mirrors in the store's directory. The zero Limits mean DefaultLimits.
func NewFetcher(store *artifact.Store, network source.Network, limits Limits) (*Fetcher, error) {
	if limits == (Limits{}) {
		limits = DefaultLimits
	}
	dir, err := store.Dir("mirrors")
	if err != nil {
		return nil, err
	}
	m, err := openMirrors(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the mirrors in %s: %w", dir, err)
	}
	return &Fetcher{store: store, network: network, mirrors: m, limits: limits, digests: map[content]string{}, polls: polls{known: map[Remote]*poll{}}}, nil
}

// Start removes mirrors that nobody uses any more, until the context ends; then it waits for fetches that were cut off. Its
// error, if any, is that of the last removal; those before are retried by the next.
func (g *Fetcher) Start(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	var err error
	for {
		select {
		case <-ctx.Done():
			g.mirrors.work.Wait()
			return err
		case now := <-tick.C:
			err = g.mirrors.collect(now)
		}
	}
}

// Commit is a commit that a ref named when it was asked for.
type Commit struct {
	Hash string
	// Revision is how status.artifact.revision writes it.
	Revision string
	// Tag is the hash of the annotated tag that was asked for, if it was one.
	Tag string
	// Subject is the first line of the message; it is empty when the commit was not fetched.
	Subject string
}

// Question is what a fetch wants to know.
type Question struct {
	// Current is the revision that the caller has: it is not fetched again.
	Current string
	// Since is how old an answer may be; zero means now. An answer that somebody else was given since then will do.
	Since time.Time
}

// Fetch asks the server what the ref names and, unless that is the current revision, brings the commit into the mirror.
// It returns when ctx ends, whatever the server does; it never returns a commit that is not in the mirror in full.
func (g *Fetcher) Fetch(ctx context.Context, remote Remote, ref Ref, q Question) (Commit, error) {
	if err := ref.check(); err != nil {
		return Commit{}, err
	}
	ep, _, err := remote.parse()
	if err != nil {
		return Commit{}, err
	}
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		return Commit{}, err
	}
	if q.Since.IsZero() {
		q.Since = time.Now()
	}
	began := time.Now()
	ctx, received := watched(ctx)
	c, err := source.Detached(ctx, &g.mirrors.work, func() (Commit, error) {
		p, leave := g.polls.join(remote, ref)
		defer leave()
		if err := mi.take(ctx); err != nil {
			return Commit{}, err
		}
		defer mi.give()
		return g.fetch(ctx, mi, p, remote, ref, q)
	}, nothing)
	if err != nil {
		return Commit{}, fmt.Errorf("fetching %s: %w", ep, steady(received.slow(ctx, began, err)))
	}
	return c, nil
}

// fetch has the mirror to itself.
func (g *Fetcher) fetch(ctx context.Context, mi *mirror, p *poll, remote Remote, ref Ref, q Question) (Commit, error) {
	if err := mi.open(time.Now()); err != nil {
		if !damaged(err) {
			return Commit{}, err
		}
		if err := errors.Join(mi.discard(), mi.open(time.Now())); err != nil {
			return Commit{}, err
		}
	}
	update := func() (Commit, error) {
		return source.Recovered(ctx, func() (Commit, error) { return g.update(ctx, mi, p, remote, ref, q) })
	}
	c, err := update()
	if err != nil && damaged(err) && len(mi.commits) > 0 {
		// Whatever it is that the mirror and the server do not agree about, or go-git panics at, a new clone has none of it.
		// Once: if that fails too, it is the server, and the object's back-off decides when to try again.
		if err := errors.Join(mi.discard(), mi.open(time.Now())); err != nil {
			return Commit{}, err
		}
		c, err = update()
	}
	return c, err
}

// describe returns what is known of the target.
func (mi *mirror) describe(t target) (Commit, error) {
	c := Commit{Hash: t.commit.String(), Revision: t.revision}
	if t.tag != plumbing.ZeroHash {
		c.Tag = t.tag.String()
	}
	if !mi.has(t.commit) {
		return c, nil // it is the current revision, and was not fetched
	}
	commit, err := mi.commit(t.commit)
	if err != nil {
		return Commit{}, err
	}
	c.Subject, _, _ = strings.Cut(commit.Message, "\n")
	return c, nil
}

// update finds out what the ref names and downloads what is missing, in the same conversation if it had to ask.
func (g *Fetcher) update(ctx context.Context, mi *mirror, p *poll, remote Remote, ref Ref, q Question) (Commit, error) {
	server, err := remote.server()
	if err != nil {
		return Commit{}, err
	}
	l, a, err := g.learnRefs(ctx, p, remote, server, ref, q)
	if err != nil {
		return Commit{}, err
	}
	if l != nil {
		defer func() { l.close() }()
	}
	t, err := ref.resolve(a)
	if err != nil {
		return Commit{}, network(err)
	}
	if t.revision == q.Current || mi.hasAll(t) {
		return mi.describe(t)
	}
	if l == nil { // the answer was somebody else's
		if l, a, err = g.ask(ctx, nil, remote, server, ref); err != nil {
			return Commit{}, network(err)
		}
		if t, err = ref.resolve(a); err != nil {
			return Commit{}, network(err)
		}
	}
	if err := g.download(ctx, mi, l, a, t); err != nil {
		g.pauses.Note(server, err)
		return Commit{}, err
	}
	return mi.describe(t)
}

// learnRefs returns the answer that somebody else was given lately, or asks. The link is nil with the former.
func (g *Fetcher) learnRefs(ctx context.Context, p *poll, remote Remote, server string, ref Ref, q Question) (link, *advertisement, error) {
	if err := p.take(ctx); err != nil {
		return nil, nil, err
	}
	defer p.give()
	if a := p.answer(ref, q.Since); a != nil {
		return nil, a, nil
	}
	l, a, err := g.ask(ctx, p, remote, server)
	if err != nil {
		return nil, nil, network(err)
	}
	return l, a, nil
}

// ask asks the server for its refs, those that everybody who has joined the poll wants to know, or the one of the caller
// alone. The conversation can go on.
func (g *Fetcher) ask(ctx context.Context, p *poll, remote Remote, server string, alone ...Ref) (link, *advertisement, error) {
	if err := g.pauses.Check(server); err != nil {
		return nil, nil, err
	}
	began, refs := time.Now(), alone
	if p != nil {
		refs = p.refs()
	}
	l, _, err := connect(ctx, g.network, remote)
	if err != nil {
		g.pauses.Note(server, err)
		return nil, nil, err
	}
	a, err := g.list(ctx, l, refs)
	if err != nil {
		err = l.explain(err)
		l.close()
		g.pauses.Note(server, err)
		return nil, nil, err
	}
	if p != nil {
		p.began, p.listed, p.said = began, refs, a
	}
	return l, a, nil
}

func (g *Fetcher) list(ctx context.Context, l link, refs []Ref) (*advertisement, error) {
	r, err := l.advertise(ctx)
	if err != nil {
		return nil, err
	}
	keep := func(name string) bool { return slices.ContainsFunc(refs, func(r Ref) bool { return r.keep(name) }) }
	return readAdvertisement(&source.Capped{R: r, N: g.limits.RefBytes, What: "refs"}, keep)
}

// download brings the target into the mirror.
func (g *Fetcher) download(ctx context.Context, mi *mirror, l link, a *advertisement, t target) error {
	if len(mi.commits) >= maxCommits {
		if err := errors.Join(mi.discard(), mi.open(time.Now())); err != nil {
			return err
		}
	}
	req := packRequest{wants: t.wants, shallow: a.caps["shallow"] && !t.deep}
	if req.shallow {
		req.haves = mi.haves()
	}
	dir, err := g.store.TempDir("pack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f, err := os.OpenFile(filepath.Join(dir, "pack"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := g.receive(ctx, l, req, a, f); err != nil {
		return err
	}
	if err := g.limits.checkPack(ctx, f); err != nil {
		return err
	}
	if err := unpack(mi.storage, f, len(req.haves) > 0); err != nil {
		return err
	}
	if !mi.hasTag(t.tag) {
		return fmt.Errorf("%w: the server did not send the tag", errMirror)
	}
	if _, err := mi.commit(t.commit); err != nil {
		if t.deep && errors.Is(err, plumbing.ErrObjectNotFound) {
			return network(fmt.Errorf("commit %s is not in the history of the repository's refs, correct spec.ref", t.commit))
		}
		return err
	}
	return mi.add(t.commit)
}

// receive sends the request and writes the pack to f.
func (g *Fetcher) receive(ctx context.Context, l link, req packRequest, a *advertisement, f *os.File) error {
	body, err := req.encode(a.caps)
	if err != nil {
		return err
	}
	r, err := l.request(ctx, body)
	if err != nil {
		return network(l.explain(err))
	}
	pack, err := req.readAnswer(&source.Capped{R: ticks(ctx, r), N: g.limits.PackBytes, What: "data"}, a.caps)
	if err == nil {
		err = receivePack(f, pack)
	}
	switch {
	case err == nil:
		return nil
	case artifact.IsFull(err):
		return err
	case len(req.haves) > 0 && refused(err):
		return fmt.Errorf("%w: %w", errMirror, err)
	default:
		return network(l.explain(err))
	}
}

// refused reports whether a server that understood the request would not answer it, which it may do because of what the
// mirror claims to have.
func refused(err error) bool {
	var lost net.Error
	return !errors.As(err, &lost) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) &&
		!errors.Is(err, source.ErrLimit) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// errNetwork marks what a mirror cannot be the cause of.
var errNetwork = errors.New("network")

type networkError struct{ error }

func (e networkError) Unwrap() error        { return e.error }
func (e networkError) Is(target error) bool { return target == errNetwork }

func network(err error) error { return networkError{err} }

// Layout says what of a commit, and what beside it, is part of a snapshot.
type Layout struct {
	// Ignore is spec.ignore; nil means that there is none.
	Ignore *string
	// Sparse are the directories that are wanted alone.
	Sparse []string
	// Submodules are wanted too.
	Submodules bool
	Include    []Include
	// Timeout bounds the fetch of each submodule; zero means the API's default.
	Timeout time.Duration
	// Previous is what the caller's last snapshot was made of: what is the same is not written again.
	Previous Previous
}

// Previous is a snapshot that was made of a commit. Who names it has to know that it is his own.
type Previous struct{ Commit, Digest string }

// Include is a directory of another source's snapshot that goes to a directory of this one's.
type Include struct {
	Snapshot *artifact.Snapshot
	From, To string // slash-separated; "" is the root
}

// key is the part of the layout that the digest of a snapshot follows from.
func (l Layout) key() (string, error) {
	type include struct{ Digest, From, To string }
	k := struct {
		Ignore     *string
		Sparse     []string
		Submodules bool
		Include    []include
	}{Ignore: l.Ignore, Sparse: l.Sparse, Submodules: l.Submodules}
	for _, i := range l.Include {
		k.Include = append(k.Include, include{i.Snapshot.Digest, i.From, i.To})
	}
	text, err := json.Marshal(k)
	return string(text), err
}

// Snapshot writes the tree of a fetched commit to the store, in the given layout. The returned function must be called when
// the snapshot has been published.
func (g *Fetcher) Snapshot(ctx context.Context, remote Remote, ref Ref, c Commit, layout Layout) (*artifact.Snapshot, func(), error) {
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		return nil, nil, err
	}
	type held struct {
		snapshot *artifact.Snapshot
		release  func()
	}
	h, err := source.Detached(ctx, &g.mirrors.work, func() (held, error) {
		snapshot, release, err := g.snapshot(ctx, mi, remote, plumbing.NewHash(c.Hash), layout)
		return held{snapshot, release}, err
	}, func(h held) { h.release() })
	if err != nil {
		return nil, nil, fmt.Errorf("writing commit %s: %w", c.Hash, err)
	}
	return h.snapshot, h.release, nil
}

func (g *Fetcher) snapshot(ctx context.Context, mi *mirror, remote Remote, hash plumbing.Hash, layout Layout) (*artifact.Snapshot, func(), error) {
	key, err := layout.key()
	if err != nil {
		return nil, nil, err
	}
	x := &export{}
	what, subs, err := g.collect(ctx, x, mi, remote, hash, layout)
	if err != nil {
		return nil, nil, err
	}
	what.layout = key
	if s, release, err := g.store.AcquireWritten(g.digest(what)); err == nil {
		return s, release, nil // another commit, or object with the same mirror, has the same content
	}
	if layout.Submodules {
		if layout.Timeout == 0 {
			layout.Timeout = source.Timeout(nil)
		}
		if err := g.nested(ctx, x, subs, 1, layout.Timeout); err != nil {
			return nil, nil, err
		}
	}
	for _, i := range layout.Include {
		if err := x.include(i); err != nil {
			return nil, nil, err
		}
	}
	if previous, release, err := g.store.AcquireWritten(layout.Previous.Digest); err == nil {
		defer release()
		if err := g.remember(ctx, x, mi, layout.Previous.Commit, previous); err != nil {
			return nil, nil, err
		}
	}
	w, err := g.store.NewWriter()
	if err != nil {
		return nil, nil, err
	}
	var s *artifact.Snapshot
	defer func() {
		if s == nil { // an error, or a panic of what reads the mirror
			w.Close()
		}
	}()
	if err := x.write(ctx, layout.Ignore, w); err != nil {
		return nil, nil, err
	}
	if s, err = w.Commit(); err != nil {
		return nil, nil, err
	}
	g.learn(what, s.Digest)
	return s, w.Close, nil
}

// collect adds the main tree and returns the submodules in it.
func (g *Fetcher) collect(ctx context.Context, x *export, mi *mirror, remote Remote, hash plumbing.Hash, layout Layout) (content, []submodule, error) {
	if err := mi.take(ctx); err != nil {
		return content{}, nil, err
	}
	defer mi.give()
	if err := mi.open(time.Now()); err != nil {
		return content{}, nil, err
	}
	what, subs := content{mirror: mi.dir}, []submodule(nil)
	err := mi.read(ctx, func() error {
		commit, err := mi.commit(hash)
		if err != nil {
			return fmt.Errorf("%w: %w", errMirror, err)
		}
		what.tree = commit.TreeHash
		if err := x.tree(ctx, mi, commit.TreeHash, nil, layout.Sparse); err != nil || !layout.Submodules {
			return err
		}
		subs, err = x.submodules(remote, 0)
		return err
	})
	return what, subs, err
}

// remember reads what the previous snapshot was made of, if the mirror still has that.
func (g *Fetcher) remember(ctx context.Context, x *export, mi *mirror, commit string, previous *artifact.Snapshot) error {
	if err := mi.take(ctx); err != nil {
		return err
	}
	defer mi.give()
	if err := mi.open(time.Now()); err != nil {
		return err
	}
	return mi.read(ctx, func() error {
		if hash := plumbing.NewHash(commit); mi.has(hash) {
			if c, err := mi.commit(hash); err == nil {
				x.remember(ctx, mi, c.TreeHash, previous)
			}
		}
		return nil
	})
}

// read runs work, which reads the mirror and has its turn. If an object is not there that should be, or is in such a state
// that go-git panics at it, the mirror is thrown away: the next attempt clones afresh (faults.md F26).
func (mi *mirror) read(ctx context.Context, work func() error) error {
	_, err := source.Recovered(ctx, func() (struct{}, error) { return struct{}{}, work() })
	if !unreadable(err) {
		return err
	}
	if !errors.Is(err, errMirror) {
		err = fmt.Errorf("%w: %w", errMirror, err)
	}
	return errors.Join(err, mi.discard())
}

// unreadable reports whether an error of reading a mirror is the mirror's own, and not that of what is made of its content.
func unreadable(err error) bool {
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt {
		return true
	}
	return slices.ContainsFunc([]error{
		errMirror, plumbing.ErrObjectNotFound, source.ErrPanic, packfile.ErrMalformedPackFile, idxfile.ErrMalformedIdxFile,
		zlib.ErrChecksum, zlib.ErrHeader, io.ErrUnexpectedEOF,
	}, func(its error) bool { return errors.Is(err, its) })
}

func (g *Fetcher) digest(c content) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.digests[c]
}

func (g *Fetcher) learn(c content, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.digests) >= maxDigests {
		clear(g.digests)
	}
	g.digests[c] = digest
}

// nothing is to be dropped of a commit.
func nothing(Commit) {}

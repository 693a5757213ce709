package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// grace is how long a call that was cut off may take to say so itself before its caller goes on without it.
const grace = time.Second

// Git fetches commits into mirrors and writes them out as snapshots. Its methods may be called concurrently; those that
// concern the same mirror take turns, and those that come while a list of refs is waited for share the next one.
type Git struct {
	store   *artifact.Store
	mirrors *mirrors
	limits  Limits

	mu      sync.Mutex
	digests map[content]string // of snapshots that were written
}

// content is all that the digest of a snapshot follows from.
type content struct {
	tree   plumbing.Hash
	ignore string
	given  bool // an empty ignore is not the same as none
}

// maxDigests bounds what is remembered of snapshots; forgetting one costs writing it again to learn its digest.
const maxDigests = 4096

// NewGit keeps its mirrors in the store's directory. The zero Limits mean DefaultLimits.
func NewGit(store *artifact.Store, limits Limits) (*Git, error) {
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
	return &Git{store: store, mirrors: m, limits: limits, digests: map[content]string{}}, nil
}

// Start removes mirrors that nobody uses any more, until the context ends; then it waits for fetches that were cut off. Its
// error, if any, is that of the last removal; those before are retried by the next.
func (g *Git) Start(ctx context.Context) error {
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
	// Subject is the first line of the message; it is empty when the commit was not fetched.
	Subject string
}

// Fetch asks the server what the ref names and, unless that is the current revision, brings the commit into the mirror.
// It returns when ctx ends, whatever the server does; it never returns a commit that is not in the mirror in full.
func (g *Git) Fetch(ctx context.Context, remote Remote, ref Ref, current string) (Commit, error) {
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
	asked := time.Now()
	c, err := detached(ctx, &g.mirrors.work, func() (Commit, error) {
		if err := mi.take(ctx); err != nil {
			return Commit{}, err
		}
		defer mi.give()
		return g.fetch(ctx, mi, remote, ref, current, asked)
	}, nothing)
	if err != nil {
		return Commit{}, fmt.Errorf("fetching %s: %w", ep, steady(err))
	}
	return c, nil
}

// fetch has the mirror to itself.
func (g *Git) fetch(ctx context.Context, mi *mirror, remote Remote, ref Ref, current string, asked time.Time) (Commit, error) {
	if err := mi.open(time.Now()); err != nil {
		if !damaged(err) {
			return Commit{}, err
		}
		if err := errors.Join(mi.discard(), mi.open(time.Now())); err != nil {
			return Commit{}, err
		}
	}
	if mi.listed.After(asked) && (mi.has(mi.target.commit) || mi.target.revision == current) {
		if c, err := mi.describe(mi.target); err == nil {
			return c, nil // somebody else has asked since
		}
	}
	c, err := g.update(ctx, mi, remote, ref, current)
	if err != nil && damaged(err) && len(mi.commits) > 0 {
		// Whatever it is that the mirror and the server do not agree about, a new clone has none of it. Once: if that
		// fails too, it is the server, and the object's back-off decides when to try again.
		if err := errors.Join(mi.discard(), mi.open(time.Now())); err != nil {
			return Commit{}, err
		}
		c, err = g.update(ctx, mi, remote, ref, current)
	}
	return c, err
}

// describe returns what is known of the target.
func (mi *mirror) describe(t target) (Commit, error) {
	c := Commit{Hash: t.commit.String(), Revision: t.revision}
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

// update asks the server for its refs and then, in the same conversation, for what is missing.
func (g *Git) update(ctx context.Context, mi *mirror, remote Remote, ref Ref, current string) (Commit, error) {
	began := time.Now()
	l, _, err := connect(ctx, remote)
	if err != nil {
		return Commit{}, network(err)
	}
	defer l.close()
	a, err := g.list(ctx, l, ref)
	if err != nil {
		return Commit{}, network(l.explain(err))
	}
	t, err := ref.resolve(a)
	if err != nil {
		return Commit{}, network(err)
	}
	if !mi.has(t.commit) && t.revision != current {
		if err := g.download(ctx, mi, l, a, t); err != nil {
			return Commit{}, err
		}
	}
	mi.listed, mi.target = began, t
	return mi.describe(t)
}

func (g *Git) list(ctx context.Context, l link, ref Ref) (*advertisement, error) {
	r, err := l.advertise(ctx)
	if err != nil {
		return nil, err
	}
	return readAdvertisement(&capped{r, g.limits.RefBytes, "refs"}, ref.keep)
}

// download brings the target into the mirror.
func (g *Git) download(ctx context.Context, mi *mirror, l link, a *advertisement, t target) error {
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
	if _, err := mi.commit(t.commit); err != nil {
		if t.deep && errors.Is(err, plumbing.ErrObjectNotFound) {
			return network(fmt.Errorf("commit %s is not in the history of the repository's refs, correct spec.ref", t.commit))
		}
		return err
	}
	return mi.add(t.commit)
}

// receive sends the request and writes the pack to f.
func (g *Git) receive(ctx context.Context, l link, req packRequest, a *advertisement, f *os.File) error {
	body, err := req.encode(a.caps)
	if err != nil {
		return err
	}
	r, err := l.request(ctx, body)
	if err != nil {
		return network(l.explain(err))
	}
	pack, err := req.readAnswer(&capped{r, g.limits.PackBytes, "data"}, a.caps)
	if err == nil {
		err = receivePack(f, pack)
	}
	switch {
	case err == nil:
		return nil
	case isFull(err):
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
		!errors.Is(err, ErrLimit) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// errNetwork marks what a mirror cannot be the cause of.
var errNetwork = errors.New("network")

type networkError struct{ error }

func (e networkError) Unwrap() error        { return e.error }
func (e networkError) Is(target error) bool { return target == errNetwork }

func network(err error) error { return networkError{err} }

// Snapshot writes the tree of a fetched commit to the store, without what the ignore patterns leave out. The returned
// function must be called when the snapshot has been published. A nil ignore means that the spec has none.
func (g *Git) Snapshot(ctx context.Context, remote Remote, ref Ref, c Commit, ignore *string) (*artifact.Snapshot, func(), error) {
	mi, err := g.mirrors.get(remote, ref)
	if err != nil {
		return nil, nil, err
	}
	type held struct {
		snapshot *artifact.Snapshot
		release  func()
	}
	h, err := detached(ctx, &g.mirrors.work, func() (held, error) {
		if err := mi.take(ctx); err != nil {
			return held{}, err
		}
		defer mi.give()
		snapshot, release, err := g.snapshot(ctx, mi, plumbing.NewHash(c.Hash), ignore)
		return held{snapshot, release}, err
	}, func(h held) { h.release() })
	if err != nil {
		return nil, nil, fmt.Errorf("writing commit %s: %w", c.Hash, err)
	}
	return h.snapshot, h.release, nil
}

func (g *Git) snapshot(ctx context.Context, mi *mirror, hash plumbing.Hash, ignore *string) (*artifact.Snapshot, func(), error) {
	if err := mi.open(time.Now()); err != nil {
		return nil, nil, err
	}
	commit, err := mi.commit(hash)
	if err != nil && mi.has(hash) {
		err = errors.Join(err, mi.discard())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errMirror, err) // the next attempt fetches it again
	}
	what := content{tree: commit.TreeHash}
	if ignore != nil {
		what.ignore, what.given = *ignore, true
	}
	if s, release, err := g.store.Acquire(g.digest(what)); err == nil {
		return s, release, nil // another commit or object has the same content
	}
	w, err := g.store.NewWriter()
	if err != nil {
		return nil, nil, err
	}
	before, done := g.before(mi)
	defer done()
	blobs, err := export(ctx, mi.storage, commit.TreeHash, ignore, w, before, mi.written.blobs)
	if err != nil {
		w.Close()
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			// The next attempt clones afresh.
			return nil, nil, errors.Join(fmt.Errorf("%w: %w", errMirror, err), mi.discard())
		}
		return nil, nil, err
	}
	s, err := w.Commit()
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	g.remember(what, s.Digest)
	mi.written = written{s.Digest, blobs}
	return s, w.Close, nil
}

// before returns the snapshot that was written last from the mirror, or nil if it is no more.
func (g *Git) before(mi *mirror) (*artifact.Snapshot, func()) {
	s, release, err := g.store.Acquire(mi.written.digest)
	if err != nil {
		return nil, func() {} // everything is written anew
	}
	return s, release
}

func (g *Git) digest(c content) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.digests[c]
}

func (g *Git) remember(c content, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.digests) >= maxDigests {
		clear(g.digests)
	}
	g.digests[c] = digest
}

// detached runs work in a goroutine of its own and waits for it until ctx ends and a moment longer. Work gets to know that
// by the same context, and closed connections; should a library ignore both, the caller is free all the same (faults.md
// F24), what work holds stays held until it returns, and drop is given what it then comes to.
func detached[T any](ctx context.Context, running *sync.WaitGroup, work func() (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done, gone := make(chan result), make(chan struct{})
	running.Go(func() {
		v, err := work()
		select {
		case done <- result{v, err}:
		case <-gone:
			if err == nil {
				drop(v)
			}
		}
	})
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case r = <-done:
		case <-late.C:
			close(gone)
			return r.value, ctx.Err()
		}
	}
	if r.err != nil && ctx.Err() != nil {
		return r.value, ctx.Err() // what cut it off, and not how that felt to a library
	}
	return r.value, r.err
}

// nothing is to be dropped of a commit.
func nothing(Commit) {}

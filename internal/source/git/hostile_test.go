package git

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"golang.org/x/crypto/ssh"

	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/source"
)

func TestA06_RefNamesThatAreRefused(t *testing.T) {
	for _, name := range []string{
		"refs/heads/../../x", "refs/heads/a b", "refs/heads/a\x01", "refs/heads/a\x7f", "refs/heads/.a", "refs/heads/a.lock",
		"refs/heads/a.lock/b", "refs/heads/a..b", "refs/heads/a@{1}", "refs/heads/a^", "refs/heads/a~1", "refs/heads/a:b",
		"refs/heads/a?", "refs/heads/*", "refs/heads/[a]", `refs/heads/a\b`, "refs/heads//a", "refs/heads/", "refs/heads/a.",
		"main", "-x", "../x", "refs/" + strings.Repeat("x", 2000),
	} {
		if checkRefName(name) == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	for _, ref := range []Ref{
		{Branch: "../../x"}, {Branch: "a\nb"}, {Tag: "a b"}, {Name: "main"}, {Name: "refs/heads/../x"}, {SemVer: "no range"},
		{Commit: "--upload-pack=x"}, {Commit: "abc"},
	} {
		if _, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: "http://127.0.0.1:1/x"}, ref, Question{}); !errors.Is(err, errRef) {
			t.Errorf("%+v: %v", ref, err)
		}
	}
}

func TestA06_URLsThatAreRefused(t *testing.T) {
	for _, url := range []string{
		"", "file:///etc", "ext::sh -c x", "git://example.com/x", "ftp://example.com/x", "https://", "https:///x", "https://example.com",
		"https://example.com/", "ssh://-oProxyCommand=x/y", "-oProxyCommand=x", "https://example.com/a%00b", "ssh://git@example.com/a%0ab",
	} {
		if _, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: url}, Ref{}, Question{}); !errors.Is(err, source.ErrURL) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestA06_SubmodulesAreNotFollowed(t *testing.T) {
	r := newRepo(t)
	first := r.commit("c", map[string]string{"n": "1", ".gitmodules": `[submodule "a"]
	path = sub
	url = -oProxyCommand=touch${IFS}/tmp/pwned
[submodule "b"]
	path = .git
	url = file:///etc
[submodule "c"]
	path = c
	url = ext::sh -c whoami
`})
	r.git("update-index", "--add", "--cacheinfo", "160000,"+first+",sub")
	r.git("commit", "-q", "-m", "d")
	g, remote, ref := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}, Ref{Branch: "main"}
	c, err := g.Fetch(context.Background(), remote, ref, Question{})
	if err != nil {
		t.Fatal(err)
	}
	s, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if info, err := os.Stat(s.Dir() + "/sub"); err != nil || !info.IsDir() {
		t.Errorf("a submodule is %v, %v; want an empty directory", info, err)
	}
}

// treeEntry is one entry of a tree that Git itself would refuse to make.
type treeEntry struct{ mode, name, hash string }

// commitTree makes main a commit of a hand-made tree.
func (r *repo) commitTree(entries ...treeEntry) {
	r.t.Helper()
	tree := r.tree(entries...)
	r.git("update-ref", "refs/heads/main", r.git("commit-tree", "-m", "hostile", tree))
}

func (r *repo) tree(entries ...treeEntry) string {
	r.t.Helper()
	var raw bytes.Buffer
	for _, e := range entries {
		hash, err := hex.DecodeString(e.hash)
		if err != nil {
			r.t.Fatal(err)
		}
		fmt.Fprintf(&raw, "%s %s\x00%s", e.mode, e.name, hash)
	}
	cmd := exec.Command("git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
	cmd.Dir, cmd.Stdin = r.dir, &raw
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestA07_TreesThatAreRefused(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	blob := r.git("rev-parse", "HEAD:n")
	inner := r.tree(treeEntry{"100644", "config", blob})
	server := serveHTTP(t, r, nil)
	ignore := "nothing" // without the rule that leaves out .git
	for name, entries := range map[string][]treeEntry{
		".GIT":                   {{"40000", ".GIT", inner}},
		"git~1":                  {{"40000", "git~1", inner}},
		"git with joiner":        {{"40000", ".g\u200dit", inner}},
		"dot dot":                {{"40000", "..", inner}},
		"dot":                    {{"40000", ".", inner}},
		"slash":                  {{"100644", "../../x", blob}},
		"absolute":               {{"100644", "/etc/passwd", blob}},
		"backslash":              {{"100644", `..\x`, blob}},
		"the same name twice":    {{"100644", "a", blob}, {"100644", "a", blob}},
		"a file and a directory": {{"100644", "a", blob}, {"40000", "a", inner}},
	} {
		t.Run(name, func(t *testing.T) {
			r.commitTree(entries...)
			g, remote, ref := newGit(t, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
			c, err := g.Fetch(context.Background(), remote, ref, Question{})
			if err != nil {
				return // go-git would not even read it
			}
			s, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{Ignore: &ignore})
			if err == nil {
				t.Errorf("stored %v", s.Files())
				release()
			}
		})
	}
	t.Run("a link named like a directory", func(t *testing.T) {
		outside := t.TempDir()
		target := exec.Command("git", "hash-object", "-w", "--stdin")
		target.Dir, target.Stdin = r.dir, strings.NewReader(outside)
		out, err := target.Output()
		if err != nil {
			t.Fatal(err)
		}
		r.commitTree(treeEntry{"120000", "a", strings.TrimSpace(string(out))}, treeEntry{"40000", "a", inner})
		g, remote, ref := newGit(t, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
		if c, err := g.Fetch(context.Background(), remote, ref, Question{}); err == nil {
			if _, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{Ignore: &ignore}); err == nil {
				release()
			}
		}
		if found, _ := os.ReadDir(outside); len(found) > 0 {
			t.Errorf("written outside: %v", found)
		}
	})
	t.Run(".git is left out", func(t *testing.T) {
		r.commitTree(treeEntry{"40000", ".git", inner}, treeEntry{"100644", "n", blob})
		g, remote, ref := newGit(t, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
		c, err := g.Fetch(context.Background(), remote, ref, Question{})
		if err != nil {
			return // refused as a whole, which is as good
		}
		s, release, err := g.Snapshot(context.Background(), remote, ref, c, Layout{})
		if err != nil {
			return
		}
		defer release()
		if len(s.Files()) != 1 {
			t.Errorf("files are %v", s.Files())
		}
	})
}

func TestA07_TreeBomb(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	level := r.git("rev-parse", "HEAD^{tree}")
	for range 10 { // ten levels of ten: ten billion files in eleven objects
		var entries []treeEntry
		for i := range 10 {
			entries = append(entries, treeEntry{"40000", fmt.Sprint(i), level})
		}
		level = r.tree(entries...)
	}
	r.git("update-ref", "refs/heads/main", r.git("commit-tree", "-m", "bomb", level))
	g, remote, ref := newGit(t, Limits{}), Remote{URL: serveHTTP(t, r, nil).url}, Ref{Branch: "main"}
	c, err := g.Fetch(context.Background(), remote, ref, Question{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.Snapshot(context.Background(), remote, ref, c, Layout{}); !errors.Is(err, source.ErrLimit) && !errors.Is(err, artifact.ErrLimit) {
		t.Errorf("%v", err)
	}
}

// hostile serves a list of one branch and then whatever pack writes.
func hostile(t *testing.T, refs, pack func(w io.Writer)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			e := pktline.NewEncoder(w)
			_ = e.EncodeString("# service=git-upload-pack\n")
			_ = e.Flush()
			refs(w)
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		pack(w)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/x"
}

func oneBranch(w io.Writer) {
	e := pktline.NewEncoder(w)
	_ = e.Encodef("%s refs/heads/main\x00side-band-64k shallow ofs-delta\n", strings.Repeat("1", 40))
	_ = e.Flush()
}

// fetchHostile fetches and expects an error soon, and nothing left on disk.
func fetchHostile(t *testing.T, url string, limits Limits) error {
	t.Helper()
	store := newStore(t)
	g, err := NewFetcher(store, source.Network{}, limits)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	_, err = g.Fetch(ctx, Remote{URL: url}, Ref{Branch: "main"}, Question{})
	if err == nil {
		t.Fatal("fetched")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it took the deadline to end it, after %v", time.Since(began))
	}
	g.mirrors.work.Wait()
	tmp, err2 := store.Dir("tmp")
	if err2 != nil {
		t.Fatal(err2)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return err
}

var small = Limits{RefBytes: 1 << 20, PackBytes: 1 << 20, Objects: 100, ObjectBytes: 1 << 20, TotalBytes: 4 << 20}

func TestA08_EndlessAnswers(t *testing.T) {
	endless := func(line string) func(io.Writer) {
		return func(w io.Writer) {
			e := pktline.NewEncoder(w)
			for e.EncodeString(line) == nil {
			}
		}
	}
	ref := strings.Repeat("2", 40) + " refs/heads/x"
	for name, tt := range map[string]struct {
		refs, pack func(io.Writer)
		want       error
	}{
		"refs":         {endless(ref), nil, source.ErrLimit},
		"garbage refs": {endless("x"), nil, errProtocol},
		"no pkt-lines": {func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat("zzzz", 1000)) }, nil, errProtocol},
		"refs cut off": {func(w io.Writer) { _ = pktline.NewEncoder(w).EncodeString(ref) }, nil, io.EOF},
		"shallow":      {oneBranch, endless("shallow " + strings.Repeat("1", 40)), source.ErrLimit},
		"acknowledgements": {oneBranch, func(w io.Writer) {
			_ = pktline.NewEncoder(w).Flush()
			endless("ACK " + strings.Repeat("1", 40) + " common\n")(w)
		}, source.ErrLimit},
		"progress":      {oneBranch, answer(endless("\x02still counting\n")), source.ErrLimit},
		"pack":          {oneBranch, answer(endless("\x01" + strings.Repeat("PACK", 1000))), source.ErrLimit},
		"an error":      {oneBranch, answer(func(w io.Writer) { _ = pktline.NewEncoder(w).EncodeString("\x03no such thing\n") }), nil},
		"not a pack":    {oneBranch, answer(band([]byte("this is not a pack"))), nil},
		"an empty pack": {oneBranch, answer(band(nil)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			err := fetchHostile(t, hostile(t, tt.refs, tt.pack), small)
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

// answer is what comes before a pack, and then the pack.
func answer(pack func(io.Writer)) func(io.Writer) {
	return func(w io.Writer) {
		e := pktline.NewEncoder(w)
		_ = e.EncodeString("shallow " + strings.Repeat("1", 40))
		_ = e.Flush()
		_ = e.EncodeString("NAK\n")
		pack(w)
	}
}

// band sends data on the sideband of packs.
func band(data []byte) func(io.Writer) {
	return func(w io.Writer) {
		e := pktline.NewEncoder(w)
		for len(data) > 0 {
			n := min(len(data), 60000)
			_ = e.Encode(append([]byte{1}, data[:n]...))
			data = data[n:]
		}
		_ = e.Flush()
	}
}

// packOf makes a pack that says it holds count objects.
func packOf(count uint32, objects ...[]byte) []byte {
	data := append([]byte("PACK"), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 2), count)...)
	for _, o := range objects {
		data = append(data, o...)
	}
	sum := sha1.Sum(data)
	return append(data, sum[:]...)
}

// packed makes one object of a pack; size is what its header says.
func packed(kind byte, size uint64, between, content []byte) []byte {
	first := kind<<4 | byte(size&15)
	size >>= 4
	var out []byte
	for ; size > 0; size >>= 7 {
		out, first = append(out, first|0x80), byte(size&0x7f)
	}
	out = append(append(out, first), between...)
	var z bytes.Buffer
	zw := zlib.NewWriter(&z)
	_, _ = zw.Write(content)
	_ = zw.Close()
	return append(out, z.Bytes()...)
}

func TestA08_HostilePacks(t *testing.T) {
	base := make([]byte, 1<<16)
	baseHash := plumbing.ComputeHash(plumbing.BlobObject, base)
	// A delta whose few instructions copy the base again and again.
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(base))), 10<<30)
	delta = append(delta, bytes.Repeat([]byte{0x80 | 0x40, 0x01}, 1000)...)
	bomb := make([]byte, 8<<20)
	for name, tt := range map[string]struct {
		pack []byte
		want error
	}{
		"four billion objects":     {packOf(1<<32 - 1), source.ErrLimit},
		"an object of 8 MiB":       {packOf(1, packed(3, uint64(len(bomb)), nil, bomb)), source.ErrLimit},
		"a size that is a lie":     {packOf(1, packed(3, 10, nil, bomb)), nil},
		"many that add up":         {packOf(9, repeat(9, packed(3, 600_000, nil, bomb[:600_000]))...), source.ErrLimit},
		"a delta to 10 GiB":        {packOf(2, packed(3, uint64(len(base)), nil, base), packed(7, uint64(len(delta)), baseHash[:], delta)), source.ErrLimit},
		"a base that is nowhere":   {packOf(1, packed(7, 3, bytes.Repeat([]byte{9}, 20), []byte{1, 1, 0})), nil},
		"another commit than said": {packOf(1, packed(3, 1, nil, []byte("x"))), nil},
		"a wrong checksum":         {append(packOf(1, packed(3, 1, nil, []byte("x")))[:30], make([]byte, 20)...), nil},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := fetchHostile(t, hostile(t, oneBranch, answer(band(tt.pack))), small)
			runtime.ReadMemStats(&after)
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error is %v", err)
			}
			if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 200 {
				t.Errorf("allocated %d MiB", mib)
			}
		})
	}
}

func repeat(n int, b []byte) [][]byte {
	var all [][]byte
	for range n {
		all = append(all, b)
	}
	return all
}

func TestA08_AMillionRefs(t *testing.T) {
	url := hostile(t, func(w io.Writer) {
		e := pktline.NewEncoder(w)
		for i := range 1_000_000 {
			_ = e.Encodef("%s refs/pull/%d/head\n", strings.Repeat("2", 40), i)
		}
		_ = e.Flush()
	}, nil)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := fetchHostile(t, url, Limits{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), `no branch "main"`) && !errors.Is(err, source.ErrLimit) {
		t.Errorf("error is %v", err)
	}
	if after.HeapAlloc > before.HeapAlloc+(32<<20) {
		t.Errorf("the heap grew by %d MiB", (after.HeapAlloc-before.HeapAlloc)>>20)
	}
}

// listen accepts connections and lets serve have them; they are closed when the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestF24_ServersThatHang(t *testing.T) {
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	drip := func(c net.Conn) { // one byte at a time, for ever
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n001e# service=git-upload-pack\n00001000")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
		}
	}
	greets := func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n"); silent(c) }
	key, identity := newKey(t)
	known := func(address string) Credentials {
		host, port, _ := net.SplitHostPort(address)
		return Credentials{Identity: identity, KnownHosts: fmt.Sprintf("[%s]:%s %s", host, port, marshal(key))}
	}
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		sshs  bool
		url   string
	}{
		"http, silent":       {silent, false, "http"},
		"https, silent":      {silent, false, "https"},
		"http, drop by drop": {drip, false, "http"},
		"ssh, silent":        {silent, true, "ssh"},
		"ssh, only a hello":  {greets, true, "ssh"},
	} {
		t.Run(name, func(t *testing.T) {
			address := listen(t, tt.serve)
			remote := Remote{URL: tt.url + "://" + address + "/x"}
			if tt.sshs {
				remote.Credentials = known(address)
			}
			expectTimeout(t, remote)
		})
	}
}

func marshal(key ssh.Signer) string { return string(ssh.MarshalAuthorizedKey(key.PublicKey())) }

func certificateOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// timedFetch fetches with a deadline of half a second.
func timedFetch(t *testing.T, remote Remote) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	g := newGit(t, Limits{})
	began := time.Now()
	_, err := g.Fetch(ctx, remote, Ref{Branch: "main"}, Question{})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	g.mirrors.work.Wait() // and nothing goes on behind
	return err
}

func expectTimeout(t *testing.T, remote Remote) {
	t.Helper()
	one, two := timedFetch(t, remote), timedFetch(t, remote)
	if !errors.Is(one, context.DeadlineExceeded) {
		t.Errorf("error is %v", one)
	}
	if one != nil && (two == nil || one.Error() != two.Error()) {
		t.Errorf("the same failure has two texts:\n%v\n%v", one, two)
	}
}

func TestF24_ALibraryThatNeverReturns(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	stuck := make(chan struct{})
	dropped := 0
	var work source.Running
	_, err := source.Detached(ctx, &work, func() (int, error) { <-stuck; return 7, nil }, func(v int) { dropped = v })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	close(stuck)
	work.Wait()
	if dropped != 7 {
		t.Error("what came too late was not dropped")
	}
}

func TestA09_Redirects(t *testing.T) {
	r := newRepo(t)
	r.commit("c", map[string]string{"n": "1"})
	target := serveHTTP(t, r, nil)
	secure := newHTTPServer(t, r, nil)
	secure.StartTLS()
	var mu sync.Mutex
	var seen []string
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, req.Header.Get("Authorization")+req.URL.User.String())
		http.NotFound(w, req)
	}))
	t.Cleanup(spy.Close)
	redirect := func(to string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, to+strings.TrimPrefix(req.URL.RequestURI(), "/old.git"), http.StatusFound)
		}))
		t.Cleanup(s.Close)
		return s.URL + "/old.git"
	}
	creds := shown(source.Credentials{Username: "me", Password: "s3cret"})
	ctx, ref := context.Background(), Ref{Branch: "main"}

	pull(t, newGit(t, Limits{}), r, Remote{URL: redirect(target.url)}, ref) // without credentials there is nothing to lose

	for name, remote := range map[string]Remote{
		"basic":       {URL: redirect(spy.URL), Credentials: creds},
		"bearer":      {URL: redirect(spy.URL), Credentials: shown(source.Credentials{BearerToken: "s3cret"})},
		"in the URL":  {URL: strings.Replace(redirect(spy.URL), "http://", "http://me:s3cret@", 1)},
		"in redirect": {URL: redirect(strings.Replace(spy.URL, "http://", "http://me:s3cret@", 1)), Credentials: creds},
	} {
		_, err := newGit(t, Limits{}).Fetch(ctx, remote, ref, Question{})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(seen) > 0 {
		t.Errorf("another host was asked, with %q", seen)
	}
	// From https to http, even on one host and without credentials, is refused.
	down := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, target.url+strings.TrimPrefix(req.URL.RequestURI(), "/x"), http.StatusFound)
	}))
	t.Cleanup(down.Close)
	_, err := newGit(t, Limits{}).Fetch(ctx, Remote{URL: down.URL + "/x", Credentials: shown(source.Credentials{TLS: source.TLS{CA: certificateOf(down)}})}, ref, Question{})
	if err == nil || !strings.Contains(err.Error(), "from https") {
		t.Errorf("https to http: %v", err)
	}
	_, err = newGit(t, Limits{}).Fetch(ctx, Remote{URL: redirect("http://169.254.169.254/latest")}, ref, Question{})
	if !errors.Is(err, source.ErrForbiddenAddress) {
		t.Errorf("to the metadata service: %v", err)
	}
}

func TestA18_ForbiddenAddresses(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "0.0.0.0", "[::ffff:169.254.169.254]", "224.0.0.1"} {
		for _, scheme := range []string{"http", "ssh"} {
			remote := Remote{URL: scheme + "://" + host + "/x"}
			if scheme == "ssh" {
				key, identity := newKey(t)
				remote.Credentials = Credentials{Identity: identity, KnownHosts: strings.Trim(host, "[]") + " " + marshal(key)}
			}
			_, err := newGit(t, Limits{}).Fetch(context.Background(), remote, Ref{}, Question{})
			if !errors.Is(err, source.ErrForbiddenAddress) {
				t.Errorf("%s: %v", remote.URL, err)
			}
		}
	}
}

func TestErrorsAreSteady(t *testing.T) {
	refused := listen(t, func(c net.Conn) { c.Close() })
	for _, url := range []string{"http://127.0.0.1:1/x", "http://" + refused + "/x", "https://" + refused + "/x", "http://no-such-host.invalid/x"} {
		var texts []string
		for range 2 {
			_, err := newGit(t, Limits{}).Fetch(context.Background(), Remote{URL: url}, Ref{}, Question{})
			if err == nil {
				t.Fatal("fetched")
			}
			texts = append(texts, err.Error())
		}
		if texts[0] != texts[1] {
			t.Errorf("the same failure has two texts:\n%s\n%s", texts[0], texts[1])
		}
		t.Log(texts[0])
	}
}

func FuzzCheckRefName(f *testing.F) {
	f.Add("refs/heads/main")
	f.Add("refs/heads/../x")
	f.Fuzz(func(t *testing.T, name string) {
		if checkRefName(name) == nil && (strings.Contains(name, "..") || strings.ContainsAny(name, "\x00\n ~^:\\") || strings.HasPrefix(name, "-")) {
			t.Errorf("%q was accepted", name)
		}
	})
}

func FuzzReadAdvertisement(f *testing.F) {
	var good bytes.Buffer
	oneBranch(&good)
	f.Add(good.Bytes())
	f.Add([]byte("0000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := readAdvertisement(bytes.NewReader(data), func(string) bool { return true })
		if err != nil {
			return
		}
		for name := range a.refs {
			if checkRefName(name) != nil {
				t.Errorf("%q was kept", name)
			}
		}
	})
}

func FuzzCheckPack(f *testing.F) {
	f.Add(packOf(1, packed(3, 1, nil, []byte("x"))))
	f.Add(packOf(2, packed(3, 4, nil, []byte("base")), packed(7, 3, make([]byte, 20), []byte{4, 1, 0})))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.CreateTemp(dir, "pack")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if err := receivePack(file, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		_ = small.checkPack(context.Background(), file)
	})
}

func FuzzReadAnswer(f *testing.F) {
	var good bytes.Buffer
	answer(band([]byte("PACK")))(&good)
	f.Add(good.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := packRequest{shallow: true}.readAnswer(bytes.NewReader(data), map[string]bool{"side-band-64k": true})
		if err == nil {
			_, _ = io.Copy(io.Discard, r)
		}
	})
}

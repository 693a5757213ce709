package git

import (
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// BenchmarkOneChangedFile is a push of one file to a repository of 2,000, from the question for refs to the stored snapshot.
func BenchmarkOneChangedFile(b *testing.B) {
	r := newRepo(b)
	files := map[string]string{}
	for i := range 2000 {
		files[fmt.Sprintf("apps/%02d/app-%04d.yaml", i%50, i)] = strings.Repeat(fmt.Sprintf("line of app %d\n", i), 60)
	}
	r.commit("base", files)
	server := serveHTTP(b, r, nil)
	g, remote, ref := newGit(b, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
	ctx := context.Background()
	ignore := ""
	step := func(what func(Commit, func())) {
		c, err := g.Fetch(ctx, remote, ref, Question{})
		if err != nil {
			b.Fatal(err)
		}
		what(c, func() {
			_, release, err := g.Snapshot(ctx, remote, ref, c, Layout{Ignore: &ignore})
			if err != nil {
				b.Fatal(err)
			}
			release()
		})
	}
	n := 0
	push := func() {
		n++
		r.commit("push", map[string]string{"apps/07/app-0007.yaml": fmt.Sprint("change ", n)})
	}
	step(func(_ Commit, snapshot func()) { snapshot() })
	b.Run("nothing moved", func(b *testing.B) {
		for b.Loop() {
			step(func(Commit, func()) {})
		}
	})
	b.Run("fetch", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			push()
			server.bytes.Store(0)
			b.StartTimer()
			step(func(Commit, func()) {})
		}
		b.ReportMetric(float64(server.bytes.Load()), "bytes/push")
	})
	b.Run("fetch and snapshot", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			push()
			b.StartTimer()
			step(func(_ Commit, snapshot func()) { snapshot() })
		}
	})
}

// BenchmarkNewCommit is a push of one file to a repository of 10,000 files and 500 commits: what it transfers, writes and
// takes, beside a shallow clone by Git itself. Repeat with
//
//	go test -run - -bench NewCommit -benchtime 5x ./internal/source/git
func BenchmarkNewCommit(b *testing.B) {
	r := newRepo(b)
	r.git("config", "receive.denyCurrentBranch", "ignore")
	content := func(file, version int) string {
		return strings.Repeat(fmt.Sprintf("line of file %d, version %d\n", file, version), 40)
	}
	n := 0
	push := func(files int) {
		var stream strings.Builder
		n++
		message := fmt.Sprint("commit ", n)
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter a <a@example.com> %d +0000\ndata %d\n%s\n", 1700000000+n, len(message), message)
		if n > 1 {
			stream.WriteString("from refs/heads/main^0\n")
		}
		for i := range files {
			file := (n*7 + i) % 10_000
			text := content(file, n)
			fmt.Fprintf(&stream, "M 644 inline apps/%02d/%03d/app-%05d.yaml\ndata %d\n%s\n", file%50, file%1000, file, len(text), text)
		}
		cmd := exec.Command("git", "fast-import", "--quiet")
		cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(stream.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	push(10_000)
	for range 499 {
		push(1)
	}
	r.git("gc", "-q")
	server := serveHTTP(b, r, nil)
	g, remote, ref := newGit(b, Limits{}), Remote{URL: server.url}, Ref{Branch: "main"}
	ctx := context.Background()
	fetch := func() Commit {
		c, err := g.Fetch(ctx, remote, ref, Question{})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	var previous Previous
	snapshot := func(c Commit) *artifact.Snapshot {
		s, release, err := g.Snapshot(ctx, remote, ref, c, Layout{Previous: previous})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(release)
		previous = Previous{Commit: c.Hash, Digest: s.Digest}
		return s
	}
	b.Run("git clone depth 1", func(b *testing.B) {
		for b.Loop() {
			server.bytes.Store(0)
			r.run("", "clone", "-q", "--depth", "1", server.url, filepath.Join(b.TempDir(), "clone"))
		}
		b.ReportMetric(float64(server.bytes.Load()), "received-B/op")
	})
	first := snapshot(fetch())
	b.Run("fetch", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			push(1)
			server.bytes.Store(0)
			b.StartTimer()
			fetch()
		}
		b.ReportMetric(float64(server.bytes.Load()), "received-B/op")
	})
	b.Run("snapshot", func(b *testing.B) {
		var written, tarball int64
		for b.Loop() {
			b.StopTimer()
			push(1)
			c := fetch()
			b.StartTimer()
			s := snapshot(c)
			b.StopTimer()
			written, tarball = unshared(b, s.Dir()), s.Size
			b.StartTimer()
		}
		b.ReportMetric(float64(written), "files-B/op")
		b.ReportMetric(float64(tarball), "tarball-B/op")
	})
	b.Run("snapshot with nothing before it", func(b *testing.B) {
		var written int64
		for b.Loop() {
			b.StopTimer()
			push(1)
			c := fetch()
			previous = Previous{}
			b.StartTimer()
			s := snapshot(c)
			b.StopTimer()
			written = unshared(b, s.Dir())
			b.StartTimer()
		}
		b.ReportMetric(float64(written), "files-B/op")
	})
	b.Run("its tarball alone", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			w, err := g.store.NewWriter()
			if err != nil {
				b.Fatal(err)
			}
			for name := range first.Files() {
				if _, err := w.AddFrom(name, first, name); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
			if _, err := w.Commit(); err != nil {
				b.Fatal(err)
			}
			w.Close()
		}
	})
}

// unshared adds up the files below dir that no other snapshot has.
func unshared(b *testing.B, dir string) (bytes int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 1 {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}

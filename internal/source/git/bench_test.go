package git

import (
	"context"
	"fmt"
	"strings"
	"testing"
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

package bucket

import (
	"fmt"
	"testing"
)

// BenchmarkPush measures a bucket of 10,000 objects of which one is new, beside the first download of all: both are what
// one reconciliation does from beginning to end. The server runs in the same process.
func BenchmarkPush(b *testing.B) {
	for _, lost := range []bool{false, true} {
		name := map[bool]string{false: "one changed", true: "all"}[lost]
		b.Run(name, func(b *testing.B) {
			objects := map[string]string{}
			for i := range 10_000 {
				objects[fmt.Sprintf("dir-%d/file-%d.yaml", i%100, i)] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\n", i)
			}
			s := server(b, objects)
			w := newWorld(b, Limits{}, bucket(s.Endpoint), keys())
			w.ready()
			s.Forget()
			n := 0
			for b.Loop() {
				b.StopTimer()
				if lost {
					w.restart(b.TempDir())
				}
				n++
				put(b, s, map[string]string{"dir-0/file-0.yaml": fmt.Sprint("changed ", n)})
				b.StartTimer()
				w.ready()
			}
			b.ReportMetric(float64(len(s.Downloads()))/float64(n), "downloads/op")
			b.ReportMetric(float64(s.Lists())/float64(n), "lists/op")
		})
	}
}

package storage

import (
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
)

// TestF15_TightFit: what fits only when it is compressed as hard as Helm does is compressed so, and nothing else is.
func TestF15_TightFit(t *testing.T) {
	noise := make([]byte, 16<<10)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text, err := json.Marshal(string(noise)) // many repetitions of the mark for what is no text
	if err != nil {
		t.Fatal(err)
	}
	doc := document{"manifest": text}
	whole, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	fast, best := size(t, whole, gzip.DefaultCompression), size(t, whole, gzip.BestCompression)
	if best >= fast {
		t.Fatalf("%d and %d bytes show nothing", fast, best)
	}
	for limit, want := range map[int]int{fast: fast, fast - 1: best, best: best, best - 1: best, fast * 2 / 3: fast} {
		data, err := pack(doc, limit)
		if err != nil || len(data) != want {
			t.Errorf("limit %d: %d bytes, want %d: %v", limit, len(data), want, err)
		}
		again, err := open(data)
		if err != nil || !reflect.DeepEqual(again, doc) {
			t.Errorf("limit %d: not what went in: %v", limit, err)
		}
	}
}

func size(t *testing.T, text []byte, level int) int {
	t.Helper()
	data, err := compress(text, level)
	if err != nil {
		t.Fatal(err)
	}
	return len(data)
}

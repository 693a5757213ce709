package values

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
)

// random returns values over few keys, so that two of them meet.
func random(r *rand.Rand, depth int) map[string]any {
	out := map[string]any{}
	for range r.IntN(4) {
		key := string(rune('a' + r.IntN(4)))
		switch r.IntN(5) {
		case 0:
			out[key] = nil
		case 1:
			out[key] = float64(r.IntN(9))
		case 2:
			out[key] = []any{"x", random(r, 0)}
		default:
			out[key] = "text"
			if depth > 0 {
				out[key] = random(r, depth-1)
			}
		}
	}
	return out
}

func text(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// TestMerge holds what merging means, over many random values: nothing is lost but what is replaced, and neither side is
// changed.
func TestMerge(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		a, b := random(r, 3), random(r, 3)
		beforeA, beforeB := text(a), text(b)
		got := merge(a, b)
		if text(a) != beforeA || text(b) != beforeB {
			t.Fatalf("seed %d: a side has changed", seed)
		}
		if err := merged(a, b, got); err != nil {
			t.Fatalf("seed %d: %s over %s is %s: %v", seed, text(b), text(a), text(got), err)
		}
		for _, same := range []map[string]any{merge(got, b), merge(a, got), merge(got, nil), merge(nil, got)} {
			if !reflect.DeepEqual(same, got) {
				t.Fatalf("seed %d: merged once more it is %s, before %s", seed, text(same), text(got))
			}
		}
	}
}

// merged says what is wrong with got as b over a.
func merged(a, b, got map[string]any) error {
	for key, value := range got {
		under, inA := a[key]
		over, inB := b[key]
		mapA, isMapA := under.(map[string]any)
		mapB, isMapB := over.(map[string]any)
		switch {
		case isMapA && isMapB:
			inner, ok := value.(map[string]any)
			if !ok {
				return fmt.Errorf("%s is no map", key)
			}
			if err := merged(mapA, mapB, inner); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		case inB && !reflect.DeepEqual(value, over):
			return fmt.Errorf("%s is not what is laid over", key)
		case !inB && inA && !reflect.DeepEqual(value, under):
			return fmt.Errorf("%s is not what it was", key)
		case !inA && !inB:
			return fmt.Errorf("%s is from nowhere", key)
		}
	}
	for _, side := range []map[string]any{a, b} {
		for key := range side {
			if _, ok := got[key]; !ok {
				return fmt.Errorf("%s is lost", key)
			}
		}
	}
	return nil
}

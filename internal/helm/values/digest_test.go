package values_test

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/helm/values"
)

// TestDigest holds the digests that Flux 2.9 wrote into status.history[].configDigest, and some forms they must not depend on.
func TestDigest(t *testing.T) {
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for name, test := range map[string]struct{ values, want string }{
		"web 1.0.0":        {`{greeting: from-config-map, nested: {answer: 42, number: 5}, replicaCount: 2}`, "sha256:9d918967850445ac2d4d1a490c397c49869cac5b73eb29316bfc3e7b901e01ab"},
		"web 1.1.0":        {`{replicaCount: 3, nested: {number: 5, answer: 42}, greeting: from-config-map}`, "sha256:e8ef1489d175d55043dfb70defb4447e13c0b1a23d1b75803841af4c945fcb70"},
		"web-failing-test": {`{failTest: true}`, "sha256:59f8c9c81c6e9bbfe6d9be49549096e867d59d941710bf63f3150a96dcbafbfe"},
		"web-git":          {`{}`, empty},
		"none":             {`null`, empty},
	} {
		t.Run(name, func(t *testing.T) {
			var v map[string]any
			if err := yaml.Unmarshal([]byte(test.values), &v); err != nil {
				t.Fatal(err)
			}
			if got := values.Digest(v); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// TestDigest_Numbers: a number has one digest, whether it was set by a path, read from YAML or read back from a release.
func TestDigest_Numbers(t *testing.T) {
	set := map[string]any{"big": int64(9007199254740993), "max": int64(math.MaxInt64), "a": map[string]any{"b": []any{int64(42), []any{map[string]any{"z": int64(1), "y": int64(-7)}}}}, "c": 0.5}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]any
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(values.AsStored(set), read) {
		t.Errorf("%v is stored as %v", values.AsStored(set), read)
	}
	if values.Digest(set) != values.Digest(read) {
		t.Errorf("%s and %s", values.Digest(set), values.Digest(read))
	}
	read["c"] = 0.25
	if values.Digest(set) == values.Digest(read) {
		t.Error("another number, and the same digest")
	}
}

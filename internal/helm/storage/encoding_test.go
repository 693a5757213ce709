package storage_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// These encode and decode storage Secrets by themselves, so that no test asks the code under test whether it is right.

func encode(t testing.TB, doc map[string]any) []byte {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return encodeText(t, string(text))
}

func encodeText(t testing.TB, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.AppendEncode(nil, buf.Bytes())
}

func decode(t testing.TB, data []byte) map[string]any {
	t.Helper()
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// documentFor is about the least that makes a release.
func documentFor(name string, version int, status string) map[string]any {
	return map[string]any{
		"name": name, "version": version, "namespace": "demo", "manifest": "kind: ConfigMap\n",
		"info":  map[string]any{"status": status},
		"chart": map[string]any{"metadata": map[string]any{"name": "web", "version": "1.0.0"}},
	}
}

func with(doc map[string]any, field string, value any) map[string]any {
	out := maps.Clone(doc)
	out[field] = value
	return out
}

func secretOf(name string, version int, status string, data []byte) corev1.Secret {
	return corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name:   storage.Key(name, version),
			Labels: map[string]string{"owner": "helm", "name": name, "version": strconv.Itoa(version), "status": status},
		},
		Type: "helm.sh/release.v1",
		Data: map[string][]byte{"release": data},
	}
}

// noise returns n bytes that nothing compresses, the same ones for the same seed.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, seed))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

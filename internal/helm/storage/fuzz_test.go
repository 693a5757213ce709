package storage_test

import (
	"encoding/base64"
	"errors"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// FuzzDecode: whatever a storage Secret holds, it is a release or it is corrupt, and a release can be used: digested, updated,
// and read again as what it was.
func FuzzDecode(f *testing.F) {
	items, _ := fluxMade(f, "2")
	for _, item := range items {
		f.Add(item.Data["release"])
	}
	f.Add(encode(f, documentFor("web", 1, "deployed")))
	f.Add(base64.StdEncoding.AppendEncode(nil, []byte(`{"name":"web","version":1,"info":{"deleted":""},"chart":{"metadata":{}},"hooks":[{"events":["test"]}],"config":{"a":[{}]}}`)))
	f.Add(encodeText(f, `{"name":"web","version":1,"info":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSecrets(secretOf("web", 1, "deployed", data))
		r := observe(t, s, "web")
		rel, err := r.Last(t.Context())
		if errors.Is(err, driver.ErrReleaseNotFound) {
			if len(r.Corrupt()) != 1 {
				t.Fatal("neither a release nor corrupt")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if storage.Digest(rel.Release, "") == "" {
			t.Fatal("no digest")
		}
		storage.TestHooks(rel.Release)
		rel.SetStatus(release.StatusFailed, "fuzzed")
		if err := sdk(t, r, storage.Operation{}).Update(rel.Release); err != nil {
			t.Fatal(err)
		}
		again, err := observe(t, s, "web").Last(t.Context())
		if err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
		if diff := gocmp.Diff(storage.Digest(rel.Release, ""), storage.Digest(again.Release, "")); diff != "" || again.Method != rel.Method {
			t.Fatalf("not what was written: %s to %s, %s", rel.Method, again.Method, sameRelease(t, rel.Release, again.Release))
		}
	})
}

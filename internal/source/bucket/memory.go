package bucket

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// memory is what is kept on disk about the last artifact of a Bucket, so that after a restart too only what has changed is
// downloaded. To lose it costs a download and nothing else.
type memory struct {
	From       string            `json:"from"`   // origin of these objects
	Digest     string            `json:"digest"` // of the snapshot that has them
	ETags      map[string]string `json:"etags"`  // by key
	IgnoreETag string            `json:"ignoreETag,omitempty"`
	Ignore     string            `json:"ignore,omitempty"` // the text of .sourceignore
}

// origin tells apart the buckets that an object can come from: an ETag says that content is the same only among objects of one
// bucket of one server, which may show every account another bucket of that name.
func origin(spec *sourcev1.BucketSpec, s secrets) string {
	provider := spec.Provider
	if generic(spec) {
		provider = sourcev1.BucketProviderGeneric
	}
	sum := sha256.New()
	for _, part := range []string{provider, spec.Endpoint, spec.Region, spec.BucketName, spec.ServiceAccountName, string(s.keys["accesskey"])} {
		fmt.Fprintf(sum, "%q ", part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// memories keeps one file for each Bucket.
type memories struct{ dir string }

func (m memories) file(key types.NamespacedName) string {
	return filepath.Join(m.dir, key.Namespace, key.Name+".json")
}

// read returns nil when nothing is remembered of that origin.
func (m memories) read(key types.NamespacedName, from string) *memory {
	data, err := os.ReadFile(m.file(key))
	if err != nil {
		return nil
	}
	known := &memory{}
	if json.Unmarshal(data, known) != nil {
		return nil // cut short by a crash: it is written without being flushed
	}
	if known.From != from {
		return nil // what the object names now is another bucket
	}
	return known
}

func (m memories) write(store *artifact.Store, key types.NamespacedName, known memory) error {
	data, err := json.Marshal(known)
	if err != nil {
		return err
	}
	dir, err := store.TempDir("bucket-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "memory")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.file(key)), 0o700); err != nil {
		return err
	}
	return os.Rename(tmp, m.file(key))
}

func (m memories) forget(key types.NamespacedName) error {
	if err := os.Remove(m.file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

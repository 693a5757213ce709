package testenv

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/s3server"
)

// Sources are servers of every protocol but Git's over HTTP, on loopback addresses.
type Sources struct {
	S3  *s3server.Server
	SSH *gitserver.SSH
	// Registry is the host and port of an OCI registry, Charts the URL of a Helm repository.
	Registry, Charts string

	mu    sync.Mutex
	asked []string
}

// NewSources starts them; they end with the test. The Helm repository is the folder charts.
func NewSources(t testing.TB, git *gitserver.Server, charts string) *Sources {
	t.Helper()
	s := &Sources{S3: s3server.Start()}
	t.Cleanup(s.S3.Close)
	var err error
	if s.SSH, err = git.ServeSSH(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.SSH.Close(); err != nil {
			t.Error(err)
		}
	})
	_, s.Registry, _ = strings.Cut(s.count(t, "oci", registry.New(registry.Logger(stdlog.New(io.Discard, "", 0)))), "://")
	s.Charts = s.count(t, "charts", http.FileServer(http.Dir(charts)))
	return s
}

// count serves a handler, and keeps what it is asked.
func (s *Sources) count(t testing.TB, server string, next http.Handler) string {
	counting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, server+" "+r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(counting.Close)
	return counting.URL
}

// Asked returns, one line each, what the servers were asked since the last call.
func (s *Sources) Asked() []string {
	s.mu.Lock()
	asked := s.asked
	s.asked = nil
	s.mu.Unlock()
	for range s.S3.Lists() {
		asked = append(asked, "s3 LIST")
	}
	for _, key := range s.S3.Downloads() {
		asked = append(asked, "s3 GET "+key)
	}
	s.S3.Forget()
	return asked
}

// PutObjects makes the files of a folder the content of a bucket, which is made if need be.
func (s *Sources) PutObjects(bucket, dir string) error {
	if err := s.S3.MakeBucket(bucket); err != nil && !strings.Contains(err.Error(), "BucketAlreadyExists") {
		return err
	}
	return eachFile(dir, func(key string, content []byte) error { return s.S3.Put(bucket, key, string(content)) })
}

// PushImage pushes the files of a folder as Flux's artifacts are, with one layer, to REPOSITORY:TAG.
func (s *Sources) PushImage(reference, dir string) error {
	var layer bytes.Buffer
	zw := gzip.NewWriter(&layer)
	tw := tar.NewWriter(zw)
	err := eachFile(dir, func(name string, content []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := tw.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.flux.config.v1+json")
	image, err = mutate.AppendLayers(image, static.NewLayer(layer.Bytes(), "application/vnd.cncf.flux.content.v1.tar+gzip"))
	if err != nil {
		return err
	}
	at, err := name.ParseReference(s.Registry+"/"+reference, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(at, image)
}

func eachFile(dir string, do func(name string, content []byte) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return do(filepath.ToSlash(name), content)
	})
}

// Download gets an artifact from the URL of a status, and compares it with the digest there.
func Download(from, digest string) ([]byte, error) {
	if _, err := url.Parse(from); err != nil || from == "" {
		return nil, fmt.Errorf("%q is not a URL", from)
	}
	res, err := http.Get(from) //nolint:noctx // A loopback server that ends with the test.
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	if got := "sha256:" + hex.EncodeToString(sum[:]); res.StatusCode != http.StatusOK || got != digest {
		return nil, fmt.Errorf("%s: status %d, digest %s and not %s", from, res.StatusCode, got, digest)
	}
	return content, nil
}

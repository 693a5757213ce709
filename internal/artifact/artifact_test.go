package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var shop = Object{Kind: "GitRepository", Namespace: "demo", Name: "shop"}

func openStore(t *testing.T, dir string, set ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: dir, Address: "source-controller.flux-system.svc.cluster.local."}
	for _, f := range set {
		f(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newWriter(t *testing.T, s *Store) *Writer {
	t.Helper()
	w, err := s.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// stored commits one snapshot of the given files; the caller's test keeps it pinned.
func stored(t *testing.T, s *Store, files map[string]string) *Snapshot {
	t.Helper()
	w := newWriter(t, s)
	for name, content := range files {
		if err := w.AddFile(name, false, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// residue lists what lies in the working directory of the store.
func residue(t *testing.T, s *Store) []string {
	t.Helper()
	found, err := os.ReadDir(s.tmp())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Name())
	}
	return names
}

func TestTarballsAreFluxsToTheByte(t *testing.T) {
	for _, name := range []string{
		"aa3e7da585bb7c53b55766c8714298088bd35d37.tar.gz",
		"f12aaebd0ed930b86b96ed6583add2ad249033ae.tar.gz",
		"shop-semver-f12aaebd.tar.gz",
	} {
		t.Run(name, func(t *testing.T) {
			flux, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			s := openStore(t, t.TempDir())
			w := newWriter(t, s)
			// The entries are added backwards: the order in the tarball is the store's business.
			entries := untar(t, flux)
			slices.Reverse(entries)
			for _, e := range entries {
				switch {
				case e.Name == ".":
					continue
				case e.Typeflag == tar.TypeDir:
					err = w.AddDir(e.Name)
				default:
					err = w.AddFile(e.Name, e.Mode&0o100 != 0, strings.NewReader(e.content))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			snap, err := w.Commit()
			if err != nil {
				t.Fatal(err)
			}
			ours, err := os.ReadFile(filepath.Join(s.snapshotDir(snap.Digest), tarballName))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(listing(untar(t, flux)), listing(untar(t, ours))); diff != "" {
				t.Errorf("listing (-flux +ours):\n%s", diff)
			}
			if !bytes.Equal(flux, ours) {
				t.Error("the bytes differ from Flux's")
			}
		})
	}
}

type tarEntry struct {
	tar.Header
	content string
}

func untar(t *testing.T, data []byte) []tarEntry {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var entries []tarEntry
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, tarEntry{*h, string(content)})
	}
}

func listing(entries []tarEntry) []string {
	var lines []string
	for _, e := range entries {
		lines = append(lines, fmt.Sprintf("%c %o %d/%d %d %s", e.Typeflag, e.Mode, e.Uid, e.Gid, e.Size, e.Name))
	}
	return lines
}

func TestPublishAndAcquire(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	s := openStore(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	var added []string
	s.Subscribe(func(digest string) {
		snap, release, err := s.AcquireWritten(digest)
		if err != nil {
			t.Errorf("not available when announced: %v", err)
			return
		}
		defer release()
		added = append(added, snap.Digest)
	})
	snap := stored(t, s, map[string]string{"apps/a.yaml": "a: 1\n", "run.sh": "#!/bin/sh\n"})
	got, err := s.Publish(shop, "abc.tar.gz", "main@sha1:abc", snap)
	if err != nil {
		t.Fatal(err)
	}
	if got.Path != "gitrepository/demo/shop/abc.tar.gz" || got.Revision != "main@sha1:abc" || got.Digest != snap.Digest ||
		got.URL != "http://source-controller.flux-system.svc.cluster.local./gitrepository/demo/shop/abc.tar.gz" ||
		*got.Size != snap.Size || !got.LastUpdateTime.Time.Equal(now.Truncate(time.Second)) {
		t.Errorf("artifact is %+v", got)
	}
	if diff := cmp.Diff([]string{snap.Digest}, added); diff != "" {
		t.Error(diff)
	}
	if !s.Holds(shop, got) {
		t.Error("the published artifact is not held")
	}

	held, release, err := s.AcquireWritten(got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	content, err := fs.ReadFile(held.FS(), "apps/a.yaml")
	if err != nil || string(content) != "a: 1\n" {
		t.Errorf("read %q, %v", content, err)
	}
	want := File{Hash: "37b128c59f1f5097f73f82691cb519f1f568667faab5ced1b4ab979d36837eae"}
	if got, ok := held.File("apps/a.yaml"); !ok || got != want {
		t.Errorf("manifest says %+v, %v", got, ok)
	}
	if info, err := os.Stat(filepath.Join(held.Dir(), "apps/a.yaml")); err != nil || info.Mode().Perm()&0o222 != 0 {
		t.Errorf("a file of a snapshot is writable: %v, %v", info, err)
	}
}

func TestSameContentIsWrittenOnce(t *testing.T) {
	s := openStore(t, t.TempDir())
	one := stored(t, s, map[string]string{"a": "1", "b/c": "2"})
	two := stored(t, s, map[string]string{"b/c": "2", "a": "1"})
	if one != two {
		t.Error("the same content made two snapshots")
	}
	if _, err := s.Publish(shop, "1.tar.gz", "r1", one); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(Object{"GitRepository", "demo", "other"}, "1.tar.gz", "r1", two); err != nil {
		t.Fatal(err)
	}
	a, _ := os.Stat(filepath.Join(s.dir, "gitrepository/demo/shop/1.tar.gz"))
	b, _ := os.Stat(filepath.Join(s.dir, "gitrepository/demo/other/1.tar.gz"))
	if !os.SameFile(a, b) {
		t.Error("the tarball is on disk twice")
	}
	if err := s.Remove(shop); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if _, release, err := s.AcquireWritten(one.Digest); err != nil {
		t.Errorf("removing one object took the snapshot from the other: %v", err)
	} else {
		release()
	}
}

func TestAcquireFromTheVolumeOfFlux(t *testing.T) {
	const digest = "sha256:f74a01a714810b54a272d1a97eb1381888bd5af3f214b58ed66846e87901be11"
	dir := t.TempDir()
	objectDir := filepath.Join(dir, "gitrepository/demo/shop")
	if err := os.MkdirAll(objectDir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/f12aaebd0ed930b86b96ed6583add2ad249033ae.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(objectDir, "f12.tar.gz"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir)
	if diff := cmp.Diff([]Object{shop}, s.Objects("GitRepository")); diff != "" {
		t.Error(diff)
	}
	// Many ask at once; the tarball is unpacked once and all see the same directory.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			snap, release, err := s.AcquireWritten(digest)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if f, ok := snap.File("run.sh"); !ok || !f.Executable {
				t.Errorf("run.sh is %+v, %v", f, ok)
			}
			if _, err := fs.Stat(snap.FS(), "apps/prod/kustomization.yaml"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := residue(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestF32_LostStorageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	a, err := s.Publish(shop, "1.tar.gz", "r1", stored(t, s, map[string]string{"a": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	reopened := openStore(t, dir)
	if !reopened.Holds(shop, a) {
		t.Error("a restart lost the artifact")
	}
	if _, release, err := reopened.AcquireWritten(a.Digest); err != nil {
		t.Error(err)
	} else {
		release()
	}
	empty := openStore(t, t.TempDir())
	if empty.Holds(shop, a) {
		t.Error("an empty store holds the artifact")
	}
	if _, _, err := empty.AcquireWritten(a.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("acquiring what is not there: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "gitrepository/demo/shop/1.tar.gz")); err != nil {
		t.Fatal(err)
	}
	if reopened.Holds(shop, a) {
		t.Error("a file removed behind our back is still held")
	}
}

func TestTreesAreRebuiltAfterTheMachineRestarted(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	a, err := s.Publish(shop, "1.tar.gz", "r1", stored(t, s, map[string]string{"a": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	// What a power failure leaves: the name without the content.
	file := filepath.Join(s.treeDir(a.Digest), "a")
	if err := errors.Join(os.Chmod(file, 0o644), os.Truncate(file, 0), os.WriteFile(filepath.Join(dir, ownDir, "boot"), []byte("other"), 0o600)); err != nil {
		t.Fatal(err)
	}
	snap, release, err := openStore(t, dir).AcquireWritten(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if content, err := fs.ReadFile(snap.FS(), "a"); err != nil || string(content) != "1" {
		t.Errorf("read %q, %v", content, err)
	}
}

func TestF30_OpenSweepsWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	for range 3 { // three writers that die
		w, err := s.NewWriter()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.AddFile("a", false, strings.NewReader("1")); err != nil {
			t.Fatal(err)
		}
	}
	if len(residue(t, s)) != 3 {
		t.Fatal("the writers left nothing")
	}
	if left := residue(t, openStore(t, dir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestF31_FullDiskKeepsTheOldArtifact(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs to mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := openStore(t, dir)
	old, err := s.Publish(shop, "1.tar.gz", "r1", stored(t, s, map[string]string{"a": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, s)
	err = w.AddFile("big", false, bytes.NewReader(make([]byte, 1<<20)))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("writing to a full disk: %v", err)
	}
	w.Close()
	if left := residue(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if !s.Holds(shop, old) {
		t.Error("the old artifact is gone")
	}
}

// TestF31_AFullDiskIsMadeRoomOn: superseded artifacts go before their time, so that the next attempt succeeds; the newest of
// each object stays.
func TestF31_AFullDiskIsMadeRoomOn(t *testing.T) {
	const size = 100 << 10
	random := func(n byte) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{n}), size) }
	for name, publish := range map[string]func(*testing.T, *Store, Object, byte) error{
		"a tree": func(t *testing.T, s *Store, o Object, n byte) error {
			w, err := s.NewWriter()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := w.AddFile("a", false, random(n)); err != nil {
				return err
			}
			snapshot, err := w.Commit()
			if err != nil {
				return err
			}
			_, err = s.Publish(o, fmt.Sprintf("%d.tar.gz", n), "r", snapshot)
			return err
		},
		"a file": func(_ *testing.T, s *Store, o Object, n byte) error {
			_, err := s.PublishFile(o, fmt.Sprintf("%d.tgz", n), "r", io.MultiReader(random(n), random(n+100)))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=750k"); err != nil {
				t.Skipf("needs to mount a small file system: %v", err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
			s := openStore(t, dir, func(o *Options) { o.RetentionTTL = time.Hour })
			other := Object{Kind: "Bucket", Namespace: "demo", Name: "other"}
			for n, o := range []Object{other, shop, shop} {
				if err := publish(t, s, o, byte(n)); err != nil {
					t.Fatal(err)
				}
			}
			if err := publish(t, s, shop, 3); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
			if len(s.published) != 2 {
				t.Errorf("after that there are %v", s.published)
			}
			if err := publish(t, s, shop, 3); err != nil {
				t.Errorf("the next attempt: %v", err)
			}
			if objects := s.Objects(other.Kind); len(objects) != 1 {
				t.Errorf("of the other object there is %v", objects)
			}
		})
	}
}

// TestF31_RoomIsMadeForUnpacking: a tarball is small and what is in it need not be.
func TestF31_RoomIsMadeForUnpacking(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=750k"); err != nil {
		t.Skipf("needs to mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := openStore(t, dir, func(o *Options) { o.RetentionTTL = time.Hour })
	noise := io.LimitReader(rand.NewChaCha8([32]byte{}), 500<<10)
	if _, err := s.PublishFile(shop, "1.tgz", "r", noise); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("zeros", 100<<10)
	tarball := makeTar(t, tarEntry{Header: tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Mode: 0o644}, content: content})
	a, err := s.PublishFile(shop, "2.tar.gz", "r", bytes.NewReader(tarball))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Acquire(shop, a.Digest); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	_, release, err := s.Acquire(shop, a.Digest)
	if err != nil {
		t.Fatalf("the next attempt: %v", err)
	}
	release()
}

func TestCollectKeepsWhatFluxKeeps(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s := openStore(t, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return now } })
	publish := func(n int) string {
		w := newWriter(t, s)
		if err := w.AddFile("n", false, strings.NewReader(fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
		snap, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := s.Publish(shop, fmt.Sprintf("%d.tar.gz", n), "r", snap); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		return snap.Digest
	}
	names := func() []string {
		var names []string
		for name := range s.published {
			names = append(names, filepath.Base(name))
		}
		slices.Sort(names)
		return names
	}
	first, second := publish(1), publish(2)
	third := publish(3)
	held, release, err := s.AcquireWritten(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2.tar.gz", "3.tar.gz"}, names()); diff != "" {
		t.Errorf("two records are kept (-want +got):\n%s", diff)
	}
	if _, err := fs.ReadFile(held.FS(), "n"); err != nil {
		t.Errorf("a snapshot was removed while it was read: %v", err)
	}
	release()
	now = now.Add(time.Hour)
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"3.tar.gz"}, names()); diff != "" {
		t.Errorf("the newest stays however old (-want +got):\n%s", diff)
	}
	for digest, there := range map[string]bool{first: false, second: false, third: true} {
		if _, err := os.Stat(s.snapshotDir(digest)); (err == nil) != there {
			t.Errorf("snapshot %s: there should be %v, stat says %v", digest, there, err)
		}
	}
	if left := residue(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestA42_HandlerServesNothingElse(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := stored(t, s, map[string]string{"a": "1"})
	if _, err := s.Publish(shop, "1.tar.gz", "r1", snap); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "gitrepository/demo/shop/.hidden"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	manifest := "/.cleat/snapshots/" + snap.Digest[len("sha256:"):] + "/manifest.json"
	for path, want := range map[string]int{
		"/gitrepository/demo/shop/1.tar.gz":             200,
		"/gitrepository/demo/shop/latest.tar.gz":        200,
		"/gitrepository/demo/shop/2.tar.gz":             404,
		"/gitrepository/demo/shop/":                     404,
		"/gitrepository/demo/shop":                      404,
		"/":                                             404,
		"/gitrepository/demo/shop/.hidden":              404,
		"/gitrepository/demo/shop/%2e%2e":               404,
		"/gitrepository/demo/shop/..%2fshop%2f1.tar.gz": 404,
		"/gitrepository/demo/shop/../../../.cleat/boot": 404,
		manifest:                                                  404,
		"/gitrepository/demo/shop/1.tar.gz/":                      404,
		"//gitrepository/demo/shop/1.tar.gz":                      404,
		"/gitrepository/demo/shop/1.tar.gz%00":                    404,
		"/gitrepository%2fdemo%2fshop/../../gitrepository/demo/x": 404,
	} {
		req, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "//" + req.URL.Host + path // as written, without the client's cleaning
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: %d, want %d", path, res.StatusCode, want)
		}
		if want == 200 && (int64(len(body)) != snap.Size || res.Header.Get("Content-Type") != "application/gzip") {
			t.Errorf("GET %s: %d bytes of %s", path, len(body), res.Header.Get("Content-Type"))
		}
	}
	res, err := http.Post(server.URL+"/gitrepository/demo/shop/1.tar.gz", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", res.StatusCode)
	}
}

func TestRemoveObject(t *testing.T) {
	s := openStore(t, t.TempDir())
	w := newWriter(t, s)
	snap, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Publish(shop, "1.tar.gz", "r1", snap)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := s.Remove(shop); err != nil {
		t.Fatal(err)
	}
	if s.Holds(shop, a) {
		t.Error("still held")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "gitrepository/demo/shop")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
	if _, _, err := s.AcquireWritten(a.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("acquire: %v", err)
	}
	if err := s.Remove(shop); err != nil {
		t.Errorf("removing twice: %v", err)
	}
}

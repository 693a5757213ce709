package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestA01_PathsThatAreRefused(t *testing.T) {
	for _, path := range []string{
		"", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "C:/x", "c:x", `a\b`, `..\x`,
		"a\x00b", "a\nb", "\xff", strings.Repeat("x", 4096), strings.Repeat("d/", 2000) + "x", strings.Repeat("n", 256),
		".git/config", "a/.git", ".GIT/hooks/x", ".Git", "git~1/x", "GIT~1", ".git./x", ".git /x", ".git::$INDEX_ALLOCATION/x", ".g\u200cit/x",
	} {
		if err := CheckPath(path); !errors.Is(err, ErrPath) {
			t.Errorf("CheckPath(%.40q) = %v", path, err)
		}
	}
	for _, path := range []string{"a", "a/b.yaml", ".gitignore", ".github/x", "a..b", "...", "größe/ü", "git~2", "ab:c", "x.git/y"} {
		if err := CheckPath(path); err != nil {
			t.Errorf("CheckPath(%q) = %v", path, err)
		}
	}
}

func TestA01_WriterRefusesBeforeWriting(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, path := range []string{"../x", "/x", ".git/config"} {
		w := newWriter(t, s)
		if err := w.AddFile(path, false, strings.NewReader("x")); !errors.Is(err, ErrPath) {
			t.Errorf("AddFile(%q) = %v", path, err)
		}
		if err := w.AddDir(path); !errors.Is(err, ErrPath) {
			t.Errorf("AddDir(%q) = %v", path, err)
		}
	}
	w := newWriter(t, s)
	if err := w.AddFile("a", false, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"the same file":       w.AddFile("a", false, strings.NewReader("y")),
		"below a file":        w.AddFile("a/b", false, strings.NewReader("y")),
		"a directory instead": w.AddDir("a"),
	} {
		if !errors.Is(err, ErrPath) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.AddFile("d/e", false, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.AddFile("d", false, strings.NewReader("x")); !errors.Is(err, ErrPath) {
		t.Errorf("a file instead of a directory: %v", err)
	}
}

func makeTar(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	tw := tar.NewWriter(zw)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestA01_TarNamesOutsideAreErrors(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, name := range []string{"../x", "/x", "a/../../x", `C:\x`, strings.Repeat("n", 4096)} {
		for _, kind := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink} {
			data := makeTar(t, tarEntry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: "x"}})
			if err := newWriter(t, s).AddTar(bytes.NewReader(data)); !errors.Is(err, ErrPath) {
				t.Errorf("%c %.20q: %v", kind, name, err)
			}
		}
	}
}

func TestA02_LinksAreNotFollowed(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir())
	w := newWriter(t, s)
	data := makeTar(t,
		tarEntry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "file", Linkname: secret}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: secret}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "out/secret"}, content: "new"},
	)
	if err := w.AddTar(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	snap, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(secret); string(content) != "old" {
		t.Errorf("a file outside now holds %q", content)
	}
	if len(snap.Files()) != 1 {
		t.Errorf("files are %v, want only out/secret, a file of its own", snap.Files())
	}
}

func TestA03_SpecialEntriesAreDropped(t *testing.T) {
	s := openStore(t, t.TempDir())
	w := newWriter(t, s)
	data := makeTar(t,
		tarEntry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk"}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}},
		tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o6777, Uid: 4, Gname: "staff"}, content: "x"},
	)
	if err := w.AddTar(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	snap, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Files()) != 1 {
		t.Errorf("files are %v", snap.Files())
	}
	info, err := os.Stat(filepath.Join(snap.Dir(), "suid"))
	if err != nil || info.Mode() != 0o555 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	tarball, err := os.ReadFile(filepath.Join(s.snapshotDir(snap.Digest), tarballName))
	if err != nil {
		t.Fatal(err)
	}
	if e := untar(t, tarball)[1]; e.Mode != 0o700 || e.Uid != 0 || e.Gname != "" {
		t.Errorf("header is %+v", e.Header)
	}
}

func TestA04_BombsStopAtTheCap(t *testing.T) {
	limits := Limits{Files: 1000, Bytes: 1 << 20, Depth: 10}
	small := func(o *Options) { o.Limits = limits }
	for name, write := range map[string]func(tw *tar.Writer) error{
		"one file of 10 GB": func(tw *tar.Writer) error {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 10 << 30}); err != nil {
				return err
			}
			return copyZeros(tw, 10<<30)
		},
		"a dropped entry of 10 GB": func(tw *tar.Writer) error {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeCont, Name: "big", Size: 10 << 30}); err != nil {
				return err
			}
			return copyZeros(tw, 10<<30)
		},
		"ten million entries": func(tw *tar.Writer) error {
			for range 10_000_000 {
				if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "x"}); err != nil {
					return err
				}
			}
			return nil
		},
		"too deep": func(tw *tar.Writer) error {
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.Repeat("d/", 11) + "d"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), small)
			w := newWriter(t, s)
			pr, pw := io.Pipe()
			done := make(chan struct{})
			go func() { // the sender stops when the reader has had enough
				defer close(done)
				zw, err := gzip.NewWriterLevel(pw, gzip.BestSpeed)
				if err != nil {
					t.Error(err)
					return
				}
				tw := tar.NewWriter(zw)
				err = write(tw)
				pw.CloseWithError(errors.Join(err, tw.Close(), zw.Close(), io.EOF))
			}()
			began := time.Now()
			err := w.AddTar(pr)
			pr.Close()
			<-done
			if !errors.Is(err, ErrLimit) {
				t.Errorf("AddTar: %v", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			w.Close()
			if left := residue(t, s); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func copyZeros(w io.Writer, n int64) error {
	zeros := make([]byte, 1<<20)
	for ; n > 0; n -= int64(len(zeros)) {
		if _, err := w.Write(zeros); err != nil {
			return err
		}
	}
	return nil
}

func TestCorruptTarballIsNotServedAsASnapshot(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	a, err := s.Publish(shop, "1.tar.gz", "r1", stored(t, s, map[string]string{"a": "1"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.snapshotDir("")); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "gitrepository/demo/shop/1.tar.gz"), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.AcquireWritten(a.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("acquire: %v", err)
	}
	if s.Holds(shop, a) {
		t.Error("a tarball that rotted is still held, so nobody would fetch it again")
	}
}

func FuzzCheckPath(f *testing.F) {
	for _, seed := range []string{"a/b", "../x", ".git/x", "C:/x", "a\x00", "git~1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if CheckPath(path) != nil {
			return
		}
		if !filepath.IsLocal(path) || filepath.Clean(path) != path || len(path) >= 4096 {
			t.Errorf("%q was accepted", path)
		}
		for part := range strings.SplitSeq(strings.ToLower(path), "/") {
			if part == ".git" || part == ".." || part == "" {
				t.Errorf("%q was accepted", path)
			}
		}
	})
}

func FuzzAddTar(f *testing.F) {
	f.Add(makeTar(f, tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}, content: "x"}, tarEntry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "./a/"}}))
	f.Add(makeTar(f, tarEntry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/"}}, tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}}))
	s, err := Open(Options{Dir: f.TempDir(), Limits: Limits{Files: 100, Bytes: 1 << 16, Depth: 8}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := s.NewWriter()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if w.AddTar(bytes.NewReader(data)) != nil {
			return
		}
		snap, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		for name := range snap.Files() {
			info, err := os.Lstat(filepath.Join(snap.Dir(), name))
			if err != nil || !info.Mode().IsRegular() {
				t.Errorf("%q is %v, %v", name, info, err)
			}
		}
	})
}

func FuzzWalkOrder(f *testing.F) {
	f.Add("a.txt", "a/b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if walkOrder(a, b) != -walkOrder(b, a) || (walkOrder(a, b) == 0) != (a == b) {
			t.Errorf("%q, %q", a, b)
		}
	})
}

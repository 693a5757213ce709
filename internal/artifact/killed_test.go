package artifact

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// killedDir names the environment variable by which the test finds itself to be the process that is killed.
const killedDir = "ARTIFACT_KILLED_DIR"

const (
	killedFiles = 8
	killedBytes = 64 << 10 // of one file
)

// TestF30_KilledInALoop kills a process that publishes one artifact after the other wherever it happens to be, thirty times.
// What it has published last can be read every time, and the disk does not fill.
func TestF30_KilledInALoop(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		publishForEver(t, dir)
	}
	dir := t.TempDir()
	steps := rand.New(rand.NewPCG(1, 2))
	for round := range 30 {
		killAfter(t, dir, 1+steps.IntN(3*(killedFiles+2)))
		s := openKilled(t, dir)
		for name, p := range s.published {
			_, release, err := s.Acquire(shop, p.digest)
			if err != nil {
				t.Fatalf("round %d: %s is published and cannot be read: %v", round, name, err)
			}
			release()
		}
		if left := residue(t, s); len(left) > 0 {
			t.Fatalf("round %d: left behind: %v", round, left)
		}
		if err := s.Collect(); err != nil {
			t.Fatal(err)
		}
		// Two artifacts are kept, each as a tarball and as a tree, which cannot be compressed.
		if used, most := diskUsage(t, dir), int64(2*2*killedFiles*killedBytes)*11/10; used > most {
			t.Fatalf("round %d: %d bytes are on the disk, more than %d", round, used, most)
		}
	}
	if len(openKilled(t, dir).published) == 0 {
		t.Error("nothing was ever published: the test shows nothing")
	}
}

func openKilled(t *testing.T, dir string) *Store {
	t.Helper()
	return openStore(t, dir, func(o *Options) { o.RetentionTTL = time.Hour })
}

// publishForEver says so on standard output whenever it has come a step further.
func publishForEver(t *testing.T, dir string) {
	s := openKilled(t, dir)
	content := rand.NewChaCha8([32]byte{byte(os.Getpid()), byte(os.Getpid() >> 8)})
	data := make([]byte, killedBytes)
	for n := 0; ; n++ {
		w, err := s.NewWriter()
		if err != nil {
			t.Fatal(err)
		}
		for i := range killedFiles {
			_, _ = content.Read(data)
			if err := w.AddFile(fmt.Sprintf("dir/%d", i), false, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			fmt.Println("step")
		}
		snapshot, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("step")
		if _, err := s.Publish(shop, fmt.Sprintf("%d-%d.tar.gz", os.Getpid(), n), "r", snapshot); err != nil {
			t.Fatal(err)
		}
		fmt.Println("step")
		w.Close()
		if err := s.Collect(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter starts this test as another process and kills it when it has made that many steps.
func killAfter(t *testing.T, dir string, steps int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), killedDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	for made := 0; made < steps; made++ {
		if !said.Scan() || said.Text() != "step" {
			_ = cmd.Process.Kill()
			t.Fatalf("the process that was to be killed says %q: %v", said.Text(), cmd.Wait())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
}

// diskUsage adds up the files below dir, each once whatever the number of its names.
func diskUsage(t *testing.T, dir string) (total int64) {
	t.Helper()
	counted := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if inode := info.Sys().(*syscall.Stat_t).Ino; !counted[inode] {
			counted[inode] = true
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

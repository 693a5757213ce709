package gitserver_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/cleat-dev/cleat/e2e/gitserver"
)

const content = `
-- app/config.yaml --
kind: ConfigMap
`

func TestServesWhatWasPushed(t *testing.T) {
	server := start(t, "", "")
	repo, err := server.Create("shop")
	if err != nil {
		t.Fatal(err)
	}
	commit, err := repo.CommitTxtar([]byte(content), "first")
	if err != nil {
		t.Fatal(err)
	}
	// Authors and dates are fixed, so this hash is the same everywhere.
	if want := "fe90cf6b4fa4ad347b19f95c488db45178d03ec6"; commit != want {
		t.Errorf("commit %s, want %s", commit, want)
	}
	if err := repo.Push(false); err != nil {
		t.Fatal(err)
	}
	if got := remoteHead(t, repo.URL); got != commit {
		t.Errorf("the server has %s, want %s", got, commit)
	}
}

func TestAsksForPassword(t *testing.T) {
	server := start(t, "ada", "secret")
	repo, err := server.Create("shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.CommitTxtar([]byte(content), "first"); err != nil {
		t.Fatal(err)
	}
	if err := repo.Push(false); err != nil {
		t.Errorf("pushing with the password: %v", err)
	}
	cmd := exec.Command("git", "-c", "credential.helper=", "ls-remote", repo.URL)
	cmd.Env = append(cmd.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("read without a password: %s", out)
	}
}

func start(t *testing.T, username, password string) *gitserver.Server {
	t.Helper()
	server, err := gitserver.Start(t.TempDir(), username, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func remoteHead(t *testing.T, url string) string {
	t.Helper()
	out, err := exec.Command("git", "ls-remote", url, "refs/heads/main").Output()
	if err != nil {
		t.Fatal(err)
	}
	hash, _, _ := strings.Cut(string(out), "\t")
	return hash
}

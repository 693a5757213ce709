package testenv

import (
	"testing"

	"github.com/cleat-dev/cleat/e2e/gitserver"
)

// Git starts a Git server without a password that ends with the test.
func Git(t testing.TB) *gitserver.Server {
	t.Helper()
	return PrivateGit(t, "", "")
}

// PrivateGit starts a Git server that asks for a username and a password.
func PrivateGit(t testing.TB, username, password string) *gitserver.Server {
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

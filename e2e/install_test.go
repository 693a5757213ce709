package e2e_test

import "testing"

// TestInstallScripts runs each file of testdata/install on a control plane of its own, where nothing is installed yet. NS is a
// namespace for what is applied; the script's agent, which sees only that one, does not run.
func TestInstallScripts(t *testing.T) {
	runScriptsOn(t, "testdata/install", func(*testing.T) {}, setUpEmpty)
}

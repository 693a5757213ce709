package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdHelm is helm ARG...: runs the helm command in the script's namespace, unless the arguments name another one.
func cmdHelm(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	err := s.runHelm(ts, append([]string{"--namespace=" + s.namespace}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("helm %s: %v", strings.Join(args, " "), err)
	}
}

// cmdChart is chart DIR [--version=VERSION] [--app-version=VERSION]: packages a chart, puts it into the Helm repository at CHARTS,
// and pushes it to the registry as charts/NAME:VERSION. It prints the archive's name.
func cmdChart(ts *testscript.TestScript, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: chart DIR [--version=VERSION] [--app-version=VERSION]")
	}
	s := of(ts)
	repository, packed := ts.MkAbs("charts"), ts.MkAbs(".packed")
	ts.Check(os.RemoveAll(packed))
	ts.Check(s.runHelm(ts, append([]string{"package", ts.MkAbs(args[0]), "--destination=" + packed}, args[1:]...)...))
	archives, err := filepath.Glob(filepath.Join(packed, "*.tgz"))
	ts.Check(err)
	if len(archives) != 1 {
		ts.Fatalf("packaging %s made %v", args[0], archives)
	}
	ts.Check(s.runHelm(ts, "push", archives[0], "oci://"+s.sources.Registry+"/charts", "--plain-http"))
	ts.Check(os.MkdirAll(repository, 0o755))
	ts.Check(os.Rename(archives[0], filepath.Join(repository, filepath.Base(archives[0]))))
	ts.Check(s.runHelm(ts, "repo", "index", repository))
	fmt.Fprintln(ts.Stdout(), filepath.Base(archives[0]))
}

func (s *script) runHelm(ts *testscript.TestScript, args ...string) error {
	return ts.Exec(s.helm, args...)
}

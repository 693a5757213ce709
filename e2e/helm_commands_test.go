package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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

// cmdOrder is order KIND/NAME...: fails unless the objects were made in this order. Two that were made within one second are told
// apart by what the API server counts up with each write, which is what their first and only write has left in resourceVersion.
func cmdOrder(ts *testscript.TestScript, args []string) {
	s := of(ts)
	ctx, cancel := bounded()
	defer cancel()
	type made struct {
		name    string
		at      time.Time
		version string
	}
	var objects []made
	for _, arg := range args {
		obj, err := s.cluster.Get(ctx, s.ref(ts, arg))
		ts.Check(err)
		if obj == nil {
			ts.Fatalf("there is no %s", arg)
		}
		objects = append(objects, made{arg, obj.GetCreationTimestamp().Time, obj.GetResourceVersion()})
	}
	earlier := func(a, b made) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return compareNumbers(a.version, b.version)
	}
	if !slices.IsSortedFunc(objects, earlier) {
		ts.Fatalf("they were not made in this order: %v", objects)
	}
}

// compareNumbers compares decimal numbers of any size without leading zeros.
func compareNumbers(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

package helm

import (
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// TestF23_NamesOfReleases: the name under which Flux has made a release is the one under which it is looked for.
func TestF23_NamesOfReleases(t *testing.T) {
	long := strings.Repeat("a", 54)
	for _, c := range []struct{ why, releaseName, targetNamespace, name, want string }{
		{"the name", "", "", "web", "web"},
		{"with the target namespace", "", "shop", "web", "shop-web"},
		{"the spec's own", "mine", "shop", "web", "mine"},
		{"just short enough", "", "", long[:53], long[:53]},
		{"too long", "", "", long, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-a3f01b693925"},
	} {
		hr := &v2.HelmRelease{}
		hr.Name, hr.Spec.ReleaseName, hr.Spec.TargetNamespace = c.name, c.releaseName, c.targetNamespace
		if got := releaseName(hr); got != c.want || len(got) > maxReleaseName {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}

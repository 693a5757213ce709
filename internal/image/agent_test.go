package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cleat-dev/cleat/internal/image"
)

// agent is an image as the agent's, of another program.
func agent(t *testing.T) v1.Image {
	t.Helper()
	return build(t, image.Agent(shared, platform, image.Release{Version: "v1.2.3", Revision: "abc", Created: time.Unix(1_700_000_000, 0)}))
}

// files reads name → content of everything in an image.
func files(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(content)
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			if found[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// TestAgentsImageHoldsNoShell lists all that is in it: one program, three files of data, and two places to write to.
func TestAgentsImageHoldsNoShell(t *testing.T) {
	var regular []string
	for name := range files(t, agent(t)) {
		if name[len(name)-1] != '/' {
			regular = append(regular, name)
		}
	}
	slices.Sort(regular)
	want := []string{"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "usr/local/bin/cleat", "usr/share/sbom/cleat.spdx.json"}
	if !slices.Equal(regular, want) {
		t.Errorf("the image holds %v", regular)
	}
}

func TestAgentsImageRunsAsNobodyOfNote(t *testing.T) {
	file, err := agent(t).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(file.Config.User) {
		t.Errorf("the user is %q; only of a number does Kubernetes know that it is not root's", file.Config.User)
	}
	for label, want := range map[string]string{
		"version": "v1.2.3", "revision": "abc", "source": "https://github.com/cleat-dev/cleat", "licenses": "Apache-2.0",
	} {
		if got := file.Config.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("the label %s is %q, want %q", label, got, want)
		}
	}
}

// TestAgentsImageExposesWhatTheAgentListensOn reads the defaults out of the flags' source: linking the agent takes a minute.
func TestAgentsImageExposesWhatTheAgentListensOn(t *testing.T) {
	source, err := os.ReadFile("../agent/flags.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`Addr\b.*":(\d{4})"`).FindAllSubmatch(source, -1) {
		want = append(want, string(m[1])+"/tcp")
	}
	slices.Sort(want)
	file, err := agent(t).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for port := range file.Config.ExposedPorts {
		got = append(got, port)
	}
	slices.Sort(got)
	if len(want) != 5 || !slices.Equal(got, want) {
		t.Errorf("the image exposes %v, the agent listens on %v", got, want)
	}
}

func TestAgentsImageTrustsPublicAuthorities(t *testing.T) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(files(t, agent(t))["etc/ssl/certs/ca-certificates.crt"]) {
		t.Fatal("the image holds no certificates")
	}
	const isrg = "ISRG Root X1"               // of Let's Encrypt
	for _, subject := range pool.Subjects() { //nolint:staticcheck // Subjects is incomplete for the system's pool only.
		if regexp.MustCompile(isrg).Match(subject) {
			return
		}
	}
	t.Errorf("%s is not trusted", isrg)
}

// TestAgentKnowsTimeZones because its image does not, and a chart that asks for one must not be rendered by the clock of UTC.
func TestAgentKnowsTimeZones(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(out)), "time/tzdata") {
		t.Error("the agent is not linked with time/tzdata")
	}
}

// TestAgentsBillListsWhereItsCertificatesAreFrom compares with the version that go.mod asks for.
func TestAgentsBillListsWhereItsCertificatesAreFrom(t *testing.T) {
	const module = "golang.org/x/crypto/x509roots/fallback"
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range bill(t, agent(t), "usr/share/sbom/cleat.spdx.json").Packages {
		if p.Name != module {
			continue
		}
		if !bytes.Contains(mod, []byte("\t"+module+" "+p.Version+"\n")) {
			t.Errorf("the bill lists %s of %s, and go.mod does not", module, p.Version)
		}
		return
	}
	t.Errorf("the bill does not list %s", module)
}

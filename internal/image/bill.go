package image

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// The bill of materials is SPDX 2.3: https://spdx.github.io/spdx-spec/v2.3/. Only the fields that are written are named here.
type (
	document struct {
		Version       string         `json:"spdxVersion"`
		License       string         `json:"dataLicense"` // of the document, not of what it lists
		ID            string         `json:"SPDXID"`
		Name          string         `json:"name"`
		Namespace     string         `json:"documentNamespace"`
		Creation      creation       `json:"creationInfo"`
		Packages      []component    `json:"packages"`
		Relationships []relationship `json:"relationships"`
	}
	creation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	component struct {
		ID            string        `json:"SPDXID"`
		Name          string        `json:"name"`
		Version       string        `json:"versionInfo,omitempty"`
		Location      string        `json:"downloadLocation"`
		FilesAnalyzed bool          `json:"filesAnalyzed"`
		Checksums     []checksum    `json:"checksums,omitempty"`
		References    []externalRef `json:"externalRefs"`
		Comment       string        `json:"comment,omitempty"`
	}
	checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	externalRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	relationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	documentID = "SPDXRef-DOCUMENT"
	programID  = "SPDXRef-Program"
)

// bill lists what the image was made from: the program, the modules that Go has recorded in it, its standard library, and what
// c.Modules adds. It is the same for the same program.
func (c Config) bill() ([]byte, error) {
	info, err := buildinfo.ReadFile(c.Binary)
	if err != nil {
		return nil, fmt.Errorf("reading what %s was built from: %w", c.Binary, err)
	}
	sum, err := sha256Of(c.Binary)
	if err != nil {
		return nil, err
	}
	program := c.component(info, sum)
	doc := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: documentID, Name: c.name(),
		Namespace:     "https://spdx.org/spdxdocs/" + c.name() + "-" + sum,
		Creation:      creation{Created: c.created().Format(time.RFC3339), Creators: []string{"Tool: github.com/cleat-dev/cleat/cmd/image"}},
		Packages:      []component{program},
		Relationships: []relationship{{documentID, "DESCRIBES", programID}},
	}
	for i, p := range c.components(info) {
		p.ID = fmt.Sprintf("SPDXRef-Module-%d", i)
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relationship{programID, "DEPENDS_ON", p.ID})
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	return append(text, '\n'), err
}

// component is the program's own entry.
func (c Config) component(info *buildinfo.BuildInfo, sum string) component {
	version := cmp.Or(c.Version, info.Main.Version)
	p := moduleComponent(info.Main.Path, version, "")
	p.ID = programID
	p.Checksums = []checksum{{"SHA256", sum}}
	return p
}

// components are what the program was linked from, sorted.
func (c Config) components(info *buildinfo.BuildInfo) []component {
	found := []component{moduleComponent("stdlib", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		found = append(found, componentOf(*m))
	}
	for _, m := range c.Modules {
		found = append(found, componentOf(m))
	}
	slices.SortFunc(found, func(a, b component) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return slices.CompactFunc(found, func(a, b component) bool { return a.Name == b.Name && a.Version == b.Version })
}

func componentOf(m debug.Module) component {
	if m.Replace != nil {
		m = *m.Replace
	}
	return moduleComponent(m.Path, m.Version, m.Sum)
}

// moduleComponent refers to the module by its package URL, which is what scanners look vulnerabilities up by. The checksum of
// go.sum is over a list of files and not over one, so it has no place among the checksums.
func moduleComponent(path, version, sum string) component {
	p := component{Name: path, Version: version, Location: "NOASSERTION"}
	locator := "pkg:golang/" + strings.ToLower(path)
	if version != "" {
		locator += "@" + strings.NewReplacer("%", "%25", "+", "%2B", "(", "%28", ")", "%29").Replace(version)
	}
	p.References = []externalRef{{"PACKAGE-MANAGER", "purl", locator}}
	if sum != "" {
		p.Comment = "go.sum: " + sum
	}
	return p
}

func sha256Of(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading the program: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

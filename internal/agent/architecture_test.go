package agent

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/cleat-dev/cleat/"
	top    = "../.." // of the repository, from this package
)

// TestArchitecture holds the folder table of ARCHITECTURE.md: every package is in it, imports only what its row allows, and
// no row allows what is not imported or names a folder that is not there.
func TestArchitecture(t *testing.T) {
	allowed := folderTable(t)
	imported := imports(t)
	for folder, packages := range imported {
		row, known := allowed[folder]
		if !known {
			t.Errorf("%s is not in the folder table of ARCHITECTURE.md", folder)
			continue
		}
		for _, p := range packages {
			if !slices.Contains(row, p) {
				t.Errorf("%s imports %s, which its row in ARCHITECTURE.md does not allow", folder, p)
			}
		}
	}
	for folder, row := range allowed {
		packages, exists := imported[folder]
		if !exists {
			t.Errorf("ARCHITECTURE.md has a row for %s, which holds no Go files", folder)
		}
		for _, p := range row {
			if !slices.Contains(packages, p) {
				t.Errorf("ARCHITECTURE.md lets %s import %s, and it does not", folder, p)
			}
		}
	}
}

// folderTable reads folder → what it may import.
func folderTable(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], "-") || strings.TrimSpace(cells[1]) == "folder" {
			continue
		}
		table[strings.TrimSpace(cells[1])] = strings.Fields(cells[3])
	}
	if len(table) == 0 {
		t.Fatal("ARCHITECTURE.md has no folder table")
	}
	return table
}

// imports reads folder → our packages that its files import, tests of the folder only where it holds nothing else.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "bin" || (strings.HasPrefix(entry.Name(), ".") && path != top)) {
			return filepath.SkipDir
		}
		folder := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), top+string(filepath.Separator)))
		if strings.HasPrefix(folder, "e2e/cluster/") { // packages of the other module are one row
			folder = "e2e/cluster"
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") && folder != "e2e" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		found[folder] = slices.Clone(found[folder])
		if found[folder] == nil {
			found[folder] = []string{}
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if p, ours := strings.CutPrefix(name, module); ours && p != folder && !strings.HasPrefix(p, "e2e/cluster") && !slices.Contains(found[folder], p) {
				found[folder] = append(found[folder], p)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

package source

import (
	"errors"
	"strings"
	"testing"
)

func TestIgnore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files [][2]string // directory, text; deeper ones first on purpose
		spec  *string
		path  string
		want  bool
	}{
		{"default", nil, nil, "logo.png", true},
		{"default CI", nil, nil, ".github/workflows/x.yaml", true},
		{"an empty spec.ignore is none", nil, new(""), "logo.png", true},
		{"no default beside patterns", nil, new("x\n"), "logo.png", false},
		{"always VCS", nil, new("x\n"), ".git/config", true},
		{"a file's own directory", [][2]string{{"a", "*.md\n"}}, nil, "a/x.md", true},
		{"not beside it", [][2]string{{"a", "*.md\n"}}, nil, "x.md", false},
		{"deeper wins", [][2]string{{"a/b", "!x.md\n"}, {"a", "*.md\n"}}, nil, "a/b/x.md", false},
		{"spec.ignore wins", [][2]string{{"", "*.md\n"}}, new("!x.md\n"), "x.md", false},
	} {
		var i Ignore
		for _, f := range tt.files {
			if err := i.Add(f[0], f[1]); err != nil {
				t.Fatal(err)
			}
		}
		if got := i.Matcher(tt.spec).Ignores(strings.Split(tt.path, "/"), false); got != tt.want {
			t.Errorf("%s: %s is ignored: %v", tt.name, tt.path, got)
		}
	}
	if err := new(Ignore).Add("", strings.Repeat("x\n", MaxIgnoreBytes)); !errors.Is(err, ErrIgnore) {
		t.Error(err)
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("a", "*.md\n!x.md\n", "a/x.md")
	f.Add("", "[a-\n**/**/**\n\\\n", "x")
	f.Fuzz(func(t *testing.T, dir, text, path string) {
		var i Ignore
		if i.Add(dir, text) != nil {
			return
		}
		m := i.Matcher(&text)
		first := m.Ignores(strings.Split(path, "/"), false)
		if m.Ignores(strings.Split(path, "/"), false) != first {
			t.Error("asked twice, it answers otherwise")
		}
	})
}

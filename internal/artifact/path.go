package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
)

// ErrPath is in the chain of every error about a name that must not be written below a directory of ours.
var ErrPath = errors.New("illegal path")

const (
	// maxPathBytes is below PATH_MAX (4096 on Linux) by the length a storage directory may have.
	maxPathBytes = 3072
	// maxNameBytes is NAME_MAX on every file system we write to.
	maxNameBytes = 255
)

// CheckPath says whether a path from outside (Git tree, tarball, chart, bucket key) may be written below a directory.
// It must be relative, slash-separated and clean, and may not hold a name that means something to Windows or to Git on any
// file system: the directory may be shared with, or copied to, one where it does (faults.md A01, A07).
func CheckPath(path string) error {
	switch {
	case len(path) > maxPathBytes:
		return fmt.Errorf("%w: name of %d bytes that starts with %q is too long", ErrPath, len(path), path[:32])
	case path == "." || !fs.ValidPath(path):
		return fmt.Errorf("%w: %q is not a clean relative path in UTF-8", ErrPath, path)
	case strings.ContainsFunc(path, unicode.IsControl):
		return fmt.Errorf("%w: %q holds a control character", ErrPath, path)
	case strings.ContainsRune(path, '\\'):
		return fmt.Errorf("%w: %q holds a backslash", ErrPath, path)
	case len(path) > 1 && path[1] == ':' && isLetter(path[0]):
		return fmt.Errorf("%w: %q starts with a drive letter", ErrPath, path)
	}
	for name := range strings.SplitSeq(path, "/") {
		if len(name) > maxNameBytes {
			return fmt.Errorf("%w: %q… is a name of %d bytes", ErrPath, name[:32], len(name))
		}
		if isGitDir(name) {
			return fmt.Errorf("%w: %q names a Git directory", ErrPath, path)
		}
	}
	return nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// isGitDir reports whether some file system takes name for `.git`: ones that fold case, NTFS (short names, streams, trailing
// dots and spaces) and HFS+ (which ignores format characters).
func isGitDir(name string) bool {
	name = strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	name, _, _ = strings.Cut(name, ":")
	name = strings.TrimRight(name, " .")
	return name == ".git" || name == "git~1"
}

// walkOrder compares paths in the order in which filepath.Walk visits them: by name within each directory, a directory
// before what it holds. It differs from the order of the strings where a name continues with a byte below '/'.
func walkOrder(a, b string) int {
	for {
		aName, aRest, aMore := strings.Cut(a, "/")
		bName, bRest, bMore := strings.Cut(b, "/")
		if c := strings.Compare(aName, bName); c != 0 {
			return c
		}
		switch {
		case !aMore && !bMore:
			return 0
		case !aMore:
			return -1
		case !bMore:
			return 1
		}
		a, b = aRest, bRest
	}
}

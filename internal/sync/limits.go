package sync

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/kustomizer"
)

// What one build may use, counted again for every time that a file is read: bases that include each other twice on every
// level read little, but often. The kustomize library itself has no limit, takes some thirty times what it reads in memory,
// compares every object with every other, and cannot be stopped (faults.md A17).
const (
	maxBuildBytes   = 32 << 20 // of what is read, YAML aliases expanded
	maxBuildFiles   = 20_000
	maxBuildObjects = 20_000
	maxBuildBases   = 2_000   // kustomization files, beside or below each other
	maxBuildDepth   = 100     // of these below each other: every level takes all below it up once more
	maxBaseBytes    = 4 << 20 // of one kustomization file
	maxBuildPatches = 10_000  // and other changes: each is tried on every object
	maxSubstituted  = 32 << 20
)

// usage is what a build has used of its limits.
type usage struct {
	bytes, files, objects, bases, patches int

	depths map[string]int // of the directories that kustomization files name
}

// take counts a file that is about to be parsed. Its errors name no more than the last two elements of the path, as the
// file may lie anywhere.
func (u *usage) take(path string, data []byte) error {
	u.files++
	u.bytes += len(data)
	u.objects += bytes.Count(data, []byte("kind")) // every object has that key, and checking more would be parsing
	short := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
	if err := u.check(short); err != nil {
		return err
	}
	if !kustomizer.MayAlias(string(data)) {
		return nil
	}
	aliased, err := kustomizer.Aliased(string(data), maxBuildBytes)
	if err != nil {
		return fmt.Errorf("%s: %w", short, err)
	}
	u.bytes += aliased
	return u.check(short)
}

// takeBase counts a kustomization file, and its entries that are each tried on every object. It returns what is in the file;
// nil when that is no YAML, of which the library says what is wrong with it.
func (u *usage) takeBase(path string, data []byte) (map[string]any, error) {
	dir := filepath.Dir(path)
	at := filepath.Join(filepath.Base(dir), filepath.Base(path))
	if len(data) > maxBaseBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes, which is the most for a kustomization file", at, maxBaseBytes)
	}
	var file map[string]any
	if yaml.Unmarshal(data, &file) != nil {
		return nil, nil //nolint:nilerr // the library says what is wrong with the file
	}
	u.bases++
	depth := u.depths[dir] + 1
	if depth > maxBuildDepth {
		return nil, fmt.Errorf("%s is more than %d levels deep: name it from further up", at, maxBuildDepth)
	}
	if u.depths == nil {
		u.depths = map[string]int{}
	}
	for field, value := range file {
		list, ok := value.([]any)
		if !ok {
			continue
		}
		switch field {
		case "resources", "bases", "components", "generators", "transformers", "validators":
			for _, entry := range list {
				if name, ok := entry.(string); ok {
					below := filepath.Join(dir, name)
					u.depths[below] = max(u.depths[below], depth)
				}
			}
		}
		if field != "resources" {
			u.patches += len(list)
		}
	}
	return file, u.check(at)
}

func (u *usage) check(at string) error {
	for _, limit := range []struct {
		used, most int
		what       string
	}{
		{u.bytes, maxBuildBytes, "bytes, YAML aliases expanded"},
		{u.files, maxBuildFiles, "files"},
		{u.objects, maxBuildObjects, "objects"},
		{u.bases, maxBuildBases, "kustomization files"},
		{u.patches, maxBuildPatches, "patches, generators and other changes"},
	} {
		if limit.used > limit.most {
			return fmt.Errorf("%s: with this file the build reads more than %d %s: split it into several Kustomizations", at, limit.most, limit.what)
		}
	}
	return nil
}

// replaceAll matches the one expression that makes a value longer: each of its letters can be replaced by any text.
var replaceAll = regexp.MustCompile(`\$\{[A-Za-z_0-9]+/`)

// checkSubstituted refuses a text that the values of its variables would make too long: a megabyte that is used a hundred
// thousand times is more than this machine has. It counts every mention of a name as a use.
func checkSubstituted(text string, variables map[string]string) error {
	longest, uses := 0, strings.Count(text, "$")
	for _, value := range variables {
		longest = max(longest, len(value))
	}
	longer := 1
	if replaceAll.MatchString(text) {
		longer = max(len(text), longest)
	}
	if uses*longest*longer <= maxSubstituted {
		return nil
	}
	sum := len(text)
	for name, value := range variables {
		sum += min(strings.Count(text, name), uses) * min(len(value)*longer, maxSubstituted+1)
		if sum > maxSubstituted {
			return fmt.Errorf("the values of its variables could make it larger than %d bytes", maxSubstituted)
		}
	}
	return nil
}

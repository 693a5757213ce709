package sync

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// localOnly is a file system that refuses to hand out a kustomization file which names anything by URL. The kustomize
// library would fetch it in the middle of a build, without a deadline, from wherever the repository says, with this
// agent's place in the network (faults.md A16, A18). Flux allows that by default; we do not: --no-remote-bases=false does.
type localOnly struct{ filesys.FileSystem }

func (fs localOnly) ReadFile(path string) ([]byte, error) {
	data, err := fs.FileSystem.ReadFile(path)
	if err != nil || !slices.Contains(konfig.RecognizedKustomizationFileNames(), filepath.Base(path)) {
		return data, err
	}
	return data, refuseRemote(data)
}

// pathFields are the fields, at any depth of a kustomization file, whose values the library would also fetch from a URL.
var pathFields = []string{
	"resources", "bases", "components", "crds", "configurations", "generators", "transformers", "validators",
	"patchesStrategicMerge", "path", "files", "env", "envs",
}

// refuseRemote returns an error when a kustomization file refers to something outside the repository.
func refuseRemote(data []byte) error {
	var file map[string]any
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil // the library says what is wrong with the file
	}
	return refuseRemoteIn("", file)
}

func refuseRemoteIn(field string, value any) error {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			if err := refuseRemoteIn(name, value[name]); err != nil {
				return err
			}
		}
	case []any:
		for _, entry := range value {
			if err := refuseRemoteIn(field, entry); err != nil {
				return err
			}
		}
	case string:
		if slices.Contains(pathFields, field) && isRemote(value) {
			return fmt.Errorf("%s names the remote file %s: commit it to the repository, or start the agent with --no-remote-bases=false",
				field, redactURL(value))
		}
	}
	return nil
}

// isRemote says that the kustomize library would take the entry for a URL or a Git repository. Inline YAML is not a path.
func isRemote(entry string) bool {
	if strings.ContainsAny(entry, "\n{") {
		return false
	}
	lower := strings.ToLower(entry)
	switch {
	case strings.Contains(lower, "://"), strings.Contains(lower, "?ref="), strings.Contains(lower, "?version="):
		return true
	case strings.HasPrefix(lower, "git@"), strings.HasPrefix(lower, "git::"):
		return true
	case strings.HasPrefix(lower, "github.com/"), strings.HasPrefix(lower, "github.com:"), strings.HasPrefix(lower, "gh:"):
		return true
	}
	return strings.Contains(lower, ".git/") || strings.HasSuffix(lower, ".git") || strings.Contains(lower, "/_git/")
}

// redactURL drops a user and password from a URL.
func redactURL(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url
	}
	if at := strings.LastIndex(strings.SplitN(rest, "/", 2)[0], "@"); at >= 0 {
		rest = rest[at+1:]
	}
	return scheme + "://" + rest
}

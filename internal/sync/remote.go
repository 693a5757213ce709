package sync

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// guard stands between the kustomize library and the files of a build, and looks at what goes through.
type guard struct {
	filesys.FileSystem
	// remote lets a file name others by URL. The library would fetch them in the middle of a build, without a deadline,
	// from wherever the repository says, with this agent's place in the network (faults.md A16, A18). Flux allows that by
	// default; we do not: --no-remote-bases=false does.
	remote bool
	// replace lets a kustomization file bring an OpenAPI schema, which the library then uses for all builds of the process.
	replace bool
	// own: there was one that does.
	own bool
	// ended says why nobody waits for the build any more. The library cannot be stopped but by a file that it cannot read.
	ended func() error
	used  usage
	// exceeded is the limit that the build has run into. It reads nothing more then: the library takes some errors for no file.
	exceeded error
}

// errOwnSchema ends a build that must be run alone.
var errOwnSchema = errors.New("this build has an openapi field of its own")

func (g *guard) ReadFile(path string) ([]byte, error) {
	if err := g.ended(); err != nil {
		return nil, err
	}
	data, err := g.FileSystem.ReadFile(path)
	if err != nil {
		return data, err
	}
	if g.exceeded == nil {
		g.exceeded = g.used.take(path, data)
	}
	if g.exceeded != nil {
		return nil, g.exceeded
	}
	if !slices.Contains(konfig.RecognizedKustomizationFileNames(), filepath.Base(path)) {
		if g.remote {
			return data, nil
		}
		return data, refuseRemotePlugin(data)
	}
	var file map[string]any
	if file, g.exceeded = g.used.takeBase(path, data); g.exceeded != nil {
		return nil, g.exceeded
	}
	if hasField(file, "openapi") {
		g.own = true
		if !g.replace {
			return nil, errOwnSchema
		}
	}
	if g.remote {
		return data, nil
	}
	return data, refuseRemoteIn("", file)
}

// refuseRemotePlugin returns an error when a file configures one of kustomize's own generators or transformers, which are
// the other way to name a path, to read from outside the repository.
func refuseRemotePlugin(data []byte) error {
	if !bytes.Contains(data, []byte(konfig.BuiltinPluginApiVersion)) {
		return nil
	}
	for _, document := range documents.Split(string(data), -1) {
		var object map[string]any
		if yaml.Unmarshal([]byte(document), &object) != nil {
			continue // the library says what is wrong with it
		}
		if version, _ := object["apiVersion"].(string); strings.TrimSpace(version) == konfig.BuiltinPluginApiVersion {
			if err := refuseRemoteIn("", object); err != nil {
				return err
			}
		}
	}
	return nil
}

// documents matches what separates YAML documents.
var documents = regexp.MustCompile(`(?m)^---.*$`)

// pathFields are the fields, at any depth of a kustomization file, whose values the library would also fetch from a URL.
var pathFields = []string{
	"resources", "bases", "components", "crds", "configurations", "generators", "transformers", "validators",
	"patchesStrategicMerge", "path", "files", "env", "envs",
}

// refuseRemoteIn returns an error when a value of a kustomization file refers to something outside the repository.
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
		if !isPathField(field) {
			return nil
		}
		if strings.Contains(value, "\n") {
			return refuseRemotePlugin([]byte(value)) // an inline generator or transformer
		}
		if isRemote(value) {
			return fmt.Errorf("%s names the remote file %s: commit it to the repository, or start the agent with --no-remote-bases=false",
				field, redactURL(value))
		}
	}
	return nil
}

// isPathField and hasField know a field by its name in any case, as the library does, which decodes by encoding/json.
func isPathField(field string) bool {
	return slices.ContainsFunc(pathFields, func(name string) bool { return strings.EqualFold(name, field) })
}

func hasField(file map[string]any, field string) bool {
	for name := range file {
		if strings.EqualFold(name, field) {
			return true
		}
	}
	return false
}

// isRemote says that the kustomize library would take the entry for a URL or a Git repository. It knows more forms than
// anybody remembers, so that whatever has a host before its first slash is taken for one.
func isRemote(entry string) bool {
	lower := strings.ToLower(strings.TrimSpace(entry))
	first, rest, deeper := strings.Cut(lower, "/")
	switch {
	case strings.Contains(lower, "://"), strings.Contains(lower, "?ref="), strings.Contains(lower, "?version="):
		return true
	case strings.Contains(first, ":"), deeper && strings.Contains(first, "@"):
		return true
	case deeper && (first == "github.com" || first == "gitlab.com" || first == "bitbucket.org"):
		return true
	}
	return strings.Contains(lower, ".git/") || strings.HasSuffix(lower, ".git") || strings.Contains(rest, "_git/")
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

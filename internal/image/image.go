package image

import (
	"fmt"
	"path"
	"runtime/debug"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NonRoot is the user of an image that names no other. It is a number, because Kubernetes cannot tell from a name whether it is
// root's.
const NonRoot = "65532:65532"

// searchPath is set in every image: a probe or `kubectl exec` names a program without its directory, and containerd finds it
// only by the PATH of the image.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config says what an image is made of.
type Config struct {
	Binary   string   // path on this machine of a static Linux program, built by Go
	Program  string   // its path in the image, which is also the entrypoint: /usr/local/bin/NAME
	Args     []string // what it is started with where nobody says otherwise
	Platform string   // linux/amd64, linux/arm64, ...; what Binary was built for
	User     string   // UID:GID, NonRoot when empty
	Files    []File   // beside the program
	Env      []string // NAME=value, beside PATH
	Ports    []string // 8080/tcp; they are documentation, nothing is opened by them
	Labels   map[string]string
	Version  string    // of the program; what Go has recorded in it when empty
	Created  time.Time // of the image and not of its files; 1970 when zero
	// Modules are those that Files were made from. The bill of materials lists them beside those in Binary.
	Modules []debug.Module
}

// Build makes the image. Its layers are read again from Binary whenever they are asked for.
func Build(c Config) (v1.Image, error) {
	platform, err := v1.ParsePlatform(c.Platform)
	if err != nil {
		return nil, fmt.Errorf("reading the platform %q: %w", c.Platform, err)
	}
	layers, err := c.layers()
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		packed, err := l.pack()
		if err != nil {
			return nil, fmt.Errorf("packing %s: %w", l.what, err)
		}
		history := v1.History{Created: v1.Time{Time: c.created()}, CreatedBy: l.what}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: packed, History: history}); err != nil {
			return nil, fmt.Errorf("adding %s: %w", l.what, err)
		}
	}
	return c.configure(img, platform)
}

// configure sets what a runtime is told of the image.
func (c Config) configure(img v1.Image, platform *v1.Platform) (v1.Image, error) {
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = platform.OS, platform.Architecture, platform.Variant
	file.Created = v1.Time{Time: c.created()}
	file.Config = v1.Config{
		User:         c.user(),
		Entrypoint:   []string{c.Program},
		Cmd:          c.Args,
		Env:          append([]string{searchPath}, c.Env...),
		WorkingDir:   "/",
		ExposedPorts: set(c.Ports),
		Labels:       c.Labels,
	}
	return mutate.ConfigFile(img, file)
}

func (c Config) user() string {
	if c.User == "" {
		return NonRoot
	}
	return c.User
}

// created is in whole seconds, which is all that the time of a commit holds.
func (c Config) created() time.Time {
	if c.Created.IsZero() {
		return epoch()
	}
	return c.Created.UTC().Truncate(time.Second)
}

// name is what the program is called.
func (c Config) name() string { return path.Base(c.Program) }

func set(keys []string) map[string]struct{} {
	s := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		s[k] = struct{}{}
	}
	return s
}

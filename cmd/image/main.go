// Command image builds the agent and makes its container image, without Docker.
//
//	image [flags] PLATFORM...
//
// It runs in the top directory of the repository. `make image-oci` and the Dockerfile call it, so that there is one place that
// says how the agent is compiled and what is in its image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cleat-dev/cleat/internal/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// options say what to make. At least one of Archive, Docker and Root is wanted.
type options struct {
	Name      string
	Release   image.Release
	Archive   string
	Docker    string
	Root      string
	Platforms []string
}

func parse(args []string) (options, error) {
	var o options
	var created int64
	set := flag.NewFlagSet("image", flag.ContinueOnError)
	set.StringVar(&o.Name, "name", "cleat:dev", "what to call the image")
	set.StringVar(&o.Release.Version, "version", "dev", "version of the agent")
	set.StringVar(&o.Release.Revision, "revision", "", "commit that it is built from")
	set.Int64Var(&created, "created", 0, "time of the image, in seconds since 1970; the commit's, so that it can be built again")
	set.StringVar(&o.Archive, "oci", "", "write the tarball of an OCI layout here")
	set.StringVar(&o.Docker, "docker", "", "write a tarball for an older 'docker load' here; of one platform")
	set.StringVar(&o.Root, "root", "", "write the files of each layer here; of one platform")
	if err := set.Parse(args); err != nil {
		return o, err
	}
	o.Release.Created, o.Platforms = time.Unix(created, 0), set.Args()
	return o, o.validate()
}

func (o options) validate() error {
	if len(o.Platforms) == 0 {
		return errors.New("no platform is named; linux/amd64 is one")
	}
	if len(o.Platforms) > 1 && o.Docker+o.Root != "" {
		return errors.New("-docker and -root are of one platform; -oci holds several")
	}
	if o.Archive+o.Docker+o.Root == "" {
		return errors.New("nothing is asked for; give -oci, -docker or -root")
	}
	return nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var images []v1.Image
	for _, platform := range o.Platforms {
		config, err := o.configure(ctx, dir, platform)
		if err != nil {
			return err
		}
		if o.Root != "" {
			if err := image.WriteRoot(o.Root, config); err != nil {
				return fmt.Errorf("writing the files for %s: %w", platform, err)
			}
		}
		if o.Archive+o.Docker == "" {
			continue // Compressing layers that nobody wants takes seconds.
		}
		img, err := image.Build(config)
		if err != nil {
			return fmt.Errorf("making the image for %s: %w", platform, err)
		}
		if err := describe(out, platform, img); err != nil {
			return err
		}
		images = append(images, img)
	}
	return o.save(images)
}

// configure compiles the agent for the platform and says what its image is made of.
func (o options) configure(ctx context.Context, dir, platform string) (image.Config, error) {
	binary := filepath.Join(dir, strings.ReplaceAll(platform, "/", "-"))
	if err := compile(ctx, binary, platform, o.Release.Version); err != nil {
		return image.Config{}, fmt.Errorf("compiling for %s: %w", platform, err)
	}
	return image.Agent(binary, platform, o.Release), nil
}

func (o options) save(images []v1.Image) error {
	if o.Archive != "" {
		if err := write(o.Archive, func(w io.Writer) error { return image.Save(w, o.Name, images...) }); err != nil {
			return err
		}
	}
	if o.Docker != "" {
		return write(o.Docker, func(w io.Writer) error { return image.SaveDocker(w, o.Name, images[0]) })
	}
	return nil
}

// write leaves no half of a file under the name.
func write(path string, content func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // Nothing is there to remove once it has its name.
	if err := errors.Join(content(file), file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}

// describe tells a person what was made.
func describe(out io.Writer, platform string, img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	total := manifest.Config.Size
	for _, l := range manifest.Layers {
		total += l.Size
	}
	fmt.Fprintf(out, "%s %s %.1f MiB compressed\n", platform, digest, float64(total)/(1<<20))
	return nil
}

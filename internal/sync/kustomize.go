package sync

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/kustomizer"
	"github.com/cleat-dev/cleat/internal/object"
)

// kustomize runs the kustomize library over dir, with the settings of the spec merged into its kustomization file and the
// sources of its generators and patches decrypted. It also returns what was looked at, unless that cannot be told. What was
// decrypted for one Kustomization is shared with no other.
func (r *renderer) kustomize(ctx context.Context, settings unstructured.Unstructured, files files, dir string, keys *decrypt.Decryptor) (_ resmap.ResMap, _ *reads, err error) {
	defer recovered(&err)
	p, err := r.prepare(ctx, settings, files, dir)
	if err != nil {
		return nil, nil, err
	}
	shared := !r.remoteBases && keys == nil
	if shared {
		if known, reads := r.shared.find(p.key, files); known != nil {
			p.seen.add(reads)
			return known, p.seen, nil
		}
	}
	// Not under the lock of the schema: a key service may take its time.
	if err := keys.Sources(ctx, p.overlay, files.Dir(), dir); err != nil {
		return nil, nil, err
	}
	built, own, err := r.accumulate(ctx, p, dir, kustomizer.Schema.Share, false)
	if own {
		built, _, err = r.accumulate(ctx, p, dir, kustomizer.Schema.Replace, true)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case r.remoteBases:
		// What comes from elsewhere is cloned into a temporary directory, and may be something else the next time.
		return built, nil, nil
	case shared && !own:
		r.shared.keep(p.key, built, p.seen)
	}
	return built, p.seen, nil
}

// prepared is what the kustomize library is run over.
type prepared struct {
	key     object.Digest // of the directory and the kustomization file with the settings of the spec
	overlay filesys.FileSystem
	seen    *reads
}

// prepare makes the kustomization file with the settings of the spec, which lies over the one in dir.
func (r *renderer) prepare(ctx context.Context, settings unstructured.Unstructured, files files, dir string) (*prepared, error) {
	done, err := kustomizer.Schema.Share(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	p := &prepared{seen: newReads()}
	var disk filesys.FileSystem = snapshotFS{files, p.seen}
	if r.remoteBases {
		if disk, err = securefs.MakeFsOnDiskSecureBuild(files.Dir()); err != nil {
			return nil, err
		}
	}
	if err := noteGenerator(disk, dir, settings); err != nil {
		return nil, err
	}
	manifest, file, _, err := kustomize.NewGenerator(files.Dir(), settings).GenerateManifest(dir)
	if err != nil {
		return nil, err
	}
	p.key = object.DigestOfText(dir[len(files.Dir()):] + "\n" + string(manifest))
	p.overlay = securefs.MakeFsInMemory(disk)
	return p, p.overlay.WriteFile(file, manifest)
}

// accumulate is one run of the library, under a lock of the OpenAPI schema. Without leave to replace that, own says that it has
// ended because the build has one of its own.
func (r *renderer) accumulate(ctx context.Context, p *prepared, dir string, lock func(context.Context) (func(), error), replace bool) (built resmap.ResMap, own bool, err error) {
	done, err := lock(ctx)
	if err != nil {
		return nil, false, err
	}
	defer done()
	guarded := &guard{FileSystem: p.overlay, remote: r.remoteBases, replace: replace, ended: ctx.Err}
	options := &krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}
	built, err = krusty.MakeKustomizer(options).Run(guarded, dir)
	switch {
	case guarded.own && !replace:
		return nil, true, nil
	case guarded.exceeded != nil:
		return nil, false, guarded.exceeded // rather than how often it was met on the way up
	}
	return built, false, err
}

// recovered makes an error of a panic: the library panics on data that it did not expect.
func recovered(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("the kustomize library gave up on this input: %v", cause)
	}
}

// noteGenerator looks at what the library's generator looks at, which reads the disk by itself: the kustomization file of
// dir or, where there is none, the directories in which it searches for manifests. Since it parses the manifests that it finds,
// they are held to the limits here.
func noteGenerator(disk filesys.FileSystem, dir string, settings unstructured.Unstructured) error {
	components, _, _ := unstructured.NestedStringSlice(settings.Object, "spec", "components")
	for _, component := range components {
		disk.Exists(filepath.Join(dir, component)) // a missing one may be ignored
	}
	var used usage
	if name := kustomizationIn(disk, dir); name != "" {
		data, err := disk.ReadFile(name)
		if err == nil {
			err = used.take(name, data)
		}
		if err == nil {
			_, err = used.takeBase(name, data)
		}
		return err
	}
	return disk.Walk(dir, func(name string, info fs.FileInfo, err error) error {
		if err == nil && info.IsDir() && name != dir && kustomizationIn(disk, name) != "" {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(name); err == nil && !info.IsDir() && (ext == ".yaml" || ext == ".yml") {
			data, err := disk.ReadFile(name)
			if err != nil {
				return err
			}
			return used.take(name, data)
		}
		return err
	})
}

// kustomizationIn returns the path of the kustomization file in dir, or "".
func kustomizationIn(disk filesys.FileSystem, dir string) string {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if name = filepath.Join(dir, name); disk.Exists(name) && !disk.IsDir(name) {
			return name
		}
	}
	return ""
}

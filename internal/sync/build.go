package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"github.com/fluxcd/pkg/ssa/normalize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// Build is what a Kustomization makes of a snapshot: the objects that should be on the cluster.
type Build struct {
	Objects []*unstructured.Unstructured
	// Digest identifies the built manifests, as in status.history.
	Digest string
}

// renderer turns a directory of a snapshot into objects. It writes nothing to disk: what Flux writes into its private copy
// of the artifact lies in memory here, over the shared read-only snapshot.
type renderer struct {
	// variables reads the ConfigMaps and Secrets of postBuild.substituteFrom.
	variables client.Client
	// remoteBases allows a kustomization to name resources by URL.
	remoteBases bool
	// strict fails the build on a variable that is neither set nor has a default.
	strict bool
}

// build builds the directory path, relative to root, for ks. root is the snapshot's directory; nothing outside it is read.
func (r *renderer) build(ctx context.Context, ks *kustomizev1.Kustomization, root, path string) (*Build, error) {
	settings, err := encode(ks)
	if err != nil {
		return nil, err
	}
	resources, err := r.kustomize(settings, root, filepath.Join(root, path))
	if err != nil {
		return nil, relative(err, root)
	}
	if err := r.substitute(ctx, ks, settings, resources); err != nil {
		return nil, err
	}
	manifests, err := resources.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("encoding the build: %w", err)
	}
	objects, err := ssautil.ReadObjects(strings.NewReader(string(manifests)))
	if err != nil {
		return nil, fmt.Errorf("decoding the build: %w", err)
	}
	if err := finish(ks, objects); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(manifests)
	return &Build{Objects: objects, Digest: "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// buildObjects renders what should be on the cluster. The kustomize library knows no deadline, so it is not waited for
// longer than this run may last; the snapshot is held until it has ended.
func (r *Reconciler) buildObjects(ctx context.Context, a *attempt) error {
	type result struct {
		build *Build
		err   error
	}
	done := make(chan result, 1)
	ks := a.ks.DeepCopy()
	go func() {
		defer a.release()
		build, err := r.renderer.build(ctx, ks, a.snapshot.Dir(), a.path)
		done <- result{build, err}
	}()
	var built result
	select {
	case <-ctx.Done():
		return api.Faultf(meta.BuildFailedReason, api.RetryInterval, "the build did not end within %s", a.ks.GetTimeout())
	case built = <-done:
	}
	if built.err != nil {
		return api.AsFault(built.err, meta.BuildFailedReason, api.RetryInterval)
	}
	a.build, a.digest = built.build, built.build.Digest
	for _, u := range a.build.Objects {
		a.desired = append(a.desired, object.RefOf(u))
	}
	return nil
}

// kustomize runs the kustomize library over dir, with the settings of the spec merged into its kustomization file.
func (r *renderer) kustomize(settings unstructured.Unstructured, root, dir string) (resmap.ResMap, error) {
	manifest, file, _, err := kustomize.NewGenerator(root, settings).GenerateManifest(dir)
	if err != nil {
		return nil, err
	}
	if !r.remoteBases {
		if err := refuseRemote(manifest); err != nil {
			return nil, err
		}
	}
	disk, err := r.disk(root)
	if err != nil {
		return nil, err
	}
	overlay := securefs.MakeFsInMemory(disk)
	if err := overlay.WriteFile(file, manifest); err != nil {
		return nil, err
	}
	return kustomize.Build(overlay, dir)
}

// disk returns the file system that a build may read.
func (r *renderer) disk(root string) (filesys.FileSystem, error) {
	if r.remoteBases {
		return securefs.MakeFsOnDiskSecureBuild(root)
	}
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		return nil, err
	}
	return localOnly{disk}, nil
}

// substitute replaces ${variables} in every resource that does not opt out. CustomResourceDefinitions are exempt: their
// descriptions are full of ${…} that mean nothing to us (faults.md F46).
func (r *renderer) substitute(ctx context.Context, ks *kustomizev1.Kustomization, settings unstructured.Unstructured, resources resmap.ResMap) error {
	if ks.Spec.PostBuild == nil {
		return nil
	}
	// Read once for the whole build; the spec's own variables win over those that are referred to.
	secrets := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret"}}
	ctx = kustomize.ContextWithSecretVarsCollector(ctx, func(values map[string]string) { remember(secrets, values) })
	variables, err := kustomize.LoadVariables(ctx, r.variables, settings)
	if err != nil {
		return fmt.Errorf("post build failed: %w", err)
	}
	for name, value := range ks.Spec.PostBuild.Substitute {
		variables[name] = value
	}
	if err := unstructured.SetNestedStringMap(settings.Object, variables, "spec", "postBuild", "substitute"); err != nil {
		return fmt.Errorf("post build failed: %w", err)
	}
	always := ks.GetSubstituteStrategy() == kustomizev1.SubstituteStrategyAlways
	for _, resource := range resources.Resources() {
		if resource.GetKind() == "CustomResourceDefinition" {
			continue
		}
		_, err := kustomize.SubstituteVariables(ctx, r.variables, settings, resource,
			kustomize.SubstituteWithDryRun(true), // the variables are in settings already
			kustomize.SubstituteWithStrict(r.strict),
			kustomize.SubstituteWithAlways(always))
		if err != nil {
			return object.MaskError(fmt.Errorf("post build failed for '%s/%s': %w", resource.GetGvk().String(), resource.GetName(), err), secrets)
		}
	}
	return nil
}

// yamlIndicators are the characters that the YAML parser may drop from a value that it quotes in an error.
const yamlIndicators = "*&!|>%@`\"'{}[],#?:- \t"

// remember adds the values of variables that come from Secrets to an object by which errors are masked.
func remember(secrets *unstructured.Unstructured, values map[string]string) {
	data := map[string]any{}
	for name, value := range values {
		data[name] = value
		data[name+"-bare"] = strings.Trim(value, yamlIndicators)
	}
	secrets.Object["stringData"] = data
}

// finish brings the objects into the form in which they are applied.
func finish(ks *kustomizev1.Kustomization, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		if _, encrypted := u.Object["sops"]; encrypted && u.GetKind() == "Secret" {
			return fmt.Errorf("%s is SOPS encrypted, configuring decryption is required for this secret to be reconciled",
				ssautil.FmtUnstructured(u))
		}
		object.SetOwner(u, client.ObjectKeyFromObject(ks))
	}
	if err := normalize.UnstructuredList(objects); err != nil { // it drops fields that the kind does not have
		return fmt.Errorf("normalizing the build: %w", err)
	}
	if common := ks.Spec.CommonMetadata; common != nil {
		ssautil.SetCommonMetadata(objects, common.Labels, common.Annotations)
	}
	return nil
}

// encode returns the Kustomization as the kustomize library's helpers want it.
func encode(ks *kustomizev1.Kustomization) (unstructured.Unstructured, error) {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ks)
	if err != nil {
		return unstructured.Unstructured{}, fmt.Errorf("encoding the Kustomization: %w", err)
	}
	return unstructured.Unstructured{Object: object}, nil
}

// checkPath says whether path is a directory of the snapshot, and returns it cleaned and relative to the root.
func checkPath(root fs.FS, path string) (string, error) {
	clean := filepath.Clean("/" + path)[1:] // the spec's path is always seen from the root of the source
	if clean == "" {
		return ".", nil
	}
	info, err := fs.Stat(root, clean)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return "", fmt.Errorf("kustomization path not found: stat %s: %w", clean, err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("kustomization path not found: %s is a file, not a directory", clean)
	}
	return clean, nil
}

// relative removes the snapshot's place on this machine from an error's text, so that the same failure reads the same on
// every run and every host.
func relative(err error, root string) error {
	text := strings.ReplaceAll(err.Error(), root+string(filepath.Separator), "")
	return errors.New(strings.ReplaceAll(text, root, "."))
}

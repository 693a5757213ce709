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
	"github.com/fluxcd/pkg/ssa/normalize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/resmap"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// Build is what a Kustomization makes of a snapshot: the objects that should be on the cluster.
type Build struct {
	// Objects are nil in a build that was remembered: only what they are is.
	Objects []*unstructured.Unstructured
	Refs    []object.Ref
	// Expiring are the Jobs that delete themselves when they are done: one that has gone has completed.
	Expiring map[object.Key]bool
	// Digest identifies the built manifests, as in status.history.
	Digest string
	// Sensitive masks errors about Objects, beside the Secrets among them: it has every value that was decrypted, and every
	// variable that came from a Secret. It is nil in a build that was remembered.
	Sensitive *unstructured.Unstructured

	// from is what the build was made from, so that it can be told whether the next would be the same. Nil: it cannot.
	from *origin
}

// renderer turns a directory of a snapshot into objects. It writes nothing to disk: what Flux writes into its private copy
// of the artifact lies in memory here, over the shared read-only snapshot.
type renderer struct {
	// variables reads the ConfigMaps and Secrets of postBuild.substituteFrom.
	variables client.Client
	// decryption reads the keys that a Kustomization decrypts with.
	decryption *decrypt.Loader
	// remoteBases allows a kustomization to name resources by URL.
	remoteBases bool
	// strict fails the build on a variable that is neither set nor has a default.
	strict bool

	shared accumulations
}

// build builds the directory path of files, relative to their top, for ks. Nothing outside of files is read.
func (r *renderer) build(ctx context.Context, ks *kustomizev1.Kustomization, files files, path string) (*Build, error) {
	references := &references{Client: r.variables, seen: map[object.Ref]version{}}
	keys, err := r.decryption.Load(ctx, references, ks)
	if err != nil {
		return nil, err
	}
	secrets := newSensitive()
	build, err := r.buildWith(ctx, ks, files, path, references, keys, secrets)
	sensitive := together(keys.Sensitive(), secrets)
	if err != nil {
		return nil, object.MaskError(err, sensitive)
	}
	build.Sensitive = sensitive
	return build, nil
}

// newSensitive returns an object that is never applied: errors are masked by its values.
func newSensitive() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret"}}
}

// together returns an object with what was decrypted, which may be nil, and the variables that came from Secrets.
func together(decrypted, variables *unstructured.Unstructured) *unstructured.Unstructured {
	if decrypted == nil {
		return variables
	}
	if data, ok := variables.Object["stringData"]; ok {
		decrypted.Object["data"] = data // of which object.MaskError makes no difference
	}
	return decrypted
}

// buildWith builds with keys to decrypt by. Its errors may quote what was decrypted, and secrets, which it fills.
func (r *renderer) buildWith(ctx context.Context, ks *kustomizev1.Kustomization, files files, path string, references *references, keys *decrypt.Decryptor, secrets *unstructured.Unstructured) (*Build, error) {
	settings, err := encode(ks)
	if err != nil {
		return nil, err
	}
	resources, seen, err := r.kustomize(ctx, settings, files, filepath.Join(files.Dir(), path), keys)
	if err != nil {
		return nil, relative(err, files.Dir())
	}
	err = refuseRenamed(settings, resources, func(without unstructured.Unstructured) (resmap.ResMap, error) {
		plain, _, err := r.kustomize(ctx, without, files, filepath.Join(files.Dir(), path), keys)
		if err != nil {
			return nil, relative(err, files.Dir())
		}
		return plain, nil
	})
	if err != nil {
		return nil, err
	}
	if err := keys.Objects(ctx, resources); err != nil {
		return nil, err
	}
	if err := r.substitute(ctx, references, ks, settings, resources, secrets); err != nil {
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
	build := &Build{Objects: objects, Expiring: expiring(objects), Digest: "sha256:" + hex.EncodeToString(sum[:])}
	for _, u := range objects {
		build.Refs = append(build.Refs, object.RefOf(u))
	}
	if seen != nil {
		build.from = &origin{asked: digestOfSpec(ks), reads: seen, references: references.seen}
	}
	return build, nil
}

// buildObjects finds what should be on the cluster. If all that the last build looked at is the same, and every object is
// as it was left then, nothing is rendered and nothing will be applied; somebody who asks for a run by hand gets one in full.
func (r *Reconciler) buildObjects(ctx context.Context, a *attempt) error {
	if !a.requested() {
		if known := r.builds.same(a.ks, a.asked.variables, a.snapshot, r.Clusters.Own().Observer); known != nil && a.applier.AsLeft(a.key, known.Refs) {
			a.release()
			a.take(known)
			a.asLeft = true
			return nil
		}
	}
	if err := r.act(ctx, a); err != nil {
		a.release()
		return api.AsFault(err, meta.ReconciliationFailedReason, kube.RetryOf(err))
	}
	r.builds.drop(a.key) // until what is built now has been applied
	build, err := r.render(ctx, a)
	if err != nil {
		return api.AsFault(err, meta.BuildFailedReason, api.RetryInterval)
	}
	if build.from != nil {
		build.from.changes = a.asked.variables
	}
	a.take(build)
	return nil
}

func (a *attempt) take(build *Build) { a.build, a.digest, a.desired = build, build.Digest, build.Refs }

// render runs the renderer. The kustomize library knows no deadline, so it is not waited for longer than this run may last;
// the snapshot is held until it has ended.
func (r *Reconciler) render(ctx context.Context, a *attempt) (*Build, error) {
	type result struct {
		build *Build
		err   error
	}
	done := make(chan result, 1)
	ks := a.ks.DeepCopy()
	go func() {
		defer a.release()
		build, err := r.renderer.build(ctx, ks, a.snapshot, a.path)
		done <- result{build, err}
	}()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("the build did not end within %s", a.ks.GetTimeout())
	case built := <-done:
		return built.build, built.err
	}
}

// substitute replaces ${variables} in every resource that does not opt out. CustomResourceDefinitions are exempt: their
// descriptions are full of ${…} that mean nothing to us (faults.md F46).
//
// The values of variables that come from Secrets are kept in secrets, by which errors are masked.
func (r *renderer) substitute(ctx context.Context, from client.Client, ks *kustomizev1.Kustomization, settings unstructured.Unstructured, resources resmap.ResMap, secrets *unstructured.Unstructured) error {
	if ks.Spec.PostBuild == nil {
		return nil
	}
	// Read once for the whole build; the spec's own variables win over those that are referred to.
	ctx = kustomize.ContextWithSecretVarsCollector(ctx, func(values map[string]string) { remember(secrets, values) })
	variables, err := kustomize.LoadVariables(ctx, from, settings)
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
		text, err := resource.AsYAML()
		if err == nil {
			err = checkSubstituted(string(text), variables)
		}
		if err != nil {
			return fmt.Errorf("post build failed for '%s/%s': %w", resource.GetGvk().String(), resource.GetName(), err)
		}
		_, err = kustomize.SubstituteVariables(ctx, from, settings, resource,
			kustomize.SubstituteWithDryRun(true), // the variables are in settings already
			kustomize.SubstituteWithStrict(r.strict),
			kustomize.SubstituteWithAlways(always))
		if err != nil {
			return fmt.Errorf("post build failed for '%s/%s': %w", resource.GetGvk().String(), resource.GetName(), err)
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
		data[name+"-line"] = strings.ReplaceAll(value, "\n", "") // as it is put in
	}
	secrets.Object["stringData"] = data
}

// finish brings the objects into the form in which they are applied.
func finish(ks *kustomizev1.Kustomization, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		if _, encrypted := u.Object["sops"]; encrypted && u.GetKind() == "Secret" && !decrypt.Disabled(u.GetAnnotations()) {
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
	var told *api.Fault
	if errors.As(err, &told) {
		return told // ours, which knows better than to name it
	}
	text := strings.ReplaceAll(err.Error(), root+string(filepath.Separator), "")
	return errors.New(strings.ReplaceAll(text, root, "."))
}

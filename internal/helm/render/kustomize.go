package render

import (
	"context"
	"fmt"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"sigs.k8s.io/kustomize/api/builtins" //nolint:staticcheck // there is no other way to what the transformers do, but by files
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/resid"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/kustomizer"
)

const (
	// maxObjects is how many objects one stream may have, if every word `kind` in it is one of an object: the library compares every
	// one with every other.
	maxObjects = 100_000
	// maxTried is how often patches and images may be tried on objects.
	maxTried = 10_000_000
)

// kustomized runs all post-renderers over a stream of documents and returns what comes of it by file.
func (p PostRender) kustomized(ctx context.Context, m *meter, text string) (_ map[string]string, err error) {
	done, err := kustomizer.Schema.Share(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	// The library panics on data that it did not expect.
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the kustomize library gave up on this input: %v", cause)
		}
	}()
	objects := int64(strings.Count(text, "kind"))
	if objects > maxObjects {
		return nil, m.stop("there are more than %d objects", maxObjects)
	}
	for _, each := range p.Kustomize {
		if each.Kustomize == nil {
			continue // an entry of a kind that is not known
		}
		if times(objects, int64(len(each.Kustomize.Patches)+len(each.Kustomize.Images))) > maxTried {
			return nil, m.stop("there are too many patches for so many objects")
		}
		if err := m.check(); err != nil {
			return nil, err
		}
		if text, err = patched(m, each.Kustomize, text); err != nil {
			return nil, err
		}
	}
	resources, err := resmap.NewFactory(provider.NewDefaultDepProvider().GetResourceFactory()).NewResMapFromBytes([]byte(text))
	if err != nil {
		return nil, err
	}
	if err := p.mark(resources); err != nil {
		return nil, err
	}
	return byFile(m, resources)
}

// patched runs the library over a stream with one post-renderer of the user.
func patched(m *meter, spec *v2.Kustomize, text string) (string, error) {
	const input = "rendered.yaml"
	file := kustypes.Kustomization{Resources: []string{input}}
	file.TypeMeta = kustypes.TypeMeta{APIVersion: kustypes.KustomizationVersion, Kind: kustypes.KustomizationKind}
	for _, image := range spec.Images {
		file.Images = append(file.Images, kustypes.Image{Name: image.Name, NewName: image.NewName, NewTag: image.NewTag, Digest: image.Digest})
	}
	for i, patch := range spec.Patches {
		if err := m.unaliased(fmt.Sprintf("patch %d", i), patch.Patch); err != nil {
			return "", err
		}
		made := kustypes.Patch{Patch: patch.Patch}
		if s := patch.Target; s != nil {
			made.Target = &kustypes.Selector{
				ResId:              resid.ResId{Gvk: resid.Gvk{Group: s.Group, Version: s.Version, Kind: s.Kind}, Name: s.Name, Namespace: s.Namespace},
				AnnotationSelector: s.AnnotationSelector, LabelSelector: s.LabelSelector,
			}
		}
		file.Patches = append(file.Patches, made)
	}
	settings, err := yaml.Marshal(file)
	if err != nil {
		return "", err
	}
	files := filesys.MakeFsInMemory()
	if err := files.WriteFile("kustomization.yaml", settings); err != nil {
		return "", err
	}
	if err := files.WriteFile(input, []byte(text)); err != nil {
		return "", err
	}
	options := &krusty.Options{LoadRestrictions: kustypes.LoadRestrictionsRootOnly, PluginConfig: kustypes.DisabledPluginConfig()}
	built, err := krusty.MakeKustomizer(options).Run(files, ".")
	if err != nil {
		return "", err
	}
	made, err := built.AsYaml()
	if err != nil {
		return "", err
	}
	return string(made), m.text(int64(len(made)))
}

// mark sets the common metadata, and then the labels of the owner.
func (p PostRender) mark(resources resmap.ResMap) error {
	if common := p.CommonMetadata; common != nil {
		if err := label(resources, common.Labels); err != nil {
			return err
		}
		annotations := builtins.AnnotationsTransformerPlugin{
			Annotations: common.Annotations, FieldSpecs: []kustypes.FieldSpec{{Path: "metadata/annotations", CreateIfNotPresent: true}},
		}
		if err := annotations.Transform(resources); err != nil {
			return err
		}
	}
	if p.Owner.Name == "" {
		return nil
	}
	return label(resources, map[string]string{
		v2.GroupVersion.Group + "/name":      p.Owner.Name,
		v2.GroupVersion.Group + "/namespace": p.Owner.Namespace,
	})
}

func label(resources resmap.ResMap, labels map[string]string) error {
	t := builtins.LabelTransformerPlugin{
		Labels: labels, FieldSpecs: []kustypes.FieldSpec{{Path: "metadata/labels", CreateIfNotPresent: true}},
	}
	return t.Transform(resources)
}

// byFile returns the objects as texts of the files that they say they are of. One that does not say so is a file of its own.
func byFile(m *meter, resources resmap.ResMap) (map[string]string, error) {
	files := map[string]string{}
	for i, resource := range resources.Resources() {
		annotations := resource.GetAnnotations()
		name := annotations[fileAnnotation]
		if name == "" {
			name = fmt.Sprintf("generated-by-postrender-%d.yaml", i)
		}
		delete(annotations, fileAnnotation)
		if err := resource.SetAnnotations(annotations); err != nil {
			return nil, err
		}
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		if err := m.text(int64(len(text))); err != nil {
			return nil, err
		}
		if before := files[name]; before != "" {
			text = append([]byte(before+"---\n"), text...)
		}
		files[name] = string(text)
	}
	return files, nil
}

// unaliased refuses YAML whose aliases stand for more than may be rendered: the library copies what they stand for.
func (m *meter) unaliased(name, text string) error {
	if !kustomizer.MayAlias(text) {
		return nil
	}
	size, err := kustomizer.Aliased(text, maxValue)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case size > maxValue:
		return m.stop("%s: the aliases in its YAML stand for more than %d bytes", name, maxValue)
	}
	return nil
}

package agent

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/cleat-dev/cleat/internal/kustomizer"
	"github.com/cleat-dev/cleat/manifests"
)

const (
	// image is what the manifests run.
	image = "ghcr.io/cleat-dev/cleat"
	// nameLabel has the value agentName on all that is ours but the CRDs, which are Flux's, too.
	nameLabel = "app.kubernetes.io/name"
	agentName = "cleat"
)

// namespacing puts everything into a namespace, and renames that, and those whom bindings name.
const namespacing = `apiVersion: builtin
kind: NamespaceTransformer
metadata: {name: namespace, namespace: %q}
setRoleBindingSubjects: allServiceAccounts
fieldSpecs:
- {path: metadata/namespace, create: true}
- {path: metadata/name, kind: Namespace, create: true}
`

// knownOverlays lists the overlays by name.
func knownOverlays() ([]string, error) {
	entries, err := fs.ReadDir(manifests.Files, "components")
	if err != nil {
		return nil, fmt.Errorf("listing the overlays: %w", err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// buildManifests returns the objects of base with overlays, for a namespace and a version of the agent.
func buildManifests(ctx context.Context, namespace, version string, overlays []string) ([]*unstructured.Unstructured, error) {
	known, err := knownOverlays()
	if err != nil {
		return nil, err
	}
	top := types.Kustomization{
		Resources:    []string{"../base"},
		Images:       []types.Image{{Name: image, NewTag: version}},
		Transformers: []string{fmt.Sprintf(namespacing, namespace)},
	}
	for _, overlay := range overlays {
		if !slices.Contains(known, overlay) {
			return nil, fmt.Errorf("--overlay: %q is none of %s", overlay, strings.Join(known, ", "))
		}
		top.Components = append(top.Components, "../components/"+overlay)
	}
	files, err := inMemory()
	if err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(top)
	if err != nil {
		return nil, fmt.Errorf("writing the kustomization: %w", err)
	}
	if err := files.WriteFile("install/kustomization.yaml", text); err != nil {
		return nil, fmt.Errorf("writing the kustomization: %w", err)
	}
	done, err := kustomizer.Schema.Share(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	built, err := krusty.MakeKustomizer(&krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}).Run(files, "install")
	if err != nil {
		return nil, fmt.Errorf("building the manifests: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, resource := range built.Resources() {
		text, err := resource.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("writing the manifests: %w", err)
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(text); err != nil {
			return nil, fmt.Errorf("reading the manifests: %w", err)
		}
		objects = append(objects, object)
	}
	return objects, nil
}

// inMemory is the folder of the manifests as the kustomize library reads folders.
func inMemory() (filesys.FileSystem, error) {
	files := filesys.MakeFsInMemory()
	return files, fs.WalkDir(manifests.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := manifests.Files.ReadFile(path)
		if err != nil {
			return err
		}
		return files.WriteFile(path, content)
	})
}

// imageTag is what images of a version are tagged with: builds from a work tree have signs in theirs that tags have not.
func imageTag(version string) string { return strings.ReplaceAll(version, "+", "-") }

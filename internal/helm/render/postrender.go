package render

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"
)

// PostRender is what is done to manifests after they have been rendered. Its zero value leaves them as they are.
type PostRender struct {
	// Owner is the HelmRelease: its name and namespace become labels of every object, whatever else has set them.
	Owner types.NamespacedName
	// CommonMetadata are labels and annotations for every object, under those of the owner.
	CommonMetadata *v2.CommonMetadata
	// Kustomize are the user's own, which come first.
	Kustomize []v2.PostRenderer
	// Strategy says what becomes of hooks; empty means combined.
	Strategy v2.PostRenderStrategy
}

// errStrategy: spec.postRenderStrategy is none that there is.
var errStrategy = errors.New("no such postRenderStrategy")

func (p PostRender) nothing() bool {
	return p.Owner == (types.NamespacedName{}) && p.CommonMetadata == nil && len(p.Kustomize) == 0
}

// apply returns the files that come of post-rendering those given:
//
//	combined   hooks and manifests in one stream
//	separate   hooks in a stream of their own
//	nohooks    manifests only; hooks stay as they are
func (p PostRender) apply(ctx context.Context, m *meter, files map[string]string) (map[string]string, error) {
	if p.nothing() {
		return files, nil
	}
	switch p.Strategy {
	case v2.PostRenderStrategyCombined, "":
		return p.stream(ctx, m, files)
	case v2.PostRenderStrategySeparate, v2.PostRenderStrategyNoHooks:
	default:
		return nil, fmt.Errorf("%w: %q", errStrategy, p.Strategy)
	}
	hooks, manifests, err := divided(files)
	if err != nil {
		return nil, err
	}
	if manifests, err = p.stream(ctx, m, manifests); err != nil {
		return nil, err
	}
	if p.Strategy == v2.PostRenderStrategySeparate {
		if hooks, err = p.stream(ctx, m, hooks); err != nil {
			return nil, err
		}
	}
	return together(hooks, manifests), nil
}

// divided returns the documents of files that are hooks, and those that are not.
func divided(files map[string]string) (hooks, manifests map[string]string, err error) {
	hooks, manifests = map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if strings.TrimSpace(text) == "" || isPartial(name) {
			continue // there is nothing of it in the release
		}
		documents := releaseutil.SplitManifests(text)
		order := slices.Collect(maps.Keys(documents))
		sort.Sort(releaseutil.BySplitManifestsOrder(order))
		for _, key := range order {
			var head releaseutil.SimpleHead
			if err := yaml.Unmarshal([]byte(documents[key]), &head); err != nil {
				return nil, nil, fmt.Errorf("YAML parse error on %s: %w", name, err)
			}
			into := manifests
			if head.Metadata != nil && head.Metadata.Annotations[release.HookAnnotation] != "" {
				into = hooks
			}
			into[name] = joined(into[name], documents[key])
		}
	}
	return hooks, manifests, nil
}

// together returns the files of both; of a file that is in both, the documents of one follow those of the other.
func together(a, b map[string]string) map[string]string {
	all := maps.Clone(b)
	for name, text := range a {
		all[name] = joined(text, all[name])
	}
	return all
}

func joined(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return strings.TrimSuffix(a, "\n") + "\n---\n" + b
}

// fileAnnotation is where an object carries the name of its file through the post-renderers. It is Helm's, because the patches of
// users meet it: who replaces all annotations makes the object one of no file, in Helm as here.
const fileAnnotation = "postrenderer.helm.sh/postrender-filename"

// stream post-renders files as one stream of documents.
func (p PostRender) stream(ctx context.Context, m *meter, files map[string]string) (map[string]string, error) {
	text, err := merged(m, files)
	if err != nil || text == "" {
		return map[string]string{}, err
	}
	return p.kustomized(ctx, m, text)
}

// merged returns all documents of files in the order of these, each with the name of its file.
func merged(m *meter, files map[string]string) (string, error) {
	var all []*kyaml.RNode
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		if isPartial(name) || strings.TrimSpace(text) == "" {
			continue // Helm leaves it out of the release
		}
		if err := m.unaliased(name, text); err != nil {
			return "", err
		}
		documents, err := kio.ParseAll(text)
		if err != nil {
			return "", fmt.Errorf("parsing %s: %w", name, err)
		}
		for _, document := range documents {
			if err := document.PipeE(kyaml.SetAnnotation(fileAnnotation, name)); err != nil {
				return "", fmt.Errorf("annotating %s: %w", name, err)
			}
			all = append(all, document)
		}
		if err := m.check(); err != nil {
			return "", err
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	return kio.StringAll(all)
}

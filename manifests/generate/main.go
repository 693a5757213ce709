// Generate writes the CustomResourceDefinitions of the kinds that Cleat serves, made from the Go types of the Flux API
// modules, and the kustomization.yaml that lists them. It is a module of its own so that controller-gen never enters the
// agent's module graph. Run it by `make generate`.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	_ "github.com/fluxcd/helm-controller/api/v2"         // Keeps the module whose types are read in go.mod.
	_ "github.com/fluxcd/kustomize-controller/api/v1"    // The same.
	_ "github.com/fluxcd/notification-controller/api/v1" // The same; it has Alert and Provider as v1beta3.
	_ "github.com/fluxcd/source-controller/api/v1"       // The same.

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-tools/pkg/crd"
	"sigs.k8s.io/controller-tools/pkg/genall"
	"sigs.k8s.io/controller-tools/pkg/loader"
	"sigs.k8s.io/yaml"
)

// fluxVersion is the Flux release whose API these CRDs are. `flux check` and `flux version` print it and compare it with
// their own version, so it names Flux and not Cleat.
const fluxVersion = "v2.9.0"

// apis maps each API package to the Flux component that owns its kinds, which `flux install` writes as a label.
var apis = map[string]string{
	"github.com/fluxcd/helm-controller/api/v2":              "helm-controller",
	"github.com/fluxcd/kustomize-controller/api/v1":         "kustomize-controller",
	"github.com/fluxcd/notification-controller/api/v1":      "notification-controller",
	"github.com/fluxcd/notification-controller/api/v1beta3": "notification-controller",
	"github.com/fluxcd/source-controller/api/v1":            "source-controller",
}

func main() {
	out := flag.String("out", "", "`directory` to write to")
	flag.Parse()
	if err := generate(*out); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	files := map[string][]byte{}
	for api, component := range apis {
		crds, err := crdsOf(api)
		if err != nil {
			return fmt.Errorf("reading %s: %w", api, err)
		}
		for name, raw := range crds {
			if files[name], err = label(raw, component); err != nil {
				return fmt.Errorf("labelling %s: %w", name, err)
			}
		}
	}
	files["kustomization.yaml"] = kustomization(slices.Sorted(maps.Keys(files)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		header := "# Written by `make generate` from the Flux API modules in manifests/generate/go.mod.\n"
		if err := os.WriteFile(filepath.Join(dir, name), append([]byte(header), data...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// crdsOf returns the CRDs of one API package by file name, without descriptions: those are two thirds of the bytes that
// every API server and every client's discovery cache would hold.
func crdsOf(api string) (map[string][]byte, error) {
	noDescriptions := 0
	var gen genall.Generator = crd.Generator{MaxDescLen: &noDescriptions}
	run, err := genall.Generators{&gen}.ForRoots(api)
	if err != nil {
		return nil, err
	}
	out := collect{}
	run.OutputRules = genall.OutputRules{Default: out}
	if failed := run.Run(); failed {
		return nil, errors.New("controller-gen reported the errors above")
	}
	crds := map[string][]byte{}
	for name, buf := range out {
		crds[name] = buf.Bytes()
	}
	return crds, nil
}

// label adds what `flux install` adds to a CRD and what `flux check`, `flux version` and `flux uninstall` look for.
func label(raw []byte, component string) ([]byte, error) {
	var def apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(raw, &def); err != nil {
		return nil, err
	}
	if def.Labels == nil {
		def.Labels = map[string]string{}
	}
	maps.Copy(def.Labels, map[string]string{
		"app.kubernetes.io/component": component,
		"app.kubernetes.io/instance":  "flux-system",
		"app.kubernetes.io/part-of":   "flux",
		"app.kubernetes.io/version":   fluxVersion,
	})
	// Nothing reads controller-gen's version from the cluster; go.mod holds it.
	delete(def.Annotations, "controller-gen.kubebuilder.io/version")
	// Encoded without its status, which only the API server writes.
	return yaml.Marshal(map[string]any{
		"apiVersion": def.APIVersion,
		"kind":       def.Kind,
		"metadata":   map[string]any{"name": def.Name, "labels": def.Labels, "annotations": def.Annotations},
		"spec":       def.Spec,
	})
}

func kustomization(resources []string) []byte {
	var b bytes.Buffer
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n")
	for _, name := range resources {
		fmt.Fprintf(&b, "- %s\n", name)
	}
	return b.Bytes()
}

// collect is a genall.OutputRule that keeps what is written in memory.
type collect map[string]*bytes.Buffer

func (c collect) Open(_ *loader.Package, path string) (io.WriteCloser, error) {
	c[path] = &bytes.Buffer{}
	return nopCloser{c[path]}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

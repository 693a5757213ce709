package charts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// CRD is a CustomResourceDefinition in the crds directory of a chart or of a chart inside it.
type CRD struct {
	File   string // with the path from the outermost chart, as Helm writes it
	Object *unstructured.Unstructured
}

// CRDs returns what the chart and all the charts inside it bring; see the function of that name.
func (c *Chart) CRDs() ([]CRD, error) { return CRDs(c.tree) }

// CRDs returns the CustomResourceDefinitions of a chart in Helm's order: its own by file, then those of the charts inside it. Of
// a chart whose dependencies have been processed these are those of its enabled dependencies only. Other kinds in these
// directories are left out: what is applied before everything else, and never removed, must not be just anything (faults.md F20).
func CRDs(c *chart.Chart) ([]CRD, error) {
	var all []CRD
	for _, file := range c.CRDObjects() {
		found, err := crdsIn(file.File.Data)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, file.Filename, err)
		}
		for _, object := range found {
			all = append(all, CRD{file.Filename, object})
		}
	}
	return all, nil
}

func crdsIn(text []byte) ([]*unstructured.Unstructured, error) {
	var found []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return nil, err
		}
		if gvk := object.GroupVersionKind(); gvk.Group == "apiextensions.k8s.io" && gvk.Kind == "CustomResourceDefinition" {
			if object.GetName() == "" {
				return nil, errors.New("a CustomResourceDefinition has no name")
			}
			found = append(found, object)
		}
	}
}

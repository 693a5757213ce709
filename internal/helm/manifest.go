package helm

import (
	"errors"
	"io"
	"slices"
	"strings"

	helmkube "helm.sh/helm/v3/pkg/kube"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// objectsIn returns the objects of a manifest. What cannot be read is left out, with the error: the rest is worth knowing.
func objectsIn(manifest string) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	var objects []*unstructured.Unstructured
	for {
		var content map[string]any
		err := decoder.Decode(&content)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return objects, err
		}
		u := &unstructured.Unstructured{Object: content}
		if len(content) == 0 || u.GetKind() == "" {
			continue // a template that came to nothing
		}
		if !u.IsList() {
			objects = append(objects, u)
			continue
		}
		list, err := u.ToList()
		if err != nil {
			return objects, err
		}
		for i := range list.Items {
			objects = append(objects, &list.Items[i])
		}
	}
}

// ofKind returns the objects of a kind of the core group in a manifest. Most manifests do not so much as mention it.
func ofKind(manifest, kind string) []*unstructured.Unstructured {
	if !strings.Contains(manifest, kind) {
		return nil
	}
	objects, _ := objectsIn(manifest) // what can be read of it
	return slices.DeleteFunc(objects, func(u *unstructured.Unstructured) bool {
		return u.GetKind() != kind || u.GroupVersionKind().Group != ""
	})
}

// secretsIn returns the Secrets of a manifest, whose values no log may show.
func secretsIn(manifest string) []*unstructured.Unstructured { return ofKind(manifest, "Secret") }

// claimsIn names the PersistentVolumeClaims that go when a release with this manifest is uninstalled, and the data in them: the
// policy of most volumes is to be deleted with their claim.
func claimsIn(manifest, namespace string) []string {
	var claims []string
	for _, u := range ofKind(manifest, "PersistentVolumeClaim") {
		if u.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy {
			continue
		}
		in := u.GetNamespace()
		if in == "" {
			in = namespace
		}
		claims = append(claims, "PersistentVolumeClaim/"+in+"/"+u.GetName())
	}
	slices.Sort(claims)
	return claims
}
